"""A received message: what a consumer hands to the application, and the answers that the application gives.

What is not asked for is not decoded: most handlers look at the body alone.
"""

from datetime import UTC, datetime
from typing import Generic, NoReturn, TypeVar

from zbusrpc.errors import ProtocolError
from zbusrpc.message import decode_headers
from zbusrpc.mq.checks import refuse_to_pickle
from zbusrpc.mq.subscription import Subscription, Then
from zbusrpc.transport.entries import Entry

T = TypeVar("T")


class Received(Generic[T]):
    """What is known of a message that was received."""

    __slots__ = ("_entry", "_subscription", "body", "is_answered")

    def __init__(self, subscription: Subscription, entry: Entry, body: T) -> None:
        self._subscription = subscription
        self._entry = entry
        self.body = body
        self.is_answered = False
        """Whether it was acknowledged, refused or rejected. The first answer counts, others do nothing."""

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._subscription.topic

    @property
    def offset(self) -> int:
        """Its place in the topic."""
        return self._entry.first

    @property
    def timestamp(self) -> datetime:
        """When it was stored, in UTC."""
        return datetime.fromtimestamp(self._entry.second / 1000, UTC)

    @property
    def attempt(self) -> int:
        """Which delivery this is: 1, or more if others failed before."""
        return self._entry.attempts

    @property
    def id(self) -> str:
        """What its producer named it."""
        return self._entry.id.decode(errors="replace")

    @property
    def tag(self) -> str:
        """What filters go by; nothing where it has none."""
        return self._entry.tag.decode(errors="replace")

    @property
    def key(self) -> str:
        """Messages with this key come one after the other; nothing where it has none."""
        return self._entry.key.decode(errors="replace")

    @property
    def headers(self) -> dict[str, str]:
        """What travelled along; nothing where the producer wrote what are no headers."""
        try:
            return decode_headers(self._entry.headers)
        except ProtocolError:
            return {}

    def __repr__(self) -> str:
        place = f"{self.offset} on {self._subscription.broker}"
        return f"<message {self.id} of topic {self.topic} at {place}, attempt {self.attempt}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_pickle(f"message {self.id} of topic {self.topic}", "hand on its body, and answer the message here")

    # -- answers, for code that runs in the message's event loop ----------------------------------------

    def ack_nowait(self) -> None:
        """Say that the message is done."""
        if not self.is_answered:
            self.is_answered = True
            self._subscription.acknowledge(self._entry.first)

    def nack_nowait(self, *, delay: float | None = None, reason: str = "") -> None:
        """Say that the message is to come again."""
        self._refuse("retry", delay, reason)

    def reject_nowait(self, reason: str = "") -> None:
        """Say that the message will never be handled."""
        self._refuse("dead", None, reason)

    def release_nowait(self) -> None:
        """Give the message back as not begun."""
        self._refuse("release", None, "")

    def extend_nowait(self) -> None:
        """Let the lease of the message begin anew."""
        if not self.is_answered:
            self._subscription.extend([self._entry.first])

    def keep(self) -> None:
        """Have the lease of the message renewed until `let_go`."""
        self._subscription.leases.handled.add(self._entry.first)

    def let_go(self) -> None:
        """Have the lease of the message renewed no more."""
        self._subscription.leases.handled.discard(self._entry.first)

    async def _confirm(self) -> None:
        if not self.is_answered:
            self.is_answered = True
            await self._subscription.confirm(self._entry.first)

    def _refuse(self, then: Then, delay: float | None, reason: str) -> None:
        if not self.is_answered:
            self._subscription.refuse(self._entry.first, then, delay, reason)
            self.is_answered = True


class ReceivedMessage(Received[T]):
    """A message to be worked on; each is to be answered once, by `ack`, `nack`, `reject` or `release`.

    What is not answered before its lease ends, or before its consumer closes, is delivered again.
    """

    __slots__ = ()

    async def ack(self, *, confirmed: bool = False) -> None:
        """Say that the message is done.

        That leaves with the other acknowledgements of this turn of the event loop, and nothing waits for it. If it does
        not arrive, because the connection is lost, the message comes again.

        Args:
            confirmed: Wait until the broker has taken note, so that the message does not come again.

        Raises:
            RpcError: only with `confirmed`. ABORTED: the message was taken from this consumer and will be, or was,
                delivered again. DEADLINE_EXCEEDED, UNAVAILABLE: no answer; it may come again.
        """
        if confirmed:
            await self._confirm()
        else:
            self.ack_nowait()

    async def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Say that the message could not be handled and is to come again; at last it goes to the dead letters.

        Args:
            delay: Seconds until then; by default the group's back-off.
            reason: Goes with it to the dead letters if this was its last attempt.

        Raises:
            RpcError: INVALID_ARGUMENT: `delay` is no such time.
        """
        self.nack_nowait(delay=delay, reason=reason)

    async def reject(self, reason: str = "") -> None:
        """Say that the message will never be handled: it goes to the dead letters, with the reason."""
        self.reject_nowait(reason)

    async def release(self) -> None:
        """Give the message back as not begun: it comes again at once, to whoever has room, and this was no attempt."""
        self.release_nowait()

    async def extend(self) -> None:
        """Say that work goes on: the lease of the message begins anew."""
        self.extend_nowait()

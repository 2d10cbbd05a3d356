"""Leases: what a subscription does so that the messages it has stay its own, and how it sees that they did not.

While messages wait, or `run` works at them, their leases are renewed every third. A process that stood still (stopped,
swapped out, its event loop blocked) has lost what was here. It reads afterwards what was sent to it meanwhile, too, and
cannot tell from a message how long it was on its way: its lease may be over, and another consumer done with it. So it
asks the broker for a *sign*. What comes before that is given back; what comes behind it was sent to one that is awake.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Final, Protocol

from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger

RENEWALS_PER_LEASE: Final = 3

log = get_logger("consumer")


class Holder(Protocol):
    """A subscription, as its leases know it."""

    topic: str

    def waiting(self) -> Iterable[int]:
        """Return the offsets of what came and was not taken."""
        ...

    def extend(self, offsets: Iterable[int]) -> None:
        """Renew the lease of messages."""

    def release_buffer(self) -> None:
        """Give back what was not taken."""

    def ask(self, sign: "Sign") -> None:
        """Send what the broker answers in its turn."""


class Sign:
    """The waiter of a request whose reply, or failure, is the sign."""

    __slots__ = ("is_seen",)

    def __init__(self) -> None:
        self.is_seen = False

    def done(self) -> bool:
        """Say whether nobody waits any more."""
        return self.is_seen

    def set_result(self, reply: Message, /) -> None:
        """Take note that the broker has answered."""
        self.is_seen = True

    def set_exception(self, exception: BaseException, /) -> None:
        """Take note that there will be no answer: the connection has ended, and with it what was on its way."""
        self.is_seen = True


class Leases:
    """The leases of one subscription."""

    __slots__ = ("_holder", "_loop", "_sign", "_timer", "handled", "kept_until", "lease_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, holder: Holder) -> None:
        self.handled: set[int] = set()
        """Messages that were handed out and are renewed all the same."""
        self.kept_until = math.inf
        """Leases of what is here hold until then, at least."""
        self.lease_s = 0.0
        self._loop, self._holder = loop, holder
        self._sign: Sign | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_awaiting_sign(self) -> bool:
        """Whether what comes now may be another consumer's."""
        return self._sign is not None and not self._sign.is_seen

    @property
    def awake_at(self) -> float:
        """When this process was awake for sure."""
        return self.kept_until - self.lease_s

    def begin(self, lease_s: float, awake_at: float) -> None:
        """Renew leases of so many seconds from now on; what comes may have been sent since `awake_at`."""
        self.lease_s = lease_s
        self._renew()
        self._ask_if_late(awake_at)

    def end(self) -> None:
        """Renew nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _renew(self) -> None:
        now, awake_at = self._loop.time(), self.awake_at
        if now > self.kept_until:
            hint = "its messages go to others: await in what blocks the event loop, or give run() a `def` handler"
            seconds, topic = round(now - awake_at, 1), self._holder.topic
            log.warning("consumer.stood_still", topic=topic, seconds=seconds, lease_s=self.lease_s, hint=hint)
            self._holder.release_buffer()
        offsets = {*self.handled, *self._holder.waiting()}
        if offsets:
            self._holder.extend(offsets)
        self._ask_if_late(awake_at)
        self.kept_until = now + self.lease_s
        self._timer = self._loop.call_later(self.lease_s / RENEWALS_PER_LEASE, self._renew)

    def _ask_if_late(self, awake_at: float) -> None:
        """Ask for a sign where what is on its way since `awake_at` would be renewed too late."""
        if self._loop.time() - awake_at > self.lease_s * (1 - 1 / RENEWALS_PER_LEASE):
            self._sign = Sign()
            self._holder.ask(self._sign)

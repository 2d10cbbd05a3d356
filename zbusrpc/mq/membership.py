"""A membership: a consumer's place in its group, across all the connections that it takes.

    join ──> subscription ──lost──> joins again, as often as it takes ──refused──> `error`
                  └── its messages are in `buffer`, until `leave`

A group without acknowledgements has no window that would hold the broker back. Its messages are pulled, so many at a
time, as the buffer empties.

Promises: at most one subscription at a time; whoever waits for a message is woken in order, and a wake-up that nobody
uses goes to the next.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

from zbusrpc.cluster.fleet import caller_of_loop
from zbusrpc.cluster.policy import was_lost
from zbusrpc.config import TIMEOUT_S
from zbusrpc.errors import Code, RpcError
from zbusrpc.mq.commands import declare_by
from zbusrpc.mq.subscription import Subscription
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.backoff import Backoff
from zbusrpc.transport.entries import Entry

SHADOW_S: Final = 60.0
"""So long an exclusive group may be taken by our own lost connection, before the broker has noticed the loss."""
PULL_S: Final = 20.0
"""How long the broker waits for the first message that is pulled ahead; then it is asked again."""
PATIENCE_S: Final = 5.0
"""How much longer the answer to a PULL may take than the broker was told to wait."""

log = get_logger("consumer")


class Membership:
    """A place in a group."""

    def __init__(
        self,
        topic: str,
        brokers: tuple[Address, ...],
        fields: dict[str, Any],
        *,
        declares: bool,
        ahead: int,
    ) -> None:
        """Prepare to join.

        Args:
            fields: Body of CONSUME.
            declares: Make the topic if it does not exist.
            ahead: Pull so many messages ahead; 0 where a window does that.
        """
        self.buffer: deque[Entry] = deque()
        """What came and was not taken, first come first."""
        self.subscription: Subscription | None = None
        self.is_closed = False
        self.error: RpcError | None = None
        """Why the broker has ended it."""
        self._topic, self._brokers, self._fields = topic, brokers, fields
        self._declares = declares
        self._ahead = ahead
        self._getters: deque[asyncio.Future[None]] = deque()
        self._keeper: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._joined, self._drained = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def group(self) -> str:
        """The group; of one that the broker names, nothing until it was joined."""
        return self._fields["group"] or ""

    def is_foreign(self) -> bool:
        """Say whether it was joined in another event loop."""
        return self._loop is not None and self._loop is not asyncio.get_running_loop()

    async def join(self) -> None:
        """Join the group, unless that was done.

        Raises:
            RpcError: the broker cannot be reached or refuses.
        """
        if self._keeper is not None:
            return
        async with self._joining:
            if self._keeper is not None or self.is_closed:
                return
            self._loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    while not await self._try_subscribe():
                        pass
            except TimeoutError:
                text = f"the broker did not let consume topic {self._topic} within {TIMEOUT_S:g} s"
                raise RpcError(Code.DEADLINE_EXCEEDED, text) from None
            if self.is_closed and self.subscription is not None:  # closed meanwhile
                await self.subscription.leave()
                return
            self._keeper = self._loop.create_task(self._keep())

    async def leave(self) -> None:
        """Give back what was not taken and leave; again does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._tell_all()
        if self.subscription is not None:
            await self.subscription.leave()

    # -- messages ----------------------------------------------------------------------------------------

    async def wait_filled(self) -> bool:
        """Return True when there is a message, False when it was closed.

        Raises:
            RpcError: the broker has ended it.
        """
        while not self.buffer:
            if self.is_closed:
                return False
            self._check()
            await self.join()
            if self.buffer:
                break
            self.note_taken()
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                with suppress(ValueError):
                    self._getters.remove(getter)
                if self.buffer and not getter.cancelled():
                    self._wake(1)
                raise
        return True

    async def pull(self, count: int, deadline: float) -> bool:
        """Have up to `count` messages delivered into the buffer; False when it was closed.

        Raises:
            RpcError: the broker has ended it or refuses, or there is no connection until the deadline.
        """
        while not self.is_closed:
            self._check()
            await self.join()
            if self.subscription is not None and self.subscription.is_over:
                self._joined.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._joined.wait()
                self._check()
                if self.subscription is not None and not self.is_closed:
                    await self.subscription.pull(count, max(0.0, deadline - time.monotonic()), PATIENCE_S)
                    return True
            except TimeoutError:
                trouble = caller_of_loop(self._brokers).error or "the broker has not answered yet"
                raise RpcError(Code.UNAVAILABLE, f"topic {self._topic} was not reached in time: {trouble}") from None
            except RpcError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
        return False

    def note_taken(self) -> None:
        """Note that there may be room for more in the buffer."""
        if self._ahead:
            self._drained.set()

    def _check(self) -> None:
        """Raise the error of the broker: a new one each time, as each collects the frames it is raised through."""
        if self.error is not None:
            raise RpcError(self.error.code, self.error.message, self.error.details)

    def _wake(self, count: int) -> None:
        while count and self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                count -= 1

    # -- staying a member --------------------------------------------------------------------------------

    async def _try_subscribe(self) -> bool:
        """Subscribe; False when the connection was lost while the broker worked on it.

        Raises:
            RpcError: the broker cannot be reached, or refuses.
        """
        try:
            await self._subscribe(wait_for_ready=False)
        except RpcError as error:
            if not was_lost(error):
                raise
            return False
        return True

    async def _subscribe(self, *, wait_for_ready: bool) -> None:
        caller = caller_of_loop(self._brokers)
        connection = await caller.wait_connection(None, wait_for_ready=wait_for_ready)
        if self._declares:
            await declare_by(caller, connection, self._topic)
        subscription = Subscription(caller, connection, self._topic, on_filled=self._wake)
        await subscription.begin(self._fields)
        if self._fields["group"] is None:  # from now on it has a name, and goes as such groups go
            self._fields |= {"group": subscription.group, "delete_on_exit": True}
        self.subscription, self.buffer = subscription, subscription.buffer
        self._joined.set()
        self._wake(len(self.buffer))

    async def _keep(self) -> None:
        """Join again whenever the connection is lost, until the broker refuses."""
        try:
            while True:
                assert self.subscription is not None
                if self._ahead:
                    await self._pull_ahead(self.subscription)
                refusal = await self.subscription.ended
                if refusal is not None:
                    raise refusal
                self._note_place(self.subscription.last_offset)
                if self.subscription.caller.is_closed:  # on purpose, on this side: whoever wants a message joins again
                    self._keeper = None
                    self._wake(len(self._getters))
                    return
                log.warning("consumer.link_lost", topic=self._topic, group=self.group)
                await self._rejoin()
        except RpcError as error:
            self.error = error
            self._tell_all()

    def _note_place(self, last_offset: int) -> None:
        """Note where a group that may be gone by the time we are back is to go on."""
        if self._fields.get("delete_on_exit") and last_offset >= 0:
            self._fields["start"] = {"offset": last_offset + 1}

    async def _rejoin(self) -> None:
        """Join again.

        Raises:
            RpcError: the broker refuses.
        """
        backoff, shadow_until = Backoff(), time.monotonic() + SHADOW_S
        while True:
            try:
                await self._subscribe(wait_for_ready=True)
                return
            except RpcError as error:
                is_taken = error.code is Code.FAILED_PRECONDITION and self._fields.get("exclusive")
                may_be_us = is_taken and time.monotonic() < shadow_until
                if error.code is not Code.UNAVAILABLE and not may_be_us:
                    raise
            await asyncio.sleep(backoff.next_s())

    async def _pull_ahead(self, subscription: Subscription) -> None:
        """Keep the buffer filled until the subscription ends.

        Raises:
            RpcError: the broker refuses.
        """
        subscription.ended.add_done_callback(lambda ended: self._drained.set())
        while not subscription.is_over:
            self._drained.clear()
            room = self._ahead - len(subscription.buffer)
            if room > self._ahead // 2:
                try:
                    await subscription.pull(room, PULL_S, PATIENCE_S)
                except RpcError as error:
                    if error.code not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
                        raise
            else:
                await self._drained.wait()

    def _tell_all(self) -> None:
        """Let everybody who waits see that it is over."""
        self._joined.set()
        self._wake(len(self._getters))

"""The memberships of a consumer: its places in the group at all brokers that it consumes from, and their messages.

    brokers there are ──> a membership at each ──> its buffer ──┐
                                                  `buffer` <────┴── `turn`: the next one that holds anything

A consumer that declares its topic joins at every broker; another one at those that have the topic. Joining succeeds
with the first broker; others follow as they are there, and what goes wrong with one of several is logged, and tried
again with the next connection.

Promises: whoever waits for a message is woken in order, and a wake-up that nobody uses goes to the next. It is over
when all brokers that there are have refused, with the error of the last.
"""

import asyncio
import math
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.cluster.loops import begin
from zbusrpc.config import TIMEOUT_S
from zbusrpc.errors import Code, RpcError
from zbusrpc.mq.membership import PATIENCE_S, Membership
from zbusrpc.mq.subscription import Subscription
from zbusrpc.outcome import like, of_command
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.entries import Entry

SLICE_S: Final = 2.0
"""Where several brokers are asked for messages, each waits so long for one: what it then gives to somebody who has got
enough elsewhere stays here meanwhile."""

log = get_logger("consumer")


class Memberships:
    """The places of one consumer."""

    def __init__(
        self,
        topic: str,
        seeds: tuple[Address, ...] | None,
        fields: dict[str, Any],
        *,
        declares: bool,
        updates: bool,
        ahead: int,
    ) -> None:
        """Prepare to join.

        Args:
            fields: Body of CONSUME.
            declares: Make the topic at brokers where it does not exist.
            updates: Change the options of the group where they differ.
            ahead: Pull so many messages ahead; 0 where a window does that.
        """
        self.buffer: deque[Entry] = deque()
        """Messages of one membership, whose turn it is."""
        self.subscription: Subscription | None = None
        """Where those come from."""
        self.is_closed = False
        self.error: RpcError | None = None
        """Why the brokers have ended it."""
        self._topic, self._seeds, self._fields = topic, seeds, fields
        self._declares, self._updates, self._ahead = declares, updates, ahead
        self._members: dict[str, Membership] = {}
        """By the address of the broker."""
        self._fleet: Fleet | None = None
        self._getters: deque[asyncio.Future[None]] = deque()
        self._keeper: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def group(self) -> str:
        """The group; of one that brokers name, the name at one of them, and nothing until it was joined."""
        return next((member.group for member in self._members.values()), self._fields["group"] or "")

    def is_foreign(self) -> bool:
        """Say whether it was joined in another event loop."""
        return self._loop is not None and self._loop is not asyncio.get_running_loop()

    # -- joining -----------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Join the group at one broker at least, unless that was done.

        Raises:
            RpcError: no broker can be reached, or all refuse.
        """
        if self._keeper is not None:
            return
        async with self._joining:
            if self._keeper is not None or self.is_closed:
                return
            self._loop = asyncio.get_running_loop()
            self._fleet = fleet = fleet_of_loop(self._seeds)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._join_first(fleet)
            except BaseException as error:
                self.error = None
                await self._leave_all()
                if isinstance(error, TimeoutError):
                    text = f"the broker did not let consume topic {self._topic} within {TIMEOUT_S:g} s"
                    raise of_command(Code.DEADLINE_EXCEEDED, text) from None
                raise
            if self.is_closed:  # closed meanwhile
                await self._leave_all()
                return
            self._keeper = begin(self._loop, self._keep(fleet))

    async def _join_first(self, fleet: Fleet) -> None:
        """Return when the group was joined at a broker."""
        while not any(member.is_here for member in self._members.values()):
            self._changed.clear()
            endpoint = await fleet.wait_endpoint(self._topic.encode(), None, wait_for_ready=False)
            if not self._declares and fleet.is_expecting(self._topic.encode()):
                await fleet.wait_change()
                continue
            self._join_all(fleet, endpoint)
            await self._changed.wait()
            self._check()

    def _join_all(self, fleet: Fleet, default: Endpoint | None = None) -> None:
        """Begin where a broker is that was not joined, and forget those that are gone for good."""
        endpoints = self._endpoints(fleet)
        for endpoint in endpoints or ([default] if default is not None and not self._members else []):
            member = self._members.get(endpoint.address)
            if member is None:
                member = self._members[endpoint.address] = self._member_at(endpoint)
            member.set_draining(False)
            member.begin(endpoint)
        for address, member in list(self._members.items()):
            broker = fleet.topology.brokers.get(address)
            if broker is not None and broker.state == "draining":
                member.set_draining(True)
            is_gone = broker is None and member.endpoint.connection is None and not member.endpoint.is_seed
            if is_gone and member.is_idle and not member.has_place:
                del self._members[address]

    def _endpoints(self, fleet: Fleet) -> list[Endpoint]:
        """Return the brokers to consume from that are there now."""
        if self._declares:
            return [choice.endpoint for choice in fleet.everyone()]
        having = {choice.address: choice.endpoint for choice in fleet.choices(self._topic.encode())}
        own = {choice.address: choice.endpoint for choice in fleet.everyone() if choice.address in self._members}
        return list({**own, **having}.values())

    def _member_at(self, endpoint: Endpoint) -> Membership:
        return Membership(
            self._topic,
            endpoint,
            dict(self._fields),
            self,
            declares=self._declares,
            updates=self._updates,
            ahead=self._ahead,
        )

    async def _keep(self, fleet: Fleet) -> None:
        """Join wherever a broker appears or is back, until all refuse."""
        try:
            while self.error is None and not fleet.is_closed:
                if not any(member.is_here for member in self._members.values()):  # dial now, not when it is time to
                    await fleet.wait_endpoint(self._topic.encode(), None, wait_for_ready=True)
                self._join_all(fleet)
                await fleet.wait_change()
        except RpcError as error:
            if not fleet.is_closed:
                self.error = error
        if self.error is None:  # closed on purpose, on this side: whoever wants a message joins again
            self._keeper = None
        self._tell_all()

    # -- what memberships call ---------------------------------------------------------------------------

    def filled(self, count: int) -> None:
        """Wake those who wait for messages."""
        while count and self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                count -= 1

    def member_changed(self, member: Membership, error: RpcError | None) -> None:
        """Take note that a member has joined or left, and end where all brokers refuse."""
        if error is not None:
            if all(one.is_refused for one in self._members.values()):
                self.error = error
                self._tell_all()
            else:
                log.warning("consumer.refused", topic=self._topic, broker=member.endpoint.address, reason=error.message)
        self._changed.set()
        if self._keeper is not None and self._fleet is not None and member.is_idle and not self.is_closed:
            self._join_all(self._fleet)

    # -- messages ----------------------------------------------------------------------------------------

    @property
    def is_spread(self) -> bool:
        """Whether messages come from several brokers."""
        return len(self._members) > 1

    @property
    def buffered(self) -> int:
        """How many messages have come and were not taken."""
        return sum(len(member.buffer) for member in self._members.values())

    def turn(self) -> bool:
        """Let the next member that has messages be the one whose messages are taken; False where none has."""
        members = list(self._members.values())
        first = next((at for at, member in enumerate(members, 1) if member.buffer is self.buffer), 0)
        for member in (*members[first:], *members[:first]):
            if member.buffer and not member.is_draining:
                self.buffer, self.subscription = member.buffer, member.subscription
                return True
        return False

    def take(self) -> tuple[Subscription, Entry]:
        """Take the next message from `buffer`, which holds one; return where it comes from, too."""
        assert self.subscription is not None
        return self.subscription, self.buffer.popleft()

    async def wait_filled(self) -> bool:
        """Return True when there is a message in `buffer`, False when it was closed.

        Raises:
            RpcError: the brokers have ended it.
        """
        while not self.turn():
            if self.is_closed:
                return False
            self._check()
            await self.join()
            if self.turn():
                break
            self.note_taken()
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                with suppress(ValueError):
                    self._getters.remove(getter)
                if not getter.cancelled() and self.turn():
                    self.filled(1)
                raise
        return True

    async def pull(self, count: int, deadline: float) -> bool:
        """Have up to `count` messages delivered; False when it was closed.

        Raises:
            RpcError: the brokers have ended it or refuse, or there is no connection until the deadline.
        """
        while not self.is_closed:
            self._check()
            await self.join()
            self._changed.clear()
            members = [member for member in self._members.values() if member.is_here and not member.is_draining]
            try:
                if members:
                    await self._pull_from(members, count, max(0.0, deadline - time.monotonic()))
                    if time.monotonic() >= deadline or self.turn():
                        return True
                else:
                    await self._wait_member(deadline)
            except RpcError as error:
                if error.code is not Code.UNAVAILABLE or not members:
                    raise
        return False

    async def _pull_from(self, members: list[Membership], count: int, timeout_s: float) -> None:
        """Return when a member has been given messages, or all have none.

        What others are given later is for whoever asks next.
        """
        if len(members) == 1 and members[0].pulling is None:
            await members[0].pull(count, timeout_s)
            return
        share, wait_s = math.ceil(count / len(members)), min(timeout_s, SLICE_S)
        until, asked = time.monotonic() + wait_s, set[asyncio.Task[None]]()
        for member in members:
            if member.pulling is None or member.pulling.done():
                member.pulling = begin(asyncio.get_running_loop(), member.pull(share, wait_s))
                member.pulling.add_done_callback(_note_seen)
                asked.add(member.pulling)
        waiting = {member.pulling for member in members if member.pulling is not None}
        while waiting and not self.turn():
            done, waiting = await asyncio.wait(
                waiting, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is not None and not (isinstance(error, RpcError) and error.code is Code.UNAVAILABLE):
                    raise error
            if not done:  # time is over: only answers to what was asked now may be on their way
                waiting, asked = waiting & asked, set()
                until = time.monotonic() + PATIENCE_S

    async def _wait_member(self, deadline: float) -> None:
        """Wait until a broker is joined.

        Raises:
            RpcError: UNAVAILABLE: there is none until the deadline.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._changed.wait()
        except TimeoutError:
            trouble = (self._fleet and self._fleet.reason()) or "the broker has not answered yet"
            raise of_command(Code.UNAVAILABLE, f"topic {self._topic} was not reached in time: {trouble}") from None

    def flush(self) -> None:
        """Have acknowledgements leave now."""
        for member in self._members.values():
            if member.subscription is not None:
                member.subscription.flush_now()

    def note_taken(self) -> None:
        """Note that there may be room for more in the buffers."""
        if self._ahead:
            for member in self._members.values():
                member.note_taken()

    def _check(self) -> None:
        """Raise the error of the broker: a new one each time, as each collects the frames it is raised through."""
        if self.error is not None:
            raise like(self.error)

    # -- the end -----------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Give back what was not taken and leave; again does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._tell_all()
        await self._leave_all()

    async def _leave_all(self) -> None:
        members, self._members = list(self._members.values()), {}
        await asyncio.gather(*[member.leave() for member in members])

    def _tell_all(self) -> None:
        """Let everybody who waits see that it is over."""
        self._changed.set()
        self.filled(len(self._getters))


def _note_seen(task: asyncio.Task[None]) -> None:
    """Note that somebody has looked at the outcome: by then it may interest nobody any more."""
    if not task.cancelled():
        task.exception()

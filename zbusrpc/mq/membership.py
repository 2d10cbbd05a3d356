"""A membership: a consumer's place in its group at one broker, across all the connections that it takes.

    begin ──> declares, subscribes ──> messages in `buffer` ──> connection lost: idle, until `begin`
                   └── refused: idle, until there is another connection

A group without acknowledgements has no window that would hold the broker back. Its messages are pulled, so many at a
time, as the buffer empties.

While its broker *drains*, a member gives back what it has not handed out; what it has is answered as ever.

Promises: at most one subscription at a time, and one task while there is a connection to be used.
"""

import asyncio
import time
from collections import deque
from typing import Any, Final, Protocol

from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.loops import begin
from zbusrpc.errors import Code, RpcError
from zbusrpc.mq.commands import declare_by, declare_group_by
from zbusrpc.mq.subscription import Subscription
from zbusrpc.outcome import was_lost
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.backoff import Backoff
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.entries import Entry

SHADOW_S: Final = 60.0
"""So long an exclusive group may be taken by our own lost connection, before the broker has noticed the loss."""
PULL_S: Final = 20.0
"""How long the broker waits for the first message that is pulled ahead; then it is asked again."""
PATIENCE_S: Final = 5.0
"""How much longer the answer to a PULL may take than the broker was told to wait."""
RELEASE_S: Final = 0.1
"""How often a member gives back what still comes from a broker that drains."""

log = get_logger("consumer")


class Owner(Protocol):
    """Whose place it is."""

    def filled(self, count: int) -> None:
        """So many messages came."""

    def member_changed(self, member: "Membership", error: RpcError | None) -> None:
        """It has joined, or its connection is lost, or the broker has refused it or ended it with an error."""


class Membership:
    """A place in a group at one broker."""

    def __init__(
        self,
        topic: str,
        endpoint: Endpoint,
        fields: dict[str, Any],
        owner: Owner,
        *,
        declares: bool,
        updates: bool,
        ahead: int,
    ) -> None:
        """Prepare to join.

        Args:
            fields: Body of CONSUME.
            declares: Make the topic if it does not exist.
            updates: Change the options of the group where they differ.
            ahead: Pull so many messages ahead; 0 where a window does that.
        """
        self.buffer: deque[Entry] = deque()
        """What came and was not taken, first come first."""
        self.subscription: Subscription | None = None
        self.endpoint = endpoint
        self.is_draining = False
        """Whether nothing is taken from here any more."""
        self.pulling: asyncio.Task[None] | None = None
        """What waits for messages that were asked for."""
        self._topic, self._fields, self._owner = topic, fields, owner
        self._declares, self._updates, self._ahead = declares, updates, ahead
        self._has_joined = False
        self._refused_by: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._releasing: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()

    @property
    def group(self) -> str:
        """The group; of one that the broker names, nothing until it was joined."""
        return self._fields["group"] or ""

    @property
    def is_here(self) -> bool:
        """Whether it takes part now."""
        return self.subscription is not None and not self.subscription.is_over

    @property
    def is_idle(self) -> bool:
        """Whether it neither takes part nor tries to."""
        return self._task is None

    @property
    def is_refused(self) -> bool:
        """Whether its broker refuses it."""
        return self._refused_by is not None

    @property
    def has_place(self) -> bool:
        """Whether it knows where a group goes on that the broker forgets."""
        return self._has_joined and bool(self._fields.get("delete_on_exit"))

    # -- taking part -------------------------------------------------------------------------------------

    def begin(self, endpoint: Endpoint) -> None:
        """Join by the connection that there is now, unless that is under way or was refused."""
        connection = endpoint.connection
        if self._task is not None or connection is None or connection is self._refused_by:
            return
        self.endpoint, self._refused_by = endpoint, None
        self._task = begin(endpoint.channel.loop, self._run(connection))

    async def _run(self, connection: Connection) -> None:
        """Take part as long as the connection lasts."""
        error: RpcError | None = None
        try:
            await self._join(connection)
            self._owner.member_changed(self, None)
            await self._consume()
            self._note_place()
            if not self.endpoint.channel.is_closed:  # else it was closed on this side
                log.warning("consumer.link_lost", topic=self._topic, group=self.group, broker=self.endpoint.address)
        except RpcError as problem:
            if not was_lost(problem) and connection is self.endpoint.connection:
                error, self._refused_by = problem, connection
        self._task = None
        self._owner.member_changed(self, error)

    async def _consume(self) -> None:
        """Return when there are no more messages, as the connection is lost.

        Raises:
            RpcError: the broker refuses, or has ended it.
        """
        subscription = None
        while subscription is not self.subscription:  # another goes on where the group was moved
            subscription = self.subscription
            assert subscription is not None
            if self._ahead:
                await self._pull_ahead(subscription)
            refusal = await subscription.ended
            if refusal is not None:
                raise refusal

    def _note_moved(self, successor: Subscription) -> None:
        self.subscription, self.buffer = successor, successor.buffer

    async def _join(self, connection: Connection) -> None:
        """Subscribe.

        Raises:
            RpcError: the connection was lost, or the broker refuses.
        """
        backoff, shadow_until = Backoff(), time.monotonic() + SHADOW_S
        while True:
            try:
                await self._subscribe(connection)
                return
            except RpcError as error:
                is_taken = error.code is Code.FAILED_PRECONDITION and self._fields.get("exclusive")
                may_be_us = is_taken and time.monotonic() < shadow_until
                if error.code is Code.OUT_OF_RANGE and self.has_place:  # the topic was made anew: all of it is new
                    self._fields["start"] = "oldest"
                    continue
                is_passing = error.code is Code.UNAVAILABLE and not was_lost(error)
                if not (self._has_joined and (may_be_us or is_passing)) or connection is not self.endpoint.connection:
                    raise
            await asyncio.sleep(backoff.next_s())

    async def _subscribe(self, connection: Connection) -> None:
        channel = self.endpoint.channel
        if self._declares:
            await declare_by(channel, connection, self._topic)
        if self._updates and self._fields["group"] is not None:
            await declare_group_by(channel, connection, self._topic, self._fields)
        subscription = Subscription(
            channel, connection, self._topic, on_filled=self._note_filled, on_moved=self._note_moved
        )
        await subscription.begin(self._fields)
        if self._fields["group"] is None:  # from now on it has a name, and goes as such groups go
            self._fields |= {"group": subscription.group, "delete_on_exit": True}
        self.subscription, self.buffer, self._has_joined = subscription, subscription.buffer, True
        if self.buffer:
            self._note_filled(len(self.buffer))

    def _note_place(self) -> None:
        """Note where a group that may be gone by the time we are back is to go on."""
        if self._fields.get("delete_on_exit") and self.subscription is not None:
            self._fields["start"] = {"offset": self.subscription.place}

    def _note_filled(self, count: int) -> None:
        if self.is_draining:
            self._release_soon()
        else:
            self._owner.filled(count)

    # -- messages ----------------------------------------------------------------------------------------

    async def pull(self, count: int, timeout_s: float) -> None:
        """Have up to `count` messages delivered into the buffer.

        Raises:
            RpcError: the connection was lost, or there was no answer.
        """
        if self.subscription is not None:
            await self.subscription.pull(count, timeout_s, PATIENCE_S)

    def note_taken(self) -> None:
        """Note that there may be room for more in the buffer."""
        self._drained.set()

    async def _pull_ahead(self, subscription: Subscription) -> None:
        """Keep the buffer filled until the subscription ends.

        Raises:
            RpcError: the broker refuses.
        """
        subscription.ended.add_done_callback(lambda ended: self._drained.set())
        while not subscription.is_over:
            self._drained.clear()
            room = self._ahead - len(subscription.buffer)
            if room > self._ahead // 2 and not self.is_draining:
                try:
                    await subscription.pull(room, PULL_S, PATIENCE_S)
                except RpcError as error:
                    if error.code not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
                        raise
                    if not was_lost(error):
                        await asyncio.sleep(RELEASE_S)
            else:
                await self._drained.wait()

    # -- a broker that drains ----------------------------------------------------------------------------

    def set_draining(self, is_draining: bool) -> None:
        """Take nothing from the broker any more, or take part again."""
        if self.is_draining == is_draining:
            return
        self.is_draining = is_draining
        self._drained.set()
        if is_draining:
            self._release()
        elif self.buffer:
            self._owner.filled(len(self.buffer))

    def _release_soon(self) -> None:
        """Give back what came all the same; not at once, for a broker that goes on sends it again."""
        if self._releasing is None:
            self._releasing = self.endpoint.channel.loop.call_later(RELEASE_S, self._release)

    def _release(self) -> None:
        self._releasing = None
        if self.is_draining and self.subscription is not None:
            self.subscription.release_buffer()

    # -- the end -----------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Try nothing any more."""
        tasks = [task for task in (self._task, self.pulling) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._releasing is not None:
            self._releasing.cancel()

    async def leave(self) -> None:
        """Give back what was not taken and leave."""
        await self.stop()
        if self.subscription is not None:
            await self.subscription.leave()

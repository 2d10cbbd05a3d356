"""Pace: messages that wait in the buffer of a consumer while others have nothing to do are asked for.

What a consumer is sent ahead it has begun soon, or is slow, or hangs. While somebody is idle, each consumer is looked
at every LOOK_S: of the messages that it has not begun it keeps as many as it has answered in that time, and is asked
(RECALL) to give the rest back. From then on it is sent no more until it answers, and each answer widens its window by
one again, so that a window follows the pace of its consumer; when it has answered all and there is no more to hand out,
it has its whole window again.

Only consumers that say what they begin are asked: of others nobody knows. Pure.
"""

from collections.abc import Iterable
from typing import Final

from zbusrpc.broker.mq.subscription import Subscription
from zbusrpc.broker.sessions.credits import CreditPool

LOOK_S: Final = 0.25
"""How long a message may wait in one buffer, at least, while another consumer is idle: many times what a quick one
takes to begin it, and little to somebody who waits for the message."""


class Pace:
    """The pace of the consumers of one group."""

    __slots__ = ("_held", "_pool", "at", "recalls")

    def __init__(self, pool: CreditPool[Subscription]) -> None:
        self._pool = pool
        self._held: dict[Subscription, None] = {}
        self.at: float | None = None
        """When `look` is to be called, or None while there is nothing to look for."""
        self.recalls: list[tuple[Subscription, int]] = []
        """Who is to be asked for how many messages: to be taken by whoever drives the group."""

    def watch(self, now: float) -> None:
        """Look at consumers soon: there is nothing to hand out, and somebody would take more."""
        if self._held:
            self._let_go()
        if self.at is None and len(self._pool.members) > 1:
            self.at = now + LOOK_S

    def look(self, now: float) -> None:
        """See who is idle, and who has what nobody has begun."""
        members = self._pool.members
        room = sum(one.credit for one in members if one.is_idle)
        is_busy = False
        for consumer in members:
            is_busy |= consumer.unbegun > 0
            excess = consumer.note_pace()
            if excess and room > 0:
                count = min(excess, room)
                room -= count
                self._hold(consumer, count)
        self.at = now + LOOK_S if is_busy else None

    def _let_go(self) -> None:
        """Give whole windows back to those who have answered all, and forget those who have left."""
        for consumer in list(self._held):
            is_here = consumer in self._pool.members
            if not is_here or not (consumer.in_flight or consumer.overdue):
                del self._held[consumer]
                if is_here:
                    withheld, consumer.withheld = consumer.withheld, 0
                    self._pool.give(consumer, withheld)

    def _hold(self, consumer: Subscription, count: int) -> None:
        """Ask for messages, and send no others for now."""
        consumer.recalled = count
        self._held[consumer] = None
        if consumer.credit:
            consumer.withheld += consumer.credit
            self._pool.withdraw(consumer, consumer.credit)
        self.recalls.append((consumer, count))

    def take_recalls(self) -> Iterable[tuple[Subscription, int]]:
        """Return who is to be asked, once."""
        recalls, self.recalls = self.recalls, []
        return recalls

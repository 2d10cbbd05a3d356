"""The topology: which brokers there are and what they have, as several trackers tell a client.

    told(tracker, ...)   a tracker has told everything, or what has changed
    lost(tracker)        there is no link to it any more: what it said stands until others know better
    brokers              those that are there, by address

Each tracker that a client has a link to has a vote on each broker that it has ever listed: there, or gone. A broker is
there while at least VOTE_FACTOR of those votes say so. Trackers whose link is lost vote only where no other does, so
that the loss of all trackers leaves everybody with the last table. A tracker that has just started has no vote on
brokers that it has not heard of yet. What a broker tells of itself wins over what a tracker tells of it.

Pure. Promises: `brokers` does not depend on the order in which different trackers tell the same.
"""

from itertools import count
from typing import Final

from zbusrpc.transport.topology import ServerChange, State
from zbusrpc.transport.topology import Topology as Told

VOTE_FACTOR: Final = 0.5
"""As clients of zbus count."""
GONE_MAX: Final = 10_000
"""As many as a tracker lists at most."""


class Broker:
    """A broker, as one tracker tells of it."""

    __slots__ = ("address", "boot", "stamp", "state", "topics")

    def __init__(self, address: str) -> None:
        self.address = address
        self.boot = ""
        self.state: State = "live"
        self.topics: dict[str, tuple[int, int]] = {}
        """Live consumers, and the mask of zbus."""
        self.stamp = 0
        """Grows with each time that anything is told of it, whoever tells."""

    def change(self, told: ServerChange, stamp: int) -> None:
        """Take over what is told."""
        if told.is_full:
            self.topics = {}
        self.boot, self.state, self.stamp = told.boot, told.state, stamp
        for name, facts in told.topics.items():
            if facts is None:
                self.topics.pop(name, None)
            else:
                self.topics[name] = facts


class _View:
    """What one tracker has told."""

    def __init__(self) -> None:
        self.is_linked = True
        self.brokers: dict[str, Broker] = {}
        self.unconfirmed: set[str] = set()
        """Of those: not told of since the tracker started anew."""
        self.gone: dict[str, None] = {}
        """Brokers that it has listed once, and does not list any more; the last GONE_MAX."""
        self.trackers: tuple[str, ...] = ()

    def note_gone(self, address: str) -> None:
        """Note that a broker is not listed any more."""
        self.gone[address] = None
        if len(self.gone) > GONE_MAX:
            del self.gone[next(iter(self.gone))]


class Topology:
    """What several trackers tell together."""

    def __init__(self) -> None:
        self.brokers: dict[str, Broker] = {}
        """Those that are there, by address."""
        self._views: dict[str, _View] = {}
        self._stamps = count(1)

    @property
    def trackers(self) -> set[str]:
        """Addresses to which brokers report, as far as trackers tell."""
        return {tracker for view in self._views.values() if view.is_linked for tracker in view.trackers}

    def told(self, tracker: str, told: Told) -> None:
        """Take over what a tracker tells."""
        view = self._views.setdefault(tracker, _View())
        view.is_linked = True
        if told.is_full:
            view.unconfirmed = set(view.brokers)
        stamp = next(self._stamps)
        for address, change in told.servers.items():
            view.brokers.setdefault(address, Broker(address)).change(change, stamp)
            view.unconfirmed.discard(address)
            view.gone.pop(address, None)
        gone = set(told.gone)
        if told.is_settled:
            gone |= view.unconfirmed
            view.unconfirmed = set()
        for address in gone:
            if view.brokers.pop(address, None) is not None:
                view.note_gone(address)
            view.unconfirmed.discard(address)
        if told.trackers or told.is_full:
            view.trackers = told.trackers
        self._count(set(told.servers) | gone if not told.is_full else None)

    def lost(self, tracker: str) -> None:
        """Note that there is no link to a tracker any more."""
        view = self._views.get(tracker)
        if view is not None:
            view.is_linked = False
            self._count(None)

    def renamed(self, tracker: str, name: str) -> None:
        """Note that a tracker which was lost has come back by another name."""
        view = self._views.get(tracker)
        if view is not None and not view.is_linked:
            del self._views[tracker]
            self._views.setdefault(name, view)
            self._count({*view.brokers, *view.gone})

    def _count(self, addresses: set[str] | None) -> None:
        """Count the votes on some brokers, or on all."""
        if addresses is None:
            addresses = {address for view in self._views.values() for address in (*view.brokers, *view.gone)}
        for address in addresses:
            voters = [view for view in self._views.values() if view.is_linked and _has_vote(view, address)]
            voters = voters or [view for view in self._views.values() if _has_vote(view, address)]
            seen = [view for view in voters if address in view.brokers]
            if seen and len(seen) >= VOTE_FACTOR * len(voters):
                self.brokers[address] = self._best_of(address, seen)
            else:
                self.brokers.pop(address, None)
                self._forget_itself(address)

    def _forget_itself(self, address: str) -> None:
        """Drop what a broker that is gone, and has no link, has said of itself: nobody would contradict it later."""
        own = self._views.get(address)
        if own is not None and not own.is_linked:
            own.brokers.pop(address, None)
            own.unconfirmed.discard(address)
            if not own.brokers:
                del self._views[address]

    def _best_of(self, address: str, seen: list[_View]) -> Broker:
        """Return what is known best: by the broker itself, or else the last that was told."""
        own = self._views.get(address)
        if own in seen:
            return own.brokers[address]
        return max((view.brokers[address] for view in seen), key=lambda broker: broker.stamp)


def _has_vote(view: _View, address: str) -> bool:
    return address in view.brokers or address in view.gone

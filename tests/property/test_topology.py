"""The votes of several trackers: random histories, compared with a count of hands, in random order between trackers."""

import random
from collections.abc import Callable
from typing import Final

import pytest

from zbusrpc.cluster.topology import VOTE_FACTOR, Topology
from zbusrpc.transport.topology import ServerChange
from zbusrpc.transport.topology import Topology as Told

SEEDS = range(60)
TRACKERS: Final = ("t1:1", "t2:2", "t3:3", "t4:4")
BROKERS: Final = ("b1:1", "b2:2", "b3:3", "t1:1", "t2:2")
"""Some trackers are brokers, too."""
LOST: Final = "lost"

Event = Told | str
History = list[Event]
Presence = dict[str, bool]


def content(address: str, number: int) -> ServerChange:
    """Return what is told of a broker at some time."""
    return ServerChange(is_full=True, boot=f"{address}#{number}", topics={f"topic{number}": (number, 0)})


class Teller:
    """Makes up what one tracker tells, and knows what its vote is in the end."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.listed: set[str] = set()
        self.ever: set[str] = set()
        self.unheard: set[str] = set()
        """Listed before the tracker was started anew, and not told of since."""
        self.version = 0
        self.is_linked = self.is_settled = False

    def history(self, length: int, *, may_be_lost: bool) -> History:
        """Return some events; each broker that is listed has been told of with its last content at last."""
        events: History = []
        for _ in range(length):
            if self.is_linked and may_be_lost and self.rng.random() < 0.15:
                self.is_linked = False
                events.append(LOST)
            elif self.is_linked:
                events.append(self.change())
            else:
                events.append(self.full())
        if self.is_linked:
            last = {address: content(address, 9) for address in sorted(self.listed - self.unheard)}
            events.append(self.told(servers=last))
        return events

    def told(self, *, is_full: bool = False, servers: dict[str, ServerChange], gone: tuple[str, ...] = ()) -> Told:
        self.version += 1
        return Told(is_full=is_full, version=self.version, is_settled=self.is_settled, servers=servers, gone=gone)

    def some(self, of: list[str]) -> list[str]:
        return [one for one in of if self.rng.random() < 0.5]

    def full(self) -> Told:
        self.is_linked, self.is_settled = True, self.rng.random() < 0.6
        names = self.some(list(BROKERS))
        self.unheard = set() if self.is_settled else self.listed - set(names)
        self.listed = set(names) | self.unheard
        self.ever |= self.listed
        return self.told(is_full=True, servers={name: content(name, self.rng.randrange(5)) for name in names})

    def change(self) -> Told:
        self.is_settled = self.is_settled or self.rng.random() < 0.3
        names = self.some(list(BROKERS))[:2]
        gone = self.some([name for name in BROKERS if name not in names])[:2]
        self.unheard -= {*names, *gone}
        self.listed = (self.listed | set(names)) - set(gone)
        if self.is_settled:
            self.listed -= self.unheard
            self.unheard = set()
        self.ever |= self.listed
        told = {name: content(name, self.rng.randrange(5)) for name in names}
        return self.told(servers=told, gone=tuple(gone))


def play(topology: Topology, histories: dict[str, History], rng: random.Random) -> None:
    """Let the trackers tell, each in its order, in a random order of theirs."""
    left = {tracker: list(events) for tracker, events in histories.items() if events}
    while left:
        tracker = rng.choice(sorted(left))
        tell(topology, tracker, left[tracker].pop(0))
        if not left[tracker]:
            del left[tracker]


def tell(topology: Topology, tracker: str, event: Event) -> None:
    """Let one thing happen."""
    if isinstance(event, Told):
        topology.told(tracker, event)
    else:
        topology.lost(tracker)


def seen_in(topology: Topology) -> dict[str, tuple[str, dict[str, tuple[int, int]]]]:
    """Return what is known."""
    return {address: (broker.boot, dict(broker.topics)) for address, broker in topology.brokers.items()}


def count_hands(tellers: list[Teller]) -> set[str]:
    """Return the brokers that are there, by the rule as it is written."""
    found = set()
    for address in BROKERS:
        voters = [teller for teller in tellers if address in teller.ever]
        linked = [teller for teller in voters if teller.is_linked]
        voters = linked or voters
        listing = sum(address in teller.listed for teller in voters)
        if listing and listing >= VOTE_FACTOR * len(voters):
            found.add(address)
    return found


def seeded(test: Callable[[random.Random], None]) -> Callable[[int], None]:
    """Run a test with each of the seeds."""

    def run(seed: int) -> None:
        print(f"seed {seed}")
        test(random.Random(seed))

    run.__doc__ = test.__doc__
    return pytest.mark.parametrize("seed", SEEDS)(run)


@seeded
def test_order_between_trackers_does_not_matter(rng: random.Random) -> None:
    """What is there in the end is what a count of hands finds, with what was told of it last."""
    tellers = [Teller(rng) for _ in TRACKERS]
    histories = {
        tracker: teller.history(rng.randrange(1, 12), may_be_lost=False)
        for tracker, teller in zip(TRACKERS, tellers, strict=True)
    }
    heard = {
        address: [teller for teller in tellers if address in teller.listed and address not in teller.unheard]
        for address in BROKERS
    }

    outcomes = []
    for _ in range(4):
        topology = Topology()
        play(topology, histories, rng)
        outcomes.append(seen_in(topology))

    for outcome in outcomes:
        assert set(outcome) == count_hands(tellers)
        for address in outcome:
            if len(heard[address]) == len([teller for teller in tellers if address in teller.listed]):
                assert outcome[address] == (f"{address}#9", {"topic9": (9, 0)})


@seeded
def test_lost_trackers_vote_only_where_no_other_does(rng: random.Random) -> None:
    """Links come and go; names of trackers that are no brokers, of which nobody else knows better."""
    tellers = [Teller(rng) for _ in TRACKERS]
    histories = {
        f"mere-{tracker}": teller.history(rng.randrange(1, 15), may_be_lost=True)
        for tracker, teller in zip(TRACKERS, tellers, strict=True)
    }
    topology = Topology()

    play(topology, histories, rng)

    assert set(topology.brokers) == count_hands(tellers)


@seeded
def test_loss_of_all_trackers_leaves_the_last_table(rng: random.Random) -> None:
    """In whatever order they are lost, where they had agreed; and it is there still when one is back and learns."""
    names = [name for name in BROKERS if rng.random() < 0.7]
    full = Told(is_full=True, version=1, servers={name: content(name, 1) for name in names})
    topology = Topology()
    for tracker in TRACKERS:
        topology.told(tracker, full)
    before = seen_in(topology)

    for tracker in rng.sample(TRACKERS, len(TRACKERS)):
        topology.lost(tracker)
        assert seen_in(topology) == before
    topology.told("t1:1", Told(is_full=True, version=1, is_settled=False))
    assert seen_in(topology) == before


@seeded
def test_one_tracker_is_believed(rng: random.Random) -> None:
    """Whatever it has said before, there is what it says when it is settled; topics are added, changed and removed."""
    teller, topology = Teller(rng), Topology()
    for event in teller.history(rng.randrange(10), may_be_lost=True):
        tell(topology, "t1:1", event)

    names = [name for name in BROKERS if rng.random() < 0.5]
    topology.told("t1:1", Told(is_full=True, version=99, servers={name: content(name, 1) for name in names}))
    changes = {name: ServerChange(boot="b", topics={"topic1": None, "new": (2, 1)}) for name in names}
    topology.told("t1:1", Told(version=100, servers=changes))

    assert seen_in(topology) == {name: ("b", {"new": (2, 1)}) for name in names}


def test_half_of_the_votes_are_enough() -> None:
    """One of two, two of four; one of three is not. A tracker that has never listed a broker has no vote on it."""
    there = {"b1:1": content("b1:1", 1)}

    def is_there(listing: int, gone: int, silent: int) -> bool:
        topology = Topology()
        for number in range(listing + gone + silent):
            is_silent = number >= listing + gone
            topology.told(f"t{number}:1", Told(is_full=True, version=1, servers={} if is_silent else there))
        for number in range(listing, listing + gone):
            topology.told(f"t{number}:1", Told(version=2, gone=("b1:1",)))
        return "b1:1" in topology.brokers

    assert [is_there(1, 1, 5), is_there(2, 2, 0), is_there(1, 0, 9)] == [True, True, True]
    assert [is_there(1, 2, 0), is_there(2, 3, 0), is_there(0, 1, 1)] == [False, False, False]


def test_tracker_that_learns_takes_nobody_away() -> None:
    """What it does not list stands until it says something settled."""
    topology = Topology()
    topology.told("t1:1", Told(is_full=True, version=1, servers={one: content(one, 1) for one in BROKERS}))
    topology.lost("t1:1")

    topology.told("t1:1", Told(is_full=True, version=2, is_settled=False, servers={"b1:1": content("b1:1", 2)}))
    topology.told("t1:1", Told(version=3, is_settled=False, gone=("b2:2",)))
    assert set(topology.brokers) == set(BROKERS) - {"b2:2"}
    topology.told("t1:1", Told(version=4, servers={"b3:3": content("b3:3", 2)}))

    assert set(topology.brokers) == {"b1:1", "b3:3"}


def test_broker_knows_best_what_it_has() -> None:
    """Whatever trackers say of it, and in whatever order."""
    for own_is_last in (False, True):
        topology = Topology()
        tellings = [("b1:1", content("b1:1", 1)), ("t1:1", content("b1:1", 2))]
        for tracker, told in reversed(tellings) if own_is_last else tellings:
            topology.told(tracker, Told(is_full=True, version=1, servers={"b1:1": told}))
        assert topology.brokers["b1:1"].boot == "b1:1#1"

        topology.lost("b1:1")
        assert topology.brokers["b1:1"].boot == "b1:1#2"

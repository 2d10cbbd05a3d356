"""The rules of selection, the ring and the health of a broker, for any brokers, keys and times."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zbusrpc.cluster.health import DECAY_S, LATENCY_MIN_S, WARM_UP_S, WARM_UP_WEIGHT, Health
from zbusrpc.cluster.ring import Ring
from zbusrpc.cluster.selection import SELECTORS, LeastLoaded, RoundRobin

HOMES = {
    "": "10.0.0.1:15555",
    "order 1": "10.0.0.2:15555",
    "order 2": "10.0.0.3:15555",
    "order 190": "10.0.0.3:15555",  # past the last place of all, so at the first
    "Zürich": "10.0.0.2:15555",
}
"""Of three brokers, fixed for good: clients of several versions share the work."""
KEYS = [f"key {number}" for number in range(5000)]
ADDRESSES = st.lists(st.from_regex(r"10\.0\.[0-9]{1,2}\.[0-9]{1,2}:[0-9]{4,5}", fullmatch=True), unique=True)
TIMES = st.floats(0, 1e6)
LATENCIES = st.floats(0, 100)


@dataclass(frozen=True)
class Broker:
    """A candidate of fixed values."""

    address: str
    consumers: int = 1
    cost: float = 1.0


def brokers_of(size: int) -> list[Broker]:
    """Return brokers on consecutive ports."""
    return [Broker(f"10.0.0.1:{15555 + number}") for number in range(size)]


BROKERS = st.lists(
    st.builds(Broker, st.text(max_size=20), st.integers(0, 9), st.floats(0, 1e9)),
    min_size=1,
    max_size=12,
    unique_by=lambda broker: broker.address,
).map(lambda brokers: sorted(brokers, key=lambda broker: broker.address))
KEY = st.none() | st.text() | st.binary()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SELECTORS)), BROKERS, st.lists(KEY, min_size=1, max_size=5))
def test_every_rule_returns_given_brokers_each_once(
    name: str, brokers: list[Broker], keys: list[str | bytes | None]
) -> None:
    """Whatever the rule, the brokers and the key: something is returned, it was given, and nothing comes twice."""
    selector = SELECTORS[name]()

    for key in keys:
        chosen = selector.select(brokers, key)

        assert chosen
        assert all(broker in brokers for broker in chosen)
        assert len(set(chosen)) == len(chosen)
        assert len(chosen) == (len(brokers) if name == "all" else 1)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers())
def test_costlier_of_two_is_never_taken(one: float, other: float, seed: int) -> None:
    """With two brokers both are looked at, and the cheaper one gets the call."""
    selector = LeastLoaded(random.Random(seed))
    brokers = [Broker("a:1", cost=one), Broker("b:1", cost=other)]

    for _ in range(8):
        assert selector.select(brokers, None)[0].cost == min(one, other)


@settings(max_examples=100, deadline=None)
@given(BROKERS, st.integers())
def test_costliest_of_many_is_never_taken(brokers: list[Broker], seed: int) -> None:
    """The costliest of all loses against whichever it is compared with."""
    assume(len(brokers) > 1)
    costs = sorted(broker.cost for broker in brokers)
    assume(costs[-1] > costs[-2])
    selector = LeastLoaded(random.Random(seed))

    assert all(selector.select(brokers, None)[0].cost < costs[-1] for _ in range(20))


def test_brokers_of_equal_cost_share_equally() -> None:
    """Nobody is preferred for its place in the list."""
    brokers = brokers_of(5)
    selector = LeastLoaded(random.Random(1))

    counts = Counter(selector.select(brokers, None)[0].address for _ in range(10_000))

    assert all(1800 < count < 2200 for count in counts.values())
    assert len(counts) == 5


@settings(max_examples=100, deadline=None)
@given(BROKERS)
def test_most_consumers_takes_the_first_of_the_largest(brokers: list[Broker]) -> None:
    """As clients of zbus: the largest number of consumers, the first wins ties."""
    (chosen,) = SELECTORS["most-consumers"]().select(brokers, None)
    largest = [broker for broker in brokers if broker.consumers == max(broker.consumers for broker in brokers)]

    assert chosen is largest[0]


@settings(max_examples=100, deadline=None)
@given(BROKERS, st.integers(1, 10))
def test_round_robin_visits_all_equally(brokers: list[Broker], rounds: int) -> None:
    """After whole rounds each broker was chosen as often as the others, and never twice before all had their turn."""
    selector = RoundRobin()

    chosen = [selector.select(brokers, None)[0] for _ in range(rounds * len(brokers))]

    assert set(Counter(chosen).values()) == {rounds}
    assert len(set(chosen[: len(brokers)])) == len(brokers)


@settings(max_examples=50, deadline=None)
@given(ADDRESSES, st.data(), st.lists(st.text() | st.binary(), min_size=1, max_size=50))
def test_broker_that_leaves_gives_up_only_its_own_keys(
    addresses: list[str], data: st.DataObject, keys: list[str | bytes]
) -> None:
    """All other keys stay; read the other way round, one that joins takes keys and moves none between the others."""
    assume(len(addresses) > 1)
    gone = data.draw(st.sampled_from(addresses))
    left = [address for address in addresses if address != gone]
    before, after = Ring(addresses), Ring(left)

    for key in keys:
        home = addresses[before.place_of(key)]
        assert home in {gone, left[after.place_of(key)]}


@settings(max_examples=50, deadline=None)
@given(ADDRESSES, st.randoms(use_true_random=False), st.text() | st.binary())
def test_order_of_addresses_does_not_matter(addresses: list[str], rng: random.Random, key: str | bytes) -> None:
    """Two clients that heard of the brokers in different order put a key at the same one."""
    assume(addresses)
    shuffled = rng.sample(addresses, len(addresses))

    assert addresses[Ring(addresses).place_of(key)] == shuffled[Ring(shuffled).place_of(key)]


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_keys_are_in_balance_and_a_newcomer_takes_its_share(size: int) -> None:
    """No broker has a third more or less than an equal share, and one that joins takes about 1/n."""
    addresses = [broker.address for broker in brokers_of(size + 1)]
    before, after = Ring(addresses[:-1]), Ring(addresses)

    counts = Counter(before.place_of(key) for key in KEYS)
    moved = sum(before.place_of(key) != after.place_of(key) for key in KEYS)

    assert len(counts) == size
    assert all(0.67 < count * size / len(KEYS) < 1.33 for count in counts.values())
    assert 0.67 < moved * (size + 1) / len(KEYS) < 1.33


@pytest.mark.parametrize("name", ["least-loaded", "consistent-hash"])
def test_key_has_one_home_whatever_it_costs(name: str) -> None:
    """A key goes where the ring says, in every process and as text and as bytes; only a broker that leaves moves it."""
    selector = SELECTORS[name]()
    brokers = [Broker(f"10.0.0.{number}:15555", cost=float(number)) for number in range(1, 4)]

    homes = {key: selector.select(brokers, key)[0].address for key in HOMES}

    assert homes == HOMES
    assert {key: selector.select(brokers, key.encode())[0].address for key in homes} == homes


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), LATENCIES, st.booleans()), max_size=20), TIMES)
def test_cost_is_positive_and_reading_it_changes_nothing(calls: list[tuple[float, float, bool]], begin: float) -> None:
    """Whatever was measured, a cost is above 0, and the same when it is asked for again."""
    health, now = Health(), begin
    health.opened(now)

    for wait, latency_s, is_ok in calls:
        health.begun(now)
        now += wait
        assert health.cost(now) == health.cost(now) > 0
        health.ended(now, latency_s, is_ok)
        assert health.cost(now) == health.cost(now) > 0
        if is_ok:
            assert health.cost(now) >= latency_s

    assert health.in_flight == 0


@settings(max_examples=100, deadline=None)
@given(st.floats(LATENCY_MIN_S, 100), st.lists(st.floats(0, 30), min_size=2, max_size=8), TIMES)
def test_latency_rises_at_once_and_fades(latency_s: float, waits: list[float], begin: float) -> None:
    """After a slow call the cost is its latency, then only falls, to nothing in the end."""
    health = Health()
    health.begun(begin)
    health.ended(begin, latency_s, is_ok=True)
    assert health.cost(begin) == pytest.approx(latency_s)

    costs = [health.cost(begin + wait) for wait in sorted(waits)]

    assert costs == sorted(costs, reverse=True)
    assert health.cost(begin + DECAY_S) <= max(latency_s / 2, LATENCY_MIN_S)
    assert health.cost(begin + 20 * DECAY_S) == LATENCY_MIN_S


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 2 * WARM_UP_S), min_size=2, max_size=10), TIMES)
def test_weight_of_a_return_only_grows(moments: list[float], begin: float) -> None:
    """A broker that was lost returns at ten times the cost of a fresh one, and comes down to it without a step back."""
    health, fresh = Health(), Health()
    health.opened(begin)
    health.begun(begin)
    health.ended(begin, 7.0, is_ok=False)
    assert health.cost(begin) == 7.0

    health.lost(begin)
    health.opened(begin)
    weights = [fresh.cost(begin + moment) / health.cost(begin + moment) for moment in sorted(moments)]

    assert fresh.cost(begin) / health.cost(begin) == pytest.approx(WARM_UP_WEIGHT)
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(weights))
    assert health.cost(begin + WARM_UP_S / 2) == pytest.approx(fresh.cost(begin) / 0.55)
    assert health.cost(begin + WARM_UP_S) == fresh.cost(begin + WARM_UP_S)


def test_first_link_has_full_weight() -> None:
    """Only a return is gradual: a broker that starts with its clients takes work at once."""
    health = Health()
    health.opened(100.0)

    assert health.cost(100.0) == LATENCY_MIN_S


def test_calls_in_flight_decide_where_nothing_is_known() -> None:
    """A burst that begins before the first answer is spread."""
    health = Health()

    costs = []
    for _ in range(3):
        costs.append(health.cost(5.0))
        health.begun(5.0)

    assert costs == pytest.approx([LATENCY_MIN_S, 2 * LATENCY_MIN_S, 3 * LATENCY_MIN_S])


def test_quick_answers_make_up_for_a_slow_one() -> None:
    """With calls in flight all the time, an old peak counts a third after DECAY_S."""
    health = Health()
    health.begun(0.0)
    health.begun(0.0)
    health.ended(0.0, 1.0, is_ok=True)

    for tenth in range(1, int(DECAY_S * 10) + 1):
        health.begun(tenth / 10)
        health.ended(tenth / 10, 0.001, is_ok=True)

    assert health.cost(DECAY_S) / 2 == pytest.approx(0.369, abs=0.001)


def test_failure_weighs_more_than_a_quick_answer() -> None:
    """A broker that fails at once costs more than one that answers slower, with each failure more, up to a bound."""
    failing, slow = Health(), Health()
    for health in (failing, slow):
        health.begun(0.0)
    slow.ended(0.002, 0.002, is_ok=True)

    costs = []
    failing.ended(0.001, 0.001, is_ok=False)
    for _ in range(6):
        costs.append(failing.cost(0.002))
        failing.begun(0.002)
        failing.ended(0.002, 0.001, is_ok=False)

    assert costs[1] > slow.cost(0.002)
    assert costs == sorted(costs)
    assert failing.cost(0.002) == pytest.approx(1.0)


def test_broker_that_stops_answering_costs_more_and_is_not_forgotten() -> None:
    """Without an answer the cost rises with the wait; after minutes one more call finds out."""
    health = Health()
    health.begun(0.0)
    health.ended(0.001, 0.001, is_ok=True)
    usual = health.cost(0.001)

    health.begun(0.001)

    assert health.cost(0.002) < 3 * usual
    assert health.cost(1.0) > 500 * usual
    assert health.cost(200.0) < usual


@dataclass
class Measured:
    """A candidate with a health, on the clock of the simulation."""

    address: str
    clock: list[float]
    health: Health
    consumers: int = 1

    @property
    def cost(self) -> float:
        return self.health.cost(self.clock[0])


def shares_of_calls(
    latency_of: Callable[[int, float], float], *, calls_per_s: float, seconds: float, since: float = 0.0
) -> list[float]:
    """Let one client call three brokers for a time; return the share of each in the calls since then.

    Args:
        latency_of: what a call takes, of the number of the broker and the time; a tenth more or less is added.
    """
    rng, clock = random.Random(7), [0.0]
    brokers = [Measured(f"{number}:1", clock, Health()) for number in range(3)]
    selector = LeastLoaded(rng)
    answers: list[tuple[float, int, float]] = []
    calls = Counter[int]()
    arrival = 0.0
    while (arrival := arrival + rng.expovariate(calls_per_s)) < seconds:
        while answers and answers[0][0] <= arrival:
            clock[0], place, latency_s = heapq.heappop(answers)
            brokers[place].health.ended(clock[0], latency_s, is_ok=True)
        clock[0] = arrival
        (chosen,) = selector.select(brokers, None)
        place = int(chosen.address[0])
        latency_s = latency_of(place, arrival) * rng.uniform(0.9, 1.1)
        brokers[place].health.begun(arrival)
        heapq.heappush(answers, (arrival + latency_s, place, latency_s))
        calls[place] += arrival >= since
    return [calls[place] / calls.total() for place in range(3)]


@pytest.mark.parametrize(("calls_per_s", "seconds"), [(20, 400), (200, 60), (1000, 30)])
def test_slow_broker_gets_less_but_not_nothing(calls_per_s: float, seconds: float) -> None:
    """Of three brokers the one ten times slower gets under a fifth of the calls, at any load, and is tried again."""
    shares = shares_of_calls(
        lambda place, _: 0.05 if place == 1 else 0.005, calls_per_s=calls_per_s, seconds=seconds, since=1.0
    )

    assert 0 < shares[1] < 0.2
    assert min(shares[0], shares[2]) > 0.35


def test_broker_that_was_slow_gets_its_share_again() -> None:
    """Once it is as quick as the others, it is found out within a minute."""
    shares = shares_of_calls(
        lambda place, now: 0.05 if place == 1 and now < 10 else 0.005, calls_per_s=100, seconds=120, since=70.0
    )

    assert all(0.25 < share < 0.42 for share in shares)


def test_broker_that_freezes_gets_hardly_any_call() -> None:
    """Without one answer or failure from it, a client turns away within some calls."""
    shares = shares_of_calls(
        lambda place, now: 1e9 if place == 1 and now >= 5 else 0.005, calls_per_s=1000, seconds=7, since=5.0
    )

    assert shares[1] < 0.01

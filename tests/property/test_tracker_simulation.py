"""A seeded simulation of trackers, brokers and clients that have bad luck: what clients know is right in the end.

Links break and are made anew, lose what is under way or deliver it late, behind newer connections; brokers and
trackers die, restart with clocks that went back, freeze, drain; clients read too slowly.
"""

from collections.abc import Callable

import pytest

from tests.support.tracker_net import STEADY_S, BrokerNode, ClientNode, TrackerNet, facts

SEEDS = range(16)
LONG_SEEDS = range(1000, 1400)
TROUBLE_S = 25.0
CALM_S = 9.0
"""In the worst case: a report is refused and comes again."""
HOUR_MS = 3_600_000


class Simulation:
    """Three trackers, one of which has no topics, two more brokers, and three clients."""

    def __init__(self, seed: int) -> None:
        self.net = net = TrackerNet(seed)
        self.rng = net.rng
        self.trackers = ("t1:1", "t2:2", "t3:3")
        for address in self.trackers:
            net.node(address, self.trackers, is_tracker_only=address == "t3:3", skew_ms=self.skew_ms())
        for address in ("b4:4", "b5:5"):
            net.node(address, self.trackers, skew_ms=self.skew_ms())
        for node in net.nodes.values():
            self.change(node)
            node.start()
        self.all = list(net.nodes.values())
        for size in (3, 2, 1):
            net.client(*self.trackers[:size])
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (30, lambda: self.change(self.any())),
            (8, self.cut),
            (3, self.part),
            (3, net.heal),
            (3, self.kill),
            (4, self.restart),
            (2, self.freeze),
            (4, self.thaw),
            (2, self.drain),
            (3, self.congest),
        ]

    def skew_ms(self) -> int:
        return self.rng.choice([-HOUR_MS, 0, HOUR_MS])

    def any(self) -> BrokerNode:
        return self.rng.choice(list(self.net.nodes.values()))

    # -- bad luck ----------------------------------------------------------------------------------------

    def change(self, node: BrokerNode) -> None:
        if not node.is_tracker_only:
            rng, name = self.rng, f"topic{self.rng.randrange(4)}"
            node.change(name, rng.choice([None, facts(rng.randrange(3), rng.choice([0, 2]), depth=rng.randrange(9))]))

    def cut(self) -> None:
        lines = self.net.lines()
        if lines:
            self.rng.choice(lines).cut()

    def part(self) -> None:
        one = self.rng.choice([*self.net.nodes, *(client.address for client in self.net.clients)])
        self.net.part(one, self.any().address)

    def kill(self) -> None:
        self.any().kill()

    def restart(self) -> None:
        node = self.any()
        if node.is_alive and not node.is_frozen and self.rng.random() < 0.7:
            node.kill()
            self.net.run(self.rng.choice([0.2, 0.5, 3.0]), self.check)
        if not node.is_alive:
            node.skew_ms = self.skew_ms()
            node.start()

    def freeze(self) -> None:
        node = self.any()
        if node.is_alive:
            node.freeze()

    def thaw(self) -> None:
        self.any().thaw()

    def drain(self) -> None:
        node = self.any()
        if node.is_alive:
            node.do(lambda: node.tracker.set_state("draining"), node.life)

    def congest(self) -> None:
        lines = [line for line in self.net.lines() if isinstance(line.near, ClientNode)]
        if lines:
            self.net.congest(self.rng.choice(lines), self.rng.uniform(0.1, 3.0))

    # -- what must hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        """A broker that at least half of its trackers know is known to clients that are linked to those."""
        for client in self.net.clients:
            for node in self.net.nodes.values():
                is_there = node.is_alive and not node.is_frozen and not node.is_tracker_only
                if is_there and node.address not in client.topology.brokers:
                    assert 2 * self.ways(node, client) < len(client.trackers), (node.address, client.address)

    def ways(self, node: BrokerNode, client: ClientNode) -> int:
        steady_s = self.net.steady_s
        ways = [tracked.target for tracked in client.trackers]
        return sum(min(steady_s(node, way), steady_s(client, way)) > STEADY_S for way in ways)

    def have_trouble(self, seconds: float) -> None:
        acts, weights = [act for _, act in self.actions], [weight for weight, _ in self.actions]
        until_s = self.net.time.now_s + seconds
        while self.net.time.now_s < until_s:
            self.rng.choices(acts, weights)[0]()
            self.net.run(self.rng.choice([0.0, 0.01, 0.1, 0.5, 2.0]), self.check)

    def calm_down(self) -> None:
        """Let everything live and be linked, but for the brokers that are dead."""
        self.net.heal()
        for node in self.net.nodes.values():
            node.thaw()
            if not node.is_alive and node.address in self.trackers:
                node.start()
        self.net.run(CALM_S, self.check)

    def check_calm(self) -> None:
        """All clients know what there is, and versions have grown over all restarts."""
        for client in self.net.clients:
            assert client.brokers == self.net.truth()
        for address in self.trackers:
            node = self.net.nodes[address]
            assert node.tracker.next_version() > max(node.versions_to_exceed)
            assert not node.tracker.registry._ousted

    def check_last_table(self) -> None:
        """When all trackers are gone everybody keeps what was known last."""
        before = [client.brokers for client in self.net.clients]
        for address in self.trackers:
            for line in list(self.net.nodes[address].links):
                line.cut()
            self.net.nodes[address].kill()
        self.net.run(5.0)
        assert [client.brokers for client in self.net.clients] == before


def simulate(seed: int) -> None:
    """Have two spells of trouble, each with calm after it, and lose all trackers in the end."""
    print(f"seed {seed}")
    simulation = Simulation(seed)
    for _ in range(2):
        simulation.have_trouble(TROUBLE_S)
        simulation.calm_down()
        simulation.check_calm()
    simulation.check_last_table()


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_know_what_there_is_after_any_trouble(seed: int) -> None:
    """And a broker that lives and is linked to half of its trackers never vanishes from their sight meanwhile."""
    simulate(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_clients_know_what_there_is_after_any_trouble_at_length(seed: int) -> None:
    """The same with many more seeds."""
    simulate(seed)

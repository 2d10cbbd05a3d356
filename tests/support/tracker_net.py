"""Brokers, trackers and clients of trackers in a world without sockets, whose time and bad luck a test decides.

    net = TrackerNet(seed)
    one, two = net.node("b1:1"), net.node("b2:2", trackers=("b1:1",))
    client = net.client("b1:1")
    net.run(5.0)
    assert client.brokers == net.truth()

What decides is real: `Tracker`, `Registry`, `Teller`, and the client's `Topology`. Links deliver in order while they
live, each with delays of its own; the two ends of a link that breaks learn of it at different times, and what is under
way from the end that learns first may still arrive. Each node has its own clock, and may die, restart or freeze.
"""

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.tracker.teller import Teller
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.cluster.topology import Topology
from zbusrpc.message import Kind, Message
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import ServerFacts, State, TopicFacts, parse_topology

DELAY_S_MAX = 0.15
"""Of a message; with a heartbeat every 0.5 s, three may be late without the lease being over."""
REDIAL_S_MAX = 0.4
STEADY_S = 3.0
"""After so long without bad luck a tracker knows a broker, or a client what a tracker knows."""
BEGIN_MS = 1_700_000_000_000

Table = dict[str, tuple[str, State, dict[str, tuple[int, int]]]]
"""Boot, state and topics of brokers by address."""


class Ring:
    """A timer."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Let it not ring."""
        self.callback = None

    def ring(self) -> None:
        """Do what was to be done."""
        if self.callback is not None:
            self.callback()


class FakeTime:
    """Time that passes when a test wants it to: the clock of a tracker."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.skew_ms = 0
        self._rings: list[tuple[float, int, Ring]] = []
        self._numbers = count()

    def now(self) -> float:
        """Return seconds of a monotonic clock."""
        return self.now_s

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return BEGIN_MS + int(self.now_s * 1000) + self.skew_ms

    def later(self, delay_s: float, callback: Callable[[], None]) -> Ring:
        """Have something done."""
        ring = Ring(callback)
        heapq.heappush(self._rings, (self.now_s + delay_s, next(self._numbers), ring))
        return ring

    def step(self, until_s: float) -> bool:
        """Do what is due next; return False when nothing is due before `until_s`, which it is then."""
        if not self._rings or self._rings[0][0] > until_s:
            self.now_s = max(self.now_s, until_s)
            return False
        at, _, ring = heapq.heappop(self._rings)
        self.now_s = max(self.now_s, at)
        ring.ring()
        return True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.step(until_s):
            pass


class Node:
    """A place for one process at a time that is a broker with its tracker, a mere tracker, or a client."""

    def __init__(self, net: "TrackerNet", address: str, *, skew_ms: int = 0) -> None:
        self.net, self.address, self.skew_ms = net, address, skew_ms
        self.is_alive = self.is_frozen = False
        self.life = 0
        """Which process it is."""
        self.links: list[Line] = []
        self._held: list[Callable[[], None]] = []

    # -- the clock of its process ------------------------------------------------------------------------

    def now(self) -> float:
        """Return seconds of a monotonic clock."""
        return self.net.time.now()

    def now_ms(self) -> int:
        """Return what its clock says."""
        return self.net.time.now_ms() + self.skew_ms

    def later(self, delay_s: float, callback: Callable[[], None]) -> Ring:
        """Have something done by the process that runs now."""
        ring, life = Ring(callback), self.life
        self.net.time.later(delay_s, lambda: self.do(ring.ring, life))
        return ring

    def do(self, act: Callable[[], None], life: int) -> None:
        """Have a process do something: when it is thawed, or never, if it has died."""
        if self.is_frozen:
            self._held.append(lambda: self.do(act, life))
        elif self.is_alive and self.life == life:
            act()

    # -- bad luck ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a process."""
        self.is_alive = True
        self.life += 1

    def kill(self) -> None:
        """End the process; its links break."""
        self.is_alive = self.is_frozen = False
        self._held.clear()
        for line in list(self.links):
            line.cut()

    def freeze(self) -> None:
        """Stop the process."""
        self.is_frozen = True
        self.net.shaken(self)

    def thaw(self) -> None:
        """Let the process go on."""
        if self.is_frozen:
            self.is_frozen = False
            held, self._held = self._held, []
            for act in held:
                act()
            self.net.shaken(self)


class BrokerNode(Node):
    """A broker, which is a tracker as well."""

    def __init__(
        self, net: "TrackerNet", address: str, trackers: tuple[str, ...], *, is_tracker_only: bool, skew_ms: int
    ) -> None:
        super().__init__(net, address, skew_ms=skew_ms)
        self.trackers, self.is_tracker_only = trackers, is_tracker_only
        self.topics: dict[str, TopicFacts] = {}
        self.told_version = 0
        """The greatest that its process has told to clients."""
        self.earlier: list[tuple[int, list[tuple[Node, int]]]] = []
        """Of earlier processes: what they told, and the processes that had been listening for a while."""

    def start(self) -> None:
        """Begin a process, with the topics that there are now."""
        super().start()
        self.boot, self.told_version = f"{self.address}#{self.life}", 0
        self._numbers = count(1)
        self.sent: dict[Session, Line] = {}
        self.tracker = Tracker(self, self._send)
        self.tracker.describe = self.topics.get
        facts = ServerFacts(
            address=self.address, boot=self.boot, trackers=self.trackers, is_tracker_only=self.is_tracker_only
        )
        self.tracker.begin(facts, list(self.topics))
        tellers = [Told(self, target) for target in self.trackers]
        self.tracker.on_own_change = lambda report: [told.teller.tell(report) for told in tellers] and None
        for told in tellers:
            told.dial()

    def change(self, name: str, facts: TopicFacts | None) -> None:
        """Have a topic come, go or change."""
        if facts is None:
            self.topics.pop(name, None)
        else:
            self.topics[name] = facts
        if self.is_alive:
            self.do(lambda: self.tracker.note(name), self.life)

    def kill(self) -> None:
        """End the process; its links break."""
        if self.is_alive:
            others = [node for node in self.net.nodes.values() if node is not self]
            witnesses = [(node, node.life) for node in others if self.net.steady_s(node, self.address) > STEADY_S]
            self.earlier.append((self.told_version, witnesses))
        super().kill()

    @property
    def versions_to_exceed(self) -> list[int]:
        """What its processes have told, as far as anybody can know."""
        seen = [told for told, them in self.earlier if any(one.is_alive and one.life == life for one, life in them)]
        return [*seen, self.told_version]

    def accept(self, line: "Line") -> None:
        """Begin a session."""
        line.session = Session(next(self._numbers), line.near.address)
        self.sent[line.session] = line
        line.to_near(lambda: line.on_open(Hello(address=self.address, boot=self.boot)))

    def take(self, line: "Line", message: Message) -> None:
        """Take a message in."""
        assert line.session is not None
        carry = {Kind.TRACK: self.tracker.track, Kind.REPORT: self.tracker.report}[Kind(message.kind)]
        carry(line.session, message, self.now())

    def leave(self, line: "Line") -> None:
        """End a session."""
        if line.session is not None and self.sent.pop(line.session, None) is not None:
            self.tracker.disconnect(line.session)

    def _send(self, session: Session, message: Message) -> None:
        line = self.sent.get(session)
        if line is not None:
            self.net.sent(self, message)
            line.to_near(lambda: line.on_message(message))


class Line:
    """One connection, as `near` has dialled it."""

    def __init__(
        self,
        near: Node,
        far: BrokerNode,
        on_open: Callable[[Hello], None],
        on_message: Callable[[Message], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.near, self.far, self.net = near, far, near.net
        self.on_open, self.on_message, self.on_lost = on_open, on_message, on_lost
        self.session: Session | None = None
        self._lives = near.life, far.life
        self._arrivals = [0.0, 0.0]
        self._near_has_left = self._far_has_left = self._is_cut = False
        self.steady_since: float | None = None
        """Since when it is open and neither end has had bad luck."""
        near.links.append(self)
        far.links.append(self)
        self.to_far(lambda: far.accept(self))

    def to_far(self, act: Callable[[], None]) -> None:
        """Let something arrive at the far end."""
        self._carry(1, self.far, act, lambda: self._far_has_left)

    def to_near(self, act: Callable[[], None]) -> None:
        """Let something arrive at the near end."""
        self._carry(0, self.near, act, lambda: self._near_has_left)

    def _carry(self, end: int, node: Node, act: Callable[[], None], has_left: Callable[[], bool]) -> None:
        if not self._is_cut:
            at = max(self._arrivals[end], self.net.time.now_s + self.net.rng.uniform(0.001, DELAY_S_MAX))
            self._arrivals[end] = at
            life = self._lives[end]

            def arrive() -> None:
                node.do(lambda: None if has_left() else act(), life)

            self.net.time.later(at - self.net.time.now_s, arrive)

    def cut(self) -> None:
        """Break: the ends learn of it, each in its own time; what is under way may arrive until then."""
        if self._is_cut:
            return
        self._is_cut, self.steady_since = True, None
        self.near.links.remove(self)
        self.far.links.remove(self)
        rng = self.net.rng
        near_life, far_life = self._lives
        self.net.time.later(rng.uniform(0, 0.5), lambda: self.near.do(self._leave_near, near_life))
        self.net.time.later(rng.uniform(0, 0.5), lambda: self.far.do(self._leave_far, far_life))

    def _leave_near(self) -> None:
        self._near_has_left = True
        self.on_lost()

    def _leave_far(self) -> None:
        self._far_has_left = True
        self.far.leave(self)


class Dialler:
    """Keeps a link from a node to a tracker."""

    def __init__(self, node: Node, target: str) -> None:
        self.node, self.target, self.net = node, target, node.net
        self.line: Line | None = None

    def dial(self) -> None:
        """Open a connection, now or later."""
        far = self.net.nodes[self.target]
        if far.is_alive and not self.net.is_parted(self.node.address, self.target):
            self.line = Line(self.node, far, self._opened, self.message, self._lost)
        else:
            self._dial_later()

    def _dial_later(self) -> None:
        self.node.later(self.net.rng.uniform(0.02, REDIAL_S_MAX), self.dial)

    def _opened(self, theirs: Hello) -> None:
        assert self.line is not None
        self.line.steady_since = self.net.time.now_s
        self.opened(theirs)

    def _lost(self) -> None:
        self.line = None
        self.lost()
        self._dial_later()

    def send(self, message: Message) -> None:
        """Send a message on the connection."""
        line = self.line
        if line is not None:
            line.to_far(lambda: line.far.take(line, message))

    def opened(self, theirs: Hello) -> None: ...

    def lost(self) -> None: ...

    def message(self, message: Message) -> None: ...


class Told(Dialler):
    """A tracker, as a broker tells it of itself."""

    def __init__(self, node: BrokerNode, target: str) -> None:
        super().__init__(node, target)
        self.teller = Teller(node.tracker, target, self.send, now=node.now, later=node.later)
        self.opened, self.lost, self.message = (  # type: ignore[method-assign]
            self.teller.opened,
            self.teller.lost,
            self.teller.take,
        )


class Tracked(Dialler):
    """A tracker, as a client tracks it."""

    def __init__(self, node: "ClientNode", target: str) -> None:
        super().__init__(node, target)
        self.client = node
        self.versions: list[int] = []
        """What it has told on this connection."""

    def opened(self, theirs: Hello) -> None:
        """Ask for everything."""
        self.versions = []
        self.send(Message(Kind.TRACK, 1))

    def message(self, message: Message) -> None:
        """Take in what is told."""
        told = parse_topology(message.body, is_reply=message.kind == Kind.REPLY)
        assert not self.versions or told.version > self.versions[-1], "a version that does not grow"
        self.versions.append(told.version)
        self.client.topology.told(self.target, told)

    def lost(self) -> None:
        """Note it."""
        self.client.topology.lost(self.target)


class ClientNode(Node):
    """A client of some trackers."""

    def __init__(self, net: "TrackerNet", name: str, trackers: tuple[str, ...]) -> None:
        super().__init__(net, name)
        self.topology = Topology()
        self.start()
        self.trackers = [Tracked(self, target) for target in trackers]
        for tracked in self.trackers:
            tracked.dial()

    @property
    def brokers(self) -> Table:
        """What it knows."""
        known = self.topology.brokers
        return {address: (one.boot, one.state, dict(one.topics)) for address, one in known.items()}


class TrackerNet:
    """The world."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.time = FakeTime()
        self.nodes: dict[str, BrokerNode] = {}
        self.clients: list[ClientNode] = []
        self._parted: set[frozenset[str]] = set()

    def node(
        self, address: str, trackers: tuple[str, ...] = (), *, is_tracker_only: bool = False, skew_ms: int = 0
    ) -> BrokerNode:
        """Start a broker."""
        node = self.nodes[address] = BrokerNode(
            self, address, trackers, is_tracker_only=is_tracker_only, skew_ms=skew_ms
        )
        return node

    def client(self, *trackers: str) -> ClientNode:
        """Start a client."""
        client = ClientNode(self, f"client {len(self.clients)}", trackers)
        self.clients.append(client)
        return client

    def run(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        """Let time pass, and check after each event."""
        until_s = self.time.now_s + seconds
        while self.time.step(until_s):
            check()

    def truth(self) -> Table:
        """Return the brokers that there are."""
        return {
            address: (node.boot, node.tracker.own.state, {n: (t.consumers, t.mask) for n, t in node.topics.items()})
            for address, node in self.nodes.items()
            if node.is_alive and not node.is_frozen and not node.is_tracker_only
        }

    # -- links -------------------------------------------------------------------------------------------

    def lines(self) -> list[Line]:
        """Return all links."""
        return [line for node in self.nodes.values() for line in node.links if line.far is node]

    def part(self, one: str, other: str) -> None:
        """Let nothing pass between two nodes."""
        self._parted.add(frozenset((one, other)))
        for line in self.lines():
            if {line.near.address, line.far.address} == {one, other}:
                line.cut()

    def heal(self) -> None:
        """Let everything pass."""
        self._parted.clear()

    def is_parted(self, one: str, other: str) -> bool:
        """Whether nothing passes between two nodes."""
        return frozenset((one, other)) in self._parted

    def congest(self, line: Line, seconds: float) -> None:
        """Let the far end of a link find for a while that the near end reads too slowly."""
        node, session = line.far, line.session
        if session is None or session.is_congested or node.sent.get(session) is not line:
            return
        session.is_congested, line.steady_since = True, None

        def catch_up() -> None:
            session.is_congested = False
            if line in node.links:
                line.steady_since = self.time.now_s
                node.tracker.catch_up(session)

        node.later(seconds, catch_up)

    def shaken(self, node: Node) -> None:
        """Note that a node stood still, or goes on."""
        for line in node.links:
            is_open = line.steady_since is not None or line.session is not None
            line.steady_since = self.time.now_s if is_open and not node.is_frozen else None

    def steady_s(self, near: Node, far: str) -> float:
        """Return for how long there is a link without any bad luck."""
        if near is self.nodes.get(far):
            return 1e9
        line = next((one for one in near.links if one.near is near and one.far.address == far), None)
        if line is None or line.steady_since is None or near.is_frozen or line.far.is_frozen:
            return 0.0
        return self.time.now_s - line.steady_since

    def sent(self, node: BrokerNode, message: Message) -> None:
        """Note what a tracker says to a client."""
        if message.kind == Kind.TOPOLOGY:
            node.told_version = max(node.told_version, parse_topology(message.body).version)


def facts(consumers: int = 0, mask: int = 0, **others: Any) -> TopicFacts:
    """Return the facts of a topic."""
    return TopicFacts(consumers=consumers, mask=mask, **others)

"""The tracker of a broker: takes reports of others in, and tells whoever tracks of every change.

    REPORT, track_pub ──> registry ──changes──> TOPOLOGY to native clients, each what is new to it
    the broker itself ──┘                 └──> `on_change`: to text clients, which get the whole table

Changes that come together are told together (PUSH_DELAY_S), or before an answer that clients build upon: `when_told`.
A client that reads too slowly is told nothing until it has caught up, and then everything.

Pure: time and timers come from outside.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from zbusrpc import envelope
from zbusrpc.broker.access.rights import Access, Operation, Rights, owner_of
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.tracker.registry import LOOK_S, Registry, Server
from zbusrpc.errors import RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.topology import (
    LEARNT_MAX,
    SELF_ONLY,
    Noted,
    Report,
    ServerChange,
    ServerFacts,
    State,
    TopicFacts,
    Topology,
    encode,
    parse_report,
)

PUSH_DELAY_S: Final = 0.02
"""Changes that come together are told together; a client that waits for one does not notice."""
PUSH_SHARE_MAX: Final = 0.1
"""Of the time that may go into telling: a topic of two thousand groups takes a while to look at."""
PUSH_BYTES_PER_S: Final = 20 * 1024 * 1024
"""Where much has changed, or many want to know it, it is told no more often than this allows."""
TOLD_FIRST_S_MAX: Final = 0.25
"""An answer waits no longer until what has changed was told."""
LEARN_S: Final = 1.5
"""After its start a tracker may not have heard of all brokers for so long: they come back within a second."""


log = get_logger("tracker")


class Clock(Protocol):
    """Time, and what is to be done at one."""

    def now(self) -> float:
        """Return seconds of a monotonic clock."""
        ...

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        ...

    def later(self, delay_s: float, callback: Callable[[], None], /) -> Any:
        """Have something done after a while."""
        ...


class Tracker:
    """What a broker knows of all brokers, and whom it tells."""

    def __init__(self, clock: Clock, send: Callable[[Session, Message], None]) -> None:
        self.registry = Registry()
        self.on_change: Callable[[], int] = lambda: 0
        """Has text clients told; returns the bytes that this took."""
        self.on_own_change: Callable[[Report], None] = lambda report: None
        """Told what has changed of the broker itself: see `reporter.py`."""
        self.describe: Callable[[str], TopicFacts | None] = lambda topic: None
        """Returns what the broker has of a topic now."""
        self._clock, self._send = clock, send
        self._own: ServerFacts | None = None
        self._own_changed: set[str] = set()
        self._clients: dict[Session, _Eyes] = {}
        self._behind: set[Session] = set()
        self._tables: dict[_Eyes, bytes] = {}
        """What those that asked since the last push were answered: what has changed meanwhile, the next one tells."""
        self._trackers: set[str] = set()
        self._version = 0
        self._is_settled = self._is_settling = False
        self._is_push_due = self._is_all_due = self._is_looking = False
        self._pushed_bytes = 0
        """At the last push, to all together."""
        self._pause_s = 0.0
        """After that one."""
        self._rested_at = self._push_at = 0.0
        """When the pause is over, and when the next one is due."""
        self._push_timer: Any = None
        self._waiting: list[Callable[[], None]] = []
        """Who goes on after the next one."""

    # -- the broker itself -------------------------------------------------------------------------------

    def begin(self, facts: ServerFacts, topics: Iterable[str]) -> None:
        """Begin with the broker itself and the topics that it has."""
        self._own = facts
        if not facts.is_tracker_only:
            self.registry.know_self(facts)
        self._own_changed.update(topics)
        self._look_at_self()
        self.registry.take_changes()
        self._clock.later(LEARN_S, self._settle)

    @property
    def own(self) -> ServerFacts:
        """What is known of the broker itself."""
        assert self._own is not None
        return self._own

    def set_state(self, state: State) -> None:
        """Tell that the broker drains."""
        self._own = self.own.model_copy(update={"state": state})
        if not self._own.is_tracker_only:
            self.registry.know_self(self._own)
        self.on_own_change(Report(server=self._own, version=self.next_version()))
        self._push()

    def own_report(self, seen: int = 0) -> Report:
        """Return everything about the broker itself, as of now."""
        topics = dict(self._own_topics())
        return Report(is_full=True, server=self.own, topics=topics, version=self.next_version(), seen=seen)

    def _own_topics(self) -> Iterable[tuple[str, TopicFacts]]:
        known = self.registry.servers.get(self.own.address)
        for name in known.topics if known is not None else ():
            facts = self.describe(name)
            if facts is not None:
                yield name, facts

    def note(self, topic: str) -> None:
        """Note that a topic of the broker itself came, went or changed."""
        if self._own is not None and not self._own.is_tracker_only:
            self._own_changed.add(topic)
            self._push_later()

    def note_version(self, version: int) -> None:
        """Note that others have heard of a version already, by an earlier process at this address."""
        if version < LEARNT_MAX:
            self._version = max(self._version, version)

    # -- what comes --------------------------------------------------------------------------------------

    def track(self, session: Session, message: Message, now: float) -> None:
        """Carry out a TRACK."""
        eyes = self._clients[session] = _Eyes(session.rights, message.body == SELF_ONLY)
        self._behind.discard(session)
        if eyes not in self._tables:
            self._tables[eyes] = envelope.result_body(encode(self._full(eyes)))
        self._send(session, Message(Kind.REPLY, message.id, body=self._tables[eyes]))

    def report(self, session: Session, message: Message, now: float) -> None:
        """Carry out a REPORT."""
        try:
            if not message.body:
                self.registry.renew(session, self._clock.now())
                return
            known = self.take(session, parse_report(message.body), session.rights)
        except RpcError as error:
            self._refuse(session, message, error)
            return
        if message.id:
            body = encode(Noted(tracker=self.own.address, version=self.next_version(), known=known))
            self._send(session, Message(Kind.REPLY, message.id, body=envelope.result_body(body)))

    def take(self, source: Session, report: Report, rights: Rights | None, *, is_leased: bool = True) -> int:
        """Take in what a broker reports; return the greatest version of itself that it had told before.

        Args:
            rights: Of who reports: topics of which it may not tell are left out, else clients would go there with them.
            is_leased: Whether it says in time that it lives.

        Raises:
            RpcError: it cannot be taken: see `Registry.report`.
        """
        if rights is not None:
            told = {name: facts for name, facts in report.topics.items() if rights.allows(Operation.TRACK_PUB, name)}
            report = report.model_copy(update={"topics": told})
        self._version = max(self._version, report.seen)
        now, owner = self._clock.now(), owner_of(rights)
        known = self.registry.report(source, report, now, is_leased=is_leased, owner=owner)
        self._push_later()
        if not self._is_looking:
            self._is_looking = True
            self._clock.later(LOOK_S, self._look)
        return known

    def _refuse(self, session: Session, message: Message, error: RpcError) -> None:
        log.warning("tracker.refused_report", peer=session.name, reason=error.message)
        self._send(session, envelope.error_reply(message.id, error))

    def disconnect(self, session: Session) -> None:
        """Let go of a session that has ended."""
        self._clients.pop(session, None)
        self._behind.discard(session)
        self.registry.disconnect(session)
        if self.registry.gone:
            self._push_later()

    def catch_up(self, session: Session) -> None:
        """Tell a client that reads again what it has missed."""
        if session in self._behind:
            self._push_later()

    def renew(self, access: Access) -> None:
        """Let clients see what their tokens may see now; those who may not any more nothing."""
        for session, eyes in list(self._clients.items()):
            rights = access.renewed(eyes.rights)
            if rights is None or not rights.allows(Operation.TRACK_SUB):
                del self._clients[session]
            elif rights != eyes.rights:
                self._clients[session] = eyes._replace(rights=rights)
                self._behind.add(session)
        self._push_later()

    def tracks(self, session: Session) -> bool:
        """Whether a session is told of changes."""
        return session in self._clients

    # -- time --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        late = self.registry.expire(self._clock.now())
        for address in late:
            log.warning("tracker.lost", broker=address)
        if late:
            self._push_later()
        self._is_looking = self.registry.has_leases
        if self._is_looking:
            self._clock.later(LOOK_S, self._look)
        else:
            self.registry.rest()

    def _settle(self) -> None:
        self._is_settled = self._is_settling = True
        self._push_later()

    # -- what is told ------------------------------------------------------------------------------------

    def next_version(self) -> int:
        """Return a number that grows with all that is told, and over restarts."""
        self._version = max(self._version + 1, self._clock.now_ms())
        return self._version

    def push_soon(self) -> None:
        """Tell text clients everything soon, and native ones what has changed."""
        self._is_all_due = True
        self._push_later()

    def when_told(self, then: Callable[[], None]) -> None:
        """Go on when what has changed up to now was told: at once where it may be told at once, or not for a while."""
        now = self._clock.now()
        if self._is_push_due and now >= self._rested_at:
            self._push()
        if self._is_push_due and self._push_at - now <= TOLD_FIRST_S_MAX:
            self._waiting.append(then)
        else:
            then()

    def _push_later(self) -> None:
        if not self._is_push_due:
            self._is_push_due = True
            delay_s = max(PUSH_DELAY_S, self._pause_s)
            self._push_at = self._clock.now() + delay_s
            self._push_timer = self._clock.later(delay_s, self._push)

    def _push(self) -> None:
        if self._push_timer is not None:
            self._push_timer.cancel()
            self._push_timer = None
        began = self._clock.now()
        self._push_all()
        ended = self._clock.now()
        self._pause_s = max(self._pushed_bytes / PUSH_BYTES_PER_S, (ended - began) / PUSH_SHARE_MAX)
        self._rested_at = ended + self._pause_s
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    def _push_all(self) -> None:
        self._is_push_due, self._pushed_bytes = False, 0
        self._tables.clear()
        self._look_at_self()
        changed, gone = self.registry.take_changes()
        trackers = self.registry.trackers()
        self._tell(changed, gone, trackers if trackers != self._trackers else set())
        self._trackers = trackers
        if self._is_all_due or changed or gone:
            self._is_all_due = False
            self._pushed_bytes += self.on_change()

    def _look_at_self(self) -> None:
        """Find out what has changed of the broker itself, and have it reported."""
        names, self._own_changed = self._own_changed, set()
        if not names or self.own.is_tracker_only:
            return
        found = {name: self.describe(name) for name in names}
        self.registry.change_self(self.own.address, found)
        there = {name: facts for name, facts in found.items() if facts is not None}
        gone = tuple(name for name in found if name not in there)
        self.on_own_change(Report(topics=there, gone=gone, version=self.next_version()))

    def _tell(self, changed: dict[str, set[str] | None], gone: set[str], trackers: set[str]) -> None:
        version = self.next_version()
        bodies: dict[tuple[_Eyes, bool], bytes] = {}
        for session, eyes in self._clients.items():
            if session.is_congested:  # it catches up
                self._behind.add(session)
                continue
            is_full = session in self._behind
            self._behind.discard(session)
            if (eyes, is_full) not in bodies:
                told = self._full(eyes) if is_full else self._changes(changed, gone, trackers, eyes, version)
                is_news = is_full or told.servers or told.gone or told.trackers or self._is_settling
                bodies[eyes, is_full] = encode(told) if is_news else b""
            body = bodies[eyes, is_full]
            if body:
                self._send(session, Message(Kind.TOPOLOGY, body=body))
                self._pushed_bytes += len(body)
        self._is_settling = False

    def _sees(self, eyes: "_Eyes", address: str) -> bool:
        return not eyes.is_self_only or address == self.own.address

    def _is_hidden(self, address: str) -> bool:
        """Whether a broker has nothing to offer: nobody is to look for topics at a mere tracker."""
        return self.registry.servers[address].facts.is_tracker_only

    def _full(self, eyes: "_Eyes") -> Topology:
        servers = {
            address: _change_of(server, None, eyes.rights)
            for address, server in self.registry.servers.items()
            if self._sees(eyes, address) and not self._is_hidden(address)
        }
        return Topology(
            is_full=True,
            version=self.next_version(),
            is_settled=self._is_settled,
            trackers=tuple(sorted(self.registry.trackers())),
            servers=servers,
        )

    def _changes(
        self,
        changed: dict[str, set[str] | None],
        gone: set[str],
        trackers: set[str],
        eyes: "_Eyes",
        version: int,
    ) -> Topology:
        hidden = {address for address in changed if self._is_hidden(address)}
        servers = {
            address: _change_of(self.registry.servers[address], names, eyes.rights)
            for address, names in changed.items()
            if self._sees(eyes, address) and address not in hidden
        }
        servers = {address: told for address, told in servers.items() if told.is_full or told.topics}
        return Topology(
            version=version,
            is_settled=self._is_settled,
            trackers=tuple(sorted(trackers)),
            servers=servers,
            gone=tuple(address for address in sorted(gone | hidden) if self._sees(eyes, address)),
        )


class _Eyes(NamedTuple):
    """What a client may see, or wants to."""

    rights: Rights | None
    is_self_only: bool


def _change_of(server: Server, names: set[str] | None, rights: Rights | None) -> ServerChange:
    """Return what is told of a broker: of some topics, or of all."""
    topics: dict[str, tuple[int, int] | None] = {}
    for name in server.topics if names is None else names:
        if rights is None or rights.allows(Operation.QUERY, name):
            facts = server.topics.get(name)
            topics[name] = (facts.consumers, facts.mask) if facts is not None else None
    facts_ = server.facts
    return ServerChange(is_full=names is None, boot=facts_.boot, state=facts_.state, topics=topics)

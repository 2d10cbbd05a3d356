"""The hub: what all text sessions of a broker share.

It finds topics by their names in any case, knows where a reply can be routed to, and tells subscribers of the
topology when that has changed. What there is at other brokers it knows from its tracker (see `tracker/tracker.py`).

Pure: time and timers come from outside.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import orjson

from zbusrpc.broker.access.rights import ALL, Access, Operation, Rights, visible, visible_groups
from zbusrpc.broker.calls import refusals
from zbusrpc.broker.calls.calls import Calls
from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.core import permissions
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.dialects.zbus import infos
from zbusrpc.broker.dialects.zbus.infos import Info
from zbusrpc.broker.dialects.zbus.masks import RPC
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.dialects.zbus.waiting import Timer
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.queues import Queues
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.tracker.registry import Server
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.address import TLS_SCHEME
from zbusrpc.transport.topology import ServerFacts, TopicFacts

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession

OF_TRACKERS: Final = frozenset({"server", "tracker", "track_sub", "track_pub", "heartbeat", "ping", "ssl", "home"})
"""Commands that have nothing to do with topics."""
NEW_WORK: Final = frozenset({"produce", "rpc", "consume", "declare"})
BROADCAST_S: Final = 30.0
"""How often clients are told though nothing has changed, as trackers of zbus do."""

Later = Callable[[float, Callable[[], None]], Timer]


class Hub:
    """What text sessions share."""

    def __init__(self, broker: Broker, *, now: Callable[[], float], now_ms: Callable[[], int], later: Later) -> None:
        self.broker = broker
        self.now, self.now_ms, self.later = now, now_ms, later
        self.address = ""
        """Where clients reach this broker, as `host:port`: they connect to what they are told, not to what is typed."""
        self.is_tls = False
        self.certificate = ""
        """Of the broker, in PEM."""
        self._boot = secrets.token_hex(6)
        self._key = secrets.token_bytes(32)
        self._sessions: dict[str, ZbusSession] = {}
        self._subscribers: dict[ZbusSession, Rights | None] = {}
        self._names: dict[str, str] | None = None
        self._is_broadcasting = False
        self._started_ms = now_ms()
        self.tracker = Tracker(self, broker.send)
        """What is known of other brokers."""
        self.tracker.describe, self.tracker.on_change = self._describe, self._push
        broker.attach_tracker(self.tracker)
        broker.calls.on_change = self.changed
        broker.calls.on_unserved = self._find_servant

    def attach(self, trackers: tuple[str, ...] = (), *, is_tracker_only: bool = False) -> None:
        """Begin to tell of this broker: its address is known, and its stored topics are there.

        Args:
            trackers: Addresses of those to whom it reports.
            is_tracker_only: Whether it has neither topics nor services.
        """
        if self.broker.queues is not None:
            self.broker.queues.on_change = self.broker.queues.store.on_change = self.changed
        facts = ServerFacts(
            address=f"{TLS_SCHEME if self.is_tls else ''}{self.address}",
            boot=self._boot,
            software=infos.SERVER_VERSION,
            started_ms=self._started_ms,
            trackers=trackers,
            is_tracker_only=is_tracker_only,
        )
        self.tracker.begin(facts, [topic.name for topic in self._stored()])

    # -- sessions ----------------------------------------------------------------------------------------

    def session_name(self, number: int) -> str:
        """Return how a session is called on the wire: in `sender` and `recver`. Each name is used once, ever."""
        return f"{self._boot}-{number}"

    def signed(self, name: str, id_: bytes) -> str:
        """Return the name of a session with what shows that it has produced a message with this id.

        So it is stored: a producer of another dialect could write any name there.
        """
        return f"{name} {blake2b(id_ + name.encode(), key=self._key, digest_size=8).hexdigest()}"

    def enter(self, dialect: "ZbusSession") -> None:
        """Let a session be found."""
        self._sessions[dialect.name] = dialect

    def leave(self, dialect: "ZbusSession") -> None:
        """Let go of a session."""
        self._sessions.pop(dialect.name, None)
        self._subscribers.pop(dialect, None)

    def session(self, name: str) -> "ZbusSession | None":
        """Return a session that is there, by its name on the wire."""
        return self._sessions.get(name)

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def calls(self) -> Calls:
        """The calls of this broker."""
        return self.broker.calls

    @property
    def queues(self) -> Queues:
        """The stored topics of this broker.

        Raises:
            RpcError: FAILED_PRECONDITION: it has no data directory.
        """
        if self.broker.queues is None:
            text = f"broker {self.broker.name} stores no topics: start it with --data-dir DIR"
            raise RpcError(Code.FAILED_PRECONDITION, text)
        return self.broker.queues

    def topic(self, name: str) -> Topic | None:
        """Return a stored topic by its name in any case, or None."""
        queues = self.broker.queues
        if queues is None:
            return None
        return queues.store.topics.get(name) or queues.store.topics.get(self.name_of(name))

    def check_readable(self, name: str) -> None:
        """See that it is not because it cannot be read that there is no stored topic of this name.

        Raises:
            RpcError: INTERNAL, with the reason.
        """
        if self.broker.queues is not None:
            self.broker.queues.store.unreadable.check(name)

    def name_of(self, name: str) -> str:
        """Return how a topic or service is called that a client may have spelled in another case."""
        stored = self.broker.queues.store.topics if self.broker.queues is not None else {}
        if name in stored or name.encode() in self.calls.topics:
            return name
        if self._names is None:
            running = [topic_name(known) for known in self.calls.topics]
            self._names = {known.lower(): known for known in [*running, *stored]}
        return self._names.get(name.lower(), name)

    def service(self, name: str) -> bytes | None:
        """Return the name by which calls reach a service, or None where no such service runs or was declared."""
        known = self.name_of(name).encode()
        calls = self.calls.topics.get(known)
        if calls is not None and calls.consumers:
            return known
        topic = self.topic(name)
        return topic.name.encode() if topic is not None and self.is_service(topic) else None

    def is_service(self, topic: Topic) -> bool:
        """Whether what is produced to a stored topic are calls: it was declared so."""
        return topic.options.rpc or bool(topic.options.mask & RPC)

    def _find_servant(self, name: bytes) -> None:
        """Have zbus consumers that wait for messages of a topic serve a call, though none said that it is a service.

        Services of zbus before 0.9 declare their topic without a mask.
        """
        topic = self.topic(topic_name(name))
        group = topic.groups.get(topic.name) if topic is not None and topic.name.encode() == name else None
        for subscription in list(group.pool.members) if group is not None else []:
            dialect = self._sessions.get(self.session_name(subscription.session.number))
            place = dialect.place_of(subscription) if dialect is not None else None
            may_serve = permissions.may(subscription.rights, Operation.CONSUME, topic_name(name), ALL)
            if place is not None and place.is_waiting and may_serve:
                with suppress(RpcError):  # its session serves all that one may
                    place.serve()

    def check_serves(self, command: Command) -> None:
        """See that a broker that only tracks is not asked for topics, nor one that is about to end for new work.

        Raises:
            RpcError: FAILED_PRECONDITION or UNAVAILABLE.
        """
        if self.calls.is_draining and command.name in NEW_WORK:
            raise refusals.draining(self.broker.name)
        if self.tracker.own.is_tracker_only and command.name not in OF_TRACKERS:
            raise refusals.tracker_only(self.broker.name)

    # -- topology ----------------------------------------------------------------------------------------

    def changed(self, topic: str) -> None:
        """Take note that a topic, its groups or its consumers came or went."""
        self._names = None
        self.tracker.note(topic)

    def subscribe(self, dialect: "ZbusSession", rights: Rights | None) -> None:
        """Tell a session of every change from now on, as far as `rights` go."""
        self._subscribers[dialect] = rights
        if not self._is_broadcasting:
            self._is_broadcasting = True
            self.later(BROADCAST_S, self._broadcast)

    def when_told(self, then: Callable[[], None]) -> None:
        """Go on when subscribers have been told of what has changed; clients use no topic before that."""
        if self._subscribers:
            self.tracker.when_told(then)
        else:
            then()

    def renew(self, access: Access) -> None:
        """Let subscribers see what their tokens may see now; those who may not any more nothing."""
        renewed = {dialect: access.renewed(rights) for dialect, rights in self._subscribers.items()}
        self._subscribers = {
            dialect: rights
            for dialect, rights in renewed.items()
            if rights is not None and rights.allows(Operation.TRACK_SUB)
        }
        self.tracker.renew(access)
        self.tracker.push_soon()

    def catch_up(self, dialect: "ZbusSession") -> None:
        """Tell a subscriber that reads again what it has missed."""
        if dialect in self._subscribers:
            self.tracker.push_soon()

    def _push(self) -> int:
        """Tell all subscribers what there is; return the bytes that this took."""
        if not self._subscribers:
            return 0
        pushed_bytes, version = 0, self.tracker.next_version()
        bodies: dict[Rights | None, bytes] = {}
        for dialect, rights in list(self._subscribers.items()):
            if dialect.session.is_congested:  # it catches up
                continue
            if rights not in bodies:
                bodies[rights] = orjson.dumps(self._tracker_info(rights, version))
            dialect.push_topology(bodies[rights])
            pushed_bytes += len(bodies[rights])
        return pushed_bytes

    def _broadcast(self) -> None:
        """Tell subscribers at intervals, too, as trackers of zbus do."""
        self._is_broadcasting = bool(self._subscribers)
        if self._is_broadcasting:
            self.tracker.push_soon()
            self.later(BROADCAST_S, self._broadcast)

    def tracker_info(self, rights: Rights | None) -> Info:
        """Return the TrackerInfo of this broker, with what `rights` may see."""
        return self._tracker_info(rights, self.tracker.next_version())

    def _tracker_info(self, rights: Rights | None, version: int) -> Info:
        table = {}
        for address, server in self._listed():
            plain, is_tls = infos.plain_address(address)
            is_own = server.source is None
            info = self._server_info(rights, version) if is_own else _reported(server, rights)
            table[infos.server_key(plain, is_tls=is_tls)] = info
        return {"error": None, **self.server_facts(), "infoVersion": version, "serverTable": table}

    def _listed(self) -> list[tuple[str, Server]]:
        """Return the brokers that clients may use, by address: they leave those that are not listed.

        Those that drain are listed where there is nobody else to go to. Some clients connect only to what they were
        told last: with an empty table, they would not come back after the restart.
        """
        servers = [
            (address, server)
            for address, server in sorted(self.tracker.registry.servers.items())
            if not server.facts.is_tracker_only
        ]
        return [(address, server) for address, server in servers if server.facts.state == "live"] or servers

    def server_info(self, rights: Rights | None) -> Info:
        """Return the ServerInfo of this broker, with what `rights` may see."""
        return self._server_info(rights, self.tracker.next_version())

    def listing(self, rights: Rights | None) -> Info:
        """Return the ServerInfo for who looks: also with stored topics that cannot be read, to which nobody is sent."""
        info = self.server_info(rights)
        unreadable = self.broker.queues.store.unreadable if self.broker.queues is not None else {}
        server, table = self.server_facts(), info["topicTable"]
        hidden = {name: infos.unreadable_info(server, unreadable[name]) for name in visible(rights, sorted(unreadable))}
        return {**info, "topicTable": dict(sorted({**hidden, **table}.items()))}

    def _server_info(self, rights: Rights | None, version: int) -> Info:
        server = self.server_facts()
        found = {topic.name: topic for topic in self._stored()}
        running = {topic_name(name): calls for name, calls in self.calls.topics.items() if calls.consumers}
        table = {
            name: self.topic_info(found[name], rights)
            if name in found
            else infos.service_info(server, name, running[name], self._started_ms)
            for name in visible(rights, sorted(found | running))
        }
        trackers = [infos.plain_address(tracker) for tracker in self.tracker.own.trackers]
        listed = [infos.address_info(address, is_tls=is_tls) for address, is_tls in trackers]
        return {"error": None, **server, "infoVersion": version, "trackerList": listed, "topicTable": table}

    def server_facts(self) -> Info:
        """Return what every info says of the broker."""
        return {
            "serverAddress": infos.address_info(self.address, is_tls=self.is_tls),
            "serverVersion": infos.SERVER_VERSION,
        }

    def topic_info(self, topic: Topic, rights: Rights | None, own: Group | None = None) -> Info:
        """Return the TopicInfo of a stored topic, with the groups that `rights` may see, and `own`."""
        calls = self.calls.topics.get(topic.name.encode())
        seen = {*visible_groups(rights, topic.name, topic.groups), *([own.name] if own is not None else [])}
        groups = [self.group_info(topic, topic.groups[name]) for name in sorted(seen)]
        return infos.topic_info(self.server_facts(), topic, calls, groups, is_service=self.is_service(topic))

    def group_info(self, topic: Topic, group: Group) -> Info:
        """Return the ConsumeGroupInfo of a group."""
        return infos.group_info(topic, group, self.queues.store.lag_of(topic, group))

    def info_of(self, name: str, rights: Rights | None) -> Info | None:
        """Return the TopicInfo of a topic or service, with the groups that `rights` may see, or None."""
        topic = self.topic(name)
        if topic is not None:
            return self.topic_info(topic, rights)
        known = self.service(name)
        calls = self.calls.topics.get(known) if known is not None else None
        if known is None or calls is None:
            return None
        return infos.service_info(self.server_facts(), topic_name(known), calls, self._started_ms)

    def _stored(self) -> list[Topic]:
        return list(self.broker.queues.store.topics.values()) if self.broker.queues is not None else []

    def _describe(self, name: str) -> TopicFacts | None:
        """Return what trackers are told of a topic or service, or None where it is there no more."""
        calls = self.calls.topics.get(name.encode())
        topic = self.broker.queues.store.topics.get(name) if self.broker.queues is not None else None
        if topic is not None:
            return infos.topic_facts(topic, calls, self.queues.store.lag_of, is_service=self.is_service(topic))
        if calls is not None and calls.consumers:
            return infos.service_facts(name, calls, self._started_ms)
        return None


def _reported(server: Server, rights: Rights | None) -> Info:
    """Return the ServerInfo of another broker, with what `rights` may see."""
    info = infos.reported_server(server)
    table = {}
    for name in visible(rights, sorted(server.topics)):
        facts = server.topics[name]
        seen = set(visible_groups(rights, name, (group.name for group in facts.groups)))
        groups = tuple(group for group in facts.groups if group.name in seen)
        table[name] = infos.reported_topic(info, name, facts.model_copy(update={"groups": groups}))
    return info | {"topicTable": table}

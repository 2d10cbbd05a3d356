"""Rows: what the monitor shows of a broker, one row for each topic, consume group, service and server.

They are the rows of the page, of the API and of `zbusrpc top`; docs/monitor.md describes them by what stands here.

Pure but for the look into a log for the age of a message.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.calls.methods import METHODS_MAX
from zbusrpc.broker.calls.service_queue import ServiceQueue as CallTopic
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.monitor.rates import Rate
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.names import DEAD_LETTER_SUFFIX, LETTERS_GROUP
from zbusrpc.broker.mq.reports import count_from, describe_group, describe_topic, describe_unreadable, not_done
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.mq.unreadable import UnreadableTopic
from zbusrpc.broker.storage.errors import StorageError

READS_MAX: Final = 200
"""Messages that are read from disks in one go to learn how old they are; the age of others is told later."""


described = with_config(ConfigDict(use_attribute_docstrings=True, extra="forbid"))
"""Has the docstrings of fields become descriptions of the API."""


@described
class ServerRow(TypedDict):
    """A broker."""

    address: str
    """As `host:port`, where clients reach it."""
    url: str
    """Of its own page."""
    version: str
    started_ms: int | None
    """In ms since 1970."""
    uptime_s: float | None
    state: str
    """`live`, `draining` (it takes no new work) or `gone`."""
    is_self: bool
    """Whether it is the broker that tells this."""
    is_tracker_only: bool
    """Whether it serves no topics."""
    trackers: list[str]
    """Trackers that it tells of itself."""
    seen_by: list[str]
    """Trackers that list it."""
    topics: int
    services: int
    consumers: int
    """Of topics, and instances of services."""
    sessions: int | None
    """Connections."""
    load: float | None
    """Share of one core that its process takes: 0 to 1."""
    memory_bytes: int | None
    """Resident memory of its process."""
    in_rate: float | None
    """Messages stored per second."""
    out_rate: float | None
    """Messages delivered per second."""
    call_rate: float | None
    """Calls per second."""
    journal_fails_because: str | None
    """Why what consume groups do is not stored, where a fault of the disk keeps it: a restart brings messages again."""


@described
class TopicRow(TypedDict):
    """A topic whose messages are stored."""

    topic: str
    durability: str
    """What an acknowledged message survives: `disk`, `os` or `memory`."""
    mask: int
    """What a zbus client declared it with."""
    mask_names: list[str]
    messages: int
    """That are stored."""
    bytes: int
    """On the disk."""
    produced: int
    """Messages since the broker started."""
    start_offset: int
    next_offset: int
    """What the next message gets."""
    created_ms: int
    closed_because: str | None
    """Why it takes no messages, where a fault of the disk has closed it."""
    held_back_by: str | None
    """The group for which messages stay that would have been removed else."""
    unreadable_because: str | None
    """Why it cannot be read, where that is so: its numbers are 0 then, and its name may be that of its directory."""
    group_count: int
    consumers: int
    dead_letters: int
    """Messages in its dead-letter topic that nobody has dealt with yet."""
    is_dead_letter_topic: bool
    in_rate: float | None
    """Messages stored per second."""
    out_rate: float | None
    """Messages delivered per second, in all groups."""
    options: dict[str, Any]
    """As the command declare takes them."""


@described
class ConsumerRow(TypedDict):
    """Who takes part in a group."""

    name: str
    session: int
    window: int
    in_flight: int


@described
class GroupRow(TypedDict):
    """A consume group of a topic."""

    topic: str
    group: str
    lag: int
    """Messages that it is not done with."""
    in_flight: int
    """Of those: with a consumer."""
    waiting: int
    """Of those: for the next consumer."""
    delayed: int
    """Of those: for their time."""
    held: int
    """Of those: behind another message with their key."""
    dead: int
    """Of those: on their way to the dead letters."""
    dead_letters: int
    """Messages that died in it, which nobody has dealt with yet; after a start, as far as they were counted."""
    filter: str
    paused: bool
    position: int
    """Offset that it reads next."""
    oldest_unacked_ms: int | None
    """When the oldest message was stored that it is not done with."""
    out_rate: float | None
    """Messages delivered per second."""
    consumers: list[ConsumerRow]
    counters: dict[str, int]
    """What happened since the broker started."""
    options: dict[str, Any]


@described
class InstanceRow(TypedDict):
    """An instance of a service."""

    name: str
    session: int
    window: int
    """Calls that it takes at a time."""
    in_flight: int
    version: str


@described
class ServiceRow(TypedDict):
    """A service that runs, or that calls wait for."""

    service: str
    version: str
    queued: int
    """Calls that wait for an instance."""
    durable: bool
    """Whether its calls are stored."""
    instances: list[InstanceRow]
    methods: list[str]
    not_everywhere: list[str]
    """Of those: which not all instances have, because there are several versions, or several services of one name."""
    calls: int
    """That have ended since its first instance came."""
    errors: int
    """Of those: with an error."""
    rate: float | None
    """Calls that end per second."""
    error_rate: float
    """Share of calls that ended with an error in the last 5 to 10 seconds: 0 to 1."""
    p50_ms: float | None
    """So long half of the calls took at most, in the last 5 to 10 seconds; null without calls."""
    p99_ms: float | None


class Table(NamedTuple):
    """All rows of a broker but those of servers, by what names them."""

    topics: dict[str, TopicRow]
    groups: dict[tuple[str, str], GroupRow]
    services: dict[str, ServiceRow]


EMPTY: Final = Table({}, {}, {})


class Rows:
    """Makes the rows of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ages: WeakKeyDictionary[Group, tuple[int, int | None]] = WeakKeyDictionary()
        self._reads_left = READS_MAX

    def table(self, now: float, rate: Rate) -> Table:
        """Return all rows."""
        self._reads_left = READS_MAX
        store = self._store
        topics: dict[str, TopicRow] = {}
        groups: dict[tuple[str, str], GroupRow] = {}
        if store is not None:
            for name, topic in sorted(store.topics.items()):
                of_topic = self._groups(topic, rate)
                groups |= {(name, row["group"]): row for row in of_topic}
                topics[name] = _topic_row(store, topic, of_topic, rate)
            topics |= {name: _unreadable_row(one) for name, one in store.unreadable.items() if name not in topics}
        return Table(topics, groups, {row["service"]: row for row in self.services(now, rate)})

    def topic(self, name: str, rate: Rate) -> tuple[TopicRow, list[GroupRow]] | None:
        """Return the row of one topic and those of its groups, without a look at others; None where there is none."""
        self._reads_left = READS_MAX
        store = self._store
        topic = store.topics.get(name) if store is not None else None
        if store is None or topic is None:
            unreadable = store.unreadable.get(name) if store is not None else None
            return (_unreadable_row(unreadable), []) if unreadable is not None else None
        groups = self._groups(topic, rate)
        return _topic_row(store, topic, groups, rate), groups

    def topic_names(self) -> Iterator[str]:
        """Yield the names of topics."""
        if self._store is not None:
            yield from self._store.topics
            yield from self._store.unreadable

    @property
    def _store(self) -> Store | None:
        return self._broker.queues.store if self._broker.queues is not None else None

    # -- topics and groups -------------------------------------------------------------------------------

    def _groups(self, topic: Topic, rate: Rate) -> list[GroupRow]:
        return [self._group_row(topic, group, rate) for _, group in sorted(topic.groups.items())]

    def _group_row(self, topic: Topic, group: Group, rate: Rate) -> GroupRow:
        store = self._store
        assert store is not None
        said = describe_group(topic, group, lag=store.lag_of(topic, group), letters=store.letters_of(topic, group))
        return {
            "topic": topic.name,
            "group": group.name,
            "lag": said["lag"],
            "in_flight": said["in_flight"],
            "waiting": said["waiting"],
            "delayed": said["delayed"],
            "held": said["held"],
            "dead": said["dead"],
            "dead_letters": said["dead_letters"],
            "filter": group.options.filter,
            "paused": group.options.paused,
            "position": group.position,
            "oldest_unacked_ms": self._oldest(topic, group, said["oldest_offset"]) if said["lag"] else None,
            "out_rate": rate(("delivered", topic.uid, group.name), group.counters.delivered),
            "consumers": said["consumers"],
            "counters": said["counters"],
            "options": said["options"],
        }

    def _oldest(self, topic: Topic, group: Group, offset: int) -> int | None:
        """Return when a message was stored; where it was looked up before, without reading it again."""
        known_offset, known_ms = self._ages.get(group, (-1, None))
        if known_offset == offset and known_ms is not None:
            return known_ms
        if self._reads_left <= 0:
            return None
        self._reads_left -= 1
        try:
            record = topic.load(max(offset, topic.log.start_offset))
        except StorageError:
            return None
        stored_ms = record.timestamp_ms if record is not None else None
        self._ages[group] = offset, stored_ms
        return stored_ms

    # -- services ----------------------------------------------------------------------------------------

    def services(self, now: float, rate: Rate) -> Iterator[ServiceRow]:
        """Yield the rows of services, by name."""
        for name, calls in sorted(self._broker.calls.topics.items()):
            yield self._service(topic_name(name), calls, now, rate)

    def service(self, name: str, now: float, rate: Rate) -> ServiceRow | None:
        """Return the row of one service, without a look at others; None where there is none."""
        calls = self._broker.calls.topics.get(name.encode())
        return self._service(name, calls, now, rate) if calls is not None else None

    def service_names(self) -> Iterator[str]:
        """Yield the names of services."""
        yield from map(topic_name, self._broker.calls.topics)

    def _service(self, name: str, calls: CallTopic, now: float, rate: Rate) -> ServiceRow:
        stored = self._store.topics.get(name) if self._store is not None else None
        return _service_row(name, calls, now, rate, durable=stored is not None and stored.options.rpc)


def _topic_row(store: Store, topic: Topic, groups: list[GroupRow], rate: Rate) -> TopicRow:
    said = describe_topic(topic)
    rates = [row["out_rate"] for row in groups if row["out_rate"] is not None]
    in_rate = rate(("produced", topic.uid), topic.produced)
    return {
        "topic": topic.name,
        "durability": said["durability"],
        "mask": topic.options.mask,
        "mask_names": [str(bit.name) for bit in Mask(topic.options.mask)],
        "messages": said["messages"],
        "bytes": said["bytes"],
        "produced": topic.produced,
        "start_offset": said["start_offset"],
        "next_offset": said["next_offset"],
        "created_ms": topic.created_ms,
        "closed_because": said["closed_because"],
        "held_back_by": said["held_back_by"],
        "unreadable_because": None,
        "group_count": said["group_count"],
        "consumers": said["consumers"],
        "dead_letters": _letters_of(store, topic),
        "is_dead_letter_topic": store.holds_letters(topic.name),
        "in_rate": in_rate,
        "out_rate": None if in_rate is None else round(sum(rates), 1),
        "options": said["options"],
    }


def _unreadable_row(topic: UnreadableTopic) -> TopicRow:
    said = describe_unreadable(topic)
    return {
        "topic": topic.name,
        "durability": said["durability"],
        "mask": topic.options.mask,
        "mask_names": [str(bit.name) for bit in Mask(topic.options.mask)],
        "messages": 0,
        "bytes": 0,
        "produced": 0,
        "start_offset": 0,
        "next_offset": 0,
        "created_ms": topic.created_ms,
        "closed_because": None,
        "held_back_by": None,
        "unreadable_because": topic.reason,
        "group_count": 0,
        "consumers": 0,
        "dead_letters": 0,
        "is_dead_letter_topic": topic.name.endswith(DEAD_LETTER_SUFFIX),
        "in_rate": None,
        "out_rate": None,
        "options": said["options"],
    }


def _letters_of(store: Store, topic: Topic) -> int:
    """Return how many dead letters wait where those of a topic go; several topics may share one place."""
    letters = store.topics.get(store.dead_letter_name(topic))
    if letters is None:
        return 0
    group = letters.groups.get(LETTERS_GROUP)
    # What is not synced yet is not shown either.
    shown = count_from(letters, letters.log.start_offset, letters.readable_offset)

    return shown if group is None else min(shown, not_done(letters, group))


def _service_row(name: str, calls: CallTopic, now: float, rate: Rate, *, durable: bool) -> ServiceRow:
    abouts = [consumer.about for consumer in calls.consumers.values()]
    counted = calls.statistics
    window = counted.window(now)
    return {
        "service": name,
        "version": next((str(about["version"]) for about in abouts if about.get("version")), ""),
        "queued": len(calls.queue),
        "durable": durable or any(about.get("durable") is True for about in abouts),
        "instances": [
            {
                "name": consumer.session.name,
                "session": consumer.session.number,
                "window": consumer.window,
                "in_flight": consumer.window - consumer.credit,
                "version": str(consumer.about.get("version") or ""),
            }
            for consumer in calls.consumers.values()
        ],
        "methods": list(dict.fromkeys(method for about in abouts for method in _methods_of(about))),
        "not_everywhere": calls.editions.not_everywhere()[:METHODS_MAX],
        "calls": counted.calls,
        "errors": counted.errors,
        "rate": rate(("calls", name), counted.calls),
        "error_rate": round(window.error_rate, 4),
        "p50_ms": window.quantile_ms(0.50),
        "p99_ms": window.quantile_ms(0.99),
    }


def _methods_of(about: dict[str, object]) -> list[str]:
    """Return the methods that an instance says it has; it may say anything."""
    methods = about.get("methods")
    return [name for name in methods[:METHODS_MAX] if isinstance(name, str)] if isinstance(methods, list) else []

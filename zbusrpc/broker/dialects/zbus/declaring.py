"""Declaring: what zbus clients say of topics and groups themselves, and what they are told of them.

A topic that is declared without a group always has the group of its own name afterwards: clients of every language
consume from it next. Each answer is sent when what it says is on the disk, and those who want to know the topology have
been told of it: clients produce only to topics that they were told of.

Pure but for the disk, which is behind the seam of storage.
"""

from collections.abc import Callable
from http import HTTPStatus
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

import orjson

from zbusrpc import bounds
from zbusrpc.broker.access.rights import ALL, Operation, Rights, may_see
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus import infos, masks, values
from zbusrpc.broker.dialects.zbus.finding import answer_no_topic, group_of, topic_and_group, topic_of
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.groups import GroupDone
from zbusrpc.broker.mq.names import check_choosable, check_name
from zbusrpc.broker.mq.options import GroupOptions, Start, StartAt
from zbusrpc.broker.mq.starts import check_start, may_begin_at
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.text import JSON_HEADER
from zbusrpc.version import __version__

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession

ACK_TIMEOUT_MS: Final = 10_000
EXPIRES_S: Final = 7 * 86_400
"""A group that nobody has named, which is made with its topic or by a `consume`, goes when nobody has consumed from it
for so long: else one URL would have the topic kept for ever. As long as messages are kept by default."""
ACK_WINDOW: Final = 100
"""Of groups that ask for acknowledgement: the defaults of zbus 0.11."""


# -- declaring -----------------------------------------------------------------------------------------------


def declare(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Carry out `declare`."""
    if not command.topic:
        exchange.answer_text(HTTPStatus.BAD_REQUEST, "Missing topic")
        return
    store = dialect.hub.queues.store
    known = dialect.hub.topic(command.topic)
    name = known.name if known is not None else check_name("topic", command.topic)
    mask = values.number_of(command.headers, "topic_mask", bounds.MASK)
    if dialect.hub.broker.runs(name):  # what is declared beside a service is that service
        mask = (mask or (known.options.mask if known is not None else 0)) | Mask.RPC
    group_options, start = _group_options(command), _start(command)
    options = masks.topic_options(mask, is_new=known is None) if mask is not None else {}
    _check_declare(dialect, command, name, known, options)

    def declared(topic: Topic | None, error: RpcError | None) -> None:
        if topic is None or error is not None:
            _refuse(dialect, exchange, error or RpcError(Code.INTERNAL, f"topic {name} was not made"))
            return
        try:
            _declare_group(dialect, topic, command, (group_options, start), exchange)
        except RpcError as refusal:
            _refuse(dialect, exchange, refusal)

    store.declare(name, options, update=True, done=declared, rights=command.rights)


def _check_declare(
    dialect: "ZbusSession", command: Command, name: str, known: Topic | None, options: dict[str, Any]
) -> None:
    """See that whoever declares may: a topic that is made or changed is all its groups', else the group is meant.

    Raises:
        RpcError: PERMISSION_DENIED.
    """
    if known is None or any(getattr(known.options, key) != value for key, value in options.items()):
        dialect.require(command, Operation.DECLARE, name, ALL)
        return
    group = command.group or name
    found = group_of(known, group)
    dialect.require(command, Operation.DECLARE, name, found.name if found is not None else group)
    if _is_auto(command):
        dialect.require(command, Operation.DECLARE, name, f"{group}1")  # as which it may be made


def _declare_group(
    dialect: "ZbusSession",
    topic: Topic,
    command: Command,
    wanted: tuple[dict[str, Any], StartAt | None],
    exchange: Exchange,
) -> None:
    """Make the group of a `declare`, or change it, and answer."""
    (options, start), hub = wanted, dialect.hub
    is_auto = _is_auto(command)
    names_group = bool(command.group) or is_auto
    name = command.group or topic.name
    if is_auto:
        name = _free_name(topic, name)
    group = group_of(topic, name)
    dialect.require(command, Operation.DECLARE, topic.name, group.name if group is not None else name)
    if isinstance(start, Start) and start.group is not None:
        check_start(topic, start, command.rights)  # as it was written: no other spelling is told
        copied = group_of(topic, start.group)
        start = Start(group=copied.name) if copied is not None else start
    if "mask" in options or group is None:
        options = _masked(options, topic)

    def answer(made: Group | None, error: RpcError | None) -> None:
        if made is None or error is not None:
            _refuse(dialect, exchange, error or RpcError(Code.INTERNAL, f"group {name} was not made"))
            return
        info = hub.group_info(topic, made) if names_group else hub.topic_info(topic, command.rights, made)
        if not may_see(command.rights, topic.name, made.name if names_group else None):
            info = infos.withheld(info)
        hub.when_told(lambda: exchange.answer(HTTPStatus.OK, orjson.dumps(info), JSON_HEADER))

    if names_group and group is not None and group.options.expires_s is not None:
        options = options | {"expires_s": None}  # it is wanted by its name now
    if group is None:
        hub.queues.store.check_free(topic, name)
        if names_group:
            check_choosable(name)
        options = options if names_group else {"expires_s": EXPIRES_S} | options
        where = start or _beside_the_first(topic, command.rights)
        hub.queues.store.create_group(topic, name, GroupOptions(**options), where, answer, command.rights)
        return
    _change_group(dialect, topic, group, wanted=(options, start), done=answer)


def _change_group(
    dialect: "ZbusSession", topic: Topic, group: Group, wanted: tuple[dict[str, Any], StartAt | None], done: GroupDone
) -> None:
    """Let a group have other options and another place, one after the other, and tell."""
    (options, start), store = wanted, dialect.hub.queues.store
    steps: list[Callable[[Callable[[RpcError | None], None]], object]] = []
    if any(getattr(group.options, key) != value for key, value in options.items()):
        steps.append(lambda next_step: store.change_group(group, options, next_step))
    if start is not None:
        steps.append(lambda next_step: store.seek(topic, group, start, next_step))

    if steps:
        store.check_free(topic, group.name)

    def step(error: RpcError | None) -> None:
        if error is not None or not steps:
            done(group if error is None else None, error)
            return
        try:
            steps.pop(0)(step)
        except RpcError as refusal:
            done(None, refusal)

    store.when_started(group, lambda made, error: step(error))


def _refuse(dialect: "ZbusSession", exchange: Exchange, error: RpcError) -> None:
    """Refuse a declaration; never by 404, which clients take for "declare it first"."""
    if error.code is Code.NOT_FOUND:  # where the group should begin
        error = RpcError(Code.INVALID_ARGUMENT, error.message)
    dialect.refuse(exchange, error)


def _masked(options: dict[str, Any], topic: Topic) -> dict[str, Any]:
    """Return the options of a group with those that its mask, or else the topic's, asks for."""
    mask = options.get("mask", 0)
    masked = options | masks.group_options(mask, topic.options.mask)
    if (mask or topic.options.mask) & Mask.ACK_REQUIRED:
        return {"lease_ms": ACK_TIMEOUT_MS, "in_flight_max": ACK_WINDOW} | masked
    return masked


def make_own_group(
    dialect: "ZbusSession", command: Command, exchange: Exchange, then: Callable[[Command, Exchange], None]
) -> bool:
    """Make the group of its own name that a topic lacks, as one that a native client has declared does, and go on.

    Returns:
        Whether that is to be waited for; if not, `then` is not called.

    Raises:
        RpcError: PERMISSION_DENIED, or there are too many groups.
    """
    topic = dialect.hub.topic(command.topic)
    if topic is None or topic.options.rpc or group_of(topic, topic.name) is not None:
        return False
    dialect.require(command, Operation.CONSUME, topic.name, topic.name)
    session, rights = dialect.session, dialect.session.rights

    def made(group: Group | None, error: RpcError | None) -> None:
        if session.is_gone:
            return
        later, session.rights = session.rights, rights  # those of the request, and not of one that came meanwhile
        try:
            if error is not None:
                raise error
            then(command, exchange)
        except RpcError as refusal:
            dialect.refuse(exchange, refusal)
        finally:
            session.rights = later

    options = GroupOptions(**_masked({"expires_s": EXPIRES_S}, topic))
    dialect.hub.queues.store.create_group(topic, topic.name, options, _beside_the_first(topic, rights), made, rights)
    return True


def _group_options(command: Command) -> dict[str, Any]:
    """Return the options of a group that a command names.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    headers = command.headers
    options: dict[str, Any] = {}
    mask = values.number_of(headers, "group_mask", bounds.MASK)
    if mask is not None:
        options["mask"] = mask
    if "group_filter" in headers:
        options["filter"] = headers["group_filter"]
    window = values.number_of(headers, "group_ack_window", bounds.ACK_WINDOW)
    if window:
        options["in_flight_max"] = window
    timeout_ms = values.number_of(headers, "group_ack_timeout", bounds.ACK_TIMEOUT_MS)
    if timeout_ms:
        options["lease_ms"] = max(100, timeout_ms)
    return options


def _start(command: Command) -> StartAt | None:
    """Return where a command says that a group begins, or None."""
    headers = command.headers
    offset = values.number_of(headers, "group_start_offset")
    if offset is not None:
        return Start(offset=offset, id=headers.get("group_start_msgid"))
    time_ms = values.number_of(headers, "group_start_time", bounds.TIME_MS)
    if time_ms is not None:
        return Start(time_ms=time_ms)
    return Start(group=headers["group_start_copy"]) if "group_start_copy" in headers else None


def _beside_the_first(topic: Topic, rights: Rights | None) -> StartAt:
    """Return where a group begins that names no place: where the most advanced group is, or at the oldest message.

    Where a group stands of which somebody with `rights` may not know is no place for his.
    """
    seen = [group for name, group in topic.groups.items() if may_begin_at(rights, topic, name)]
    most = max(seen, key=lambda group: group.position, default=None)
    return "oldest" if most is None else Start(offset=max(most.position, topic.log.start_offset))


def _is_auto(command: Command) -> bool:
    return values.is_true(command.headers.get("group_name_auto", ""))


def _free_name(topic: Topic, name: str) -> str:
    """Return the name of a new group: the one that is asked for, or that with a number."""
    names = chain([name], (f"{name}{number}" for number in count(1)))
    return next(one for one in names if group_of(topic, one) is None)


# -- asking and removing -------------------------------------------------------------------------------------


def query(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Carry out `query`."""
    name, hub = command.topic, dialect.hub
    topic = hub.topic(name) if name else None
    group = group_of(topic, command.group) if topic is not None and command.group else None
    spelled = (group.name if group is not None else command.group) or None
    dialect.require(command, Operation.QUERY, hub.name_of(name) if name else "", spelled)
    if not name:
        info: Any = hub.listing(command.rights)
    elif command.group:
        if topic is None or group is None:
            hub.check_readable(name)
            missing = f"Topic({name})" if topic is None else f"ConsumeGroup({command.group})"
            exchange.answer_text(HTTPStatus.NOT_FOUND, f"{missing} not found")
            return
        info = hub.group_info(topic, group)
    else:
        info = hub.info_of(name, command.rights)
        if info is None:
            answer_no_topic(dialect, command, exchange)
            return
    exchange.answer(HTTPStatus.OK, orjson.dumps(info), JSON_HEADER)


def remove(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Carry out `remove`."""
    store = dialect.hub.queues.store
    dialect.hub.queues.intake.flush()
    if command.group:
        topic, group = topic_and_group(dialect, command, exchange, Operation.REMOVE)
        if topic is not None and group is not None:
            store.remove_group(topic, group, _telling(dialect, exchange))
        return
    topic = topic_of(dialect, command, exchange, Operation.REMOVE)
    if topic is not None:
        store.remove_topic(topic, _telling(dialect, exchange))


def empty(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Carry out `empty`."""
    store = dialect.hub.queues.store
    dialect.hub.queues.intake.flush()
    tell = _telling(dialect, exchange)
    if command.group:
        topic, group = topic_and_group(dialect, command, exchange, Operation.EMPTY)
        if topic is not None and group is not None:
            store.seek(topic, group, "newest", tell)
        return
    topic = topic_of(dialect, command, exchange, Operation.EMPTY)
    if topic is not None:
        store.empty_topic(topic, lambda count, error: tell(error))


def _telling(dialect: "ZbusSession", exchange: Exchange) -> Callable[[RpcError | None], None]:
    """Return what answers when something was done: with the time, as zbus does."""

    def tell(error: RpcError | None) -> None:
        if error is not None:
            dialect.refuse(exchange, error)
        else:
            exchange.answer(HTTPStatus.OK, b"%d" % dialect.hub.now_ms())

    return tell


# -- the broker itself ---------------------------------------------------------------------------------------


def home_text(hub: Hub) -> str:
    """Return what `GET /` shows."""
    return (
        f"zbusrpc {__version__} at {hub.address}\n\n"
        "  /rpc                     services that run here\n"
        "  /rpc/Calc/add/1/2        call a service\n"
        "  /declare/T               make a topic\n"
        "  /produce/T?body=hello    store a message\n"
        "  /consume/T?timeout=20    take the next message\n"
        "  /query/T                 look at a topic\n"
        "  /server                  look at everything\n"
    )

"""Permissions: what a message asks for, compared with the rights of the session that sent it.

    REQUEST                                 produce on the service
    SUBSCRIBE                               consume on the service, all its groups; declare where it makes a topic
    PRODUCE                                 produce on the topic
    CONSUME                                 consume on the topic and the group, `auto-` where the broker names it
    QUERY, topics, topic, peek, dlq, stats  query; what they show is filtered
    TRACK                                   track_sub; what is told is filtered
    REPORT                                  track_pub
    declare                                 declare on the topic and all its groups
    declare_group, pause, resume, seek      declare on the topic and the group
    remove, empty, purge_dead               remove or empty; without a group, on all groups
    retry_dead                              produce
    drain                                   admin

What is done to a whole topic is done to all its groups, so a rule that names some of them does not allow it. A group
or a look that begins where another group stands needs a right on that one, too, which is seen to where the start is
looked up (`mq/starts.py`).

What follows from these needs no rights of its own: replies, acknowledgements, pulls, cancellation. Declaring a topic
that exists, with no options, changes nothing: whoever may produce or consume there may do it, as clients do first.

Pure. Only sessions that have rights come here; where no tokens are configured, nothing is asked.
"""

from collections.abc import Callable
from typing import Any, Final

from zbusrpc.broker.access.rights import ALL, Access, Operation, Rights, not_allowed
from zbusrpc.broker.calls.contents import parse_subscription, topic_name
from zbusrpc.broker.mq import requests
from zbusrpc.broker.mq.names import AUTO_GROUP, DEAD_LETTER_SUFFIX
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.sessions.session import Session
from zbusrpc.message import Kind, Message

_OPERATIONS: Final = {
    Kind.REQUEST: Operation.PRODUCE,
    Kind.PRODUCE: Operation.PRODUCE,
}
_TRACKING: Final = {Kind.TRACK: Operation.TRACK_SUB, Kind.REPORT: Operation.TRACK_PUB}


def check(rights: Rights, message: Message, asked: requests.Asked | None, store: Store | None) -> None:
    """See that a session may send a message, of which a CONSUME or COMMAND has been read: that is `asked`.

    Raises:
        RpcError: PERMISSION_DENIED.
        ProtocolError: a SUBSCRIBE cannot be read.
    """
    kind, topic = message.kind, topic_name(message.topic)
    if kind in _OPERATIONS:
        require(rights, _OPERATIONS[Kind(kind)], topic)
    elif isinstance(asked, requests.Consume):
        require(rights, Operation.CONSUME, topic, AUTO_GROUP if asked.group is None else asked.group)
    elif kind == Kind.SUBSCRIBE:
        _subscribe(rights, message, topic, store)
    elif kind == Kind.QUERY:
        require(rights, Operation.QUERY)
    elif kind in _TRACKING:
        require(rights, _TRACKING[Kind(kind)])
    elif asked is not None:
        _CHECKS[type(asked)](rights, asked, store)


def may(rights: Rights | None, operation: Operation, topic: str = "", group: str | None = None) -> bool:
    """Say whether something is allowed to somebody, who has no rights where no tokens are configured."""
    return rights is None or rights.allows(operation, topic, group)


def require(rights: Rights, operation: Operation, topic: str = "", group: str | None = None) -> None:
    """See that something is allowed; the arguments are those of `Rights.allows`.

    Raises:
        RpcError: PERMISSION_DENIED.
    """
    if not rights.allows(operation, topic, group):
        raise not_allowed(rights, operation, topic, group)


def has_lost(session: Session, access: Access) -> bool:
    """Say whether a session takes part in what the tokens that it showed for it do not allow any more."""
    asked: list[tuple[Rights | None, str, str | None]] = [
        (consumer.rights, topic_name(name), ALL) for name, consumer in session.consumers.items()
    ]
    asked += [(one.rights, one.group.topic_name, one.group.name) for one in session.subscriptions.values()]
    for shown, topic, group in asked:
        rights = access.renewed(shown)
        if rights is None or not rights.allows(Operation.CONSUME, topic, group):
            return True
    return False


def _subscribe(rights: Rights, message: Message, topic: str, store: Store | None) -> None:
    require(rights, Operation.CONSUME, topic, ALL)
    if store is None or topic in store.topics or rights.allows(Operation.DECLARE, topic, ALL):
        return
    _, about = parse_subscription(message)
    if about.get("durable") is True:
        raise not_allowed(rights, Operation.DECLARE, topic, ALL)


# -- commands ------------------------------------------------------------------------------------------------


def _declare(rights: Rights, command: requests.Declare, store: Store | None) -> None:
    is_there = store is not None and command.topic in store.topics
    if is_there and not command.topic_options():
        used = (Operation.PRODUCE, Operation.CONSUME)
        if any(rights.allows(operation, command.topic) for operation in used):
            return
    require(rights, Operation.DECLARE, command.topic, ALL)
    letters = command.dead_letter_topic
    if letters and letters != command.topic + DEAD_LETTER_SUFFIX:
        require(rights, Operation.PRODUCE, letters)


def _list(rights: Rights, command: requests.ListTopics | requests.Stats, store: Store | None) -> None:
    require(rights, Operation.QUERY)


def _look(rights: Rights, command: requests.DescribeTopic | requests.Peek, store: Store | None) -> None:
    require(rights, Operation.QUERY, command.topic)


def _change_group(
    rights: Rights, command: requests.DeclareGroup | requests.Pause | requests.Seek, store: Store | None
) -> None:
    require(rights, Operation.DECLARE, command.topic, command.group)


def _remove(rights: Rights, command: requests.Remove, store: Store | None) -> None:
    require(rights, Operation.REMOVE, command.topic, ALL if command.group is None else command.group)


def _empty(rights: Rights, command: requests.Empty, store: Store | None) -> None:
    require(rights, Operation.EMPTY, command.topic, ALL if command.group is None else command.group)


def _letters(operation: Operation, group: str | None = None) -> Callable[[Rights, Any, Store | None], None]:
    """Return the check of a command about dead letters: those of several topics may lie in one."""

    def check_letters(
        rights: Rights, command: requests.DeadLetters | requests.RetryDead | requests.PurgeDead, store: Store | None
    ) -> None:
        require(rights, operation, command.topic, group)
        topic = store.topics.get(command.topic) if store is not None else None
        letters = topic.options.dead_letter_topic if topic is not None else None
        if letters and not rights.allows(operation, letters, group):
            unseen = f"the topic of the dead letters of {command.topic}"
            raise not_allowed(rights, operation, letters, group, unseen=unseen)

    return check_letters


_CHECKS: Final[dict[type, Callable[[Rights, Any, Store | None], None]]] = {
    requests.Declare: _declare,
    requests.DeclareGroup: _change_group,
    requests.ListTopics: _list,
    requests.DescribeTopic: _look,
    requests.Remove: _remove,
    requests.Empty: _empty,
    requests.Pause: _change_group,
    requests.Seek: _change_group,
    requests.Peek: _look,
    requests.DeadLetters: _letters(Operation.QUERY),
    requests.RetryDead: _letters(Operation.PRODUCE),
    requests.PurgeDead: _letters(Operation.EMPTY, ALL),
    requests.Stats: _list,
    requests.Drain: lambda rights, command, store: require(rights, Operation.ADMIN),
}

"""Finding: the topic and the group that a command of zbus names, in any case, for whoever may have them.

Rights are asked about the names that are found, and used: not about those that were written. Pure: what is missing is
answered through the exchange.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

from zbusrpc.broker.access.rights import ALL, Operation
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.topic import Topic

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession


def topic_of(dialect: "ZbusSession", command: Command, exchange: Exchange, operation: Operation) -> Topic | None:
    """Return the stored topic that a command for all its groups names; where there is none, answer 400 or 404.

    Raises:
        RpcError: PERMISSION_DENIED, whether there is such a topic or not, so that nobody learns it by asking.
    """
    topic = dialect.hub.topic(command.topic)
    if command.topic:
        dialect.require(command, operation, topic.name if topic is not None else command.topic, ALL)
    if topic is None:
        answer_no_topic(dialect, command, exchange)
    return topic


def topic_and_group(
    dialect: "ZbusSession", command: Command, exchange: Exchange, operation: Operation
) -> tuple[Topic | None, Group | None]:
    """Return topic and group that a command names, by default the topic's own; where one is missing, answer.

    Raises:
        RpcError: PERMISSION_DENIED, whether they are there or not; INVALID_ARGUMENT: the group is the broker's own.
    """
    topic = dialect.hub.topic(command.topic)
    topic_name = topic.name if topic is not None else command.topic
    name = command.group or topic_name
    group = group_of(topic, name) if topic is not None else None
    meant = group.name if group is not None else name
    serves = operation is Operation.CONSUME and topic is not None and dialect.hub.is_service(topic)
    if topic_name:  # whoever takes the calls of a service takes those of all its groups
        dialect.require(command, operation, topic_name, ALL if serves else meant)
    if topic is not None and not serves:
        dialect.hub.queues.store.check_free(topic, meant)
    if topic is None:
        answer_no_topic(dialect, command, exchange)
    elif group is None:
        exchange.answer_text(HTTPStatus.NOT_FOUND, f"ConsumeGroup({name}) not found")
    return topic, group


def answer_no_topic(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Say that there is no such topic, or that none is named.

    Raises:
        RpcError: INTERNAL: it is there, and cannot be read.
    """
    if command.topic:
        dialect.hub.check_readable(command.topic)
        exchange.answer_text(HTTPStatus.NOT_FOUND, f"Topic({command.topic}) not found")
    else:
        exchange.answer_text(HTTPStatus.BAD_REQUEST, "Missing topic")


def group_of(topic: Topic, name: str) -> Group | None:
    """Return a group of a topic by its name in any case, or None."""
    return topic.groups.get(name) or topic.groups.get(topic.group_names.get(name.lower(), name))

"""Reading: messages of a topic without taking them one by one: that at an offset, or all as events.

Pure but for the disk, which is behind the seam of storage.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

from zbusrpc.broker.dialects.http import sse
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.stored import head_of
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.dialects.zbus.waiting import Place
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.options import Start
from zbusrpc.broker.mq.topic import Topic

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession


def read_at(topic: Topic, offset: int, exchange: Exchange) -> None:
    """Answer with the message at an offset, whatever groups have read."""
    record = topic.load(offset) if offset < topic.readable_offset else None
    if record is None:
        exchange.answer_text(HTTPStatus.NOT_FOUND, f"Topic({topic.name}) holds no message at offset {offset}")
        return
    head, _, _ = head_of(topic, "", Delivery(offset, b"", State.WAITING), record)
    exchange.answer(HTTPStatus.OK, record.body, head)


def begin_stream(dialect: "ZbusSession", place: Place, command: Command, exchange: Exchange) -> None:
    """Send messages as events from now on; an EventSource that comes back is sent what it has not seen."""
    seen = command.headers.get("last-event-id", "")
    topic, group = place.topic, place.group
    is_alone = len(group.pool.members) == 1
    if is_alone and seen.isascii() and seen.isdecimal() and int(seen[:18]) < group.position:
        _go_back(dialect.hub, topic, group, int(seen[:18]) + 1)
    exchange.begin_stream(sse.HEAD)
    place.stream(exchange, command.rights)


def _go_back(hub: Hub, topic: Topic, group: Group, offset: int) -> None:
    """Let a group go on at an offset; what is not done below that stays so."""
    pending = {number: what for number, what in group.pending_copy().items() if number < offset}
    hub.queues.store.seek(topic, group, Start(offset=offset), lambda error: None)
    group.restore(pending, hub.now(), hub.now_ms())
    hub.queues.store.note_change(group)

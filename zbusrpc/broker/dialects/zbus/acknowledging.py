"""Acknowledging: which delivery an `ack` is about, that names an offset.

A message may be delivered several times: after its group was moved, or to another session when nobody has acknowledged
it in time. An offset does not say which of them is meant. So of each session is known what it was given:

    the ack says `delivery_id`              that delivery, whichever session says it
    its session was given the message       the delivery to that session; of several, between which the group was
                                            moved, the first that it has not acknowledged
    its session was not                     whoever has the message now: any session may say it, as in zbus 0.11

Pure. Promises: an acknowledgement settles the delivery that it is about, or nothing.
"""

from collections import OrderedDict, deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from zbusrpc.broker.access.rights import Operation
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus import finding, values
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.group import Group

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession

GIVEN_MAX: Final = 1000
"""Offsets of which is known what a session was given, the latest: as many as a group may leave unacknowledged."""
MOVES_MAX: Final = 8
"""Of one offset: deliveries that nobody acknowledged before the group was moved, the latest."""
DELIVERY_ID: Final = "delivery_id"
"""Header of a message that has to be acknowledged, and of an `ack`."""


class Given:
    """What one session was given of groups that want acknowledgements."""

    __slots__ = ("_deliveries",)

    def __init__(self) -> None:
        self._deliveries: OrderedDict[tuple[bytes, int], deque[Delivery]] = OrderedDict()

    def note(self, group: Group, delivery: Delivery) -> None:
        """Take note of a delivery; the same message again is the same one until its group is moved."""
        place = group.key, delivery.offset
        given = self._deliveries.setdefault(place, deque(maxlen=MOVES_MAX))
        self._deliveries.move_to_end(place)
        if not given or given[-1] is not delivery:
            given.append(delivery)
        if len(self._deliveries) > GIVEN_MAX:
            self._deliveries.popitem(last=False)

    def take(self, group: Group, offset: int) -> Delivery | None:
        """Return what the next acknowledgement of an offset is about, or None where nothing was given there."""
        place = group.key, offset
        given = self._deliveries.get(place)
        if given is None:
            return None
        delivery = given.popleft()
        if not given:
            del self._deliveries[place]
        return delivery


def delivery_id(dialect_name: str, delivery: Delivery) -> str:
    """Return what names a delivery to a session, once and for ever."""
    assert delivery.consumer is not None
    return f"{dialect_name}-{delivery.consumer.number}-{delivery.number}"


def acknowledge(dialect: "ZbusSession", command: Command, exchange: Exchange) -> None:
    """Carry out `ack`."""
    topic, group = finding.topic_and_group(dialect, command, exchange, Operation.CONSUME)
    if topic is None or group is None:
        return
    offset = values.number_of(command.headers, "offset")
    if offset is None:
        exchange.answer_text(HTTPStatus.BAD_REQUEST, "Missing offset")
        return
    delivery = _meant(dialect, group, offset, command.headers.get(DELIVERY_ID, ""))
    if delivery is not None and delivery.consumer is not None:
        group.ack(delivery.consumer, offset, offset)
        dialect.hub.queues.wake(group)
    wants_answer = values.wants_ack(command.headers) or exchange.is_ordered
    failure = dialect.hub.queues.store.journal.write_now(group.key) if wants_answer else None
    if failure is not None:
        exchange.answer_text(HTTPStatus.INTERNAL_SERVER_ERROR, str(failure))
    elif wants_answer:
        exchange.answer(HTTPStatus.OK, b"%d" % dialect.hub.now_ms())


def _meant(dialect: "ZbusSession", group: Group, offset: int, named: str) -> Delivery | None:
    """Return the delivery that an acknowledgement settles, or None where it is about one that is over."""
    given, current = dialect.given.take(group, offset), group.pending.get(offset)
    if current is None or current.consumer is None:
        return None
    session = current.consumer.session
    if named:
        return current if named == delivery_id(dialect.hub.session_name(session.number), current) else None
    if given is None:
        return current
    return current if given is current and session is dialect.session else None

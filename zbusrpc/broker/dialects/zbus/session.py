"""A session of zbus: one connection's commands, carried out by the topics and calls of the broker.

    take       a command, with the exchange that gets its answer
    receive    a message of the core for this session: a call to serve, the end of a subscription
    close      the session has ended

What is said of topics and groups is in `declaring.py`; consuming is in `waiting.py`, and what ends it in
`acknowledging.py`; the words of calls are in `calling.py`.

Promises: commands of a session are carried out in their order; a caller always gets an answer; a message is routed
only to a session that asked something of the router.

Pure: answers leave through exchanges.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson

from zbusrpc import bounds
from zbusrpc.broker.access.rights import Operation
from zbusrpc.broker.core.asking import Asker
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.gateway import STATUS
from zbusrpc.broker.dialects.zbus import acknowledging, calling, declaring, finding, reading, stored, values
from zbusrpc.broker.dialects.zbus.events import report_of
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.urls import Command, what_is_missing
from zbusrpc.broker.dialects.zbus.waiting import Place
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.subscription import Subscription
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import HEADER_PARAMS, Kind, Message, readable_headers
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.text import JSON_HEADER, encode_text, header_line

CALL_TIMEOUT_MS: Final = 60_000
"""Time limit of a call whose caller names none: clients of zbus give up by themselves, and mostly after 10 s."""
HEARD_MAX: Final = 10_000
"""So many messages that were given to a session may be answered by `route`, the latest."""
LINGER_S: Final = 3.0
"""A group that goes with its last consumer may be come back to within the time in which clients of zbus reconnect."""

log = get_logger("broker")


class ZbusSession:
    """One text session."""

    def __init__(self, hub: Hub, asker: Asker) -> None:
        self.hub, self.asker, self.session = hub, asker, asker.session
        self.name = hub.session_name(asker.session.number)
        """Its name on the wire."""
        self.places: dict[tuple[str, str], Place] = {}
        """Where it consumes, by uid of the topic and group."""
        self.given = acknowledging.Given()
        """What it may acknowledge."""
        self._served: dict[tuple[str, str], tuple[Message, tuple[bool, Any]]] = {}
        self._serving: dict[tuple[int, int], tuple[str, str]] = {}
        self._heard: OrderedDict[tuple[str, str], None] = OrderedDict()
        hub.enter(self)

    def withdraw(self) -> None:
        """Take no more messages: the connection is about to end, and what it is given may get lost."""
        if self.hub.broker.queues is not None:
            self.hub.broker.queues.disconnect(self.session)

    def close(self) -> None:
        """Let go of everything; the session itself has ended."""
        self.hub.leave(self)
        for place in self.places.values():
            if place.group.options.delete_on_exit:
                self.hub.later(LINGER_S, partial(self.hub.queues.store.remove_if_unused, place.group))
            place.close()
        self.places.clear()

    # -- commands ----------------------------------------------------------------------------------------

    def take(self, command: Command, exchange: Exchange) -> None:
        """Carry out a command."""
        command.rights = self.session.rights
        carry_out = _COMMANDS.get(command.name)
        if carry_out is None:
            self._refuse_unknown(command, exchange)
            return
        try:
            self.hub.check_serves(command)
            carry_out(self, command, exchange)
        except RpcError as error:
            self.refuse(exchange, error)
        except StorageError as error:
            self.refuse(exchange, as_rpc_error(command.topic, error))

    def refuse(self, exchange: Exchange, error: RpcError) -> None:
        """Answer with an error as text."""
        status = HTTPStatus.SERVICE_UNAVAILABLE if error.code is Code.FAILED_PRECONDITION else STATUS[error.code]
        exchange.answer_text(status, error.message)

    def require(self, command: Command, operation: Operation, topic: str = "", group: str | None = None) -> None:
        """See that whoever has sent a command may do something; names are those that will be used.

        Raises:
            RpcError: PERMISSION_DENIED.
        """
        rights = command.rights
        if rights is not None and not rights.allows(operation, topic, group):
            text = f"Command({command.name}) Topic({command.topic}) Forbidden for token {rights.name}"
            raise RpcError(Code.PERMISSION_DENIED, text)

    def _refuse_unknown(self, command: Command, exchange: Exchange) -> None:
        if missing := what_is_missing(command):
            exchange.answer_text(HTTPStatus.NOT_FOUND, missing)
        else:
            exchange.answer_text(HTTPStatus.BAD_REQUEST, f"Bad format: command({command.name:.80}) not support")

    # -- producing and calling ---------------------------------------------------------------------------

    def _produce(self, command: Command, exchange: Exchange) -> None:
        name = command.topic
        if not name:
            exchange.answer_text(HTTPStatus.BAD_REQUEST, "Missing topic")
            return
        hub = self.hub
        topic = hub.topic(name)
        if command.rights is not None:
            self.require(command, Operation.PRODUCE, topic.name if topic is not None else hub.name_of(name))
        if topic is None or command.name == "rpc" or hub.is_service(topic):
            self._call(command, exchange, name)
            return
        sender = "" if command.is_by_url else hub.signed(self.name, command.headers.get("id", "").encode())
        entry = stored.entry_of(command, sender)

        def told(stored_ms: int, error: RpcError | None) -> None:
            if error is not None:
                self.refuse(exchange, error)
            elif "ack" not in command.headers or values.wants_ack(command.headers):
                exchange.answer(HTTPStatus.OK, b"%d" % stored_ms)
            elif exchange.is_ordered:
                exchange.answer(HTTPStatus.ACCEPTED)

        # a zbus client that sends a message again means another one
        hub.queues.intake.store(topic, entry, told, self.session)

    def _call(self, command: Command, exchange: Exchange, name: str) -> None:
        """Have a service called; its answer comes whatever `ack` says."""
        known = self.hub.service(name)
        if known is None:
            topic = self.hub.topic(name)
            if topic is None:
                self.hub.check_readable(name)
                exchange.answer_text(HTTPStatus.NOT_FOUND, f"Topic({name}) not found")
                return
            known = topic.name.encode()
        headers = command.headers
        stored.check_limits(headers)
        limit_ms = values.number_of(headers, "timeout-ms", bounds.TIMEOUT_OR_NONE_MS) or CALL_TIMEOUT_MS
        kept = stored.kept_headers(command) | stored.origin_of(command)
        if "id" in headers:
            kept["id"] = headers["id"]
        body = command.body
        if not body and command.path:
            body, kept[HEADER_PARAMS] = calling.body_of_path(command), "text"
        message = Message(Kind.REQUEST, 0, known, body, stored.encode_kept(kept), timeout_ms=limit_ms)
        is_bare = calling.wants_bare_result(headers.get("version", ""))
        self.asker.ask(message, partial(self._answer_call, exchange, name, is_bare))

    def _answer_call(self, exchange: Exchange, name: str, is_bare: bool, reply: Message) -> None:
        status, body, head = calling.answer_of(reply, name, is_bare=is_bare)
        exchange.answer(status, body, head)

    # -- consuming ---------------------------------------------------------------------------------------

    def _consume(self, command: Command, exchange: Exchange) -> None:
        if not command.group and declaring.make_own_group(self, command, exchange, self._consume):
            return
        topic, group = finding.topic_and_group(self, command, exchange, Operation.CONSUME)
        if topic is None or group is None:
            return
        offset = values.number_of(command.headers, "offset")
        if offset is not None:
            reading.read_at(topic, offset, exchange)
            return
        timeout_s = values.seconds_of(command.headers, "timeout", bounds.POLL_S)
        is_stream = exchange.is_ordered and "text/event-stream" in command.headers.get("accept", "")
        place = self.places.get((topic.uid, group.name))
        if is_stream and not exchange.is_first:
            raise RpcError(Code.INVALID_ARGUMENT, "an event stream cannot begin behind requests that wait for answers")
        if place is None:
            if group.options.exclusive and group.pool.members:
                text = f"group {group.name} of topic {topic.name} is exclusive, and another session consumes it"
                exchange.answer_text(HTTPStatus.UNAUTHORIZED, text)
                return
            place = self.places[topic.uid, group.name] = Place(self, topic, group)
        if is_stream:
            reading.begin_stream(self, place, command, exchange)
            return
        if place.consumer is None and self.hub.is_service(topic) and topic.name.encode() not in self.session.consumers:
            place.serve()
        place.wait(exchange, command.rights)
        if timeout_s is not None:
            place.end_after(exchange, self.hub.later(timeout_s, partial(self._end_poll, place, exchange)))

    def _end_poll(self, place: Place, exchange: Exchange) -> None:
        self.hub.queues.settle()  # what is there comes first, also to a poll that does not wait
        if place.drop(exchange):
            exchange.answer(HTTPStatus.NO_CONTENT)

    def _unconsume(self, command: Command, exchange: Exchange) -> None:
        topic, group = finding.topic_and_group(self, command, exchange, Operation.CONSUME)
        if topic is None or group is None:
            return
        place = self.places.pop((topic.uid, group.name), None)
        if place is not None:
            self._leave(place)
        if exchange.is_ordered:
            exchange.answer(HTTPStatus.OK)

    def _leave(self, place: Place) -> None:
        """Give up a place; requests that wait there get no answer, as their client has asked."""
        self.hub.queues.leave(place.subscription)
        place.stop_serving()
        place.abandon()

    @property
    def is_waiting(self) -> bool:
        """Whether any of its requests waits for a message."""
        return any(place.is_waiting for place in self.places.values())

    def place_of(self, subscription: Subscription) -> Place | None:
        """Return where this session consumes by a subscription."""
        return next((place for place in self.places.values() if place.subscription is subscription), None)

    # -- serving -----------------------------------------------------------------------------------------

    def hear(self, sender: str, id_: str) -> None:
        """Take note that a session asked something of this one, by a message with this id."""
        self._heard[sender, id_] = None
        if len(self._heard) > HEARD_MAX:
            self._heard.popitem(last=False)

    def _serve(self, message: Message) -> None:
        """Answer a `consume` with a call."""
        place = next((one for one in self.places.values() if one.serves(message.topic)), None)
        exchange = place.take_call() if place is not None else None
        if place is None or exchange is None:
            back = Message(Kind.RETURN, message.id, session=message.session)
            self.hub.broker.receive(self.session, back, self.hub.now())
            return
        headers = readable_headers(message.header_bytes)
        id_, sender = headers.pop("id", "") or str(message.id), self.hub.session_name(message.session)
        while (sender, id_) in self._served:  # another caller's: those of stored calls have no session any more
            sender += "+"
        headers.pop(HEADER_PARAMS, None)
        body = bytes(message.body)
        self._served[sender, id_] = message, calling.jsonrpc_id_of(body)
        self._serving[message.session, message.id] = sender, id_
        head = header_line("origin_id", id_) + stored.origin_lines(headers)
        head += header_line("topic", place.topic.name)
        head += header_line("consume_group", place.group.name) + header_line("sender", sender)
        exchange.answer(HTTPStatus.OK, body, head + stored.other_lines(headers))

    def _cancel(self, message: Message) -> None:
        """Tell the core that a call which was given up has ended: zbus has no word to stop a service."""
        key = self._serving.pop((message.session, message.id), None)
        if key is not None:
            self._served.pop(key, None)
        self.hub.broker.receive(self.session, Message(Kind.DONE, message.id, session=message.session), self.hub.now())

    def _route(self, command: Command, exchange: Exchange) -> None:
        headers = command.headers
        recver, id_ = headers.get("recver", ""), headers.get("id", "")
        self.require(command, Operation.ROUTE)
        status = max(values.number_of(headers, "origin_status", bounds.STATUS) or 0, 200)  # below it none is the last
        kept = {name: value for name, value in stored.kept_headers(command).items() if name != "origin_status"}
        served = self._served.pop((recver, id_), None)
        if served is not None:
            request, jsonrpc = served
            self._serving.pop((request.session, request.id), None)
            head = f"sender: {self.name}\r\nhost: {self.hub.address}\r\n{stored.other_lines(kept)}"
            reply = calling.reply_of(request, command, status, head, jsonrpc)
            self.hub.broker.receive(self.session, reply, self.hub.now())
        elif (recver, id_) in self._heard:
            receiver = self.hub.session(recver)
            if receiver is not None:
                head = header_line("id", id_) + header_line("sender", self.name) + header_line("host", self.hub.address)
                head += header_line("topic", command.topic) + stored.other_lines(kept)
                receiver.asker.push(encode_text(status, head, command.body))
        if exchange.is_ordered:
            exchange.answer(HTTPStatus.ACCEPTED)

    # -- messages of the core ----------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take a message that the core has for this session."""
        if message.kind == Kind.REQUEST:
            self._serve(message)
        elif message.kind == Kind.CANCEL:
            self._cancel(message)
        elif message.kind == Kind.LEAVE:
            self._end_place(message.session)

    def _end_place(self, number: int) -> None:
        """Tell those that wait in a group that it is gone; clients of zbus declare it again."""
        for key, place in list(self.places.items()):
            if place.subscription.number == number:
                del self.places[key]
                place.stop_serving()
                what = "Topic" if place.topic.is_removed else "ConsumeGroup"
                name = place.topic.name if place.topic.is_removed else place.group.name
                place.end(HTTPStatus.NOT_FOUND, f"{what}({name}) not found")

    # -- the broker itself -------------------------------------------------------------------------------

    def _server(self, command: Command, exchange: Exchange) -> None:
        self.require(command, Operation.SERVER)
        exchange.answer(HTTPStatus.OK, orjson.dumps(self.hub.listing(command.rights)), JSON_HEADER)

    def _tracker(self, command: Command, exchange: Exchange) -> None:
        self.require(command, Operation.TRACKER)
        exchange.answer(HTTPStatus.OK, orjson.dumps(self.hub.tracker_info(command.rights)), JSON_HEADER)

    def _track_sub(self, command: Command, exchange: Exchange) -> None:
        self.require(command, Operation.TRACK_SUB)
        info = orjson.dumps(self.hub.tracker_info(command.rights))
        exchange.answer(HTTPStatus.OK, info, _PUSH_HEAD)
        if not exchange.is_ordered:
            self.hub.subscribe(self, command.rights)

    def push_topology(self, info: bytes) -> None:
        """Send a TrackerInfo to this subscriber."""
        self.asker.push(encode_text(HTTPStatus.OK, _PUSH_HEAD, info))

    def _track_pub(self, command: Command, exchange: Exchange) -> None:
        self.require(command, Operation.TRACK_PUB)
        report = report_of(command.body, self.name)
        self.hub.tracker.take(self.session, report, command.rights, is_leased=False)
        if exchange.is_ordered or ("ack" in command.headers and values.wants_ack(command.headers)):
            exchange.answer(HTTPStatus.OK)

    def _ssl(self, command: Command, exchange: Exchange) -> None:
        self.require(command, Operation.SSL)
        server = command.headers.get("server", self.hub.address)
        if self.hub.certificate and server == self.hub.address:
            exchange.answer(HTTPStatus.OK, self.hub.certificate.encode())
        else:
            exchange.answer_text(HTTPStatus.NOT_FOUND, f"no certificate of {server:.80} is known here")

    def _ping(self, command: Command, exchange: Exchange) -> None:
        exchange.answer(HTTPStatus.OK, b"OK")

    def _heartbeat(self, command: Command, exchange: Exchange) -> None:
        if exchange.is_ordered:
            exchange.answer(HTTPStatus.OK)

    def _home(self, command: Command, exchange: Exchange) -> None:
        exchange.answer(HTTPStatus.OK, declaring.home_text(self.hub).encode(), "content-type: text/plain\r\n")


_PUSH_HEAD: Final = f"cmd: track_pub\r\n{JSON_HEADER}"

Carry = Callable[[ZbusSession, Command, Exchange], None]
_COMMANDS: Final[dict[str, Carry]] = {
    "produce": ZbusSession._produce,
    "rpc": ZbusSession._produce,
    "consume": ZbusSession._consume,
    "unconsume": ZbusSession._unconsume,
    "ack": acknowledging.acknowledge,
    "route": ZbusSession._route,
    "declare": declaring.declare,
    "query": declaring.query,
    "remove": declaring.remove,
    "empty": declaring.empty,
    "server": ZbusSession._server,
    "tracker": ZbusSession._tracker,
    "track_sub": ZbusSession._track_sub,
    "track_pub": ZbusSession._track_pub,
    "heartbeat": ZbusSession._heartbeat,
    "ping": ZbusSession._ping,
    "ssl": ZbusSession._ssl,
    "home": ZbusSession._home,
}

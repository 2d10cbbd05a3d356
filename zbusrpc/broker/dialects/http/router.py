"""The router of a text session: what becomes of one request.

    request ──> guard ──> /rpc/...         gateway: calls of services, as JSON
                     ├──> /api/..., /      monitor: the page and what it shows
                     └──> cmd, /produce..  zbus: its commands

Pure: answers leave through exchanges.
"""

from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

from zbusrpc.broker.dialects.http import gateway, guard
from zbusrpc.broker.dialects.http.answer import Exchange, clean_id
from zbusrpc.broker.dialects.http.gateway import GatewayCall, GatewayRequest
from zbusrpc.broker.dialects.http.guard import Guard
from zbusrpc.broker.dialects.zbus.session import ZbusSession
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.monitor import paths
from zbusrpc.broker.monitor.monitor import Monitor
from zbusrpc.message import Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.http import HttpRequest

STEPS: Final = frozenset({"declare", "remove", "empty"})
"""Commands that take their time, and that those after them may build upon."""
MESSAGES: Final = frozenset({"produce", "rpc", "route", "ack"})
"""Commands that are carried out though whoever sent them has gone."""

log = get_logger("broker")


class House(guard.House, Protocol):
    """What all sessions of a broker share."""

    monitor: Monitor


class Router:
    """Takes the requests of one session."""

    def __init__(self, house: House, dialect: ZbusSession) -> None:
        self._dialect, self._asker = dialect, dialect.asker
        self._guard = Guard(house)
        self._monitor = house.monitor

    def take(self, request: HttpRequest, exchange: Exchange) -> bool:
        """Carry a request out, unless it only wants to go on with WebSocket; say whether others wait for its answer."""
        try:
            return self._take(request, exchange)
        except Exception:  # a fault of ours, which must not take the other requests of the connection with it
            log.exception("broker.request_failed", peer=self._asker.session.name)
            exchange.answer_text(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error of the broker; its log says which")
            return False

    def receive(self, message: Message) -> None:
        """Take a message that the core has for this session."""
        if message.kind == Kind.REPLY:
            self._asker.take_reply(message)
        else:
            self._dialect.receive(message)

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for a message or a reply."""
        return self._asker.is_waiting or self._dialect.is_waiting

    def close(self) -> None:
        """Let go of everything: the connection has ended."""
        self._dialect.close()
        self._asker.close()

    def _take(self, request: HttpRequest, exchange: Exchange) -> bool:
        headers = request.headers
        is_by_url = "cmd" not in headers
        is_monitor = is_by_url and paths.is_for_it(request)
        is_gateway = is_by_url and gateway.is_for_it(request.target)
        command = None if is_gateway or is_monitor else Command(request)
        id_ = headers.get("id")
        if id_ is not None:
            exchange.id = id_ if id_.isprintable() else clean_id(id_)
        exchange.is_head = request.method == "HEAD"
        if not self._guard.admits(request, command, exchange, self._asker.session) or request.is_upgrade:
            return False
        if is_monitor:
            return self._monitor.take(request, exchange, self._asker, self._guard.show)
        if command is None:
            self._ask_gateway(request, exchange)
            return False
        self._dialect.take(command, exchange)
        return command.name in STEPS

    def _ask_gateway(self, request: HttpRequest, exchange: Exchange) -> None:
        """Have services called by a request of the gateway."""
        services, session = self._asker.broker.services, self._asker.session
        asked = gateway.take(request, lambda name: services(session.rights, name))
        for call in asked.calls if asked.response is None else []:
            if not call.reply:  # else it is a wrong element of a batch: answered already
                message = Message(Kind.REQUEST, 0, asked.topic, call.body, asked.header_bytes)
                message.timeout_ms = asked.timeout_ms
                self._asker.ask(message, partial(_finish_call, asked, call, exchange))
        if asked.response is not None:
            exchange.answer_http(asked.response)


def _finish_call(asked: GatewayRequest, call: GatewayCall, exchange: Exchange, reply: Message) -> None:
    asked.finish_call(call, reply)
    if asked.response is not None:
        exchange.answer_http(asked.response)


def is_message(request: HttpRequest) -> bool:
    """Whether a request brings a message, and is carried out though nobody waits for the answer any more."""
    name = request.headers.get("cmd")
    return name in MESSAGES if name is not None else request.target.startswith((b"/produce/", b"/rpc/"))

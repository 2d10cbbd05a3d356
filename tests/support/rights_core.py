"""Somebody with rights at a broker without sockets: native, by zbus, HTTP or the page's API, each request at once.

core = RightsCore()
shop = rights("shop", rule("produce", topics=("orders",)))
core.native(shop).ask(Kind.PRODUCE, entry(b"tea"), topic="orders")
core.web(shop).ask("GET /query/orders")
"""

from collections.abc import Mapping
from typing import Any

import orjson

from tests.support.tokens import secret_of
from tests.support.web import Answer
from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Operation, Rights, Rule, digest_of
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.http.router import Router
from zbusrpc.broker.dialects.http.socket_messages import SocketMessages
from zbusrpc.broker.monitor.monitor import Monitor, Usage
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.envelope import parse_error
from zbusrpc.errors import RpcError
from zbusrpc.message import Flag, Kind, Message, encode_headers
from zbusrpc.transport.entries import Entry, decode_entries, encode_entry
from zbusrpc.transport.http import HttpDecoder
from zbusrpc.transport.websocket import WebSocket


def rule(*operations: str, topics: tuple[str, ...] = ("*",), groups: tuple[str, ...] = ("*",)) -> Rule:
    """Return a rule."""
    return Rule(operations=frozenset(map(Operation, operations)), topics=topics, groups=groups)


def rights(name: str, *rules: Rule) -> Rights:
    """Return the rights of a token."""
    return Rights(name, rules, digest_of(secret_of(name)))


ADMIN = rights("admin", rule("admin"))


def entry(body: bytes, id_: str = "", tag: str = "") -> bytes:
    """Return a message as it stands in a PRODUCE."""
    return encode_entry(0, 0, 0, id_.encode(), tag.encode(), b"", b"", body)


class RightsCore(ZbusCore):
    """One broker, and who has rights at it."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits=limits)
        self.access = None
        self.origins = Origins()
        self.logins = Logins(self.lab.scheduler.now)
        self.monitor = Monitor(self.hub, usage=lambda: Usage(0.0, 0), logins=self.logins)
        self.natives: dict[int, Native] = {}

    def native(self, rights: Rights | None = ADMIN) -> "Native":
        """Connect a native peer that has shown its token."""
        return Native(self, rights)

    def socket(self, rights: Rights | None = ADMIN) -> "Socket":
        """Open a WebSocket."""
        return Socket(self, rights)

    def web(self, rights: Rights | None = ADMIN) -> "Web":
        """Connect a client of HTTP and zbus that shows its token with each request."""
        return Web(self, rights)

    def declare(self, *topics: str, **options: Any) -> None:
        """Make topics that hold a message each."""
        for topic in topics:
            self.native().command("declare", topic=topic, **options)
            self.native().ask(Kind.PRODUCE, entry(f"treasure of {topic}".encode()), topic=topic)

    def topic_names(self) -> set[str]:
        """Return the topics that there are."""
        return set(self.lab.store.topics)

    def _settle(self) -> None:
        self.broker.settle()
        while self.broker.dirty:
            dirty, self.broker.dirty = self.broker.dirty, []
            for session in dirty:
                items, session.outbox = session.outbox, []
                peer = self.natives.get(session.number) or self._sessions.get(session.number)
                if peer is not None:
                    peer.receive(items)
            self.broker.settle()


class Native:
    """A native session."""

    def __init__(self, core: RightsCore, rights: Rights | None) -> None:
        self.core = core
        self.session = core.broker.connect("native")
        self.session.rights = rights
        core.natives[self.session.number] = self
        self.replies: dict[int, Message] = {}
        self.calls: list[Message] = []
        """Requests that came to be served."""
        self.entries: list[Entry] = []
        """Messages that were delivered."""
        self.pushes: list[bytes] = []
        """What it was told without having asked."""
        self._last_id = 0

    def receive(self, items: list[Any]) -> None:
        """Take what the core has for this session."""
        for message in items:
            if message.kind == Kind.REPLY:
                assert message.id not in self.replies, "answered twice"
                self.replies[message.id] = message
            elif message.kind == Kind.REQUEST:
                self.calls.append(message)
            elif message.kind == Kind.DELIVER:
                self.entries += decode_entries(message.body)
            elif message.kind == Kind.TOPOLOGY:
                self.pushes.append(bytes(message.body))

    def post(self, kind: int, body: Any = b"", *, topic: str = "", session: int = 0, **headers: str) -> int:
        """Send a request, let no turn pass, and return its id."""
        self._last_id += 1
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        named = encode_headers({name.replace("_", "-"): value for name, value in headers.items()}) if headers else b""
        message = Message(kind, self._last_id, topic.encode(), data, named, session=session)
        self.core.broker.receive(self.session, message, self.core.lab.scheduler.now())
        return self._last_id

    def ask(self, kind: int, body: Any = b"", *, topic: str = "", session: int = 0, **headers: str) -> Any:
        """Send a request and return its result, an error, or None while there is no answer."""
        number = self.post(kind, body, topic=topic, session=session, **headers)
        self.core.run()
        return self.answer(number)

    def answer(self, number: int) -> Any:
        """Return the answer to a request: its result, an error, or None."""
        reply = self.replies.get(number)
        if reply is None:
            return None
        if reply.flags & Flag.ERROR:
            error = parse_error(reply.body)
            return RpcError(error.code, error.message, error.details)
        return orjson.loads(reply.body)["result"]

    def command(self, name: str, **fields: Any) -> Any:
        """Carry out a command."""
        return self.ask(Kind.COMMAND, {"command": name, **fields})

    def serve(self, service: str, *, durable: bool = False, window: int = 10) -> Any:
        """Serve a service."""
        return self.ask(Kind.SUBSCRIBE, {"window": window, "about": {"durable": durable}}, topic=service)

    def reply(self, result: Any) -> None:
        """Answer the oldest call that came."""
        call = self.calls.pop(0)
        body = b'{"result":' + orjson.dumps(result) + b"}"
        message = Message(Kind.REPLY, call.id, b"", body, session=call.session)
        self.core.broker.receive(self.session, message, self.core.lab.scheduler.now())
        self.core.run()

    def close(self) -> None:
        """End the session."""
        del self.core.natives[self.session.number]
        self.core.broker.disconnect(self.session, self.core.lab.scheduler.now())
        self.core.run()


class Web(TextSession):
    """A text session that goes through the reception: zbus, URLs, /rpc and /api."""

    def __init__(self, core: RightsCore, rights: Rights | None) -> None:
        super().__init__(core)
        core._sessions[self.session.number] = self
        self.core = core
        self.session.rights = rights
        self._router = Router(core, self.dialect)

    def begin(self, line: str, body: bytes = b"", **headers: str) -> Exchange:
        """Send a request such as `GET /query/T`, and let no turn pass; `_` in names of headers stands for `-`."""
        return self.begin_as_written(line, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def begin_as_written(self, line: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """Send a request, with the names of its headers as they are, and let no turn pass."""
        (request,) = HttpDecoder(1 << 20).feed(message_of(line, body, headers))
        exchange = Exchange(lambda done: self._core.broker.send(self.session, done), is_ordered=True)
        exchange.is_first = True
        self._router.take(request, exchange)
        return exchange

    def ask(self, line: str, body: bytes = b"", **headers: str) -> Answer | None:
        """Send a request, and return its answer or None while there is none."""
        exchange = self.begin(line, body, **headers)
        self._core.run()
        return read(exchange) if exchange.data is not None else None

    def text(self, line: str, body: bytes = b"", **headers: str) -> str:
        """Send a request, and return status and body of its answer as a line."""
        answer = self.ask(line, body, **headers)
        return f"{answer.status} {answer.body.decode()}" if answer is not None else ""


class Socket(Web):
    """A session over a WebSocket: each of its messages is a request."""

    def __init__(self, core: RightsCore, rights: Rights | None) -> None:
        super().__init__(core, rights)
        self._messages = SocketMessages(WebSocket(1 << 20), 1 << 20, lambda headers, target: 1 << 20)

    def begin(self, line: str, body: bytes = b"", **headers: str) -> Exchange:
        """Send a request, mostly `GET /` with a `cmd`, and let no turn pass; names of headers are as they are."""
        exchange = Exchange(lambda done: self._core.broker.send(self.session, done))
        self._router.take(self._messages.request_of(message_of(line, body, headers)), exchange)
        return exchange


def message_of(line: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a request as bytes."""
    method, _, target = line.partition(" ")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body
    )

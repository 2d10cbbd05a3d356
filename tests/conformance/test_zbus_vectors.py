"""The zbus vectors, which hold for any broker that speaks zbus, hold for ours: over TCP, as HTTP, and by WebSocket."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from tests.support.inprocess import PATIENCE_S, running_broker, serving
from zbusrpc import RpcError, service
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.storage.commit import Durability

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("zbus_vectors.json").read_text(encoding="utf-8"))[
    "vectors"
]
TRANSPORTS: Final = ("tcp", "http", "websocket")
KINDS: Final = {"number": r"\d+", "text": r"[^\r\n]+", "name": r"[^\r\n:]+", "body": r"(?s:.*)", "any": r"[^\r\n]*"}
MARK: Final = re.compile(r"\{\{(\w+)(?::(\w+))?\}\}")
OF_HTTP: Final = ["host: {{address}}", "connection: keep-alive"]
OF_BROWSERS: Final = ["user-agent: vectors", "accept: */*", "accept-encoding: gzip, deflate"]
LAST: Final = b"GET / HTTP/1.1\r\ncmd: ping\r\nid: last\r\n\r\n"
LAST_REPLY: Final = b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive\r\nid: last\r\ncontent-length: 2\r\n\r\nOK"


pytestmark = pytest.mark.anyio


@service
class Calc:
    """What the vectors call."""

    async def add(self, a: int, b: int = 10) -> int:
        return a + b

    async def echo(self, text: str) -> str:
        return text

    async def fail(self, code: str) -> None:
        raise RpcError(code, "as asked")


# -- one connection ------------------------------------------------------------------------------------------


class Wire(Protocol):
    """A connection that carries the messages of a vector."""

    async def send(self, data: bytes) -> None:
        """Send a request."""

    async def receive(self, *, is_head: bool = False) -> bytes:
        """Return the next message; nothing where the broker has closed the connection."""

    async def close(self) -> None:
        """Close the connection."""


class TcpWire:
    """Bytes as they are; as HTTP, with the headers that its clients add."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, add: Callable[[bytes], bytes]
    ) -> None:
        self._reader, self._writer, self._add = reader, writer, add
        self._is_chunked = False

    async def send(self, data: bytes) -> None:
        self._writer.write(self._add(data))

    async def receive(self, *, is_head: bool = False) -> bytes:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
        self._is_chunked = b"\r\ntransfer-encoding: chunked\r\n" in head
        return head if is_head or length is None else head + await self._reader.readexactly(int(length[1]))

    async def receive_event(self) -> bytes:
        """Return the next of server-sent events; of a body in chunks it is one, and nothing is the last."""
        if not self._is_chunked:
            return await self._reader.readuntil(b"\n\n")
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2)).removesuffix(b"\r\n")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class WebSocketWire:
    """One message a frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    async def receive(self, *, is_head: bool = False) -> bytes:
        try:
            return bytes(await self._connection.recv(decode=False))
        except ConnectionClosed:
            return b""

    async def close(self) -> None:
        await self._connection.close()


async def open_wire(transport: str, address: str) -> Wire:
    """Connect to the broker."""
    if transport == "websocket":
        return WebSocketWire(await connect_websocket(f"ws://{address}/", compression=None, proxy=None))

    def as_http(data: bytes) -> bytes:
        first, separator, rest = data.partition(b"\r\n")
        is_zbus = re.search(rb"\r\ncmd:", data.partition(b"\r\n\r\n")[0], re.IGNORECASE)
        added = [line.replace("{{address}}", address) for line in OF_HTTP + ([] if is_zbus else OF_BROWSERS)]
        return first + separator + "".join(f"{line}\r\n" for line in added).encode() + rest

    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024 * 1024)
    return TcpWire(reader, writer, as_http if transport == "http" else lambda data: data)


# -- templates -----------------------------------------------------------------------------------------------


class Names:
    """What marks with a name stand for, from the first time on."""

    def __init__(self, address: str) -> None:
        self._values = {"address": address}

    def fill(self, lines: list[str]) -> bytes:
        """Return a request."""
        return MARK.sub(lambda mark: self._values[mark[2] or mark[1]], "\r\n".join(lines)).encode()

    def check(self, template: str, text: str) -> None:
        """See that a text is as its template says, and keep what has a name there."""
        pattern, at = "", 0
        for mark in MARK.finditer(template):
            pattern += re.escape(template[at : mark.start()]) + self._pattern(mark[1], mark[2])
            at = mark.end()
        matched = re.fullmatch(pattern + re.escape(template[at:]), text)
        assert matched, f"\n--- wanted:\n{template}\n--- came:\n{text}"
        self._values |= matched.groupdict()

    def _pattern(self, kind: str, name: str | None) -> str:
        known = self._values.get(name or kind)
        if known is not None:
            return re.escape(known)
        return f"(?P<{name}>{KINDS[kind]})" if name else f"(?:{KINDS[kind]})"

    def check_json(self, wanted: Any, value: Any, where: str = "$") -> None:
        """See that a JSON value is as wanted: the same fields, in any order."""
        if isinstance(wanted, dict):
            named = {MARK.sub(lambda mark: self._values[mark[1]], key): item for key, item in wanted.items()}
            assert isinstance(value, dict), where
            assert value.keys() == named.keys(), where
            for key, item in named.items():
                self.check_json(item, value[key], f"{where}.{key}")
        elif isinstance(wanted, list):
            assert isinstance(value, list), where
            assert len(value) == len(wanted), f"{where}: {value}"
            for number, item in enumerate(wanted):
                self.check_json(item, value[number], f"{where}[{number}]")
        elif isinstance(wanted, str) and MARK.match(wanted):
            is_number = wanted.startswith("{{number")
            assert type(value) is (int if is_number else str), f"{where}: {value!r}"
            self.check(wanted, str(value))
        else:
            assert (type(value), value) == (type(wanted), wanted), where


# -- running a vector ----------------------------------------------------------------------------------------


class Run:
    """A vector on its way."""

    def __init__(self, transport: str, address: str) -> None:
        self._transport, self._address = transport, address
        self._names = Names(address)
        self._wires: dict[str, Wire] = {}

    async def step(self, step: dict[str, Any]) -> None:
        """Do one step."""
        name = step.get("on", "A")
        if name not in self._wires:
            self._wires[name] = await open_wire(self._transport, self._address)
        wire = self._wires[name]
        if "send" in step:
            await wire.send(self.request(step))
        elif "receive" in step:
            self.check(step, await wire.receive(is_head=step.get("head", False)))
        elif "event" in step:
            assert isinstance(wire, TcpWire)
            self._names.check("\n".join(step["event"]), (await wire.receive_event()).decode())
        elif "closed" in step:
            assert await wire.receive() == b""
            await self._wires.pop(name).close()
        else:
            assert step.keys() <= {"on", "close"}, step
            await self._wires.pop(name).close()

    def request(self, step: dict[str, Any]) -> bytes:
        """Return the request of a step."""
        return self._names.fill(step["send"])

    def check(self, step: dict[str, Any], message: bytes) -> None:
        """See that a message is as a step says."""
        head, end, body = message.partition(b"\r\n\r\n")
        if "json" not in step:
            self._names.check("\r\n".join(step["receive"]), message.decode())
            return
        self._names.check("\r\n".join([*step["receive"], "content-length: {{number}}"]), head.decode())
        assert end
        self._names.check_json(step["json"], json.loads(body))

    async def finish(self) -> None:
        """See that nothing more has come on any connection."""
        for wire in self._wires.values():
            await wire.send(LAST)
            message = await wire.receive()
            while b"\r\ncmd: track_pub\r\n" in message and b"\r\nid:" not in message:
                message = await wire.receive()
            assert message == LAST_REPLY, message.decode()

    async def close(self) -> None:
        """Close what is open."""
        for wire in self._wires.values():
            await wire.close()


def access_of(given: dict[str, Any]) -> Access | None:
    """Return the rights that a vector gives."""
    if "tokens" not in given:
        return None
    tokens = [Rights(name, rules_of(one["rules"]), digest_of(one["secret"])) for name, one in given["tokens"].items()]
    return Access(tokens, rules_of(given.get("anonymous", [])))


def rules_of(rules: list[dict[str, Any]]) -> list[Rule]:
    return [
        Rule(
            operations=frozenset(map(Operation, rule["operations"])),
            topics=tuple(rule.get("topics", "*")),
            groups=tuple(rule.get("groups", "*")),
        )
        for rule in rules
    ]


@asynccontextmanager
async def site(vector: dict[str, Any], directory: Path) -> AsyncIterator[Server]:
    """Run the broker of a vector, and the service where it wants one."""
    given = vector.get("given", {})
    options: dict[str, Any] = {} if given.get("stores") is False else {"data_dir": str(directory / "data")}
    async with AsyncExitStack() as stack:
        broker = running_broker(
            durability=Durability.MEMORY,
            access=access_of(given),
            allow_origins=tuple(given.get("allow_origins", ())),
            **options,
        )
        server = await stack.enter_async_context(broker)
        if given.get("calc"):
            await stack.enter_async_context(serving(server, Calc))
        yield server


CASES = [
    pytest.param(vector, transport, id=f"{vector['name']}, {transport}")
    for vector in VECTORS
    for transport in vector.get("over", TRANSPORTS)
]


@pytest.mark.parametrize(("vector", "transport"), CASES)
async def test_dialogue_goes_as_its_vector_says(vector: dict[str, Any], transport: str, tmp_path: Path) -> None:
    """Each message of the broker has the bytes of the vector, and there is none besides."""
    async with site(vector, tmp_path) as server:
        run = Run(transport, server.broker.name)
        try:
            async with asyncio.timeout(PATIENCE_S):
                for step in vector["steps"]:
                    await run.step(step)
                await run.finish()
        finally:
            await run.close()


# -- the same, another way -----------------------------------------------------------------------------------


def pairs_of(vector: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return requests with their replies, where the vector is nothing but one after the other, on one connection."""
    sends, receives = vector["steps"][::2], vector["steps"][1::2]
    if len(sends) != len(receives) or any("on" in step or step.get("pushed") for step in vector["steps"]):
        return []
    is_plain = all("send" in send and "receive" in receive for send, receive in zip(sends, receives, strict=True))
    return list(zip(sends, receives, strict=True)) if is_plain else []


def is_web(vector: dict[str, Any]) -> bool:
    """Whether a vector's requests name their command by the URL, so that their answers keep their order."""
    return not any(line.lower().startswith("cmd:") for send, _ in pairs_of(vector) for line in send["send"])


PLAIN = [vector for vector in VECTORS if pairs_of(vector) and "http" in vector.get("over", TRANSPORTS)]
PLAIN_CASES = [pytest.param(vector, id=vector["name"]) for vector in PLAIN]
WEB_CASES = [pytest.param(vector, id=vector["name"]) for vector in PLAIN if is_web(vector)]


@pytest.mark.parametrize("vector", PLAIN_CASES)
async def test_http_library_reads_the_same(vector: dict[str, Any], tmp_path: Path) -> None:
    """What a strict HTTP client takes out of the answers is what the vector says, on one connection."""
    async with site(vector, tmp_path) as server:
        await asyncio.to_thread(ask_by_library, vector, server.broker.name)


def ask_by_library(vector: dict[str, Any], address: str) -> None:
    """Send the requests of a vector by Python's HTTP client."""
    run = Run("http", address)
    with closing(HTTPConnection(address, timeout=PATIENCE_S)) as connection:
        for send, receive in pairs_of(vector):
            run.check(receive, ask(connection, run.request(send)))


def ask(connection: HTTPConnection, request: bytes) -> bytes:
    """Send a request and return its answer, both by way of what the library makes of them."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.decode().split(" ")
    connection.putrequest(method, target, skip_accept_encoding=True)
    for line in lines:
        name, _, value = line.partition(b":")
        connection.putheader(name.decode(), value.strip())
    connection.endheaders(body)
    response = connection.getresponse()
    fields = "".join(f"{name}: {value}\r\n" for name, value in response.getheaders())
    top = f"HTTP/1.1 {response.status} {response.reason}\r\n{fields}\r\n"
    return top.encode("latin-1") + response.read()


@pytest.mark.parametrize("vector", WEB_CASES)
async def test_pipelined_requests_are_answered_in_their_order(vector: dict[str, Any], tmp_path: Path) -> None:
    """All requests of a vector in one block get the same answers as one after the other."""
    async with site(vector, tmp_path) as server:
        wire, run = await open_wire("tcp", server.broker.name), Run("tcp", server.broker.name)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await wire.send(b"".join(run.request(send) for send, _ in pairs_of(vector)))
                for _, receive in pairs_of(vector):
                    run.check(receive, await wire.receive(is_head=receive.get("head", False)))
        finally:
            await wire.close()

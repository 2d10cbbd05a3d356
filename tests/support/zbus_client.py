"""Small zbus clients that do, step by step, what the clients of the 0.8 era do: blocking sockets and threads.

`MqClient` is one connection, `Broker` the tracker and the servers that it names; producers and consumers
(zbus_consumer.py) and calls (zbus_rpc.py) work by them. What sets the languages apart is in their `Profile`. A
`ZbusLab` closes all clients of a test, and fails it when one crashed.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.support.waiting import WAIT_S
from tests.support.zbus_profiles import (
    Decoder,
    Profile,
    ZbusMessage,
    encode,
    error_text,
    new_id,
    value_of,
)
from tests.support.zbus_topology import RouteTable, check_group, check_tracker

READY_S = 3.0
"""So long all clients wait for the first word of a tracker, and a user for the next."""


class Refused(Exception):
    """The broker answered with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class NoServer(Exception):
    """No server is known to have the topic."""


class MqClient:
    """One connection, on which requests and replies are matched by id."""

    def __init__(
        self, address: str, profile: Profile, on_push: Callable[[ZbusMessage], None] = lambda message: None
    ) -> None:
        host, _, port = address.rpartition(":")
        self.address, self.profile = address, profile
        self.crash: BaseException | None = None
        """What made this client fail."""
        self.is_open = True
        self._on_push = on_push
        self._replies: dict[str, list[ZbusMessage]] = {}
        self._arrived = threading.Condition()
        self._socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # -- sending and receiving ---------------------------------------------------------------------------

    def send(self, *messages: ZbusMessage) -> None:
        """Send messages in one go."""
        self.send_bytes(b"".join(encode(message, self.profile) for message in messages))

    def send_bytes(self, data: bytes) -> None:
        """Send what a test wants."""
        self._socket.sendall(data)

    def command(self, cmd: str, body: Any = b"", **headers: Any) -> ZbusMessage:
        """Make a request with an id of its own; `_` in names of headers as they are, None leaves one away."""
        fields = {"cmd": cmd, "id": new_id(), **headers}
        return ZbusMessage({name: self._text(value) for name, value in fields.items() if value is not None}, body)

    def post(self, cmd: str, body: Any = b"", **headers: Any) -> str:
        """Send a request, and return its id."""
        message = self.command(cmd, body, **headers)
        self.send(message)
        return message.id

    def wait(self, id_: str, timeout_s: float = WAIT_S) -> ZbusMessage:
        """Return the reply to a request.

        Raises:
            TimeoutError: it has not come.
            ConnectionError: it will not come.
        """
        with self._arrived:
            has_come = self._arrived.wait_for(lambda: id_ in self._replies or not self.is_open, timeout_s)
            if not has_come:
                raise TimeoutError(f"no reply to {id_} within {timeout_s:g} s")
            if id_ not in self._replies:
                raise ConnectionError(f"the connection to {self.address} is closed: {self.crash or 'by an end'}")
            reply = self._replies[id_].pop(0)
            if not self._replies[id_]:
                del self._replies[id_]
            return reply

    def invoke(self, message: ZbusMessage, timeout_s: float = WAIT_S) -> ZbusMessage:
        """Send a request, and return its reply."""
        self.send(message)
        return self.wait(message.id, timeout_s)

    def ask(self, cmd: str, body: Any = b"", **headers: Any) -> ZbusMessage:
        """Send a request, and return its reply, which must have status 200.

        Raises:
            Refused: it has another.
        """
        reply = self.invoke(self.command(cmd, body, **headers))
        if reply.status != 200:
            raise Refused(reply.status or 0, error_text(reply, self.profile))
        return reply

    def ask_json(self, cmd: str, **headers: Any) -> Any:
        """Send a request, and return the JSON of its reply."""
        return value_of(self.ask(cmd, **headers), self.profile)

    def refusal(self, cmd: str, body: Any = b"", **headers: Any) -> Refused:
        """Send a request, and return how it was refused."""
        try:
            reply = self.ask(cmd, body, **headers)
        except Refused as refusal:
            return refusal
        raise AssertionError(f"{cmd} {headers} was not refused: {reply}")

    def heartbeat(self) -> None:
        """Say that this client is alive; there is no reply."""
        self.post("heartbeat")

    @property
    def unclaimed(self) -> list[ZbusMessage]:
        """Replies that nobody has waited for."""
        with self._arrived:
            return [reply for replies in self._replies.values() for reply in replies]

    # -- its end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(WAIT_S)
        self._socket.close()

    def kill(self) -> None:
        """End the connection as a machine does that lost its power and came back: by a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _read(self) -> None:
        decoder = Decoder(self.profile)
        try:
            while data := self._socket.recv(65536):
                for message in decoder.feed(data):
                    self._take(message)
        except OSError:
            pass
        except Exception as crash:
            self.crash = crash
        with self._arrived:
            self.is_open = False
            self._arrived.notify_all()

    def _take(self, message: ZbusMessage) -> None:
        if message.headers.get("cmd") == "track_pub":
            self._on_push(message)
            return
        with self._arrived:
            self._replies.setdefault(message.id, []).append(message)
            self._arrived.notify_all()

    def _text(self, value: Any) -> str:
        return self.profile.flag(value) if isinstance(value, bool) else str(value)


class Broker:
    """The servers that a tracker names, with one connection to each; Go's client knows only the one it was given."""

    def __init__(self, address: str, profile: Profile, on_client: Callable[[MqClient], None]) -> None:
        self.profile = profile
        self.table = RouteTable(profile)
        self.pushes: list[ZbusMessage] = []
        """What the tracker said, in order."""
        self._address, self._on_client = address, on_client
        self._clients: dict[str, MqClient] = {}
        if profile.has_tracker:
            self._tracker = self.connect(address, self._take)
            self._tracker.post("track_sub")
            self.table.wait(lambda table: table.servers, "which servers there are", READY_S)

    def connect(self, address: str, on_push: Callable[[ZbusMessage], None] = lambda message: None) -> MqClient:
        """Open a connection that is not shared."""
        client = MqClient(address, self.profile, on_push)
        self._on_client(client)
        return client

    @property
    def servers(self) -> list[str]:
        """The addresses of all servers."""
        return list(self.table.servers) if self.profile.has_tracker else [self._address]

    def client_for(self, topic: str) -> MqClient:
        """Return the shared connection to the server that a message of `topic` goes to.

        Raises:
            NoServer: the topic has not been announced yet.
        """
        found = self.table.producers_of(topic) if self.profile.has_tracker else [self._address]
        if not found:
            raise NoServer(f"no server has topic {topic}")
        return self.client(found[0])

    def client(self, address: str) -> MqClient:
        """Return the shared connection to a server."""
        if address not in self._clients:
            self._clients[address] = self.connect(address)
        return self._clients[address]

    def admin(self, cmd: str, **headers: Any) -> list[Any]:
        """Send declare, query, remove or empty to all servers, and return the JSON or the text that they answer."""
        replies = [self.client(address).ask(cmd, **headers) for address in self.servers]
        return [
            value_of(reply, self.profile) if "content-type" in reply.headers else reply.body.decode()
            for reply in replies
        ]

    def declare(self, topic: str, **headers: Any) -> dict[str, Any]:
        """Declare a topic or a group at the one server of the test, and return what it says of it."""
        (info,) = self.admin("declare", topic=topic, **headers)
        return dict(info)

    def group(self, topic: str, group: str | None = None) -> dict[str, Any]:
        """Return what the one server of the test says of a group."""
        (info,) = self.admin("query", topic=topic, consume_group=group or topic)
        return check_group(info)

    def wait_topic(self, topic: str, condition: Callable[[dict[str, Any]], Any] = bool) -> None:
        """Wait until the tracker has said something of a topic; without a tracker there is nothing to wait for."""
        if self.profile.has_tracker:

            def is_told(table: RouteTable) -> Any:
                info = table.topic(topic)
                return info is not None and condition(info)

            self.table.wait(is_told, f"topic {topic}", READY_S)

    def _take(self, push: ZbusMessage) -> None:
        self.pushes.append(push)
        self.table.update(check_tracker(value_of(push, self.profile)))


class ZbusLab:
    """The zbus clients of one test at one broker."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._clients: list[MqClient] = []

    def client(self, profile: Profile) -> MqClient:
        """Open a connection."""
        client = MqClient(self.address, profile)
        self._clients.append(client)
        return client

    def broker(self, profile: Profile) -> Broker:
        """Start a tracker's subscriber, and what works by it."""
        return Broker(self.address, profile, self._clients.append)

    def close(self) -> None:
        """Close all connections, and raise what made a client crash."""
        for client in self._clients:
            client.close()
        for client in self._clients:
            if client.crash is not None:
                raise client.crash

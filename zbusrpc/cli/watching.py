"""Watching brokers: their rows, kept up to date by what each of them pushes once a second (docs/monitor.md).

One WebSocket a broker, the same that the page has. A broker that is lost is tried again each second; brokers that the
others know of are watched, too.
"""

import asyncio
import ssl
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from zbusrpc.config import client_security
from zbusrpc.transport.address import Address, address_named, would_expose
from zbusrpc.transport.tls import client_context, explain_tls

RETRY_S: Final = 1.0
OPEN_TIMEOUT_S: Final = 5.0
SILENCE_S: Final = 10.0
"""A broker that pushes nothing for so long is lost."""
_KEYS: Final = {"topics": ("topic",), "groups": ("topic", "group"), "services": ("service",)}


class View:
    """What one broker has told."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.server: dict[str, Any] | None = None
        """None while it is not connected."""
        self.servers: list[dict[str, Any]] = []
        self.rows: dict[str, dict[Any, dict[str, Any]]] = {name: {} for name in _KEYS}
        self.error = ""
        """Why it is not connected."""
        self.pushes = 0
        """Since it is: rates are known from the first one on."""

    def take(self, told: dict[str, Any]) -> None:
        """Take a Snapshot or a Push."""
        self.server, self.servers = told["server"], told["servers"]
        changed = told.get("changed")
        for name, fields in _KEYS.items():
            if changed is None:
                self.rows[name].clear()
            for row in told[name] if changed is None else changed[name]:
                self.rows[name][tuple(row[field] for field in fields)] = row
            for key in told.get("gone", {}).get(name, ()):
                self.rows[name].pop(tuple(key) if isinstance(key, list) else (key,), None)

    def lose(self, error: str) -> None:
        """Forget everything, and say why."""
        self.__init__(self.address)  # type: ignore[misc]
        self.error = error


class Watch:
    """Watches the brokers of a set."""

    def __init__(self, brokers: tuple[Address, ...]) -> None:
        """Take the brokers with which to begin.

        Raises:
            ConfigError: a file that TLS needs cannot be used.
        """
        self.views: dict[str, View] = {}
        """By address."""
        security = client_security()
        self._token = security.token.get_secret_value()
        self._has_tls = security.tls
        is_encrypted = security.tls or any(broker.tls for broker in brokers)
        self._tls = client_context(security) if is_encrypted else None
        self._brokers = brokers
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Watch":
        for broker in self._brokers:
            self._begin(broker)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def brokers(self) -> list[View]:
        """Return a view of each broker: one may be watched twice, by the name it was given and by its own."""
        found: dict[str, View] = {}
        for view in self.views.values():
            found.setdefault(view.server["address"] if view.server else str(view.address), view)
        return list(found.values())

    async def wait_first(self) -> None:
        """Return when each broker has told what there is and how fast it changes, or cannot be watched."""
        while not all(view.pushes or view.error for view in self.views.values()):
            self._news.clear()
            await self._news.wait()

    def _begin(self, broker: Address) -> None:
        view = self.views[f"{broker.host}:{broker.port}"] = View(broker)
        self._tasks[f"{broker.host}:{broker.port}"] = asyncio.create_task(self._watch(view))

    def _follow(self, view: View) -> None:
        """Watch the brokers that one knows of; those that nobody knows any more, and that were not named, no longer."""
        for row in view.servers:
            if row["is_self"] or row["address"] in self.views or row["state"] == "gone":
                continue
            told = address_named(row["address"])
            broker = told._replace(tls=row["url"].startswith("https:")) if told is not None else None
            if broker is not None and not would_expose(broker, self._brokers):
                self._begin(broker)

    async def _watch(self, view: View) -> None:
        while True:
            try:
                await self._listen(view)
            except InvalidStatus as error:
                view.lose(_refusal(bytes(error.response.body or b""), error.response.status_code))
            except ssl.SSLError as error:
                view.lose(explain_tls(error))
            except TimeoutError:
                view.lose("it does not answer")
            except (OSError, WebSocketException) as error:
                reason = error.strerror if isinstance(error, OSError) else ""
                view.lose((reason or str(error) or "the connection was lost").lower())
            self._news.set()
            await asyncio.sleep(RETRY_S)

    async def _listen(self, view: View) -> None:
        broker = view.address
        has_tls = broker.tls or self._has_tls
        uri = f"ws{'s' if has_tls else ''}://{broker._replace(tls=False)}/"
        headers = {"token": self._token} if self._token else {}
        async with connect(
            uri,
            ssl=self._tls if has_tls else None,
            additional_headers=headers,
            proxy=None,
            max_size=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=RETRY_S,
        ) as socket:
            await socket.send("GET /api/live HTTP/1.1\r\nid: live\r\ncontent-length: 0\r\n\r\n")
            status, body = await _receive(socket)
            if status != 200:
                view.lose(_refusal(body, status))
                return
            view.error = ""
            view.take(orjson.loads(body)["result"])
            while True:
                self._follow(view)
                self._news.set()
                status, body = await _receive(socket)
                view.take(orjson.loads(body))
                view.pushes += 1


async def _receive(socket: ClientConnection) -> tuple[int, bytes]:
    """Return the status and body of the next message."""
    data = await asyncio.wait_for(socket.recv(decode=False), SILENCE_S)
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def _refusal(body: bytes, status: int) -> str:
    """Return what an answer says is wrong."""
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or f"it answers {status}"

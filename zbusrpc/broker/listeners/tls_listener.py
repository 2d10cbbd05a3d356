"""The TLS listener: accepts connections, and has each become an arrival once its handshake is done.

asyncio's own server would do that, too, but it tells of a connection only after the handshake. Until then nobody would
count it, and a client could take every descriptor of the broker by beginning handshakes and not going on with them.

Promises: a place at the door is taken before the handshake and given back if it fails; a peer that speaks no TLS, shows
no certificate that is trusted, or is slow costs nobody else anything, and is one line of the log at level debug.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from zbusrpc.broker.listeners.arrival import Arrival
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import CLOSE_TIMEOUT_S, HELLO_TIMEOUT_S, format_peername

ACCEPT_PAUSE_S: Final = 1.0
"""After the system had no descriptor left: asyncio waits as long."""
log = get_logger("broker")


class TlsListener:
    """Listens on some sockets."""

    def __init__(self, sockets: list[socket.socket], context: ssl.SSLContext, arrive: Callable[[], Arrival]) -> None:
        self.sockets = sockets
        self._context = context
        self._arrive = arrive
        self._tasks = {asyncio.create_task(self._accept(one)) for one in sockets}

    def close(self) -> None:
        """Take no more connections, and cut those whose handshake is not done."""
        for task in self._tasks:
            task.cancel()
        for one in self.sockets:
            one.close()

    async def wait_closed(self) -> None:
        """Return when nothing of it runs any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peername = await loop.sock_accept(listening)
            except ConnectionError:  # it was gone before it was accepted
                continue
            except OSError as error:
                log.error("broker.accept_failed", reason=error.strerror or str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            arrival = self._arrive()
            if not arrival.enter(peername):
                connection.close()
                continue
            task = asyncio.create_task(self._shake_hands(arrival, connection, peername))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, arrival: Arrival, connection: socket.socket, peername: object) -> None:
        """Go on with a connection encrypted, or cut it."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: arrival,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HELLO_TIMEOUT_S,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )
        except OSError as error:
            arrival.leave()
            log.info("broker.tls_failed", peer=format_peername(peername), reason=str(error) or type(error).__name__)
        except Exception:  # a fault of ours must not go unseen
            arrival.leave()
            log.exception("broker.handshake_fault", peer=format_peername(peername))
        except asyncio.CancelledError:
            arrival.leave()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # TLS itself would be polite, and wait for the peer
            raise


async def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return a listening socket for each address of `host`; port 0 takes a free one, the same for all.

    Raises:
        OSError: it cannot be listened on; nothing is left open.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            one.bind((address[0], taken, *address[2:]))
            one.listen(backlog)
            one.setblocking(False)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets

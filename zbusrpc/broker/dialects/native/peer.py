"""A native peer: carries one session over a native connection."""

from typing import TYPE_CHECKING

from zbusrpc.broker.core.broker import UNKNOWN_TOKEN
from zbusrpc.broker.sessions.memory import SMALL_BYTES
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import LinkError, ProtocolError, ZbusError
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello

if TYPE_CHECKING:
    from zbusrpc.broker.assembly.server import Server

log = get_logger("broker")


class NativePeer:
    """The receiver of one native connection."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._session: Session | None = None
        self.connection = Connection(self, server.hello, is_client=False)

    def connection_opened(self, hello: Hello) -> Hello:
        """Begin the session and tell the client its number.

        Raises:
            ProtocolError: its token is unknown.
        """
        access, rights = self._server.access, None
        if access is not None:
            rights = access.rights_of(hello.token.get_secret_value())
            if rights is None:
                raise ProtocolError(UNKNOWN_TOKEN)
            if not access.may_ask(hello.token.get_secret_value()):
                self.connection.limit_input(SMALL_BYTES)
        name = f"{hello.name or 'client'}@{self.connection.peername}"
        self._session = self._server.connect(name, self, self.connection.message_bytes_max, rights)
        return self._server.hello.model_copy(update={"session": self._session.number, "name": self._server.broker.name})

    def message_received(self, message: Message) -> None:
        self._server.receive(self._session, message)  # type: ignore[arg-type]  # it was set when the peer said HELLO

    def turn_ended(self, held_bytes: int) -> None:
        server = self._server
        if held_bytes > SMALL_BYTES or server.input.used:
            server.input.hold(self, held_bytes)
        server.flush()

    def hold_back(self, is_held_back: bool) -> None:
        """Read no more, or go on: the broker holds too many parts of messages."""
        self.connection.hold_back(is_held_back)

    def cut_off(self) -> None:
        """End the connection: too much waits for those that do not read."""
        log.warning("broker.does_not_read", peer=self.connection.peername)
        self.connection.fail(LinkError(f"{self.connection.peername} does not read"))

    def congestion_changed(self, is_congested: bool) -> None:
        self._server.output.hold(self, self.connection.waiting_bytes if is_congested else 0)
        if self._session is not None:
            self._server.set_congested(self._session, is_congested)

    def connection_closed(self, error: ZbusError | None) -> None:
        self._server.door.leave(self)
        self._server.input.hold(self, 0)
        self._server.output.hold(self, 0)
        if self._session is not None:
            self._server.disconnect(self._session)
        if isinstance(error, ProtocolError):
            log.warning("broker.protocol_error", peer=self.connection.peername, error=str(error))
        elif isinstance(error, LinkError):
            log.debug("broker.disconnected", peer=self.connection.peername, reason=str(error))

    def send(self, messages: list[Message]) -> None:
        """Write messages of the core to the peer."""
        self.connection.write(messages)
        if self.connection.is_congested:
            self._server.output.hold(self, self.connection.waiting_bytes)

    def close(self, reason: str) -> None:
        """Say GOODBYE and close."""
        self.connection.close(reason, self._session.last_id if self._session is not None else 0)

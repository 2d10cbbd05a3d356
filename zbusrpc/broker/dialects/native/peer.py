"""A native peer: carries one session over a native connection."""

import asyncio

from zbusrpc.broker.core.broker import UNKNOWN_TOKEN
from zbusrpc.broker.core.turns import Place
from zbusrpc.broker.dialects.seams import Claim, House
from zbusrpc.broker.sessions.memory import SMALL_BYTES
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import LinkError, ProtocolError, ZbusError
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.sniff import Framing, sniff

log = get_logger("broker")


class NativeDialect:
    """Opens native connections."""

    def __init__(self, house: House) -> None:
        self._house = house

    def claims(self, first: bytes) -> Claim:
        """Say whether a connection begins as a frame does that is short, as HELLO is."""
        return Claim.YES if sniff(first[0]) is Framing.NATIVE else Claim.NO

    def open(self, place: Place) -> asyncio.Protocol:
        """Return what carries a connection on."""
        return NativePeer(self._house, place).connection


class NativePeer:
    """The receiver of one native connection."""

    def __init__(self, house: House, place: Place) -> None:
        self._house, self._place = house, place
        self._session: Session | None = None
        self.connection = Connection(self, house.hello, is_client=False)

    def connection_opened(self, hello: Hello) -> Hello:
        """Begin the session and tell the client its number.

        Raises:
            ProtocolError: its token is unknown.
        """
        access, rights = self._house.access, None
        if access is not None:
            rights = access.rights_of(hello.token.get_secret_value())
            if rights is None:
                raise ProtocolError(UNKNOWN_TOKEN)
            if not access.may_ask(hello.token.get_secret_value()):
                self.connection.limit_input(SMALL_BYTES)
        name = f"{hello.name or 'client'}@{self.connection.peername}"
        self._session = self._house.turns.connect(name, self, self._place, self.connection.message_bytes_max, rights)
        return self._house.hello.model_copy(
            update={"session": self._session.number, "name": self._house.turns.broker.name}
        )

    def message_received(self, message: Message) -> None:
        self._house.turns.receive(self._session, message)  # type: ignore[arg-type]  # it was set when the peer said HELLO

    def turn_ended(self, held_bytes: int) -> None:
        house = self._house
        if held_bytes > SMALL_BYTES or house.input.used:
            house.input.hold(self, held_bytes)
        house.turns.flush()

    def hold_back(self, is_held_back: bool) -> None:
        """Read no more, or go on: the broker holds too many parts of messages."""
        self.connection.hold_back(is_held_back)

    def cut_off(self) -> None:
        """End the connection: too much waits for those that do not read."""
        log.warning("broker.does_not_read", peer=self.connection.peername)
        self.connection.fail(LinkError(f"{self.connection.peername} does not read"))

    def congestion_changed(self, is_congested: bool) -> None:
        self._house.output.hold(self, self.connection.waiting_bytes if is_congested else 0)
        if self._session is not None:
            self._house.turns.set_congested(self._session, is_congested)

    def connection_closed(self, error: ZbusError | None) -> None:
        self._place.leave()
        self._house.input.hold(self, 0)
        self._house.output.hold(self, 0)
        if self._session is not None:
            self._house.turns.disconnect(self._session)
        if isinstance(error, ProtocolError):
            log.warning("broker.protocol_error", peer=self.connection.peername, error=str(error))
        elif isinstance(error, LinkError):
            log.debug("broker.disconnected", peer=self.connection.peername, reason=str(error))

    def send(self, messages: list[Message]) -> None:
        """Write messages of the core to the peer."""
        self.connection.write(messages)
        if self.connection.is_congested:
            self._house.output.hold(self, self.connection.waiting_bytes)

    def close(self, reason: str) -> None:
        """Say GOODBYE and close."""
        self.connection.close(reason, self._session.last_id if self._session is not None else 0)

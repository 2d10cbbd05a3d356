"""An endpoint: one broker as the clients of an event loop use it, with its link and what is measured there.

    dialled ──> open, `address` known ──> told by TRACK, `is_known` ──> may be chosen
                                     └── silent for a while: `is_suspect`, not chosen; for longer: dropped

A broker is called by the address at which it is dialled until it says by which one trackers call it. It is asked what
it has as soon as it is there: a tracker tells of all brokers, the others each of itself.
"""

from typing import Final, Protocol

from zbusrpc.cluster.channel import Channel, Then
from zbusrpc.cluster.health import Health
from zbusrpc.cluster.topology import Topology
from zbusrpc.errors import Code, LinkError, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import SELF_ONLY, parse_topology

REDIAL_S: Final = 0.8
"""Longest wait between two dials: a broker that is back is used again within a second."""
SILENT_PROBES_MAX: Final = 4
"""A broker that has answered nothing for so many probes is given up."""
RENEW_S: Final = 30.0
"""A broker that has refused the token, and may have read its tokens again, is asked again after so long."""

log = get_logger("fleet")


class Owner(Protocol):
    """Whoever has endpoints."""

    topology: Topology
    hello: Hello | None
    """What brokers are told first; None for the name of the program."""

    def endpoint_changed(self, endpoint: "Endpoint") -> None:
        """Its link came or went, or what it knows, or it may be chosen or not."""

    def topology_changed(self) -> None:
        """Something else is known of brokers."""


class Endpoint:
    """One broker, as a client uses it."""

    def __init__(self, owner: Owner, dialled: Address, *, is_tracker: bool, is_seed: bool) -> None:
        """Begin to open a link.

        Args:
            dialled: Where the broker is.
            is_tracker: Whether it is to tell of all brokers.
            is_seed: Whether the user has named it: then there is a link as long as there is an owner.
        """
        self.dialled = dialled
        self.address = str(dialled)
        """Its name among brokers."""
        self.is_tracker, self.is_seed = is_tracker, is_seed
        self.is_known = False
        """Whether it has said what it has, or that it does not tell."""
        self.is_mere_tracker = False
        """Whether it tells of brokers, and is none itself."""
        self.is_suspect = False
        """Whether it has been silent for longer than it should."""
        self.is_doubled = False
        """Whether another endpoint has a link to the same broker."""
        self.health = Health()
        self._owner = owner
        self.channel = self._dial()
        self._blocks_before = self._silent_probes = 0
        self._is_failure_told = False
        """Whether those who wait for a link know that it cannot be opened now."""
        self._over_since: float | None = None
        """Since when the link has ended for good."""

    def _dial(self) -> Channel:
        return Channel(self.dialled, self, hello=self._owner.hello, wait_s_max=REDIAL_S)

    def __repr__(self) -> str:
        return f"<endpoint of broker {self.address}>"

    @property
    def connection(self) -> Connection | None:
        """The open connection, or None."""
        return self.channel.connection

    @property
    def is_usable(self) -> bool:
        """Whether it may be chosen."""
        is_open = self.channel.connection is not None
        return is_open and self.is_known and not self.is_suspect and not self.is_doubled

    @property
    def is_promising(self) -> bool:
        """Whether it may be chosen soon: it is dialled for the first time, or has not said yet what it has."""
        return self.channel.error is None and not self.is_usable and not self.is_doubled

    @property
    def cost(self) -> float:
        """How long a call is expected to wait here."""
        return self.health.cost(self.channel.loop.time())

    async def request(self, message: Message, deadline: float | None, *, wait_for_ready: bool = False) -> Message:
        """Send a request and return its reply; see `Channel.request`."""
        time, health = self.channel.loop.time, self.health
        began = time()
        health.begun(began)
        is_ok = True
        try:
            return await self.channel.request(message, deadline, wait_for_ready=wait_for_ready)
        except RpcError as error:
            is_ok = error.code is not Code.UNAVAILABLE
            raise
        finally:
            now = time()
            health.ended(now, now - began, is_ok)

    def renew(self) -> None:
        """Begin anew where the broker has refused the token."""
        if self.channel.is_over:
            self.channel = self._dial()
            self._is_failure_told, self._over_since = False, None

    def track(self) -> None:
        """Have the broker tell of all brokers from now on."""
        if not self.is_tracker:
            self.is_tracker = True
            if self.connection is not None:
                self._ask(self.connection)

    def set_doubled(self, is_doubled: bool) -> None:
        """Note whether another link leads to the same broker; what was told by that one is asked for again."""
        has_to_ask = self.is_doubled and not is_doubled
        self.is_doubled = is_doubled
        if has_to_ask and self.connection is not None:
            self._ask(self.connection)

    async def close(self) -> None:
        """Close the link; whoever waits for a reply is told that it is lost."""
        await self.channel.close()

    # -- what the channel calls --------------------------------------------------------------------------

    def channel_opened(self, theirs: Hello) -> None:
        if theirs.address and theirs.address != self.address:
            self._owner.topology.renamed(self.address, theirs.address)
            self.address = theirs.address
        self.is_suspect = self._is_failure_told = False
        self._blocks_before = self._silent_probes = 0
        self.health.opened(self.channel.loop.time())
        connection = self.connection
        assert connection is not None
        self._ask(connection)
        self._owner.endpoint_changed(self)

    def _ask(self, connection: Connection) -> None:
        body = b"" if self.is_tracker else SELF_ONLY
        self.channel.begin(Message(Kind.TRACK, body=body), Then(self.note_answer), connection, is_urgent=True)

    def channel_lost(self, error: ZbusError) -> None:
        self.is_known = self.is_suspect = False
        self.health.lost(self.channel.loop.time())
        if not self.is_doubled:
            self._owner.topology.lost(self.address)
        self._owner.endpoint_changed(self)

    def topology_told(self, message: Message) -> None:
        self._take(message, is_reply=False)
        self._owner.topology_changed()

    def congestion_changed(self) -> None:
        """Do nothing: a call waits until the broker has read enough."""

    def channel_ended(self) -> None:
        self._over_since = self.channel.loop.time()
        self._owner.endpoint_changed(self)

    def note_answer(self, reply: Message) -> None:
        """Take in the answer to TRACK; a broker that does not want to tell is known by what it serves."""
        self.is_known = True
        if not reply.flags & Flag.ERROR:
            self._take(reply, is_reply=True)
        self._owner.endpoint_changed(self)

    def _take(self, message: Message, *, is_reply: bool) -> None:
        """Take in what is told; a broker that tells what nobody can read may yet be called."""
        try:
            told = parse_topology(message.body, is_reply=is_reply)
        except RpcError as error:
            log.warning("fleet.topology_unreadable", broker=self.address, reason=error.message)
            return
        if is_reply:
            self.is_mere_tracker = self.address not in told.servers
        self._owner.topology.told(self.address, told)

    # -- whether it lives --------------------------------------------------------------------------------

    def probe(self) -> None:
        """See whether anything was heard since the last probe; ask, suspect, or give up a broker that is silent.

        A broker of which nobody waits for anything is only asked.
        """
        connection = self.connection
        if connection is None:
            self._probe_away()
            return
        blocks, self._blocks_before = self._blocks_before, connection.blocks_received
        self._silent_probes = 0 if blocks != connection.blocks_received else self._silent_probes + 1
        if self._silent_probes:
            connection.send(Message(Kind.PING))
        if self._silent_probes >= SILENT_PROBES_MAX and self.channel.is_waited_for:
            self.channel.drop(LinkError(f"broker {self.address} does not answer any more"))
        elif self.is_suspect != (self._silent_probes > 1):
            self.is_suspect = not self.is_suspect
            self._owner.endpoint_changed(self)

    def _probe_away(self) -> None:
        """Tell, once, that a dial has failed; dial again, seldom, where the link has ended for good."""
        if self.channel.error is not None and not self._is_failure_told:
            self._is_failure_told = True
            self._owner.endpoint_changed(self)
        if self._over_since is not None and self.channel.loop.time() - self._over_since >= RENEW_S:
            self.renew()

    def forgive(self) -> None:
        """Forget its silence: nobody has listened."""
        self._silent_probes = 0


class Choice:
    """An endpoint as a candidate for one topic."""

    __slots__ = ("address", "consumers", "endpoint")

    def __init__(self, endpoint: Endpoint, consumers: int) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.consumers = consumers

    @property
    def cost(self) -> float:
        """How long a call is expected to wait there."""
        return self.endpoint.cost

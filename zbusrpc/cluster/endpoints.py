"""The endpoints of a fleet: one for each broker that it has to do with.

    seeds ──> further trackers, and brokers that somebody needs: `open` ──> let go when they are gone

A broker may be known by several addresses: only one of the links that lead to it is used, that of a seed first, and
what nobody has named is not dialled again for a while. Where all seeds have TLS, nobody is dialled without.

Promises: at most ENDPOINTS_MAX links besides those of seeds; none is opened after the end, and none is left then.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from zbusrpc.cluster.admission import Admission
from zbusrpc.cluster.endpoint import Endpoint, Owner
from zbusrpc.cluster.loops import begin
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address, address_named

TRACKERS_MAX: Final = 3
"""So many brokers are asked for all others: where the seeds are fewer, more that the seeds tell of."""
ENDPOINTS_MAX: Final = 128
"""Each takes a file descriptor, of which a process often has 1024; a tracker may tell of far more brokers."""
DOUBLE_S: Final = 30.0
"""An address that led to a broker which has a link already is not dialled again for so long."""

log = get_logger("fleet")


class Endpoints:
    """The links of a fleet."""

    def __init__(self, owner: Owner, seeds: Iterable[Address]) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._all: dict[Address, Endpoint] = {}
        self._doubles: dict[str, tuple[str, float]] = {}
        """Addresses that led where another one does: to whom, and until when they are left alone."""
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        named = dict.fromkeys(seeds)
        self._admission = Admission(named, log, "fleet.broker_without_tls")
        self.seeds = [self._add(seed, is_seed=True) for seed in named]
        """Of the brokers that the user has named."""

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def open(self, address: str) -> Endpoint | None:
        """Return the endpoint of a broker that trackers tell of; None where there is and will be none."""
        named = address_named(address)
        endpoint = self._all.get(named) if named is not None else None
        if endpoint is not None:
            return endpoint
        is_full = len(self._all) - len(self.seeds) >= ENDPOINTS_MAX
        if self._is_closed or is_full or self._leads_elsewhere(address):
            return None
        dialled = self._admission.admits(address)
        return self._add(dialled, is_seed=False) if dialled is not None else None

    def _add(self, dialled: Address, *, is_seed: bool) -> Endpoint:
        endpoint = self._all[dialled] = Endpoint(self._owner, dialled, is_tracker=is_seed, is_seed=is_seed)
        return endpoint

    def _leads_elsewhere(self, address: str) -> bool:
        """Whether an address led, a while ago, to a broker that another link leads to now."""
        name, until = self._doubles.get(address, ("", 0.0))
        is_linked = any(endpoint.address == name and endpoint.connection is not None for endpoint in self._all.values())
        return is_linked and until > self._loop.time()

    def by_address(self) -> dict[str, Endpoint]:
        """Return one endpoint for each broker, by its name among brokers: one that has a link where there is any.

        A broker that was named may say another address, which leads nowhere.
        """
        linked_last = sorted(self._all.values(), key=lambda endpoint: endpoint.connection is not None)
        return {endpoint.address: endpoint for endpoint in linked_last if not endpoint.is_doubled}

    # -- what follows from a change ----------------------------------------------------------------------

    def find_doubles(self) -> None:
        """Use one of the links that lead to the same broker, those of seeds first."""
        seen: set[str] = set()
        for endpoint in sorted(self._all.values(), key=lambda one: not one.is_seed):
            is_open = endpoint.connection is not None
            endpoint.set_doubled(is_open and endpoint.address in seen)
            if is_open:
                seen.add(endpoint.address)

    def find_trackers(self) -> None:
        """Ask more brokers for all others, where few were named."""
        tracking = [endpoint for endpoint in self._all.values() if endpoint.is_tracker and not endpoint.is_doubled]
        known = {endpoint.address for endpoint in tracking} | {str(endpoint.dialled) for endpoint in tracking}
        wanted = TRACKERS_MAX - len(tracking)
        by_address = self.by_address() if wanted > 0 else {}
        for address in sorted(self._owner.topology.trackers - known):
            if wanted <= 0:
                return
            endpoint = by_address.get(address) or self.open(address)
            if endpoint is not None:
                endpoint.track()
                wanted -= 1

    def let_go(self) -> None:
        """Close the links to brokers that are gone, and those that lead where another one does."""
        topology = self._owner.topology
        for dialled, endpoint in list(self._all.items()):
            is_told = endpoint.address in topology.brokers or str(dialled) in topology.trackers
            is_gone = endpoint.connection is None and not is_told
            if endpoint.is_seed or not (is_gone or endpoint.is_doubled) or endpoint.channel.is_waited_for:
                continue
            del self._all[dialled]
            if endpoint.is_doubled:
                self._note_double(str(dialled), endpoint.address)
            task = begin(self._loop, endpoint.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _note_double(self, address: str, name: str) -> None:
        now = self._loop.time()
        self._doubles = {one: double for one, double in self._doubles.items() if double[1] > now}
        self._doubles[address] = name, now + DOUBLE_S

    # -- the end -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all links; whoever waits for a reply is told that it is lost."""
        self._is_closed = True
        await asyncio.gather(*[endpoint.close() for endpoint in self])
        await asyncio.gather(*self._closing)

    def forget(self) -> None:
        """Be closed in a forked child, without touching what belongs to its parent."""
        self._is_closed = True
        for endpoint in self:
            endpoint.channel.is_closed = True

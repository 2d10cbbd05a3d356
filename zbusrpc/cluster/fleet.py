"""The fleet: the brokers that one event loop uses, found by the addresses that a user has named.

    seeds ──TRACK──> topology ──> stations of the brokers that have the topics asked for ──> one is chosen for each call

The seeds are trackers: each tells which brokers there are. A link is opened to those that have live consumers of a
topic as soon as somebody asks for it, and kept. A call goes to one of them; where there is none, to the first seed,
which says what is wrong. What a broker has refused before it ran goes to another one. A broker that answers nothing is
left within 2 s; see `station.py`.

Promises: a lone broker costs a call nothing; nothing is sent twice that may have run.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

from zbusrpc.cluster.endpoint import Choice, Station
from zbusrpc.cluster.endpoints import Stations
from zbusrpc.cluster.policy import is_untouched
from zbusrpc.cluster.selection import LeastLoaded, Selector, select_by
from zbusrpc.cluster.topology import Topology
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Message
from zbusrpc.outcome import not_run
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello

PROBE_S: Final = 0.35
"""How often brokers are looked at while there is more than one; five of these are under 2 s."""
RUN_MAX: Final = 16
"""Calls in a row that the least loaded broker takes: those that leave together are written together (42 us, and 36)."""
LINK_S: Final = 1.0
"""How long a call waits for links to further brokers: the first with a key, and one that another broker has refused."""
LATE_S: Final = 0.2
"""An event loop that is later than this for its own timer has not listened either."""
_ERROR: Final = int(Flag.ERROR)
_WAIT_FOR_READY: Final = int(Flag.WAIT_FOR_READY)
_LEAST_LOADED: Final = LeastLoaded()


class Fleet:
    """The brokers of one event loop that some seeds lead to."""

    def __init__(self, seeds: tuple[Address, ...], *, hello: Hello | None = None, probe_s: float | None = None) -> None:
        """Begin to open links to the seeds.

        Args:
            seeds: The brokers that the user has named.
            hello: What brokers are told first; None for the name of the program.
            probe_s: How often brokers are looked at while there is more than one; None for PROBE_S.
        """
        self.hello = hello
        self._probe_s = probe_s or PROBE_S
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        """Whether another one is to be made: after a fork, or at the end of the loop."""
        self.topology = Topology()
        self.listeners: dict[object, Callable[[], None]] = {}
        """Who is told that brokers came or went, or have other topics, by whatever names them."""
        self._routes: dict[bytes, list[Choice]] = {}
        self._is_alone = True
        self._runs: dict[bytes, tuple[Station, int]] = {}
        """Who takes the next calls of a topic, and how many."""
        self._complete: set[bytes] = set()
        """Topics of which no further broker is about to be linked."""
        self._changed: asyncio.Future[None] | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._stations = Stations(self, seeds)
        self.seeds = self._stations.seeds
        """Stations of the brokers that the user has named."""

    # -- calls -------------------------------------------------------------------------------------------

    def request(
        self,
        message: Message,
        deadline: float | None,
        *,
        wait_for_ready: bool = False,
        selector: Selector = _LEAST_LOADED,
        key: str | None = None,
    ) -> Coroutine[Any, Any, Message]:
        """Send a request to a broker that serves its topic and return the reply, which may be an error.

        Args:
            deadline: When to give up, by `time.monotonic()`.
            wait_for_ready: Wait for a broker until then, too.
            selector: Who chooses where there are several.
            key: Requests with the same key go to the same broker, as long as it is there.

        Raises:
            RpcError: as of `Caller.request`.
            UsageError: the selector cannot select.
            asyncio.CancelledError: the caller gave up; the service is told.
        """
        if self._is_alone:
            caller = self.seeds[0].caller
            if caller.connection is not None:
                return caller.request(message, deadline, wait_for_ready=wait_for_ready)
        return self._request(message, deadline, wait_for_ready, selector, key)

    async def _request(
        self, message: Message, deadline: float | None, wait_for_ready: bool, selector: Selector, key: str | None
    ) -> Message:
        tried: list[Station] = []
        topic, has_all = message.topic, key is None or message.topic in self._complete
        while True:
            station = self.choose(topic, selector, key, tried)
            if station is None:
                await self.wait_station(topic, deadline, wait_for_ready=wait_for_ready)
                continue
            if not has_all:
                has_all = True
                await self._wait_links(lambda: self.is_expecting(topic))
                self._complete.add(topic)
                continue
            waits = wait_for_ready and not self._has_others(topic, tried, station)
            if wait_for_ready and not waits:  # what this broker lacks another may have: only the last one is waited for
                message.flags &= ~_WAIT_FOR_READY
            try:
                reply = await station.request(message, deadline, wait_for_ready=waits)
                if not reply.flags & _ERROR or not is_untouched(reply):
                    return reply
                if not self._has_others(topic, tried, station):
                    await self._wait_links(lambda: any(other.is_promising for other in self._stations))
                    if not self._has_others(topic, tried, station):
                        return reply
            except RpcError as error:
                if (
                    error.may_have_run
                    or error.code is not Code.UNAVAILABLE
                    or not self._has_others(topic, tried, station)
                ):
                    raise
            tried.append(station)
            flags = message.flags | (_WAIT_FOR_READY if wait_for_ready else 0)
            message = Message(message.kind, 0, message.topic, message.body, message.header_bytes, flags)

    async def _wait_links(self, are_coming: Callable[[], bool]) -> None:
        """Wait a moment for links: who has a key, or what others lack, depends on which brokers there are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINK_S):
                while are_coming() and not self.is_closed:
                    await self.wait_change()

    def choose(
        self,
        topic: bytes,
        selector: Selector = _LEAST_LOADED,
        key: str | None = None,
        tried: Collection[Station] = (),
    ) -> Station | None:
        """Return the station for the next call of a topic, or None where none is open that could be."""
        route = self._routes.get(topic)
        if route is None:
            route = self.route(topic)
        if tried:
            route = [choice for choice in route if choice.station not in tried] or route
        if len(route) > 1:
            if key is None and type(selector) is LeastLoaded and not tried:
                return self._choose_for_run(topic, route, selector)
            return select_by(selector, route, key)[0].station
        return route[0].station if route else None

    def _choose_for_run(self, topic: bytes, route: list[Choice], selector: LeastLoaded) -> Station:
        """Return the station for this call and some of those after it."""
        station, left = self._runs.get(topic, (None, 0))
        if station is None or not left:
            station, left = select_by(selector, route, None)[0].station, RUN_MAX
        self._runs[topic] = station, left - 1
        return station

    def _has_others(self, topic: bytes, tried: list[Station], station: Station) -> bool:
        """Whether there is a station left that was not tried, or is not open yet."""
        return any(choice.station is not station and choice.station not in tried for choice in self.route(topic))

    # -- which brokers -----------------------------------------------------------------------------------

    def route(self, topic: bytes) -> list[Choice]:
        """Return the stations that serve a topic, by address; where none does, the one that will say so."""
        route = self._routes.get(topic)
        if route is None:
            route = self.choices(topic)
            serving = [choice for choice in route if choice.consumers]
            if serving:
                route = serving
            elif self.is_expecting(topic, consumers=1):
                route = []
            else:
                default = self._default()
                route = [Choice(default, 0)] if default is not None else []
            self._routes[topic] = route
        return route

    def choices(self, topic: bytes) -> list[Choice]:
        """Return the stations that have a topic, with or without consumers, by address; links are opened to them."""
        name = topic.decode(errors="replace")
        stations = self._stations.by_address()
        found: dict[Station, Choice] = {}  # one for each, also where a tracker tells of a broker by two names
        for address, broker in self.topology.brokers.items():
            facts = broker.topics.get(name)
            if facts is None or broker.state != "live":
                continue
            station = stations.get(address) or self._stations.open(address)
            if station is not None and station.is_usable:
                found.setdefault(station, Choice(station, facts[0]))
        return sorted(found.values(), key=attrgetter("address"))

    def everyone(self) -> list[Choice]:
        """Return the stations of all brokers that take work, by address; links are opened to them."""
        stations = self._stations.by_address()
        known = {
            address: stations.get(address) or self._stations.open(address)
            for address, broker in self.topology.brokers.items()
            if broker.state == "live"
        }
        found = {station for station in known.values() if station is not None and station.is_usable}
        others = {seed for seed in self.seeds if seed.is_usable and seed.address not in self.topology.brokers}
        found |= {seed for seed in others if not seed.is_mere_tracker or not known}
        return sorted((Choice(station, 0) for station in found), key=attrgetter("address"))

    def is_expecting(self, topic: bytes, *, consumers: int = 0) -> bool:
        """Whether a link to a broker that has a topic, with so many consumers, may be open soon."""
        name = topic.decode(errors="replace")
        having = [one for one in self.topology.brokers.values() if one.state == "live" and name in one.topics]
        wanted = {one.address for one in having if one.topics[name][0] >= consumers}
        return any(station.is_promising and station.address in wanted for station in self._stations)

    def _default(self) -> Station | None:
        """Return a station to ask where no broker is known to serve; None while a link to one may be open soon."""
        open_ = [station for station in (*self.seeds, *self._stations) if station.is_usable]
        brokers = [station for station in open_ if not station.is_mere_tracker]
        if not brokers and self.is_linking():
            return None
        live = [station for station in brokers if self._state(station) == "live"]
        return next(iter(live or brokers or open_), None)

    def is_linking(self) -> bool:
        """Whether a link to any broker may be open soon; one is opened where there is none."""
        stations = self._stations.by_address()
        addresses = [address for address, broker in self.topology.brokers.items() if broker.state == "live"]
        found = (stations.get(address) or self._stations.open(address) for address in addresses)
        return any(station is not None and station.is_promising for station in found)

    def _state(self, station: Station) -> str:
        broker = self.topology.brokers.get(station.address)
        return broker.state if broker is not None else "live"

    # -- waiting -----------------------------------------------------------------------------------------

    async def wait_station(self, topic: bytes, deadline: float | None, *, wait_for_ready: bool) -> Station:
        """Return a station for a topic once there is one: after one try, or until the deadline.

        Raises:
            RpcError: UNAVAILABLE or UNAUTHENTICATED with the reason, or DEADLINE_EXCEEDED; nothing was sent.
        """
        attempts: dict[Station, asyncio.Task[None]] = {}
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                while (station := self.choose(topic)) is None:
                    if self.is_closed:
                        raise self._unreachable()
                    self._try_all(attempts)
                    if self._is_nothing_on_its_way(attempts) and (not wait_for_ready or self.is_refused):
                        raise self._unreachable()
                    await self.wait_change()
                return station
        except TimeoutError:
            reason = self.reason() or f"no answer from broker {self.name}"
            raise not_run(Code.DEADLINE_EXCEEDED, f"the deadline passed: {reason}") from None
        finally:
            for task in attempts.values():
                task.cancel()

    async def settle(self) -> None:
        """Return when every broker was dialled once, and those that are there have said what they have."""
        attempts: dict[Station, asyncio.Task[None]] = {}
        try:
            while not self.is_closed:
                self._try_all(attempts)
                if self._is_nothing_on_its_way(attempts):
                    return
                await self.wait_change()
        finally:
            for task in attempts.values():
                task.cancel()

    def _try_all(self, attempts: dict[Station, asyncio.Task[None]]) -> None:
        """Have every broker that has no link dialled once, now."""
        for station in self._stations:
            if station.connection is None and station not in attempts:
                station.renew()
                task = attempts[station] = self.loop.create_task(station.caller.wait_attempt())
                task.add_done_callback(self._note_attempt)

    def _is_nothing_on_its_way(self, attempts: dict[Station, asyncio.Task[None]]) -> bool:
        """Whether every broker was dialled, and those that are there have said what they have."""
        is_asked = any(station.connection is not None and not station.is_known for station in self._stations)
        return not is_asked and all(task.done() for task in attempts.values())

    async def wait_change(self) -> None:
        """Return when something about brokers has changed."""
        if self._changed is None or self._changed.done():
            self._changed = self.loop.create_future()
        await asyncio.shield(self._changed)

    def knows(self, station: Station) -> bool:
        """Say whether a station is one of the fleet's still."""
        return station in self._stations

    @property
    def name(self) -> str:
        """The brokers that the user has named, for people."""
        return ";".join(str(seed.dialled) for seed in self.seeds)

    def reason(self) -> str:
        """Say why the brokers that the user has named cannot be reached, where that is known."""
        reasons = dict.fromkeys(str(seed.caller.error) for seed in self.seeds if seed.caller.error is not None)
        return "; ".join(reasons)

    @property
    def is_refused(self) -> bool:
        """Whether none of the brokers that the user has named knows the token."""
        return all(seed.caller.is_refused for seed in self.seeds)

    def _unreachable(self) -> RpcError:
        code = Code.UNAUTHENTICATED if self.is_refused else Code.UNAVAILABLE
        return not_run(code, self.reason() or f"no answer from broker {self.name}")

    # -- what stations call ------------------------------------------------------------------------------

    def station_changed(self, station: Station) -> None:
        """Take note that a station came, went, or knows more."""
        self._stations.find_doubles()
        self.topology_changed()

    def topology_changed(self) -> None:
        """Take note that something else is known of brokers."""
        self._routes.clear()
        self._runs.clear()
        self._complete.clear()
        if not self.is_closed:
            self._stations.find_trackers()
            self._stations.let_go()
        others = len(self._stations) > 1 or bool(self.topology.brokers.keys() - {self.seeds[0].address})
        self._is_alone = not others and self.seeds[0].is_usable
        if others and self._probe_timer is None and not self.is_closed:
            self._probe_later()
        self._note_change()
        for listener in list(self.listeners.values()):
            listener()

    def _note_attempt(self, _: object) -> None:
        self._routes.clear()
        self._note_change()

    def _note_change(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _probe(self, due: float) -> None:
        """Look at all brokers, unless this loop itself has not listened."""
        now = self.loop.time()
        for station in self._stations:
            if now - due > LATE_S:
                station.forgive()
            station.probe()
        self._probe_timer = None  # not before: what a probe changes must not begin a second series
        if not self._is_alone and not self.is_closed:
            self._probe_later()

    def _probe_later(self) -> None:
        self._probe_timer = self.loop.call_later(self._probe_s, self._probe, self.loop.time() + self._probe_s)

    # -- the end -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all links; whoever waits for a reply is told that it is lost."""
        self.is_closed = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        await self._stations.close()
        self._note_change()

    def forget(self) -> None:
        """Be closed in a forked child, without touching what belongs to its parent."""
        self.is_closed = True
        self._stations.forget()

"""The fleet: the brokers that one event loop uses, found by the addresses that a user has named.

    seeds ──TRACK──> topology ──> endpoints of brokers that have the topics asked for ──> one is chosen for each call

The seeds are trackers: each tells which brokers there are. A link is opened to those that have live consumers of a
topic as soon as somebody asks for it, and kept. A call goes to one of them; where there is none, to the first seed,
which says what is wrong. What a broker has refused before it ran goes to another one. A broker that answers nothing is
left within 2 s; see `endpoint.py`.

Promises: a lone broker costs a call nothing; nothing is sent twice that may have run.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

from zbusrpc.cluster.endpoint import Choice, Endpoint
from zbusrpc.cluster.endpoints import Endpoints
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
        self._runs: dict[bytes, tuple[Endpoint, int]] = {}
        """Who takes the next calls of a topic, and how many."""
        self._complete: set[bytes] = set()
        """Topics of which no further broker is about to be linked."""
        self._changed: asyncio.Future[None] | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._endpoints = Endpoints(self, seeds)
        self.seeds = self._endpoints.seeds
        """Endpoints of the brokers that the user has named."""

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
            RpcError: as of `Channel.request`.
            UsageError: the selector cannot select.
            asyncio.CancelledError: the caller gave up; the service is told.
        """
        if self._is_alone:
            channel = self.seeds[0].channel
            if channel.connection is not None:
                return channel.request(message, deadline, wait_for_ready=wait_for_ready)
        return self._request(message, deadline, wait_for_ready, selector, key)

    async def _request(
        self, message: Message, deadline: float | None, wait_for_ready: bool, selector: Selector, key: str | None
    ) -> Message:
        tried: list[Endpoint] = []
        topic, has_all = message.topic, key is None or message.topic in self._complete
        while True:
            endpoint = self.choose(topic, selector, key, tried)
            if endpoint is None:
                await self.wait_endpoint(topic, deadline, wait_for_ready=wait_for_ready)
                continue
            if not has_all:
                has_all = True
                await self._wait_links(lambda: self.is_expecting(topic))
                self._complete.add(topic)
                continue
            waits = wait_for_ready and not self._has_others(topic, tried, endpoint)
            if wait_for_ready and not waits:  # what this broker lacks another may have: only the last one is waited for
                message.flags &= ~_WAIT_FOR_READY
            try:
                reply = await endpoint.request(message, deadline, wait_for_ready=waits)
                if not reply.flags & _ERROR or not is_untouched(reply):
                    return reply
                if not self._has_others(topic, tried, endpoint):
                    await self._wait_links(lambda: any(other.is_promising for other in self._endpoints))
                    if not self._has_others(topic, tried, endpoint):
                        return reply
            except RpcError as error:
                if (
                    error.may_have_run
                    or error.code is not Code.UNAVAILABLE
                    or not self._has_others(topic, tried, endpoint)
                ):
                    raise
            tried.append(endpoint)
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
        tried: Collection[Endpoint] = (),
    ) -> Endpoint | None:
        """Return the endpoint for the next call of a topic, or None where none is open that could be."""
        route = self._routes.get(topic)
        if route is None:
            route = self.route(topic)
        if tried:
            route = [choice for choice in route if choice.endpoint not in tried] or route
        if len(route) > 1:
            if key is None and type(selector) is LeastLoaded and not tried:
                return self._choose_for_run(topic, route, selector)
            return select_by(selector, route, key)[0].endpoint
        return route[0].endpoint if route else None

    def _choose_for_run(self, topic: bytes, route: list[Choice], selector: LeastLoaded) -> Endpoint:
        """Return the endpoint for this call and some of those after it."""
        endpoint, left = self._runs.get(topic, (None, 0))
        if endpoint is None or not left:
            endpoint, left = select_by(selector, route, None)[0].endpoint, RUN_MAX
        self._runs[topic] = endpoint, left - 1
        return endpoint

    def _has_others(self, topic: bytes, tried: list[Endpoint], endpoint: Endpoint) -> bool:
        """Whether there is an endpoint left that was not tried, or is not open yet."""
        return any(choice.endpoint is not endpoint and choice.endpoint not in tried for choice in self.route(topic))

    # -- which brokers -----------------------------------------------------------------------------------

    def route(self, topic: bytes) -> list[Choice]:
        """Return the endpoints that serve a topic, by address; where none does, the one that will say so."""
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
        """Return the endpoints that have a topic, with or without consumers, by address; links are opened to them."""
        name = topic.decode(errors="replace")
        endpoints = self._endpoints.by_address()
        found: dict[Endpoint, Choice] = {}  # one for each, also where a tracker tells of a broker by two names
        for address, broker in self.topology.brokers.items():
            facts = broker.topics.get(name)
            if facts is None or broker.state != "live":
                continue
            endpoint = endpoints.get(address) or self._endpoints.open(address)
            if endpoint is not None and endpoint.is_usable:
                found.setdefault(endpoint, Choice(endpoint, facts[0]))
        return sorted(found.values(), key=attrgetter("address"))

    def everyone(self) -> list[Choice]:
        """Return the endpoints of all brokers that take work, by address; links are opened to them."""
        endpoints = self._endpoints.by_address()
        known = {
            address: endpoints.get(address) or self._endpoints.open(address)
            for address, broker in self.topology.brokers.items()
            if broker.state == "live"
        }
        found = {endpoint for endpoint in known.values() if endpoint is not None and endpoint.is_usable}
        others = {seed for seed in self.seeds if seed.is_usable and seed.address not in self.topology.brokers}
        found |= {seed for seed in others if not seed.is_mere_tracker or not known}
        return sorted((Choice(endpoint, 0) for endpoint in found), key=attrgetter("address"))

    def is_expecting(self, topic: bytes, *, consumers: int = 0) -> bool:
        """Whether a link to a broker that has a topic, with so many consumers, may be open soon."""
        name = topic.decode(errors="replace")
        having = [one for one in self.topology.brokers.values() if one.state == "live" and name in one.topics]
        wanted = {one.address for one in having if one.topics[name][0] >= consumers}
        return any(endpoint.is_promising and endpoint.address in wanted for endpoint in self._endpoints)

    def _default(self) -> Endpoint | None:
        """Return an endpoint to ask where no broker is known to serve; None while a link to one may be open soon."""
        open_ = [endpoint for endpoint in (*self.seeds, *self._endpoints) if endpoint.is_usable]
        brokers = [endpoint for endpoint in open_ if not endpoint.is_mere_tracker]
        if not brokers and self.is_linking():
            return None
        live = [endpoint for endpoint in brokers if self._state(endpoint) == "live"]
        return next(iter(live or brokers or open_), None)

    def is_linking(self) -> bool:
        """Whether a link to any broker may be open soon; one is opened where there is none."""
        endpoints = self._endpoints.by_address()
        addresses = [address for address, broker in self.topology.brokers.items() if broker.state == "live"]
        found = (endpoints.get(address) or self._endpoints.open(address) for address in addresses)
        return any(endpoint is not None and endpoint.is_promising for endpoint in found)

    def _state(self, endpoint: Endpoint) -> str:
        broker = self.topology.brokers.get(endpoint.address)
        return broker.state if broker is not None else "live"

    # -- waiting -----------------------------------------------------------------------------------------

    async def wait_endpoint(self, topic: bytes, deadline: float | None, *, wait_for_ready: bool) -> Endpoint:
        """Return an endpoint for a topic once there is one: after one try, or until the deadline.

        Raises:
            RpcError: UNAVAILABLE or UNAUTHENTICATED with the reason, or DEADLINE_EXCEEDED; nothing was sent.
        """
        attempts: dict[Endpoint, asyncio.Task[None]] = {}
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                while (endpoint := self.choose(topic)) is None:
                    if self.is_closed:
                        raise self._unreachable()
                    self._try_all(attempts)
                    if self._is_nothing_on_its_way(attempts) and (not wait_for_ready or self.is_refused):
                        raise self._unreachable()
                    await self.wait_change()
                return endpoint
        except TimeoutError:
            reason = self.reason() or f"no answer from broker {self.name}"
            raise not_run(Code.DEADLINE_EXCEEDED, f"the deadline passed: {reason}") from None
        finally:
            for task in attempts.values():
                task.cancel()

    async def settle(self) -> None:
        """Return when every broker was dialled once, and those that are there have said what they have."""
        attempts: dict[Endpoint, asyncio.Task[None]] = {}
        try:
            while not self.is_closed:
                self._try_all(attempts)
                if self._is_nothing_on_its_way(attempts):
                    return
                await self.wait_change()
        finally:
            for task in attempts.values():
                task.cancel()

    def _try_all(self, attempts: dict[Endpoint, asyncio.Task[None]]) -> None:
        """Have every broker that has no link dialled once, now."""
        for endpoint in self._endpoints:
            if endpoint.connection is None and endpoint not in attempts:
                endpoint.renew()
                task = attempts[endpoint] = self.loop.create_task(endpoint.channel.wait_attempt())
                task.add_done_callback(self._note_attempt)

    def _is_nothing_on_its_way(self, attempts: dict[Endpoint, asyncio.Task[None]]) -> bool:
        """Whether every broker was dialled, and those that are there have said what they have."""
        is_asked = any(endpoint.connection is not None and not endpoint.is_known for endpoint in self._endpoints)
        return not is_asked and all(task.done() for task in attempts.values())

    async def wait_change(self) -> None:
        """Return when something about brokers has changed."""
        if self._changed is None or self._changed.done():
            self._changed = self.loop.create_future()
        await asyncio.shield(self._changed)

    def knows(self, endpoint: Endpoint) -> bool:
        """Say whether an endpoint is one of the fleet's still."""
        return endpoint in self._endpoints

    @property
    def name(self) -> str:
        """The brokers that the user has named, for people."""
        return ";".join(str(seed.dialled) for seed in self.seeds)

    def reason(self) -> str:
        """Say why the brokers that the user has named cannot be reached, where that is known."""
        reasons = dict.fromkeys(str(seed.channel.error) for seed in self.seeds if seed.channel.error is not None)
        return "; ".join(reasons)

    @property
    def is_refused(self) -> bool:
        """Whether none of the brokers that the user has named knows the token."""
        return all(seed.channel.is_refused for seed in self.seeds)

    def _unreachable(self) -> RpcError:
        code = Code.UNAUTHENTICATED if self.is_refused else Code.UNAVAILABLE
        return not_run(code, self.reason() or f"no answer from broker {self.name}")

    # -- what endpoints call ------------------------------------------------------------------------------

    def endpoint_changed(self, endpoint: Endpoint) -> None:
        """Take note that an endpoint came, went, or knows more."""
        self._endpoints.find_doubles()
        self.topology_changed()

    def topology_changed(self) -> None:
        """Take note that something else is known of brokers."""
        self._routes.clear()
        self._runs.clear()
        self._complete.clear()
        if not self.is_closed:
            self._endpoints.find_trackers()
            self._endpoints.let_go()
        others = len(self._endpoints) > 1 or bool(self.topology.brokers.keys() - {self.seeds[0].address})
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
        for endpoint in self._endpoints:
            if now - due > LATE_S:
                endpoint.forgive()
            endpoint.probe()
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
        await self._endpoints.close()
        self._note_change()

    def forget(self) -> None:
        """Be closed in a forked child, without touching what belongs to its parent."""
        self.is_closed = True
        self._endpoints.forget()

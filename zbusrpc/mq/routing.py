"""The routing of a producer: a lane to each broker that it uses (a `Sender`), and which of them a message takes.

    message ──key──> the place of its key on the ring ──> lane ──> broker
       └─────────────> one lane for each frame ────────────┘

The candidates are the brokers that have the topic and live consumers of it; where no broker has consumers, those that
have the topic; where no broker has it, all of them, or those that were named if the topic is not to be declared. What a
lane gives up, because its broker was lost or refuses, moves to other lanes at once, in order and with the same ids;
where there is none, it waits in a lane without a broker.

Promises: where there is one broker, choosing costs nothing. Messages with the same key go to the same broker as long as
that is a candidate, also while it is silent and not yet given up.
"""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from zbusrpc.cluster.endpoint import Choice, Endpoint
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.cluster.loops import begin
from zbusrpc.cluster.selection import LeastLoaded, MostConsumers, Random, RoundRobin, Selector, select_by
from zbusrpc.errors import Code, RpcError, UsageError
from zbusrpc.mq.batch import Batch
from zbusrpc.mq.receipt import Receipt
from zbusrpc.mq.sender import Sender, Terms
from zbusrpc.outcome import was_lost
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address

REST_S: Final = 1.0
"""So long a broker that has refused messages is left alone."""
_BY_KEY: Final = LeastLoaded()

log = get_logger("producer")


class Routing:
    """The lanes of one producer."""

    def __init__(self, terms: Terms, seeds: tuple[Address, ...] | None, selector: Selector) -> None:
        self.loop = asyncio.get_running_loop()
        self.terms = terms
        self.only: Sender | None = None
        """The lane that all messages take, where there is no choice; without one ask `choose`."""
        self.others: Sequence[Sender] = ()
        """Lanes to which the message that was asked for last goes as well."""
        self._seeds = seeds
        self._selector = selector
        ignores_keys = isinstance(selector, MostConsumers | RoundRobin | Random)
        self._key_selector: Selector = _BY_KEY if ignores_keys else selector
        self._waiting = Sender(terms, self, None)
        self._senders: dict[Endpoint, Sender] = {}
        self._choices: list[Choice] = []
        self._key_choices: list[Choice] = []
        self._resting: dict[Endpoint, float] = {}
        """Brokers that have refused, and until when they are left alone."""
        self._current: Sender | None = None
        self._searching: asyncio.Task[None] | None = None
        self._is_stale = True
        self._fleet = self._join_fleet()

    # -- messages come -----------------------------------------------------------------------------------

    def choose(self, key: str | None) -> Sender:
        """Return the lane for a message: the same one for all that leave in one frame, if they have no keys."""
        if self._is_stale:
            self._refresh()
        if self.only is not None:
            return self.only
        sender = self._current
        if key:
            sender, *self.others = self._select(self._key_selector, self._key_choices, key)
        elif sender is None or not sender.is_collecting:
            sender, *self.others = self._select(self._selector, self._choices, None)
            self._current = None if self.others else sender
        else:
            self.others = ()
        return sender

    def copy(self, entries: Sequence[bytes], given_id: bytes, timeout: float | None, *, is_batch: bool = False) -> None:
        """Hand a message, or those of a batch, to the other lanes as well."""
        for sender in self.others:
            self.terms.in_flight.take(len(entries), sum(map(len, entries)))
            if is_batch:
                sender.add_batch(entries, timeout).is_unwatched = True
            else:
                sender.add(entries[0], given_id, timeout, is_unwatched=True)
            sender.flush_soon()

    def _select(self, selector: Selector, choices: list[Choice], key: str | bytes | None) -> list[Sender]:
        if not choices:
            return [self._waiting]
        if len(choices) > 1:
            return [self._sender_to(choice.endpoint) for choice in select_by(selector, choices, key)]
        return [self._sender_to(choices[0].endpoint)]

    def _sender_to(self, endpoint: Endpoint) -> Sender:
        sender = self._senders.get(endpoint)
        if sender is None:
            sender = self._senders[endpoint] = Sender(self.terms, self, endpoint)
        return sender

    # -- which brokers -----------------------------------------------------------------------------------

    def _join_fleet(self) -> Fleet:
        """Use the running loop's fleet, which does not keep a producer that is forgotten."""
        fleet = fleet_of_loop(self._seeds)
        own = weakref.ref(self, lambda gone: fleet.listeners.pop(gone, None))

        def note_change() -> None:
            senders = own()
            if senders is not None:
                senders._note_change()

        fleet.listeners[own] = note_change
        self._leave_fleet: Callable[[], object] = lambda: fleet.listeners.pop(own, None)
        return fleet

    def _note_change(self) -> None:
        """Look for the brokers again, with the next message, or at once if anything waits for that."""
        self._is_stale, self.only = True, None
        if self._waiting.has_batches or self._cut():
            self._refresh()

    def _refresh(self) -> None:
        """See which brokers there are, and move what can or must go elsewhere."""
        self._is_stale = False
        if self._fleet.is_closed:
            self._leave_fleet()
            self._fleet = self._join_fleet()
        self._choices = choices = self._find()
        silent = [choice for choice in self._key_choices if choice.endpoint.is_suspect]
        self._key_choices = sorted([*choices, *silent], key=attrgetter("address")) if silent else choices
        self._current, self.others = None, ()
        self.only = self._select(self._selector, choices, None)[0] if len(self._key_choices) < 2 else None
        cut = self._cut()
        if cut or (choices and self._waiting.has_batches):
            for sender in cut:
                self._note_given_up(sender, "the connection was lost")
            self._place([batch for sender in (*cut, self._waiting) for batch in sender.give_up()])
        for endpoint in [endpoint for endpoint, sender in self._senders.items() if not sender.has_batches]:
            if endpoint.connection is None:
                del self._senders[endpoint]

    def _find(self) -> list[Choice]:
        now, topic = self.loop.time(), self.terms.topic
        self._resting = {endpoint: until for endpoint, until in self._resting.items() if until > now}
        found = [choice for choice in self._fleet.choices(topic) if choice.endpoint not in self._resting]
        serving = [choice for choice in found if choice.consumers]
        if serving or self._fleet.is_expecting(topic, consumers=1):
            return serving
        if found or self._fleet.is_expecting(topic):
            return found
        everyone = [choice for choice in self._fleet.everyone() if choice.endpoint not in self._resting]
        named = [choice for choice in everyone if choice.endpoint.is_seed]
        return everyone if self.terms.declares else named or everyone

    def _cut(self) -> list[Sender]:
        """Return the lanes whose broker was lost with something unanswered."""
        return [
            sender for endpoint, sender in self._senders.items() if endpoint.connection is None and sender.has_batches
        ]

    # -- batches move ------------------------------------------------------------------------------------

    def _note_given_up(self, sender: Sender, reason: str) -> None:
        if sender.endpoint is not None and not self._fleet.is_closed:  # else it was not lost, but closed here
            messages, broker = len(sender.unanswered()), sender.endpoint.address
            log.warning("producer.link_lost", topic=self.terms.name, broker=broker, unanswered=messages, reason=reason)

    def _place(self, batches: list[Batch]) -> None:
        """Have batches take the lanes that there are now."""
        touched: dict[Sender, None] = {}
        for batch in batches:
            for sender, part in batch.parted(self._place_of):
                sender.take(part)
                touched[sender] = None
        for sender in touched:
            sender.flush()

    def _place_of(self, key: bytes) -> Sender:
        """Return the lane for a message that has to move: a selector that fails now must not keep it."""
        selector, choices = (self._key_selector, self._key_choices) if key else (self._selector, self._choices)
        try:
            return self._select(selector, choices, key or None)[0]
        except UsageError as error:
            log.error("producer.selector_failed", topic=self.terms.name, reason=str(error))
            return self._select(_BY_KEY, choices, key or None)[0]

    def lane_refused(self, sender: Sender, error: RpcError) -> None:
        """Move what a lane has to others; where there is none that could take it, tell the messages."""
        endpoint = sender.endpoint
        assert endpoint is not None
        is_here = endpoint.connection is not None and not was_lost(error)
        if is_here:
            self._resting[endpoint] = self.loop.time() + REST_S
        self._refresh()
        if is_here and error.code is not Code.UNAVAILABLE and not self._choices:
            del self._resting[endpoint]
            self._is_stale, self.only = True, None
            sender.fail_unsent(error)
            return
        if is_here:
            self.loop.call_later(REST_S, self._note_change)
        if sender.has_batches:
            self._note_given_up(sender, str(error))
            self._place(sender.give_up())

    def lane_stuck(self, sender: Sender) -> None:
        """See that brokers are dialled, now that something waits for one."""
        if self._searching is None:
            self._searching = begin(self.loop, self._search())

    async def _search(self) -> None:
        """Return when nothing waits for a broker any more."""
        try:
            while self._waiting.has_batches:
                fleet = self._fleet
                try:
                    await fleet.wait_endpoint(self.terms.topic, None, wait_for_ready=True)
                    if self._waiting.has_batches:
                        await fleet.wait_change()
                except RpcError as error:
                    if error.code is not Code.UNAVAILABLE:  # a broker is there, and refuses
                        self._waiting.fail_unsent(error)
                if fleet.is_closed:
                    self._refresh()
        finally:
            self._searching = None

    def trouble(self) -> object:
        """Say why there is no broker, where that is known."""
        return self._fleet.reason()

    # -- the end -----------------------------------------------------------------------------------------

    def unanswered(self) -> list["asyncio.Future[Receipt]"]:
        """Return the futures of all messages that are to be told yet."""
        return [future for sender in (*self._senders.values(), self._waiting) for future in sender.unanswered()]

    def stop(self) -> None:
        """Send nothing more, and tell those that are left."""
        self._leave_fleet()
        if self._searching is not None:
            self._searching.cancel()
        for sender in (*self._senders.values(), self._waiting):
            sender.stop()
        self.terms.deadlines.close()

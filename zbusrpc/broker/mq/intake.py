"""The intake: messages of producers on their way into topics, whatever dialect they came in.

Pure. Promises: of all topics together no more than `storing_bytes_max` (see `Limits`) wait for the disk, and of one
token no more than its share of them (see `shares.py`); beyond, producers are asked to wait.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from zbusrpc.bounds import DELAY_MS, TTL_MS
from zbusrpc.broker.access.rights import owner_of
from zbusrpc.broker.mq.delayed import Charge
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.topic import Told, Topic
from zbusrpc.broker.sessions.limits import RETRY_AFTER_S, TOKEN_SHARE, Limits, share_used_up
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.sessions.session import NOBODY, Session
from zbusrpc.broker.sessions.shares import Payer, Shares, payer_of, whose
from zbusrpc.broker.sessions.telling import tell_all
from zbusrpc.broker.storage.commit import BACKLOG_BYTES_MAX
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record, check_record
from zbusrpc.errors import Code, ProtocolError, RpcError
from zbusrpc.message import decode_headers
from zbusrpc.outcome import not_run
from zbusrpc.transport.entries import Entry

GATHERED_BYTES_MAX: Final = 1024 * 1024
"""What came one by one is handed over at once when it is so much: it would gain nothing from waiting."""


Tell = Callable[[int, RpcError | None], None]
"""Told when a message was stored, in ms since 1970, or why it was not."""


class _Gathered:
    """Messages that came one by one in one turn, for one topic."""

    __slots__ = ("records", "size", "sizes", "tells")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tells: list[Tell] = []
        self.size = 0
        self.sizes: dict[Payer, int] = {}
        """Of whose share how much of that is."""


class Intake:
    """Takes messages in."""

    def __init__(self, scheduler: Scheduler, limits: Limits) -> None:
        self._scheduler = scheduler
        self._storing = Shares(limits.storing_bytes_max)
        self._delayed_max = limits.delayed_max
        self._storing_of_topic = Shares(BACKLOG_BYTES_MAX)  # by payer and uid of the topic
        self._gathered: dict[Topic, _Gathered] = {}
        self._is_flush_due = False

    @property
    def shares(self) -> Shares:
        """Who has how many bytes that wait for the disk."""
        return self._storing

    @property
    def shares_of_topics(self) -> Shares:
        """The same of each topic."""
        return self._storing_of_topic

    def produce(
        self, topic: Topic, entries: Sequence[Entry], size: int, tell: Told, producer: Session = NOBODY
    ) -> None:
        """Store messages of `size` bytes and one producer as one batch, and tell the receipt or why there is none.

        Raises:
            RpcError: they are refused at once; nothing is told.
        """
        if not entries:
            raise RpcError(Code.INVALID_ARGUMENT, f"topic {topic.name}: the frame holds no message")
        payer = self._check(topic, size, producer)
        delays = _check_entries(topic, entries)
        charge = self._charge_delayed(topic, delays, producer) if delays else {}

        def told(receipt: dict[str, Any] | None, error: RpcError | None) -> None:
            self._give_back(topic, payer, size)
            if charge and error is not None:
                topic.delayed.give_back(payer, charge)
            tell(receipt, error)

        self._take(topic, payer, size)
        try:
            topic.produce(entries, told, owner_of(producer.rights))
        except RpcError:
            self._give_back(topic, payer, size)
            topic.delayed.give_back(payer, charge)
            raise

    def _charge_delayed(self, topic: Topic, delays: list[int], producer: Session) -> Charge:
        """Count delayed messages against the share of a token; without tokens there is none to tell apart.

        Raises:
            RpcError: RESOURCE_EXHAUSTED.
        """
        if producer.rights is None:
            return {}
        payer, now, most = payer_of(producer), self._scheduler.now(), int(self._delayed_max * TOKEN_SHARE)
        used = topic.delayed.of(payer, now)
        if used + len(delays) > most:  # the first batch too: it alone might take all places
            of_what = f"of {self._delayed_max} delayed messages that may wait in topic {topic.name}"
            raise share_used_up(whose(producer.rights), most, of_what)
        return topic.delayed.take(payer, delays, now)

    def store(self, topic: Topic, entry: Entry, tell: Tell, producer: Session = NOBODY) -> None:
        """Store one message, whatever others have its id, and tell when that was, in ms since 1970.

        All that come in one turn for a topic are one batch: each costs a third of what it would alone.

        Raises:
            RpcError: it is refused at once; nothing is told.
        """
        record = topic.record_of(entry, owner_of(producer.rights))
        try:
            size = check_record(record)
        except StorageError as error:
            raise as_rpc_error(topic.name, error) from error
        payer = self._check(topic, size, producer)
        self._take(topic, payer, size)
        gathered = self._gathered.get(topic)
        if gathered is None:
            gathered = self._gathered[topic] = _Gathered()
            if not self._is_flush_due:
                self._is_flush_due = True
                self._scheduler.soon(self.flush)
        gathered.records.append(record)
        gathered.tells.append(tell)
        gathered.size += size
        gathered.sizes[payer] = gathered.sizes.get(payer, 0) + size
        if gathered.size > GATHERED_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        self._is_flush_due = False
        gathered, self._gathered = self._gathered, {}
        for topic, batch in gathered.items():
            try:
                topic.append(batch.records, partial(self._stored, topic, batch))
                topic.committer.flush()
            except StorageError as error:
                self._stored(topic, batch, -1, error)

    def _stored(self, topic: Topic, batch: "_Gathered", offset: int, error: StorageError | None) -> None:
        for payer, size in batch.sizes.items():
            self._give_back(topic, payer, size)
        refusal = as_rpc_error(topic.name, error) if error is not None else None
        stored_ms = batch.records[0].timestamp_ms or self._scheduler.now_ms()
        tell_all(batch.tells, stored_ms, refusal)

    def _check(self, topic: Topic, size: int, producer: Session) -> Payer:
        """See that there is room for what somebody produces, and return who pays for it."""
        if topic.options.is_service:
            raise RpcError(Code.FAILED_PRECONDITION, f"{topic.name} is a service, and no topic of messages: call it")
        storing, payer = self._storing, payer_of(producer)
        if storing.is_full(size):
            text = f"over {storing.whole} bytes of this broker wait for the disk; retry after {RETRY_AFTER_S:g} s"
            raise not_run(Code.RESOURCE_EXHAUSTED, text, {"retry_after_s": RETRY_AFTER_S})
        if storing.is_used_up(payer, size):
            of_what = f"of {storing.whole} bytes that may wait for the disk"
            raise share_used_up(whose(producer.rights, producer.name), storing.most, of_what)
        of_topic = self._storing_of_topic
        if of_topic.is_used_up((payer, topic.uid), size):
            of_what = f"of {of_topic.whole} bytes that may wait for the disk in topic {topic.name}"
            raise share_used_up(whose(producer.rights, producer.name), of_topic.most, of_what)
        return payer

    def _take(self, topic: Topic, payer: Payer, size: int) -> None:
        self._storing.take(payer, size)
        self._storing_of_topic.take((payer, topic.uid), size)

    def _give_back(self, topic: Topic, payer: Payer, size: int) -> None:
        self._storing.give_back(payer, size)
        self._storing_of_topic.give_back((payer, topic.uid), size)


def _check_entries(topic: Topic, entries: Sequence[Entry]) -> list[int]:
    """See that times are within their bounds, and that headers are what consumers of every dialect take them for.

    Returns the delays, in ms, of those that have one.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    delays: list[int] = []
    for ttl_ms, delay_ms, _, _, _, _, headers, _ in entries:
        if ttl_ms > TTL_MS.most or delay_ms > DELAY_MS.most:
            wrong = (TTL_MS, ttl_ms) if ttl_ms > TTL_MS.most else (DELAY_MS, delay_ms)
            text = f"topic {topic.name}: {wrong[0].name} of {wrong[1]} ms exceeds the limit of {wrong[0].most} ms"
            raise RpcError(Code.INVALID_ARGUMENT, text)
        if delay_ms:
            delays.append(delay_ms)
        if headers:
            try:
                decode_headers(headers)
            except ProtocolError as error:
                raise RpcError(Code.INVALID_ARGUMENT, f"topic {topic.name}: {error}") from None
    return delays

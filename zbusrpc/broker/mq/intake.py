"""The intake: messages of producers on their way into topics, whatever dialect they came in.

Pure. Promises: of all topics together no more than STORING_BYTES_MAX wait for the disk; beyond, producers are asked to
wait.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from zbusrpc.bounds import DELAY_MS, TTL_MS
from zbusrpc.broker.access import NO_OWNER
from zbusrpc.broker.limits import RETRY_AFTER_S
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.scheduler import Scheduler
from zbusrpc.broker.mq.topic import Told, Topic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record, check_record
from zbusrpc.broker.telling import tell_all
from zbusrpc.errors import Code, ProtocolError, RpcError
from zbusrpc.message import decode_headers
from zbusrpc.outcome import not_run
from zbusrpc.transport.entries import Entry

STORING_BYTES_MAX: Final = 256 * 1024 * 1024
GATHERED_BYTES_MAX: Final = 1024 * 1024
"""What came one by one is handed over at once when it is so much: it would gain nothing from waiting."""


Tell = Callable[[int, RpcError | None], None]
"""Told when a message was stored, in ms since 1970, or why it was not."""


class _Gathered:
    """Messages that came one by one in one turn, for one topic."""

    __slots__ = ("records", "size", "tells")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tells: list[Tell] = []
        self.size = 0


class Intake:
    """Takes messages in."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._storing_bytes = 0
        self._gathered: dict[Topic, _Gathered] = {}
        self._is_flush_due = False

    def produce(self, topic: Topic, entries: Sequence[Entry], size: int, tell: Told, owner: int = NO_OWNER) -> None:
        """Store messages of `size` bytes and one owner as one batch, and tell the receipt or why there is none.

        Raises:
            RpcError: they are refused at once; nothing is told.
        """
        if not entries:
            raise RpcError(Code.INVALID_ARGUMENT, f"topic {topic.name}: the frame holds no message")
        self._check(topic, size)
        _check_entries(topic, entries)

        def told(receipt: dict[str, Any] | None, error: RpcError | None) -> None:
            self._storing_bytes -= size
            tell(receipt, error)

        topic.produce(entries, told, owner)
        self._storing_bytes += size  # level MEMORY told before: the sum is right in the end

    def store(self, topic: Topic, entry: Entry, tell: Tell, owner: int = NO_OWNER) -> None:
        """Store one message, whatever others have its id, and tell when that was, in ms since 1970.

        All that come in one turn for a topic are one batch: each costs a third of what it would alone.

        Raises:
            RpcError: it is refused at once; nothing is told.
        """
        record = topic.record_of(entry, owner)
        try:
            size = check_record(record)
        except StorageError as error:
            raise as_rpc_error(topic.name, error) from error
        self._check(topic, size)
        self._storing_bytes += size
        gathered = self._gathered.get(topic)
        if gathered is None:
            gathered = self._gathered[topic] = _Gathered()
            if not self._is_flush_due:
                self._is_flush_due = True
                self._scheduler.soon(self.flush)
        gathered.records.append(record)
        gathered.tells.append(tell)
        gathered.size += size
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
        self._storing_bytes -= batch.size
        refusal = as_rpc_error(topic.name, error) if error is not None else None
        stored_ms = batch.records[0].timestamp_ms or self._scheduler.now_ms()
        tell_all(batch.tells, stored_ms, refusal)

    def _check(self, topic: Topic, size: int) -> None:
        if topic.options.is_service:
            raise RpcError(Code.FAILED_PRECONDITION, f"{topic.name} is a service, and no topic of messages: call it")
        if self._storing_bytes + size > STORING_BYTES_MAX:
            text = f"over {STORING_BYTES_MAX} bytes of this broker wait for the disk; retry after {RETRY_AFTER_S:g} s"
            raise not_run(Code.RESOURCE_EXHAUSTED, text, {"retry_after_s": RETRY_AFTER_S})


def _check_entries(topic: Topic, entries: Sequence[Entry]) -> None:
    """See that times are within their bounds, and that headers are what consumers of every dialect take them for.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    for ttl_ms, delay_ms, _, _, _, _, headers, _ in entries:
        if ttl_ms > TTL_MS.most or delay_ms > DELAY_MS.most:
            wrong = (TTL_MS, ttl_ms) if ttl_ms > TTL_MS.most else (DELAY_MS, delay_ms)
            text = f"topic {topic.name}: {wrong[0].name} of {wrong[1]} ms exceeds the limit of {wrong[0].most} ms"
            raise RpcError(Code.INVALID_ARGUMENT, text)
        if headers:
            try:
                decode_headers(headers)
            except ProtocolError as error:
                raise RpcError(Code.INVALID_ARGUMENT, f"topic {topic.name}: {error}") from None

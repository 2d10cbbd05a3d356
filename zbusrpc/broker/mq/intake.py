"""The intake: messages of producers on their way into topics, whatever dialect they came in.

Pure. Promises: of all topics together no more than STORING_BYTES_MAX wait for the disk; beyond, producers are asked to
wait.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from zbusrpc.broker.limits import RETRY_AFTER_S
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.topic import Told, Topic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.entries import Entry

STORING_BYTES_MAX: Final = 256 * 1024 * 1024


class Intake:
    """Takes messages in."""

    def __init__(self) -> None:
        self._storing_bytes = 0

    def produce(self, topic: Topic, entries: Sequence[Entry], size: int, tell: Told) -> None:
        """Store messages of `size` bytes as one batch, and tell the receipt or why there is none.

        Raises:
            RpcError: they are refused at once; nothing is told.
        """
        if not entries:
            raise RpcError(Code.INVALID_ARGUMENT, f"topic {topic.name}: the frame holds no message")
        self._check(topic, size)

        def told(receipt: dict[str, Any] | None, error: RpcError | None) -> None:
            self._storing_bytes -= size
            tell(receipt, error)

        topic.produce(entries, told)
        self._storing_bytes += size  # level MEMORY told before: the sum is right in the end

    def store(self, topic: Topic, entry: Entry, tell: Callable[[int, RpcError | None], None]) -> None:
        """Store one message, whatever others have its id, and tell when that was, in ms since 1970.

        Raises:
            RpcError: it is refused at once; nothing is told.
        """
        record = topic.record_of(entry)
        size = len(record.body) + len(record.headers)
        self._check(topic, size)

        def stored(offset: int, error: StorageError | None) -> None:
            self._storing_bytes -= size
            if error is None:
                tell(record.timestamp_ms, None)
            else:
                tell(0, as_rpc_error(topic.name, error))

        try:
            topic.append([record], stored)
        except StorageError as error:
            raise as_rpc_error(topic.name, error) from error
        self._storing_bytes += size

    def _check(self, topic: Topic, size: int) -> None:
        if topic.options.rpc:
            raise RpcError(Code.FAILED_PRECONDITION, f"{topic.name} is a durable service: call it instead")
        if self._storing_bytes + size > STORING_BYTES_MAX:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED,
                f"over {STORING_BYTES_MAX} bytes of this broker wait for the disk; retry after {RETRY_AFTER_S:g} s",
                {"retry_after_s": RETRY_AFTER_S, "may_have_run": False},
            )

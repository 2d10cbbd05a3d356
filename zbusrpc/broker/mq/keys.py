"""Key order: messages of one key are in flight one at a time, in the order of the log.

The first message with a key takes it; those that come later are held behind it, until it is done.

Pure.
"""

from collections import deque
from typing import Final

from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.storage.record import Record

HELD_BYTES_MAX: Final = 1024 * 1024
"""Messages that are held are kept in memory up to this; others are read again when their turn comes."""


class KeyOrder:
    """The keys of one group that are busy."""

    __slots__ = ("_held", "_held_bytes")

    def __init__(self) -> None:
        self._held: dict[bytes, deque[Delivery] | None] = {}  # by busy key, what is held behind it
        self._held_bytes = 0

    def take(self, delivery: Delivery, record: Record | None) -> bool:
        """Take the key of a message; when it is busy, hold the message and return False: then it is HELD."""
        if delivery.key not in self._held:
            self._held[delivery.key] = None
            return True
        held = self._held[delivery.key]
        if held is None:
            held = self._held[delivery.key] = deque()
        held.append(delivery)
        if record is not None and self._held_bytes + len(record.body) <= HELD_BYTES_MAX:
            delivery.record = record
            self._held_bytes += len(record.body)
        return False

    def learn(self, delivery: Delivery, key: bytes) -> bool:
        """After a restart: take the key of what is pending, as it was taken before; call it in the order of the log.

        False means, as with `take`, that the message is HELD.
        """
        delivery.key = key
        return not (delivery.state is State.WAITING or delivery.attempts) or self.take(delivery, None)

    def free(self, key: bytes) -> Delivery | None:
        """Return the message that has the key next, or None: then the key is free."""
        held = self._held.get(key)
        if held:
            return held.popleft()
        self._held.pop(key, None)
        return None

    def take_record(self, delivery: Delivery) -> Record | None:
        """Return the message itself where it was kept, and keep it no longer."""
        record, delivery.record = delivery.record, None
        if record is not None:
            self._held_bytes -= len(record.body)
        return record

    def clear(self) -> None:
        """Forget all keys."""
        self._held.clear()
        self._held_bytes = 0

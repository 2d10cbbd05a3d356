"""What somebody wants of a log: how large its parts get, what it keeps, whether it is compacted.

Pure.
"""

from dataclasses import dataclass

from zbusrpc.broker.storage.retention import KEEP_EVERYTHING, Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Sizes and ages of a log."""

    segment_bytes_max: int = 64 * 1024 * 1024
    """A segment is sealed before it would become larger. Retention goes by whole segments; so does salvage."""
    segment_age_ms_max: int = 7 * 24 * 3600 * 1000
    """A segment that was begun so long ago is sealed by the next append or `retire`."""
    checkpoint_bytes: int = 8 * 1024 * 1024
    """The index is stored so often: what is scanned after a kill -9, about 50 ms for small records."""
    retention: Retention = KEEP_EVERYTHING
    compact: bool = False
    """Of the records with a key only the latest of each is kept; see `compaction`."""

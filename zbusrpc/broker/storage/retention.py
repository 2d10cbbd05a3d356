"""Which segments a log may let go: by age, by bytes, or because everybody has passed them.

Pure. Only whole segments go, the oldest first, and never the one that is being written. Age and bytes are
limits that hold whether or not somebody still needs the records, because they are there to save the disk, unless
`spare_needed` says that a full disk is the lesser evil.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from zbusrpc.broker.storage.segment import OFFSETS_END


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What a log keeps. None and False keep everything."""

    age_ms_max: int | None = None
    """A segment goes when its latest record is older."""
    bytes_max: int | None = None
    """The oldest segments go while all of them together are larger."""
    when_passed: bool = False
    """A segment goes when all its records are below the lowest offset that is still needed."""
    passed_age_ms_min: int = 0
    """But not before its latest record is so old: there is something else than readers that needs it."""
    spare_needed: bool = False
    """Age and bytes let go of no segment with a record at or above the lowest offset that is still needed."""


KEEP_EVERYTHING: Final = Retention()


class Stretch(Protocol):
    """A run of records that a log lets go as a whole, in whatever it keeps them: of files a segment."""

    @property
    def base_offset(self) -> int:
        """No record has a lower offset."""

    @property
    def next_offset(self) -> int:
        """The offset after its last record."""

    @property
    def size(self) -> int:
        """How many bytes it takes."""

    @property
    def latest_ms(self) -> int:
        """When its last record was appended."""


def count_expendable(
    segments: Sequence[Stretch],
    retention: Retention,
    now_ms: int,
    needed_offset: int,
    *,
    passed_offset: int | None = None,
    spared_offset: int = OFFSETS_END,
) -> int:
    """Return how many of `segments`, from the oldest, may go.

    Args:
        needed_offset: The lowest that somebody still needs.
        passed_offset: Below it everything was passed by somebody, where that is not what nobody needs.
        spared_offset: No segment goes with a record at or above it.
    """
    passed_offset = needed_offset if passed_offset is None else passed_offset
    excess = sum(segment.size for segment in segments) - (retention.bytes_max or 0)
    age_ms_max = retention.age_ms_max
    count = 0
    for segment in segments[:-1]:
        age_ms = now_ms - segment.latest_ms
        is_old = age_ms_max is not None and age_ms > age_ms_max
        is_excess = retention.bytes_max is not None and excess > 0
        is_ripe = age_ms >= retention.passed_age_ms_min
        is_passed = retention.when_passed and is_ripe and segment.next_offset <= passed_offset
        is_spared = retention.spare_needed and segment.next_offset > needed_offset
        if is_spared or segment.next_offset > spared_offset or not (is_old or is_excess or is_passed):
            break
        excess -= segment.size
        count += 1
    return count

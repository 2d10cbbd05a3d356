"""The segments of one log, oldest first: which of them holds an offset, and reading over all of them.

A segment is found by halving the base offsets, a record in it by the segment's sparse index. Between two segments
there may be a gap, where nothing is left. The indexes of only a few sealed segments stay in memory.

Nothing is answered here: damage and errors of the disk are raised, and the log decides what becomes of them.
"""

from bisect import bisect_right
from itertools import accumulate
from operator import attrgetter
from typing import Final

from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.segment import OFFSETS_END, Segment

INDEXES_LOADED_MAX: Final = 16
"""Of sealed segments, so that readers of old messages do not read an index each time: 16 * 24 KiB."""
_BASE: Final = attrgetter("base_offset")


class Segments:
    """The segments of one log. The last one, `all[-1]`, is being written."""

    __slots__ = ("_before", "_disk", "_handles", "_loaded", "all")

    def __init__(self, disk: Disk, handles: Handles, segments: list[Segment]) -> None:
        self._disk = disk
        self._handles = handles
        self.all = segments
        """Oldest first; look, do not touch."""
        self._loaded: list[Segment] = []  # sealed segments with an index in memory, least lately loaded first
        self._before: list[int] = []  # how many records stand before each segment; nothing where that is not known

    # -- which there are ---------------------------------------------------------------------------------

    def push(self, segment: Segment) -> None:
        """Begin the next one: the last one so far is sealed."""
        self.all.append(segment)
        self._before = []
        for sealed in self.all[-2:-1]:
            self._use_index(sealed)

    def drop(self, count: int) -> list[Segment]:
        """Let go of the oldest ones, and return them."""
        gone = self.all[:count]
        del self.all[:count]
        self._before = []
        self._loaded = [segment for segment in self._loaded if segment not in gone]
        return gone

    def put(self, number: int, segment: Segment | None) -> None:
        """Put a segment in the place of another, or none, when there is nothing left in it."""
        self._loaded = [each for each in self._loaded if each is not self.all[number]]
        self.all[number : number + 1] = [] if segment is None else [segment]
        self._before = []

    def end_of(self, number: int) -> int:
        """Return the base offset of the next segment."""
        return self.all[number + 1].base_offset if number + 1 < len(self.all) else OFFSETS_END

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, until: int, bytes_max: int) -> list[Record]:
        """Return the next records from `offset` to before `until`, about `bytes_max` of them but at least one.

        Raises:
            DamageError: what stands there is not what was written.
            OSError: it cannot be read.
        """
        number = self._number_of(offset)
        while number < len(self.all) and self.all[number].base_offset < until:
            segment = self.all[number]
            if offset < segment.next_offset:
                file = self._handles.get(segment.path)
                records = segment.read(self._disk, file, offset, until, bytes_max)
                self._use_index(segment)
                if records:
                    return records
            number += 1
        return []

    def read_one(self, offset: int) -> Record | None:
        """Return the record at `offset`, or None when there is none; raises as `read`."""
        segment = self.all[self._number_of(offset)]
        if not segment.base_offset <= offset < segment.next_offset:
            return None
        record = segment.read_one(self._disk, self._handles.get(segment.path), offset)
        self._use_index(segment)
        return record

    def count(self, offset: int, until: int) -> int:
        """Return how many records there are from `offset` to before `until`; raises as `read`."""
        return max(0, self._count_before(until) - self._count_before(offset))

    def _count_before(self, offset: int) -> int:
        if not self._before:  # only the last one grows
            self._before = list(accumulate((segment.count for segment in self.all[:-1]), initial=0))
        number = self._number_of(offset)
        segment = self.all[number]
        count = segment.known_before(offset)
        if count is None:
            count = segment.count_before(self._disk, self._handles.get(segment.path), offset)
            self._use_index(segment)
        return self._before[number] + count

    def offset_at_time(self, time_ms: int) -> int | None:
        """Return the offset of the first record that was appended at or after a time; raises as `read`."""
        for segment in self.all:
            if segment.latest_ms >= time_ms and not segment.is_empty:
                offset = segment.offset_at_time(self._disk, self._handles.get(segment.path), time_ms)
                self._use_index(segment)
                return offset
        return None

    def verify(self, name: str = "") -> None:
        """Read every byte of every segment, or of that with one name, if it is still here.

        Raises:
            DamageError: something is not as it was written.
            OSError: it cannot be read.
        """
        for segment in self.all:
            if name in {"", segment.name}:
                segment.verify(self._handles.get(segment.path))

    def _number_of(self, offset: int) -> int:
        """Return which segment holds `offset`, if one does."""
        return max(0, bisect_right(self.all, offset, key=_BASE) - 1)

    def _use_index(self, segment: Segment) -> None:
        """Keep the index of a sealed segment in memory for a while, and let go of those not used for long."""
        if segment.index is None or segment is self.all[-1] or segment in self._loaded:
            return
        self._loaded.append(segment)
        while len(self._loaded) > INDEXES_LOADED_MAX:
            self._loaded.pop(0).index = None

"""Ranges: what a consumer says in a few numbers of many messages.

A range may be as long as it likes, and several may say the same; what they cost must not depend on that.

Pure.
"""

from bisect import bisect_right
from collections.abc import Collection
from itertools import pairwise
from typing import Final

from zbusrpc.transport.entries import runs

FEW: Final = 1024
"""Offsets that are looked up one by one, whether or not there are as many."""

Ranges = list[tuple[int, int]]


def narrowed(ranges: Ranges, offsets: Collection[int]) -> Ranges:
    """Return ranges that hold the same of `offsets`: in rising order, none twice, and no longer than there is to find.

    Those of a consumer that says what it got are returned as they are. Others cost a look at all of `offsets`, once.
    """
    if len(ranges) == 1 and ranges[0][1] - ranges[0][0] < FEW:
        return ranges
    if any(after[0] <= before[1] for before, after in pairwise(ranges)):
        ranges = _merged(ranges)
    if sum(last - first for first, last in ranges) <= max(len(offsets), FEW):
        return ranges
    firsts = [first for first, _ in ranges]
    lasts = [-1, *(last for _, last in ranges)]
    return list(runs(sorted(offset for offset in offsets if offset <= lasts[bisect_right(firsts, offset)])))


def _merged(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged

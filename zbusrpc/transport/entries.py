"""Entries: the messages that one PRODUCE or DELIVER frame holds, as bytes and back, without any I/O.

      0               4               12              20      22  23  24      26              30
      +---------------+---------------+---------------+-------+---+---+-------+---------------+-- -
      | entry bytes   | time to live, | delay,        | atte- |id |tag| key   | headers bytes | id tag key headers body
      |               | or offset     | or timestamp  | mpts  |   |   |       |               |
      +---------------+---------------+---------------+-------+---+---+-------+---------------+-- -

Numbers are big-endian and unsigned. A producer says how long a message lives and how long it is held back, both in
ms; the broker says its offset and when it was stored, in ms since 1970. One frame with many entries costs each of
them a fraction of a frame.

Promises: what was encoded is decoded to the same; bytes that break the rules raise `ProtocolError` and nothing
else, before any entry is used.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from zbusrpc.errors import ProtocolError
from zbusrpc.transport.native import HEADERS_BYTES_MAX

ENTRY_HEAD: Final = Struct(">IQQHBBHI")
ENTRY_HEAD_BYTES: Final = ENTRY_HEAD.size
ID_BYTES_MAX: Final = 255
TAG_BYTES_MAX: Final = 255
KEY_BYTES_MAX: Final = 1024
ATTEMPTS_MAX: Final = 65_535
NUMBER_MAX: Final = 2**63 - 1
RANGE: Final = Struct(">QQ")
"""First and last offset of a run, both included: what ACK and EXTEND hold."""
RANGES_MAX: Final = 65_536
"""In one frame: nobody may have more messages than that."""


class Entry(NamedTuple):
    """One message in a frame. What `first` and `second` mean depends on the kind of the frame."""

    first: int
    """PRODUCE: time to live in ms, 0 for ever. DELIVER: the offset."""
    second: int
    """PRODUCE: delay in ms, 0 for none. DELIVER: when it was stored, in ms since 1970."""
    attempts: int
    """DELIVER: which delivery this is, from 1."""
    id: bytes
    tag: bytes
    key: bytes
    headers: bytes
    body: bytes


def encode_entry(
    first: int, second: int, attempts: int, id_: bytes, tag: bytes, key: bytes, headers: bytes, body: bytes
) -> bytes:
    """Return the bytes of one entry; the lengths were checked."""
    id_size, tag_size, key_size, headers_size = len(id_), len(tag), len(key), len(headers)
    size = ENTRY_HEAD_BYTES + id_size + tag_size + key_size + headers_size + len(body)
    head = ENTRY_HEAD.pack(size, first, second, attempts, id_size, tag_size, key_size, headers_size)
    return b"".join((head, id_, tag, key, headers, body))


def decode_entries(data: bytes | bytearray) -> list[Entry]:
    """Return the entries of a frame's body.

    Raises:
        ProtocolError: the bytes break the rules.
    """
    block = bytes(data)
    entries: list[Entry] = []
    position, end, unpack = 0, len(block), ENTRY_HEAD.unpack_from
    while end - position >= ENTRY_HEAD_BYTES:
        size, first, second, attempts, id_size, tag_size, key_size, headers_size = unpack(block, position)
        a = position + ENTRY_HEAD_BYTES
        b = a + id_size
        c = b + tag_size
        d = c + key_size
        e = d + headers_size
        position += size
        if (
            e > position
            or position > end
            or key_size > KEY_BYTES_MAX
            or headers_size > HEADERS_BYTES_MAX
            or first > NUMBER_MAX
            or second > NUMBER_MAX
        ):
            raise ProtocolError(f"entry {len(entries)} of the frame is malformed")
        entries.append(
            Entry(first, second, attempts, block[a:b], block[b:c], block[c:d], block[d:e], block[e:position])
        )
    if position != end:
        raise ProtocolError(f"the frame ends inside entry {len(entries)}")
    return entries


def encode_ranges(offsets: Sequence[int]) -> bytes:
    """Return offsets, which are in rising order, as runs."""
    return b"".join(RANGE.pack(first, last) for first, last in runs(offsets))


def runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run of consecutive numbers in `offsets`, which are in rising order."""
    if not offsets:
        return
    first = last = offsets[0]
    for offset in offsets[1:]:
        if offset != last + 1:
            yield first, last
            first = offset
        last = offset
    yield first, last


def decode_ranges(data: bytes | bytearray) -> list[tuple[int, int]]:
    """Return the runs of an ACK or EXTEND.

    Raises:
        ProtocolError: the bytes are no runs of offsets.
    """
    if len(data) > RANGES_MAX * RANGE.size:
        raise ProtocolError(f"over {RANGES_MAX} ranges of offsets in one frame")
    if len(data) % RANGE.size:
        raise ProtocolError(f"{len(data)} bytes are no run of pairs of offsets")
    ranges = list(RANGE.iter_unpack(data))
    if any(first > last or last > NUMBER_MAX for first, last in ranges):
        raise ProtocolError("a range of offsets ends before it begins")
    return ranges

"""One record of the log as bytes, and blocks of bytes as records, without any I/O.

      0               4               8               12                              20
      +---------------+---------------+---------------+-------------------------------+
      | marker        | length        | CRC-32        | offset                        |
      +---------------+---------------+---------------+-------------------------------+
      | timestamp, ms                 | expiry, ms                    | due, ms       :
      +-------------------------------+-------------------------------+---------------+
      :               | owner | fl| id| tag |0| key   | headers bytes | id tag key headers body
      +---------------+-------+---+---+-----+-+-------+---------------+---------------
                      44      46  47  48      50      52              56

Numbers are big-endian and unsigned. `length` counts the whole record; the CRC covers everything behind itself.
A batch is a run of records: all but its last have flag MORE, all but its first flag CONTINUES. A batch whose
last record is missing was never written.

The checksum is zlib's CRC-32: CRC-32C is no better at finding errors of this size, and the standard library
has no fast one (zlib: 1 us for 1 KiB). The marker lets `find_record` search for the next record behind damage
at the speed of `bytes.find`.

Promises: decoding is one `unpack_from` a record and slices; a record that is cut off (`Stop.SHORT`) and one that
is not what was written (`Stop.BAD`) are told apart; bytes that break the rules never raise.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from struct import Struct
from typing import Final
from zlib import crc32

from zbusrpc.broker.storage.errors import RecordLimitError

MARKER: Final = 0xF5A7C3B2
"""No valid UTF-8 and no usual number, so that bodies seldom contain it."""
HEAD: Final = Struct(">IIIQQQQHBBBxHI")
HEAD_BYTES: Final = HEAD.size
ID_BYTES_MAX: Final = 255
"""One byte on disk. A zbus id has at most 39 bytes, a UUID 36."""
TAG_BYTES_MAX: Final = 255
"""One byte on disk. A zbus tag has at most 127 bytes."""
KEY_BYTES_MAX: Final = 1024
"""Long enough for a URL; keys are kept in memory where order or compaction goes by key."""
HEADERS_BYTES_MAX: Final = 64 * 1024
"""As in the native framing."""
RECORD_BYTES_MAX: Final = 1024 * 1024 * 1024 + 128 * 1024
"""The largest frame that a client may be told to accept, and its head; a longer length on disk is damage."""
TIME_MS_MAX: Final = 2**63 - 1
OWNER_MAX: Final = 65_535
MORE: Final = 1
"""Flag: another record of the same batch follows."""
CONTINUES: Final = 2
"""Flag: a record of the same batch stands before this one."""
_CRC_END: Final = 12
_FLAGS_AT: Final = 46
_LENGTH_AND_CRC: Final = Struct(">III")
_MARKER_LENGTH_OFFSET: Final = Struct(">II4xQ")
_REST: Final = Struct(">QQQQHBBBxHI")
_MARKER_BYTES: Final = MARKER.to_bytes(4, "big")


class Record:
    """One record. `offset` and `timestamp_ms` are the log's to set.

    Instances are created for every message, so this is a plain class with slots (as `Message` is).
    """

    __slots__ = (
        "body",
        "due_ms",
        "expiry_ms",
        "headers",
        "id",
        "key",
        "offset",
        "owner",
        "tag",
        "timestamp_ms",
    )

    def __init__(
        self,
        body: bytes = b"",
        id: bytes = b"",  # noqa: A002 - the domain's own word
        tag: bytes = b"",
        key: bytes = b"",
        headers: bytes = b"",
        expiry_ms: int = 0,
        due_ms: int = 0,
        owner: int = 0,
        offset: int = -1,
        timestamp_ms: int = 0,
    ) -> None:
        self.body = body
        self.id = id
        """What the producer calls it; at most 255 bytes."""
        self.tag = tag
        """What filters look at; at most 255 bytes."""
        self.key = key
        """What order and compaction go by; at most 1024 bytes."""
        self.headers = headers
        """Kept as they came; at most 64 KiB."""
        self.expiry_ms = expiry_ms
        """When it is of no more use, in ms since 1970; 0 is never."""
        self.due_ms = due_ms
        """When it may first be delivered, in ms since 1970; 0 is at once."""
        self.owner = owner
        """Whose its id is: only the id of the same owner is the same; 0 without a token."""
        self.offset = offset
        """Its number in the log; -1 until it is appended."""
        self.timestamp_ms = timestamp_ms
        """When it was appended, in ms since 1970."""

    def __repr__(self) -> str:
        return f"<Record offset={self.offset} id={self.id!r} tag={self.tag!r} body={len(self.body)} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


class Stop(Enum):
    """Why decoding went no further."""

    END = "end"
    """All bytes were used."""
    SHORT = "short"
    """The bytes end inside a record."""
    BAD = "bad"
    """What stands there is no record, or not the one that was written."""
    UNTIL = "until"
    """The next record is past the wanted offsets."""


def check_record(record: Record) -> int:
    """Return how many bytes `record` takes in the log.

    Raises:
        RecordLimitError: a field does not fit.
    """
    id_size, tag_size, key_size = len(record.id), len(record.tag), len(record.key)
    headers_size = len(record.headers)
    size = HEAD_BYTES + id_size + tag_size + key_size + headers_size + len(record.body)
    if (
        id_size > ID_BYTES_MAX
        or tag_size > TAG_BYTES_MAX
        or key_size > KEY_BYTES_MAX
        or headers_size > HEADERS_BYTES_MAX
        or size > RECORD_BYTES_MAX
        or not 0 <= record.expiry_ms <= TIME_MS_MAX
        or not 0 <= record.due_ms <= TIME_MS_MAX
        or not 0 <= record.owner <= OWNER_MAX
    ):
        raise RecordLimitError(_refusal(record, size))
    return size


def _refusal(record: Record, size: int) -> str:
    """Say which field of `record` does not fit."""
    lengths = (("id", ID_BYTES_MAX), ("tag", TAG_BYTES_MAX), ("key", KEY_BYTES_MAX), ("headers", HEADERS_BYTES_MAX))
    for name, limit in lengths:
        length = len(getattr(record, name))
        if length > limit:
            return f"{name} of {length} bytes exceeds the limit of {limit} bytes"
    for name, limit in (("expiry_ms", TIME_MS_MAX), ("due_ms", TIME_MS_MAX), ("owner", OWNER_MAX)):
        value = getattr(record, name)
        if not 0 <= value <= limit:
            return f"{name} {value} is not between 0 and {limit}"
    return f"record of {size} bytes exceeds the limit of {RECORD_BYTES_MAX} bytes"


def encode_batch(records: Sequence[Record], offset: int, now_ms: int, chunks: list[bytes]) -> int:
    """Append the bytes of one batch to `chunks` and return how many; give its records their offsets and time.

    The records were checked before.
    """
    total = 0
    flags, last = 0, len(records) - 1
    for number, record in enumerate(records):
        record.offset = offset + number
        record.timestamp_ms = now_ms
        if last:
            flags = (MORE if number < last else 0) | (CONTINUES if number else 0)
        id_, tag, key, headers, body = record.id, record.tag, record.key, record.headers, record.body
        rest = _REST.pack(
            offset + number,
            now_ms,
            record.expiry_ms,
            record.due_ms,
            record.owner,
            flags,
            len(id_),
            len(tag),
            len(key),
            len(headers),
        )
        data = b"".join((rest, id_, tag, key, headers, body))
        length = len(data) + _CRC_END
        chunks += (_LENGTH_AND_CRC.pack(MARKER, length, crc32(data)), data)
        total += length
    return total


def decode(block: bytes, position: int, records: list[Record], first: int, until: int) -> tuple[int, Stop]:
    """Append the records of `block` with offsets from `first` to before `until`; return where it ended and why.

    Every record that is passed is verified, whether or not it is wanted.
    """
    view, end, unpack = memoryview(block), len(block), HEAD.unpack_from
    while end - position >= HEAD_BYTES:
        (
            marker,
            length,
            crc,
            offset,
            timestamp_ms,
            expiry_ms,
            due_ms,
            owner,
            _,
            id_size,
            tag_size,
            key_size,
            headers_size,
        ) = unpack(block, position)
        if marker != MARKER or not HEAD_BYTES <= length <= RECORD_BYTES_MAX:
            return position, Stop.BAD
        stop = position + length
        if stop > end:
            return position, Stop.SHORT
        if crc32(view[position + _CRC_END : stop]) != crc:
            return position, Stop.BAD
        if offset >= until:
            return position, Stop.UNTIL
        if offset >= first:
            a = position + HEAD_BYTES
            b = a + id_size
            c = b + tag_size
            d = c + key_size
            e = d + headers_size
            records.append(
                Record(
                    block[e:stop],
                    block[a:b],
                    block[b:c],
                    block[c:d],
                    block[d:e],
                    expiry_ms,
                    due_ms,
                    owner,
                    offset,
                    timestamp_ms,
                )
            )
        position = stop
    return position, Stop.END if position == end else Stop.SHORT


def skip_to(block: bytes, offset: int) -> tuple[int, bool]:
    """Return where the record `offset` seems to begin, and whether it does, by the heads alone: nothing is verified.

    Where it does not, that is the first record behind it, or what is no record, or past the end of `block`.
    """
    position, last, unpack = 0, len(block) - HEAD_BYTES, _MARKER_LENGTH_OFFSET.unpack_from
    while position <= last:
        marker, length, found = unpack(block, position)
        if found >= offset or marker != MARKER or length < HEAD_BYTES:
            return position, found == offset
        position += length
    return position, False


def heads(block: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield where each record of `block` ends, its offset, timestamp and flags, up to the first that is not whole."""
    view, end, unpack = memoryview(block), len(block), HEAD.unpack_from
    position = 0
    while end - position >= HEAD_BYTES:
        marker, length, crc, offset, timestamp_ms, _, _, _, flags, *_ = unpack(block, position)
        stop = position + length
        if marker != MARKER or length < HEAD_BYTES or stop > end or crc32(view[position + _CRC_END : stop]) != crc:
            return
        yield stop, offset, timestamp_ms, flags
        position = stop


def keyed_heads(block: bytes) -> Iterator[tuple[int, int, int, int, bytes, bool]]:
    """Yield of each record what `heads` does, its key, and whether its body is empty."""
    position = 0
    for stop, offset, timestamp_ms, flags in heads(block):
        *_, id_size, tag_size, key_size, headers_size = HEAD.unpack_from(block, position)
        key = position + HEAD_BYTES + id_size + tag_size
        body = key + key_size + headers_size
        yield stop, offset, timestamp_ms, flags, block[key : key + key_size], body == stop
        position = stop


def with_flags(data: bytes, flags: int) -> bytes:
    """Return a record's bytes with other flags."""
    if data[_FLAGS_AT] == flags:
        return data
    rest = data[_CRC_END:_FLAGS_AT] + bytes((flags,)) + data[_FLAGS_AT + 1 :]
    return _LENGTH_AND_CRC.pack(MARKER, len(data), crc32(rest)) + rest


def stop_at(block: bytes, position: int) -> Stop:
    """Say why no record was found at `position`: bytes are missing, or they are no record."""
    if position == len(block):
        return Stop.END
    if len(block) - position < HEAD_BYTES:
        return Stop.SHORT
    marker, length, *_ = HEAD.unpack_from(block, position)
    is_head = marker == MARKER and HEAD_BYTES <= length <= RECORD_BYTES_MAX
    return Stop.SHORT if is_head and position + length > len(block) else Stop.BAD


def length_at(block: bytes, position: int) -> int:
    """Return the length that the head at `position` claims, or that of a head where not all of it is there."""
    return int(HEAD.unpack_from(block, position)[1]) if len(block) - position >= HEAD_BYTES else HEAD_BYTES


def find_record(block: bytes, start: int) -> int:
    """Return where the first whole, valid record at or behind `start` begins, or -1."""
    view = memoryview(block)
    position = block.find(_MARKER_BYTES, start)
    while position >= 0:
        if len(block) - position >= HEAD_BYTES:
            _, length, crc, *_ = HEAD.unpack_from(block, position)
            stop = position + length
            is_whole = length >= HEAD_BYTES and stop <= len(block)
            if is_whole and crc32(view[position + _CRC_END : stop]) == crc:
                return position
        position = block.find(_MARKER_BYTES, position + 1)
    return -1

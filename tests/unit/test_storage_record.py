"""Records as bytes: round trips, limits, and what is told apart in damaged bytes."""

import pytest

from zbusrpc.broker.storage.errors import RecordLimitError
from zbusrpc.broker.storage.record import Record, Stop, check_record, decode, encode_batch, find_record, heads

FULL = Record(
    b"body", id=b"id", tag=b"a.b", key=b"k" * 1024, headers=b'{"a":"b"}', expiry_ms=5, due_ms=2**63 - 1, owner=7
)


def encoded(*records: Record, offset: int = 0) -> bytes:
    chunks: list[bytes] = []
    size = encode_batch(records, offset, 1234, chunks)
    data = b"".join(chunks)
    assert len(data) == size
    return data


def decoded(data: bytes) -> tuple[list[Record], int, Stop]:
    records: list[Record] = []
    position, stop = decode(data, 0, records, 0, 2**63)
    return records, position, stop


def test_every_field_survives() -> None:
    """All that has a meaning after a restart is in the bytes."""
    data = encoded(FULL, Record(), offset=2**40)

    records, position, stop = decoded(data)

    assert records == [FULL, Record(offset=2**40 + 1, timestamp_ms=1234)]
    assert (FULL.offset, FULL.timestamp_ms) == (2**40, 1234)
    assert (position, stop) == (len(data), Stop.END)


def test_size_is_known_before() -> None:
    """`check_record` says how long the bytes will be."""
    assert check_record(FULL) == len(encoded(FULL))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (Record(id=b"i" * 256), "id of 256 bytes exceeds the limit of 255 bytes"),
        (Record(tag=b"t" * 256), "tag of 256 bytes exceeds the limit of 255 bytes"),
        (Record(key=b"k" * 1025), "key of 1025 bytes exceeds the limit of 1024 bytes"),
        (Record(headers=b"h" * 65537), "headers of 65537 bytes exceeds the limit of 65536 bytes"),
        (Record(expiry_ms=-1), "expiry_ms -1 is not between 0 and 9223372036854775807"),
        (Record(due_ms=2**63), "due_ms 9223372036854775808 is not between 0 and 9223372036854775807"),
        (Record(owner=65536), "owner 65536 is not between 0 and 65535"),
    ],
)
def test_what_does_not_fit_is_refused(record: Record, text: str) -> None:
    """The refusal names the field, its value and the limit."""
    with pytest.raises(RecordLimitError, match=text):
        check_record(record)


def test_cut_off_bytes_are_short() -> None:
    """Each prefix of records gives those that are whole, and says that bytes are missing."""
    one, data = len(encoded(FULL)), encoded(FULL, FULL)

    for size in range(1, len(data)):
        records, position, stop = decoded(data[:size])
        assert len(records) == size // one
        assert (position, stop) == (one * (size // one), Stop.END if size == one else Stop.SHORT)


def test_flipped_bit_is_bad_or_short() -> None:
    """No bit can be flipped unnoticed, and nothing raises."""
    data = encoded(FULL)

    for number in range(0, len(data) * 8, 3):
        flipped = bytearray(data)
        flipped[number // 8] ^= 1 << number % 8
        records, position, stop = decoded(bytes(flipped))
        assert not records
        assert position == 0
        assert stop in {Stop.BAD, Stop.SHORT}


def test_offsets_bound_what_is_decoded() -> None:
    """Records before the first wanted are skipped; decoding stops at the first that is past the wanted ones."""
    data = encoded(*(Record(b"%d" % n) for n in range(10)))
    records: list[Record] = []

    position, stop = decode(data, 0, records, 3, 6)

    assert [record.offset for record in records] == [3, 4, 5]
    assert stop is Stop.UNTIL
    assert decode(data, position, [], 0, 2**63) == (len(data), Stop.END)


def test_record_is_found_behind_damage() -> None:
    """The next valid record is found wherever it begins, and nothing in its place that only looks like one."""
    good = encoded(FULL)
    fake = b"\xf5\xa7\xc3\xb2" + bytes(80)

    assert find_record(b"junk" + fake + good, 0) == 4 + len(fake)
    assert find_record(fake + good[:-1], 0) == -1
    assert find_record(good, 1) == -1


def test_batch_is_marked() -> None:
    """The first of a batch does not continue, the last has no more; one alone is both."""
    assert [flags for *_, flags in heads(encoded(FULL, FULL, FULL) + encoded(FULL))] == [1, 3, 2, 0]

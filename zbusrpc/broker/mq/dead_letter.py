"""Dead letters: messages that no consumer could handle, as they are kept in the dead-letter topic.

A dead letter is the message as it was, and headers that say where it comes from and why it is here. It is stored
before the group lets go of the message: a crash between the two leaves it in both places, never in none.

Pure: a record in, a record or what its headers say out.
"""

from dataclasses import dataclass
from typing import Final

from zbusrpc.broker.storage.record import HEADERS_BYTES_MAX, Record
from zbusrpc.errors import ProtocolError
from zbusrpc.message import decode_headers, encode_headers

HEADER_PREFIX: Final = "dead-"
REASON_CHARACTERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a dead letter comes from."""

    topic: str
    group: str
    offset: int
    attempts: int
    reason: str


def dead_letter(record: Record, origin: Origin) -> Record:
    """Return what is stored for `record`."""
    said = {
        "dead-topic": origin.topic,
        "dead-group": origin.group,
        "dead-offset": str(origin.offset),
        "dead-attempts": str(origin.attempts),
        "dead-reason": origin.reason[:REASON_CHARACTERS_MAX],
        "dead-stored-ms": str(record.timestamp_ms),
    }
    headers = encode_headers(_headers(record) | said)
    if len(headers) > HEADERS_BYTES_MAX:
        headers = encode_headers(said | {"dead-headers": "dropped: there was no room for both"})
    return Record(record.body, record.id, record.tag, record.key, headers, owner=record.owner)


def origin_of(record: Record) -> Origin | None:
    """Return where a record of a dead-letter topic comes from, or None where it does not say so."""
    headers = _headers(record)
    try:
        return Origin(
            topic=headers["dead-topic"],
            group=headers["dead-group"],
            offset=int(headers["dead-offset"]),
            attempts=int(headers["dead-attempts"]),
            reason=headers["dead-reason"],
        )
    except (KeyError, ValueError):
        return None


def is_letter_of(record: Record | None, letter: Record) -> bool:
    """Say whether a record is the message that a dead letter was; another topic may have had its name since."""
    fields = ("id", "tag", "key", "body")
    return record is not None and all(getattr(record, name) == getattr(letter, name) for name in fields)


def revived(record: Record) -> Record:
    """Return the message that a dead letter was, as one that is new."""
    headers = {name: value for name, value in _headers(record).items() if not name.startswith(HEADER_PREFIX)}
    return Record(record.body, b"", record.tag, record.key, encode_headers(headers))


def _headers(record: Record) -> dict[str, str]:
    try:
        return decode_headers(record.headers)
    except ProtocolError:  # the producer's fault
        return {}

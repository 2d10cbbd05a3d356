"""Until when a certificate holds, read out of its DER (RFC 5280, 4.1) as far as that:

Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
    [0] version OPTIONAL, serialNumber, signature, issuer, validity SEQUENCE { notBefore, notAfter }, ... } ... }

Python's `ssl` tells it of a peer only.
"""

import ssl
from datetime import UTC, datetime
from typing import Final

_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_BEFORE_VALIDITY: Final = 3


def expiry_of(certificate: str) -> datetime | None:
    """Return until when a certificate in PEM holds, or None where that cannot be read."""
    try:
        data = ssl.PEM_cert_to_DER_cert(certificate)
        _, at, _ = _element(data, 0)
        _, at, _ = _element(data, at)
        tag, _, _ = _element(data, at)
        for _ in range(_BEFORE_VALIDITY if tag != _VERSION else _BEFORE_VALIDITY + 1):
            _, _, at = _element(data, at)
        _, at, _ = _element(data, at)
        _, _, at = _element(data, at)  # notBefore
        tag, begin, end = _element(data, at)
        form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
        return datetime.strptime(data[begin:end].decode("ascii"), form).replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of an element, and where its content begins and ends."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length >= 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[at + 2 : begin])
    return tag, begin, begin + length

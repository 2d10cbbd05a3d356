"""Units: what people write and read where programs have seconds, bytes and milliseconds since 1970.

Pure: text in, numbers out, or one line that names the option, and back.
"""

import re
from datetime import datetime
from typing import Any, Final

from zbusrpc.errors import ConfigError

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "ms": 0.001}
_BYTES: Final = {"": 1, "B": 1} | {
    spelling: base**power
    for power, letter in enumerate("KMGT", start=1)
    for spelling, base in ((letter, 1024), (f"{letter}iB", 1024), (f"{letter}B", 1000))
}
LARGEST: Final = 2**63 - 1
"""A size in bytes has 64 bits; a time that is longer ends with the sun."""
FOR_EVER: Final = {"forever", "none", "no"}


def parse_seconds(option: str, text: str) -> float:
    """Return a time: a number of seconds, or a number with a unit.

    Raises:
        ConfigError: it is none.
    """
    return _parse(option, text, _SECONDS, "a time such as 250ms, 90s, 30m, 12h or 7d")


def parse_bytes(option: str, text: str) -> int:
    """Return a size: a number of bytes, or a number with a unit.

    Raises:
        ConfigError: it is none.
    """
    return round(_parse(option, text, _BYTES, "a size such as 4096, 500MB or 10GiB"))


def _parse(option: str, text: str, units: dict[str, Any], wanted: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    by_folded = {unit.casefold(): factor for unit, factor in units.items()}
    factor = by_folded.get(found[2].casefold()) if found else None
    if found is None or factor is None:
        raise ConfigError(f"{option} = {text!r}: write {wanted}")
    value = float(found[1]) * float(factor)
    if not value <= LARGEST:
        raise ConfigError(f"{option} = {text[:40]!r}: it is more than {LARGEST}")
    return value


def size_text(size: float) -> str:
    """Return a size for people: 17 B, 1.2 KiB, 340 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def count_text(count: int, thing: str) -> str:
    """Return a count for people: 1 message, 1,234 messages."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def time_text(timestamp_ms: int, today: datetime) -> str:
    """Return a moment in local time: only the time of day if it is of today."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000).astimezone()
    except (ValueError, OverflowError, OSError):  # somebody else has said it, and it is none
        return f"{timestamp_ms} ms"
    return f"{moment:%H:%M:%S}" if moment.date() == today.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def duration_text(seconds: float | None) -> str:
    """Return a time for people in the largest unit that has no rest: 7d, 36h, 90s."""
    if seconds is None:
        return "for ever"
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"

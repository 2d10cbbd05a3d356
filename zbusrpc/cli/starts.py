"""Starts: where somebody wants to read from, as it is written on the command line.

Pure: text in, a place out, or one line that names the option.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, cast

from zbusrpc.bounds import OFFSET
from zbusrpc.errors import ConfigError, did_you_mean
from zbusrpc.mq.options import AtMessage, LikeGroup, StartAt

_WORDS: Final = ("oldest", "newest")


def parse_start(option: str, text: str) -> StartAt:
    """Return a place: oldest, newest, offset:N, id:ID, time:ISO or group:GROUP.

    Raises:
        ConfigError: it is none; the text names `option`.
    """
    if text in _WORDS:
        return cast("StartAt", text)
    kind, colon, value = text.partition(":")
    parse = _KINDS.get(kind)
    if parse is None or not colon or not value:
        hint = did_you_mean(kind, [*_WORDS, *_KINDS]) if kind not in _KINDS else ""
        raise ConfigError(f"{option} = {text!r}: write oldest, newest, offset:N, id:ID, time:ISO or group:GROUP{hint}")
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{option} = {text!r}: {error}") from None


def _offset(text: str) -> int:
    return OFFSET.whole(text)


def _time(text: str) -> datetime:
    """Return a moment; one without a time zone is local."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError("write a time as 2026-01-31, 2026-01-31T12:30 or 2026-01-31T12:30:00+01:00") from None


_KINDS: Final[dict[str, Callable[[str], StartAt]]] = {
    "offset": _offset,
    "id": AtMessage,
    "time": _time,
    "group": LikeGroup,
}

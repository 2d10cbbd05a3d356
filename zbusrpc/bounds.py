"""Bounds: every number that comes from outside, with the least and the most it may be, and why.

One table for all that read numbers: commands of native peers, headers of zbus, URLs and bodies of HTTP, options of the
command line. A bound is the metadata of a field in a model of pydantic, or reads a text. Truth values, NaN, infinities,
fractions where a whole number is meant, and numbers of a thousand digits are none.

Pure.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DIGITS_MAX: Final = 32
"""A text that is longer is no number that anybody means, and is not read as one."""
_ODD_SIGNS: Final = frozenset("_ \t\r\n\v\f")
"""Within a number, or around it, they are fine for Python and for nobody else."""
_DAY_S: Final = 86_400
_YEAR_S: Final = 365 * _DAY_S
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Bound:
    """What one number may be."""

    name: str
    least: float
    most: int
    why: str
    """Where the most comes from."""

    def whole(self, text: str) -> int:
        """Return the whole number that a text says.

        Raises:
            ValueError: it says none within the bound.
        """
        if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX and self.least <= int(text) <= self.most:
            return int(text)
        raise ValueError(f"{text:.40} is no number from {self.least} to {self.most}")

    def seconds(self, text: str) -> float:
        """Return the seconds that a text says, which may have a fraction.

        Raises:
            ValueError: it says none within the bound.
        """
        try:
            number = float(text) if len(text) <= DIGITS_MAX and "_" not in text else math.nan
        except ValueError:
            number = math.nan
        if not self.least <= number <= self.most:
            raise ValueError(f"{text:.40} is no number of seconds from {self.least} to {self.most}")
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Be the metadata of a field: `Annotated[int, OFFSET]`."""
        if source is float:
            number: CoreSchema = core_schema.float_schema(ge=self.least, le=self.most, allow_inf_nan=False)
        else:
            number = core_schema.int_schema(ge=int(self.least), le=self.most)
        return core_schema.no_info_before_validator_function(_refuse_oddities, number)


def _refuse_oddities(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number, not a truth value")
    if isinstance(value, str) and not (value.isascii() and len(value) <= DIGITS_MAX and _ODD_SIGNS.isdisjoint(value)):
        raise PydanticCustomError("number_type", "Input should be a number, in plain digits")
    return value


OFFSET: Final = Bound("offset", 0, _INT64_MAX, "a record has 64 bits for it")
TIME_MS: Final = Bound("time in ms since 1970", 0, _INT64_MAX, "a record has 64 bits for it")
COUNT: Final = Bound("messages to show", 1, 1000, "a person or a page wants no more at a time")
SHOWN_BYTES: Final = Bound("bytes of a body to show", 0, 2**31, "the largest message")
LETTERS: Final = Bound("letters of one command", 1, 10_000, "longer a client does not wait; say it again for more")
WINDOW: Final = Bound("window", 0, 4096, "messages that one consumer may have; 0 is for pulling")
PULLED: Final = Bound("messages of a pull", 1, 4096, "as a window")
KEEP_S: Final = Bound("time to keep", 0, 100 * _YEAR_S, "longer than any disk")
EXPIRES_S: Final = Bound("time without consumers", 1, 100 * _YEAR_S, "as a time to keep")
KEEP_BYTES: Final = Bound("bytes to keep", 1, _INT64_MAX, "what is stored as JSON has 64 bits")
SEGMENT_BYTES: Final = Bound("bytes of a segment", 4096, 2**30, "an index holds 32 bits")
DUPLICATE_IDS: Final = Bound("ids to remember", 0, 10_000_000, "a GB of memory")
TTL_MS: Final = Bound("time to live", 1, 100 * _YEAR_S * 1000, "as a time to keep")
DELAY_MS: Final = Bound("delay", 0, _YEAR_S * 1000, "what waits takes a place in memory: a calendar waits longer")
LEASE_MS: Final = Bound("lease", 100, _DAY_S * 1000, "a consumer that died keeps its messages so long")
ATTEMPTS: Final = Bound("attempts", 1, 60_000, "a record has 16 bits for it")
BACKOFF_MS: Final = Bound("wait before another attempt", 0, _DAY_S * 1000, "as a lease")
IN_FLIGHT: Final = Bound("messages in flight", 1, 2**31 - 1, "far more than a group may have read")
MASK: Final = Bound("mask", 0, 0xFFFF, "zbus has 8 bits, and may have more")
ACK_WINDOW: Final = Bound("window of a group of zbus", 0, 999, "as zbus has it")
TIMEOUT_OR_NONE_MS: Final = Bound("time limit of a call of zbus", 0, 2**32 - 1, "as of others; 0 names none")
ACK_TIMEOUT_MS: Final = Bound("time to acknowledge", 0, _DAY_S * 1000, "as a lease")
POLL_S: Final = Bound("time to wait for a message", 0, 3600, "longer no proxy keeps a request")
TIMEOUT_MS: Final = Bound("time limit of a call", 1, 2**32 - 1, "a frame has 32 bits for it")
STATUS: Final = Bound("status", 0, 999, "a status of HTTP has three digits")
MESSAGE_BYTES: Final = Bound("largest message", 1024, 2**30, "a record has room for no more")
THEIR_BYTES: Final = Bound("largest message of a peer", 1, _INT64_MAX, "the smaller one of both sides counts")
SESSION: Final = Bound("session", 0, 2**32 - 1, "a frame has 32 bits for it")
CALL_S: Final = Bound("time limit of a call", 0.001, _DAY_S, "whoever waits longer asks again")
GRACE_S: Final = Bound("time to finish", 0, _DAY_S, "as a call")
IDLE_S: Final = Bound("silence", 0.05, _DAY_S, "as a call; who asks for signs of life more often keeps the other busy")
QUEUED_CALLS: Final = Bound("calls that may wait", 1, 10_000_000, "each takes a KiB of memory")
QUEUED_BYTES: Final = Bound("bytes that may wait", 1024, 2**40, "more memory than a machine has")
CONNECTIONS: Final = Bound("connections", 1, 1_000_000, "more than a process may have")
PORT: Final = Bound("port", 0, 65_535, "TCP has 16 bits for it; 0 takes a free one")
NODES: Final = Bound("brokers of one command", 1, 64, "more than a machine has cores for")
WORKERS: Final = Bound("processes that serve", 1, 256, "as brokers")
CONCURRENCY: Final = Bound("calls that an instance works on", 1, 4096, "the largest window that a broker grants")

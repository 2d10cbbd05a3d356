"""Stored options: options of topics and groups as an earlier build has written them.

A build with narrower bounds than the one that wrote them (see `bounds.py`) must not lose a topic for a number: what is
past its bound becomes the bound. Whatever else is wrong is damage, and so is a number below 0: as the least time to
keep, it would remove everything.

Pure but for the log.
"""

import copy
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.storage.errors import ReadFailedError
from zbusrpc.errors import cut
from zbusrpc.telemetry import get_logger

_PAST: Final = {"less_than_equal": "le", "greater_than_equal": "ge"}
"""Mistakes that name a bound, and how they name it."""
_Model = TypeVar("_Model", bound=BaseModel)
log = get_logger("mq")


@dataclass(frozen=True, slots=True)
class Clamped:
    """A number that was past its bound."""

    option: str
    was: float
    now: float


def within_bounds(model: type[_Model], data: dict[str, Any]) -> tuple[_Model, list[Clamped]]:
    """Return the model of what was stored, and which of its numbers were past their bounds.

    Raises:
        ValidationError: something else is wrong.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        past = [one for one in error.errors(include_url=False) if _is_past(one)]
        if not past:
            raise
    data, clamped = copy.deepcopy(data), []
    for one in past:
        *way, option = one["loc"]
        place: Any = data
        for step in way:
            place = place[step]
        place[option] = one["ctx"][_PAST[one["type"]]]
        clamped.append(Clamped(str(option), one["input"], place[option]))
    return model.model_validate(data), clamped


def _is_past(error: ErrorDetails) -> bool:
    given = error["input"]
    return error["type"] in _PAST and isinstance(given, int | float) and given > 0


def first_mistake(error: ValidationError) -> str:
    """Say what is wrong with what was stored: which value it is, where it stands, and what it should be."""
    first = error.errors(include_url=False)[0]
    where, given = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "missing":
        return f"{where} is missing"
    text = given.decode(errors="replace") if isinstance(given, bytes) else given
    return f"{where or 'its text'} is {cut(repr(text))}: {first['msg']}"


def group_options(said: dict[str, Any]) -> tuple[GroupOptions, list[Clamped]]:
    """Return the options that the journal says a group has, and which of them were past their bounds.

    Raises:
        ReadFailedError: they cannot be used.
    """
    try:
        return within_bounds(GroupOptions, said["options"])
    except ValidationError as error:
        raise ReadFailedError(f"the journal says of group {said['name']}: {first_mistake(error)}") from error


def note_clamped(clamped: list[Clamped], **whose: str) -> None:
    """Let the log say which options have become others."""
    for one in clamped:
        log.warning("mq.option_clamped", **whose, option=one.option, was=one.was, now=one.now)

"""Undecodable: which part of a value keeps it from being written, where that is bytes or text without a form in UTF-8.

JSON is UTF-8. Bytes in a pydantic model that has `ser_json_bytes="utf8"` are text to it; pydantic says that some are
none, and not where they stand.

Pure.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from zbusrpc.service.forms.guards import guard_reason

VALUES_MAX: Final = 100_000
"""Values that are looked at: who has sent more than that waits long enough for the reason."""


def reason_of(error: Exception, value: Any) -> str:
    """Return in one line why a value was not written."""
    text = " ".join(str(error).split()).removeprefix("Error serializing to JSON: ")
    return guard_reason(error) or undecodable_in(value) or text.removeprefix("PydanticSerializationError: ")


def undecodable_in(value: Any) -> str:
    """Return where in a value the first bytes or text stand that have no form in UTF-8, and what to do; or nothing.

    Bytes are base64 elsewhere, and always have one.
    """
    rest: list[tuple[str, Any, bool]] = [("", value, False)]
    for _ in range(VALUES_MAX):
        if not rest:
            break
        where, one, in_model = rest.pop()
        if (isinstance(one, str) or (isinstance(one, bytes) and in_model)) and _is_broken(one):
            return _line(where, one)
        if isinstance(one, BaseModel):
            in_model = one.model_config.get("ser_json_bytes") == "utf8"
        rest += reversed([(f"{where}.{name}" if where else name, part, in_model) for name, part in _parts(one)])
    return ""


def _is_broken(text: str | bytes) -> bool:
    try:
        text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return True
    return False


def _line(where: str, text: str | bytes) -> str:
    place = f"{where}: " if where else ""
    if isinstance(text, str):
        return f"{place}half of a character (a surrogate) has no form in UTF-8"
    fix = 'model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
    return f"{place}these bytes are no UTF-8; let the model have {fix}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value with their names."""
    if isinstance(value, BaseModel):
        yield from vars(value).items()
        yield from (value.model_extra or {}).items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        yield from (("a key", key) for key in value if isinstance(key, str | bytes) and _is_broken(key))
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(number), part) for number, part in enumerate(value))

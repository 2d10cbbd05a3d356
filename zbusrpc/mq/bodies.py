"""Bodies: what an application sends and gets, as bytes and back.

    bytes            as they are                no content type
    str              UTF-8                      text/plain
    anything else    JSON, by pydantic          application/json

What is written is told in the header `content-type`. A consumer says which type it wants; JSON that does not fit it
ends in one line that says where and why.

Pure: values in, bytes out, and back.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.long_integers import LongIntegerError, check_json, long_integer_in
from zbusrpc.message import encode_headers
from zbusrpc.outcome import of_command
from zbusrpc.service import untyped
from zbusrpc.service.forms.form import Form
from zbusrpc.service.forms.guards import WRITE_ERRORS, alike, guard_reason
from zbusrpc.service.schema import value_form
from zbusrpc.service.undecodable import reason_of

HEADER_CONTENT_TYPE: Final = "content-type"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
NO_TYPE: Final = ""
"""Bytes are the application's own affair."""

HEADER_BYTES: Final = {
    NO_TYPE: b"",
    TEXT: encode_headers({HEADER_CONTENT_TYPE: TEXT}),
    JSON: encode_headers({HEADER_CONTENT_TYPE: JSON}),
}
"""The headers of a message that has no others."""

_NULL: Final = b"null"
_UNEXPECTED: Final = re.compile(r"Expected `[^`]+` .*?\[(?:field_name='(?P<field>\w+)', )?.*input_type=(?P<given>\w+)")
"""What pydantic says of a value of another type than is written."""
_MODULES: Final = re.compile(r"(\w+\.)+(?=\w)")

Write = Callable[[Any], tuple[bytes, str]]
"""Return a body as bytes, and its content type."""
Read = Callable[[bytes], Any]
"""Return a body; raises `BodyError`."""


class BodyError(ValueError):
    """A body is not of the type that its consumer wants; the text is one line that says why."""


def writer_of(body_type: Any) -> Write:
    """Return what writes bodies of a type; None stands for any type.

    Raises:
        DefinitionError: pydantic has no form for it.
    """
    for kind, written in ((None, write), (bytes, _write_bytes), (str, _write_text)):
        if body_type is kind:
            return written
    form = _form_of(body_type)
    to_json = form.writer(warnings="error")

    def write_typed(body: Any) -> tuple[bytes, str]:
        try:
            data = to_json(body)
            check_json(data)
        except WRITE_ERRORS as error:
            misfit = None if guard_reason(error) else _misfit(body, body_type, str(error))
            raise misfit or _unwritable(body, error) from None
        except LongIntegerError as error:
            raise _unwritable(body, error) from None
        if _NULL in data:
            _check_nulls(form, body, body_type, data)
        is_of_type = form.holds(body)
        if form.has_checks or not is_of_type:
            found = _read_back(form, body_type, data)
            if not is_of_type and not alike(body, found):
                raise _refusal(body, body_type, _misplaced(form, body))
        return data, JSON

    return write_typed


def write(body: Any) -> tuple[bytes, str]:
    """Return a body of any type as bytes, and its content type.

    Raises:
        RpcError: INVALID_ARGUMENT: it has no form in JSON.
    """
    if isinstance(body, bytes):
        return body, NO_TYPE
    if isinstance(body, str):
        return encode_text("the body", body), TEXT
    if isinstance(body, bytearray | memoryview):
        return bytes(body), NO_TYPE
    try:
        data = envelope.dump(untyped.plain(body))
        check_json(data)
    except (*WRITE_ERRORS, LongIntegerError) as error:
        raise _unwritable(body, error) from None
    return data, JSON


def _write_bytes(body: Any) -> tuple[bytes, str]:
    if isinstance(body, bytes):
        return body, NO_TYPE
    if not isinstance(body, bytearray | memoryview):
        raise _refusal(body, bytes, "")
    return bytes(body), NO_TYPE


def _write_text(body: Any) -> tuple[bytes, str]:
    if not isinstance(body, str):
        raise _refusal(body, str, "")
    return encode_text("the body", body), TEXT


def reader_of(body_type: Any) -> Read | None:
    """Return what reads bodies of a type; None for bytes, which are there already, and stands for them.

    Raises:
        DefinitionError: pydantic has no form for it.
    """
    if body_type is None or body_type is bytes:
        return None
    if body_type is str:
        return _read_text
    form = _form_of(body_type)
    name = getattr(body_type, "__name__", str(body_type))

    def read_typed(body: bytes) -> Any:
        try:
            return form.validator.validate_json(body)
        except ValidationError as error:
            raise BodyError(_explain(name, error, body)) from None

    return read_typed


def encode_text(what: str, text: str) -> bytes:
    """Return text as UTF-8.

    Raises:
        RpcError: INVALID_ARGUMENT: it is half of a character; `what` says of what.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise of_command(Code.INVALID_ARGUMENT, f"{what} has no form in UTF-8: {error.reason}") from None


def _read_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BodyError(f"the body is no UTF-8 text: {error.reason} at byte {error.start}") from None


def _form_of(body_type: Any) -> Form:
    if isinstance(body_type, TypeAdapter):
        return Form(body_type.core_schema, "body")
    return value_form(body_type, "body")


def _explain(name: str, error: ValidationError, body: bytes) -> str:
    """Say in one line what is wrong with the first thing that is."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if (long := long_integer_in(body, first["msg"])) is not None:
        return f"the body does not fit {name}: {long}"
    where = f"{'.'.join(str(part) for part in first['loc'])}: " if first["loc"] else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"the body does not fit {name}: {where}{first['msg']}{more}"


def _misfit(body: Any, body_type: Any, text: str) -> RpcError | None:
    """Return what is said of a body of another type; None where the type is not what is wrong."""
    found = _UNEXPECTED.search(text)
    if found is None:
        return None
    place, given = found["field"], found["given"]
    what = f": {place} is of type {given}" if place else f": it has a {given} in it" * (given != type(body).__name__)
    return _refusal(body, body_type, what)


def _check_nulls(form: Form, body: Any, body_type: Any, data: bytes) -> None:
    """Refuse a body with None where its type has none: pydantic writes it anywhere, and nobody could read it."""
    try:
        form.validator.validate_json(data)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            if problem["input"] is None:
                place = ".".join(str(part) for part in problem["loc"])
                raise _refusal(body, body_type, f": {place} is None" if place else "") from None


def _read_back(form: Form, body_type: Any, data: bytes) -> Any:
    """Return what a consumer reads, or refuse a body that none of its type could read."""
    try:
        return form.validator.validate_json(data)
    except ValidationError as error:
        reason = _explain(getattr(body_type, "__name__", str(body_type)), error, data)
        raise of_command(Code.INVALID_ARGUMENT, reason) from None


def _misplaced(form: Form, body: Any) -> str:
    """Return what in a body is of another type than is written there; nothing where it is the body itself."""
    try:
        form.validator.validate_python(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["input"] is not body and first["loc"]:
            return f": {'.'.join(map(str, first['loc']))} is of type {type(first['input']).__name__}"
    return ""


def _refusal(body: Any, body_type: Any, what: str) -> RpcError:
    wanted = body_type.__name__ if inspect.isclass(body_type) else _MODULES.sub("", str(body_type))
    if what:
        return RpcError(Code.INVALID_ARGUMENT, f"the body does not fit {wanted}{what}")
    shown = "None" if body is None else f"a body of type {type(body).__name__}"
    return RpcError(Code.INVALID_ARGUMENT, f"{shown} is no {wanted}")


def _unwritable(body: Any, error: Exception) -> RpcError:
    reason = reason_of(error, body)
    return of_command(Code.INVALID_ARGUMENT, f"a body of type {type(body).__name__} has no form in JSON: {reason}")

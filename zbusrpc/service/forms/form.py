"""A form: how the values of one type are written as JSON and read from it.

What is written comes out equal; what could not is refused when the form is made, or in one line when such a value is
written (see `equality.py`).

Pure: values and bytes.
"""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import CoreSchema, PydanticSerializationError, SchemaSerializer, SchemaValidator

from zbusrpc.errors import DefinitionError
from zbusrpc.service.forms.core_schemas import Schema
from zbusrpc.service.forms.equality import Walk
from zbusrpc.service.forms.finite import CONFIG
from zbusrpc.service.forms.guards import NotEqualError, alike, noting

_CHANGED: Final = "would come out of JSON as another value; see to what is written by functions of your own"
_UNSTABLE: Final = "would come out as another value, as its validator changes what it has made; return what it takes"

TYPES_MAX: Final = 1024
"""Types that are remembered to be sound: those of many services, and no program fills memory by making classes."""

Build = Callable[[GetCoreSchemaHandler], CoreSchema]
"""Makes a core schema; types in it become schemas by the handler."""
Write = Callable[[Any], bytes]
"""Returns a value as JSON; raises what `guards.WRITE_ERRORS` names."""


class Form:
    """The form of one type."""

    def __init__(self, schema: Schema, what: str) -> None:
        """Make a form.

        Args:
            schema: What pydantic makes of the type.
            what: Where the type stands, for errors.

        Raises:
            DefinitionError: a value of it could come out of JSON as another one.
        """
        walk = Walk(what)
        walked: Any = walk.run(schema)
        self.core_schema: CoreSchema = walked
        self._what = what
        self._must_read_back = walk.must_read_back
        self.has_checks = walk.has_checks
        """Whether validation may refuse what is written, or change it: there are bounds, or validators."""
        self._may_write_otherwise = walk.has_unions and walk.has_guards
        self._options: dict[str, Any] = (
            {"round_trip": True} if walk.has_json else {}
        )  # each option costs every call 0.1 us

    # A model's own validator and serializer, which pydantic has made before, know nothing of what was changed here:
    # `_use_prebuilt` leaves them out.

    @functools.cached_property
    def validator(self) -> SchemaValidator:
        """What reads."""
        return SchemaValidator(self.core_schema, CONFIG, _use_prebuilt=False)

    @functools.cached_property
    def _serializer(self) -> SchemaSerializer:
        return SchemaSerializer(self.core_schema, CONFIG, _use_prebuilt=False)

    def writer(self, warnings: bool | Literal["none", "warn", "error"] = False) -> Write:
        """Return what writes values.

        Args:
            warnings: What becomes of values of another type, as in pydantic; by default they are written as what they
                are, and who reads them says what is wrong.
        """
        write = functools.partial(self._serializer.to_json, warnings=warnings, **self._options)
        if self._must_read_back:
            return functools.partial(self._write_and_read, write)
        return functools.partial(self._write_member, write) if self._may_write_otherwise else write

    def result_steps(self) -> tuple[Callable[[Any], Any], Write]:
        """Return what validates what a method has returned, and what writes the outcome.

        The first raises `pydantic.ValidationError`. Validation may change its own outcome once more, as one that
        decodes does: where there are validators, what is written is the value itself if it is read back equal, or else
        what validation makes of it, if that is. So the first step has written it then, and the other hands it on.
        """
        validate, write = self.validator.validate_python, self.writer()
        if not self.has_checks:
            return validate, write
        write_strictly = self.writer(warnings="error")

        def write_checked(value: Any) -> bytes:
            body = self._written_equal(write_strictly, value)
            if body is None:
                validated = validate(value)
                body = self._written_equal(write, validated)
            if body is None:
                raise NotEqualError(f"{self._what}: this {type(value).__name__} {_UNSTABLE}")
            return body

        return write_checked, bytes

    def _written_equal(self, write: Write, value: Any) -> bytes | None:
        """Return a value's JSON, if that is read as the value."""
        try:
            body = write(value)
            found = self.validator.validate_json(body)
        except Exception:  # a user's functions get a value of any type here; who validates it says what is wrong
            return None
        return body if alike(value, found) else None

    def holds(self, value: Any) -> bool:
        """Whether a value is of the type as it is. One of a type that reads others, as `Json` does, never is."""
        try:
            return self.validator.isinstance_python(value, strict=True)
        except Exception:  # a user's functions get a value of any type here
            return False

    def json_schema(
        self, mode: JsonSchemaMode, generator: type[GenerateJsonSchema] = GenerateJsonSchema
    ) -> dict[str, Any]:
        """Return the JSON schema of what is read or written."""
        return generator(by_alias=True).generate(self.core_schema, mode)

    def _write_and_read(self, write: Write, value: Any) -> bytes:
        """Write a value by functions of the user, and see what others would read."""
        body = write(value)
        self._compare(value, body, f"{self._what}: this {type(value).__name__} {_CHANGED}")
        return body

    def _write_member(self, write: Write, value: Any) -> bytes:
        """Write a value that has unions in it: what guards refuse, pydantic may have written in another way."""
        with noting() as refused:
            try:
                body = write(value)
            except PydanticSerializationError:
                if not refused:
                    raise
                body = self._serializer.to_json(value, warnings=False, **self._options)
        if refused:
            self._compare(value, body, str(refused[0]))
        return body

    def _compare(self, value: Any, body: bytes, reason: str) -> None:
        try:
            found = self.validator.validate_json(body)
        except ValidationError:
            return  # who reads it says what is wrong with it
        if not alike(value, found):
            raise NotEqualError(reason)


class NotReadyError(DefinitionError):
    """A type names another one that is not defined yet."""


def core_schema_of(build: Build, what: str) -> Schema:
    """Return the core schema that `build` makes.

    Raises:
        DefinitionError: pydantic has no schema for a type; `what` says where it stands.
        NotReadyError: a type is not complete yet.
    """

    class Built:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            return build(handler)

    try:
        return TypeAdapter(Built, config=_CONFIG).core_schema
    except PydanticUndefinedAnnotation as error:
        raise NotReadyError(f"{what}: {error.name} is not defined") from None
    except PydanticUserError as error:
        kind = NotReadyError if error.code == "class-not-fully-defined" else DefinitionError
        raise kind(f"{what}: {_reason_of(error)}") from None
    except (RuntimeError, TypeError, ValueError) as error:  # a constraint that is not for this type, and its like
        raise DefinitionError(f"{what}: {str(error).partition(chr(10))[0]}") from None


def check_type(annotation: Any, what: str) -> None:
    """Make sure that the values of a type come out of JSON as they went in; nothing is built for them yet.

    Raises:
        DefinitionError: they may not, or it has no form in JSON.
        NotReadyError: it cannot be told yet.
    """
    try:
        if annotation in _sound:
            return
    except TypeError:  # it has no hash
        pass
    Walk(what).run(core_schema_of(lambda handler: handler.generate_schema(annotation), what))
    if len(_sound) < TYPES_MAX:
        with suppress(TypeError):
            _sound.add(annotation)


_sound: Final[set[Any]] = set()
_CONFIG: Any = {**CONFIG, "arbitrary_types_allowed": False}


def _reason_of(error: PydanticUserError) -> str:
    reason = str(error).partition("\n")[0]
    if error.code != "schema-for-unknown-type":
        return reason
    unknown = reason.partition(" for ")[2].partition(". Set ")[0]
    return f"{unknown} has no form in JSON; make it a dataclass or a pydantic model"

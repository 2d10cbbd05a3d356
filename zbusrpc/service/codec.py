"""The codec of one method at a client: writes its requests and reads its replies.

A dynamic codec knows nothing but names and takes JSON values; a typed one writes parameters by the annotations of the
method and validates what comes back by the annotation of its result. Its schemas are built by the first call.

Pure: bytes and values, no connection.
"""

import inspect
from typing import Any, Final

import orjson
from pydantic import ValidationError
from pydantic_core import from_json

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.long_integers import long_integer_in
from zbusrpc.outcome import note_type
from zbusrpc.service import schema, untyped
from zbusrpc.service.arguments import options_of, type_of
from zbusrpc.service.definition import Definition, Method
from zbusrpc.service.error_codec import revive
from zbusrpc.service.forms.form import Form, Write
from zbusrpc.service.forms.guards import WRITE_ERRORS
from zbusrpc.service.undecodable import reason_of

_CODECS_ATTRIBUTE: Final = "__zbusrpc_codecs__"
_ANYTHING: Final = inspect.signature(lambda *args, **kwargs: None)
_VARIABLE: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
_POSITIONAL: Final = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


class DynamicCodec:
    """Writes requests and reads replies of a method that nothing is known of."""

    is_idempotent = False
    is_durable = False
    timeout: float | None = None
    deprecated: str | None = None

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.source: type | str = service
        """The class of the service, or its name where nothing else is known."""
        self.attribute = method
        self.doc = ""
        self.signature = _ANYTHING

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the request."""
        try:
            if args and kwargs:
                return envelope.request_body(self.method, untyped.plain(args), untyped.plain(kwargs))
            return envelope.request_body(self.method, untyped.plain(kwargs or args))
        except WRITE_ERRORS as error:
            raise self._refusal(reason_of(error, self._named(args, kwargs))) from None

    def decode(self, body: bytes | bytearray) -> Any:
        """Return the result, integers of any size as they are (orjson rounds them)."""
        try:
            return from_json(body)["result"]
        except (ValueError, KeyError, TypeError) as error:
            shown = long_integer_in(body, str(error)) or bytes(body[:80]).decode(errors="replace")
            raise RpcError(Code.INTERNAL, f"unreadable reply of {self.service}.{self.method}: {shown}") from None

    def revive(self, error: envelope.WireError) -> RpcError:
        """Return the error to raise."""
        raised = RpcError(error.code, error.message, error.details)
        note_type(raised, error.type_name)
        return raised

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments by the names of their parameters, for errors."""
        names = list(self.signature.parameters) if self.signature is not _ANYTHING else []
        names += [f"argument {number}" for number in range(len(names) + 1, len(args) + 1)]
        return dict(zip(names, args, strict=False)) | kwargs

    def _refusal(self, reason: str) -> RpcError:
        return RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: {reason}")


class TypedCodec(DynamicCodec):
    """Writes requests and reads replies by a method's annotations. Schemas are built by the first call."""

    def __init__(self, definition: Definition, method: Method) -> None:
        super().__init__(definition.name, method.name)
        self._definition = definition
        self._method = method
        self.source = definition.cls
        self.attribute = method.attribute
        self.doc = method.doc
        self.signature = method.signature
        self.is_durable = definition.durable
        self.is_idempotent = method.options.idempotent or definition.durable
        self.timeout = method.options.timeout
        self.deprecated = method.options.deprecated
        self._parameters = list(method.signature.parameters.values())
        self._prefix = b'{"method":%b,"params":' % orjson.dumps(method.name)
        self._reply: Form | None = None
        self._writers: list[Write] = []
        self._by_name: dict[str, Write] = {}
        self._variable: dict[Any, Write] = {}

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if self._reply is None:
            self._build()
        try:
            if kwargs or len(args) > len(self._writers):
                return self._encode_unusual(args, kwargs)
            params = b",".join([write(value) for write, value in zip(self._writers, args, strict=False)])
            return b"%b[%b]}" % (self._prefix, params)
        except WRITE_ERRORS as error:
            raise self._refusal(reason_of(error, self._named(args, kwargs))) from None

    def decode(self, body: bytes | bytearray) -> Any:
        assert self._reply is not None
        try:
            return self._reply.validator.validate_json(body)["result"]
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            reason = str(long_integer_in(body, reason) or reason)
            message = f"the result of {self.service}.{self.method} does not fit its annotation: {reason}"
            raise RpcError(Code.INTERNAL, message) from None

    def revive(self, error: envelope.WireError) -> RpcError:
        return revive(error, self._definition.errors)

    def _build(self) -> None:
        for parameter in self._parameters:
            options = {name: option.annotation for name, option in options_of(parameter).items()}
            if parameter.kind in _VARIABLE and not options:
                self._variable[parameter.kind] = self._make_writer(parameter.name, type_of(parameter))
                continue
            for name, annotation in (options or {parameter.name: type_of(parameter)}).items():
                self._by_name[name] = self._make_writer(name, annotation)
        self._writers = [self._by_name[p.name] for p in self._parameters if p.kind in _POSITIONAL]
        self._reply = schema.reply_form(self.service, self._method)

    def _make_writer(self, name: str, annotation: Any) -> Write:
        return schema.value_form(annotation, f"{self.service}.{self.method}, parameter {name}").writer()

    def _encode_unusual(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Write named parameters, *args and **kwargs; a mixture goes by name as far as it has names."""
        kinds = inspect.Parameter
        rest, more = (self._variable.get(kind, envelope.dump) for kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD))
        writers = self._writers + [rest] * (len(args) - len(self._writers))
        values = [write(value) for write, value in zip(writers, args, strict=False)]
        if not kwargs:
            return b"%b[%b]}" % (self._prefix, b",".join(values))
        positional = [p for p in self._parameters if p.kind in _POSITIONAL]
        hidden = {p.name for p in positional if p.kind is kinds.POSITIONAL_ONLY}
        names = [p.name for p in positional[: len(args)]]
        if twice := [name for name in names if name in kwargs and name not in hidden]:
            raise self._refusal(f"parameter {twice[0]} is given twice")
        named = {name: (more if name in hidden else self._by_name.get(name, more))(kwargs[name]) for name in kwargs}
        if len(args) <= len(positional) and hidden.isdisjoint([*names, *kwargs]):
            return b"%b%b}" % (self._prefix, _object(dict(zip(names, values, strict=True)) | named))
        return b'%b[%b],"named":%b}' % (self._prefix, b",".join(values), _object(named))


def codec_of(definition: Definition, method: Method) -> TypedCodec:
    """Return the codec of a method, which all proxies share: its schemas are built once."""
    codecs: dict[str, TypedCodec] | None = vars(definition.cls).get(_CODECS_ATTRIBUTE)
    if codecs is None:
        codecs = {}
        setattr(definition.cls, _CODECS_ATTRIBUTE, codecs)
    if method.name not in codecs:
        codecs[method.name] = TypedCodec(definition, method)
    return codecs[method.name]


def _object(items: dict[str, bytes]) -> bytes:
    """Return a JSON object of values that are JSON already."""
    return b"{%b}" % b",".join([b"%b:%b" % (orjson.dumps(name), value) for name, value in items.items()])

"""The codec of one method at a client: writes its requests and reads its replies.

A dynamic codec knows nothing but names and takes JSON values; a typed one writes parameters by the annotations of the
method and validates what comes back by the annotation of its result. Its schemas are built by the first call.

Pure: bytes and values, no connection.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.service import schema
from zbusrpc.service.definition import Definition, Method
from zbusrpc.service.error_codec import revive


class DynamicCodec:
    """Writes requests and reads replies of a method that nothing is known of."""

    is_idempotent = False
    is_durable = False
    timeout: float | None = None
    deprecated: str | None = None

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.doc = ""

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the request."""
        if args and kwargs:
            raise self._refusal("give all parameters by position or all by name")
        try:
            return envelope.request_body(self.method, kwargs or list(args))
        except PydanticSerializationError as error:
            raise self._refusal(str(error)) from None

    def decode(self, body: bytes | bytearray) -> Any:
        """Return the result, integers of any size as they are (orjson rounds them)."""
        try:
            return from_json(body)["result"]
        except (ValueError, KeyError, TypeError):
            shown = bytes(body[:80]).decode(errors="replace")
            raise RpcError(Code.INTERNAL, f"unreadable reply of {self.service}.{self.method}: {shown}") from None

    def revive(self, error: envelope.WireError) -> RpcError:
        """Return the error to raise."""
        return RpcError(error.code, error.message, error.details)

    def _refusal(self, reason: str) -> RpcError:
        return RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: {reason}")


class TypedCodec(DynamicCodec):
    """Writes requests and reads replies by a method's annotations. Schemas are built by the first call."""

    def __init__(self, definition: Definition, method: Method) -> None:
        super().__init__(definition.name, method.name)
        self._definition = definition
        self._method = method
        self.doc = method.doc
        self.is_durable = definition.durable
        self.is_idempotent = method.options.idempotent or definition.durable
        self.timeout = method.options.timeout
        self.deprecated = method.options.deprecated
        self._parameters = list(method.signature.parameters.values())
        self._prefix = b'{"method":%b,"params":' % orjson.dumps(method.name)
        self._reply: TypeAdapter[Any] | None = None
        self._writers: list[Callable[[Any], bytes]] = []

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if self._reply is None:
            self._build()
        try:
            if kwargs or len(args) > len(self._writers):
                return b"%b%b}" % (self._prefix, self._encode_unusual(args, kwargs))
            params = b",".join([write(value) for write, value in zip(self._writers, args, strict=False)])
            return b"%b[%b]}" % (self._prefix, params)
        except PydanticSerializationError as error:
            raise self._refusal(str(error)) from None

    def decode(self, body: bytes | bytearray) -> Any:
        assert self._reply is not None
        try:
            return self._reply.validator.validate_json(body)["result"]
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            message = f"the result of {self.service}.{self.method} does not fit its annotation: {reason}"
            raise RpcError(Code.INTERNAL, message) from None

    def revive(self, error: envelope.WireError) -> RpcError:
        return revive(error, self._definition.errors)

    def _build(self) -> None:
        self._writers = []
        for parameter in self._parameters:
            what = f"{self.service}.{self.method}, parameter {parameter.name}"
            serializer = schema.value_adapter(parameter.annotation, what).serializer
            self._writers.append(functools.partial(serializer.to_json, warnings=False))
        self._reply = schema.reply_adapter(self.service, self._method)

    def _encode_unusual(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Write named parameters, *args and **kwargs; a mixture goes by name as far as it has names."""
        kinds = inspect.Parameter
        by_name = {parameter.name: write for parameter, write in zip(self._parameters, self._writers, strict=True)}
        rest = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_KEYWORD), envelope.dump)
        if not kwargs:
            more = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_POSITIONAL), envelope.dump)
            fixed = [by_name[p.name] for p in self._parameters if p.kind is not kinds.VAR_POSITIONAL]
            writers = fixed + [more] * (len(args) - len(fixed))
            return b"[%b]" % b",".join(write(value) for write, value in zip(writers, args, strict=False))
        names = [p.name for p in self._parameters if p.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}]
        if len(args) > len(names) or any(p.kind is kinds.POSITIONAL_ONLY for p in self._parameters):
            raise self._refusal("a call gives all parameters by position or all by name")
        if twice := [name for name in names[: len(args)] if name in kwargs]:
            raise self._refusal(f"parameter {twice[0]} is given twice")
        named = dict(zip(names, args, strict=False)) | kwargs
        items = [b"%b:%b" % (orjson.dumps(name), by_name.get(name, rest)(value)) for name, value in named.items()]
        return b"{%b}" % b",".join(items)

"""A request to the API, and the routes by which it is taken: what `api.py` lists and `openapi.py` describes.

Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from zbusrpc.broker.access.rights import Operation, Rights
from zbusrpc.broker.core.permissions import require
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.http import HttpRequest
from zbusrpc.transport.naming import one_spelling

if TYPE_CHECKING:
    from zbusrpc.broker.monitor.monitor import Monitor

Value = dict[str, Any]


@dataclass(kw_only=True)
class Asked:
    """A request to the API."""

    request: HttpRequest
    rights: Rights | None
    names: dict[str, str] = field(default_factory=dict)
    """What the path names: `topic`, `group`, `service`."""

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters of the URL."""
        text = self.request.target.partition(b"?")[2].decode("latin-1")
        return dict(parse_qsl(text, encoding="utf-8", errors="replace"))

    @cached_property
    def body(self) -> Value:
        """The body, which is a JSON object or nothing.

        Raises:
            RpcError: INVALID_ARGUMENT.
        """
        try:
            value = orjson.loads(self.request.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise RpcError(Code.INVALID_ARGUMENT, f"the body must be a JSON object, not {type(value).__name__}")
        return value

    def require(self, operation: Operation, topic: str = "", group: str | None = None) -> None:
        """See that it is allowed.

        Raises:
            RpcError: PERMISSION_DENIED.
        """
        if self.rights is not None:
            require(self.rights, operation, topic, group)


Look = Callable[["Monitor", Asked], Any]
Order = Callable[[Asked], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One thing that can be asked for."""

    method: str
    path: str
    about: str
    """What it does, in one line."""
    look: Look | None = None
    order: Order | None = None
    body: str = ""
    """Name of the schema of its body; nothing where it takes none."""
    result: str = "Result"
    """Name of the schema of its result; with `[]` a list of those."""
    query: tuple[str, ...] = ()
    """Parameters of the URL."""
    is_raw: bool = False
    """Whether the answer is the result itself, without an envelope."""

    @property
    def name(self) -> str:
        """What the request is called where routes need a name."""
        words = [part.strip("{}") for part in self.path.split("/")[2:]]
        return "_".join([self.method.lower(), *words]).replace("-", "_").replace(".", "_")

    def match(self, method: str, parts: list[str]) -> dict[str, str] | None:
        """Return the names in a path, or None where it is another one."""
        own = self.path.split("/")[1:]
        if method != self.method or len(own) != len(parts):
            return None
        if any(mine != theirs for mine, theirs in zip(own, parts, strict=True) if mine[:1] != "{"):
            return None
        pairs = zip(own, parts, strict=True)
        return {mine.strip("{}"): one_spelling(theirs) for mine, theirs in pairs if mine[:1] == "{"}

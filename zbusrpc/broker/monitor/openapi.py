"""The description of the API, OpenAPI 3.1: made of the routes, the rows and the commands of the message queue."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model
from typing_extensions import TypedDict

from zbusrpc.broker.monitor.asked import Route
from zbusrpc.broker.monitor.rows import GroupRow, ServerRow, ServiceRow, TopicRow, described
from zbusrpc.broker.mq import requests
from zbusrpc.version import __version__

REFS: Final = "#/components/schemas/"
_BODIES: Final[dict[str, type[BaseModel]]] = {
    "Declare": requests.Declare,
    "DeclareGroup": requests.DeclareGroup,
    "Seek": requests.Seek,
    "RetryDead": requests.RetryDead,
    "PurgeDead": requests.PurgeDead,
}
_IN_PATH: Final = frozenset({"command", "topic", "group"})
_START: Final = "oldest, newest, offset:N, time:ISO, id:ID or group:GROUP"
_ABOUT: Final = {
    "start": _START,
    "count": "How many, 1 to 1000; by default 10.",
    "filter": "Which tags, such as eu.* or eu.+.new;us.#",
    "body_bytes_max": "Longer bodies are cut.",
}
_ERRORS: Final = {
    "400": "Something about the request is wrong.",
    "401": "The token is missing or unknown.",
    "403": "The token has no right to do this.",
    "404": "There is no such topic, group or service.",
}


@described
class RuleRow(TypedDict):
    """Some operations on some topics and groups."""

    operations: list[str]
    topics: list[str]
    """A name may end with `*`, which stands for any rest."""
    groups: list[str]


@described
class RightsRow(TypedDict):
    """What whoever asks may do."""

    name: str
    """Of the token."""
    has_tokens: bool
    """Whether this broker asks for tokens."""
    is_anonymous: bool
    """Whether no token was shown."""
    operations: list[str]
    """Of all rules together."""
    topics: list[str]
    """Of all rules together."""
    rules: list[RuleRow]


@described
class OwnServer(ServerRow):
    """The broker that answers."""

    rights: RightsRow
    statistics: dict[str, int]
    """Counters and sizes; those of stored messages begin with `mq_`."""


@described
class TopicDetails(TopicRow):
    """A topic with its groups."""

    groups: list[GroupRow]


@described
class MethodRow(TypedDict):
    """A method of a service."""

    doc: str
    params: dict[str, Any]
    """JSON schema of an object with the parameters; {} where there is none."""
    result: dict[str, Any]
    """JSON schema."""
    idempotent: bool
    deprecated: str | None
    is_durable: bool


@described
class Interface(TypedDict):
    """What a service says of itself."""

    doc: str
    methods: dict[str, MethodRow]


@described
class ServiceDetails(ServiceRow):
    """A service with its interface."""

    interface: Interface | None
    """null for a service that does not tell it."""


@described
class Snapshot(TypedDict):
    """Everything that the token may see."""

    at_ms: int
    server: OwnServer
    servers: list[ServerRow]
    topics: list[TopicRow]
    groups: list[GroupRow]
    services: list[ServiceRow]


@described
class RouteRow(TypedDict):
    """What can be asked for."""

    method: str
    path: str
    about: str


_RESULTS: Final[dict[str, Any]] = {
    row.__name__: row
    for row in (
        OwnServer,
        ServerRow,
        TopicRow,
        TopicDetails,
        GroupRow,
        ServiceRow,
        ServiceDetails,
        Snapshot,
        RightsRow,
        RouteRow,
    )
}


@lru_cache(maxsize=1)
def description(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document."""
    document_paths: dict[str, Any] = {}
    for route in routes:
        document_paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    document_paths["/metrics"] = {"get": _metrics_operation()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "zbusrpc monitor",
            "version": __version__,
            "description": "What one broker knows and does. Over WebSocket a message is such a request, as text.",
        },
        "paths": document_paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "token"},
            },
        },
        "security": [{}, {"bearer": []}, {"cookie": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    names = [part[1:-1] for part in route.path.split("/") if part[:1] == "{"]
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    in_query = [
        {"name": name, "in": "query", "description": _ABOUT[name], "schema": {"type": "string"}} for name in route.query
    ]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "parameters": [*in_path, *in_query],
        "responses": {
            "200": {"description": "Done.", "content": _json(_envelope(route))},
            **{status: {"description": text, "content": _json(_ref("Error"))} for status, text in _ERRORS.items()},
        },
    }
    if route.body:
        operation["requestBody"] = {"required": route.body == "Login", "content": _json(_ref(route.body))}
    return operation


def _envelope(route: Route) -> dict[str, Any]:
    if route.is_raw:
        return {"type": "object"}
    name = route.result.removesuffix("[]")
    result = {"type": "array", "items": _ref(name)} if name != route.result else _ref(name)
    return {"type": "object", "properties": {"result": result}, "required": ["result"]}


def _metrics_operation() -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": "metrics",
        "summary": "Show figures for Prometheus.",
        "parameters": [],
        "responses": {"200": {"description": "Done.", "content": text}},
    }


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {
        "Result": {"description": "What the command answers: see docs/protocol.md."},
        "Messages": {
            "type": "object",
            "properties": {
                "messages": {"type": "array", "items": {"type": "object"}},
                "next_offset": {"type": "integer"},
                "end_offset": {"type": "integer"},
            },
            "required": ["messages", "next_offset", "end_offset"],
        },
        "Login": {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]},
        "Error": _error_schema(),
    }
    for name, row in _RESULTS.items():
        _hoist(schemas, name, TypeAdapter(row).json_schema(ref_template=REFS + "{model}"))
    for name, model in _BODIES.items():
        fields: dict[str, Any] = {
            field: (info.annotation, info) for field, info in model.model_fields.items() if field not in _IN_PATH
        }
        body = create_model(name, __doc__=model.__doc__, __config__=ConfigDict(extra="forbid"), **fields)
        _hoist(schemas, name, body.model_json_schema(ref_template=REFS + "{model}"))
    for name in ("DeclareGroup", "Seek"):
        schemas[name]["properties"]["start"] = {"anyOf": [{"type": "string"}, _ref("Start")], "description": _START}
    return schemas


def _hoist(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    schemas |= schema.pop("$defs", {})
    schemas[name] = schema


def _error_schema() -> dict[str, Any]:
    fields: dict[str, Any] = {"code": {"type": "string"}, "message": {"type": "string"}, "details": {}}
    fields["may_have_run"] = {"const": False, "description": "Where it stands: what was asked for was not begun."}
    error = {"type": "object", "properties": fields, "required": ["code", "message"]}
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REFS + name}

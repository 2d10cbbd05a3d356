"""Events of servers, as `track_pub` brings them. Pure."""

from pydantic import BaseModel, ConfigDict, ValidationError

from zbusrpc.errors import Code, RpcError


class _ServerAddress(BaseModel):
    model_config = ConfigDict(extra="ignore")

    address: str


class _ServerInfo(BaseModel):
    model_config = ConfigDict(extra="ignore")

    serverAddress: _ServerAddress  # noqa: N815 - the wire's own name


class _ServerEvent(BaseModel):
    model_config = ConfigDict(extra="ignore")

    serverInfo: _ServerInfo  # noqa: N815 - the wire's own name
    live: bool


def check_event(body: bytes) -> None:
    """See that the body of a `track_pub` is a ServerEvent.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    try:
        _ServerEvent.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RpcError(Code.INVALID_ARGUMENT, f"track_pub: {where}: {first['msg'].lower():.200}") from None

"""The HELLO: what each side of a native connection says about itself before anything else.

The client speaks first. Its HELLO names the protocol and the version it speaks; the broker answers with its own
or says GOODBYE with the reason. Limits are told, not negotiated: each side keeps to the smaller one.
"""

from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from zbusrpc import bounds
from zbusrpc.config import IDLE_S, MESSAGE_BYTES_MAX
from zbusrpc.errors import Code, ProtocolError, TokenRefusedError
from zbusrpc.message import Kind, Message
from zbusrpc.version import __version__

PROTOCOL_VERSION: Final = 1


class Hello(BaseModel):
    """Body of a HELLO."""

    model_config = ConfigDict(frozen=True)

    protocol: Literal["zbusrpc"] = "zbusrpc"
    version: int = PROTOCOL_VERSION
    """Version of the native protocol."""
    software: Annotated[str, Field(max_length=64)] = f"zbusrpc/{__version__}"
    name: Annotated[str, Field(max_length=255)] = ""
    """Who this is, for people: shown in listings and logs, never trusted."""
    address: Annotated[str, Field(max_length=300)] = ""
    """From the broker: the address by which trackers call it, and which is its name among brokers."""
    boot: Annotated[str, Field(max_length=64)] = ""
    """From the broker: names its process."""
    message_bytes_max: Annotated[int, bounds.THEIR_BYTES] = MESSAGE_BYTES_MAX
    """Largest payload this side takes."""
    session: Annotated[int, bounds.SESSION] = 0
    """From the broker: the number of the client's session; with a request's id it names the call."""
    idle_s: Annotated[float, bounds.IDLE_S] = IDLE_S
    """This side closes a connection on which it has heard nothing for so long."""
    token: Annotated[SecretStr, Field(max_length=256)] = SecretStr("")
    """From the client: the secret that shows what it may do. It is neither logged nor shown."""


def hello_message(hello: Hello) -> Message:
    """Return the message that carries `hello`."""
    said = hello.model_dump(exclude={"token"})
    if hello.token:
        said["token"] = hello.token.get_secret_value()
    return Message(Kind.HELLO, body=orjson.dumps(said))


def parse_hello(message: Message) -> Hello:
    """Return what the peer said.

    Raises:
        TokenRefusedError: it does not know the token.
        ProtocolError: it is no HELLO, or of another protocol version.
    """
    if message.kind == Kind.GOODBYE:
        reason = bytes(message.body).decode(errors="replace")
        if reason.startswith(Code.UNAUTHENTICATED):
            raise TokenRefusedError(reason.removeprefix(f"{Code.UNAUTHENTICATED}: "))
        raise ProtocolError(reason)
    if message.kind != Kind.HELLO:
        raise ProtocolError(f"the first message must be HELLO, not {Kind(message.kind).name}")
    try:
        hello = Hello.model_validate_json(bytes(message.body))
    except ValidationError as error:
        raise ProtocolError(f"unusable HELLO: {error.errors()[0]['msg']}") from None
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolError(f"the peer speaks protocol version {hello.version}, this side {PROTOCOL_VERSION}")
    return hello

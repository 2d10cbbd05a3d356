"""Commands: one COMMAND to a broker and its answer, for whatever concerns topics and groups as a whole."""

import time
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from zbusrpc import envelope
from zbusrpc.cluster.caller import Caller
from zbusrpc.cluster.fleet import caller_of_loop
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.mq.naming import brokers_of
from zbusrpc.service.context import ambient_deadline
from zbusrpc.transport.connection import Connection


async def command(
    name: str, broker: str | None, timeout: float, *, options: Mapping[str, Any] | None = None, **fields: Any
) -> Any:
    """Have a broker carry out a command, and return its result.

    Args:
        options: Fields that are said as they are.
        fields: Those that are None are left out.

    Raises:
        RpcError: the broker refuses, cannot be reached, or does not answer within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    ambient = ambient_deadline.get()
    if ambient is not None:
        deadline = min(ambient, deadline)
    caller = caller_of_loop(brokers_of(broker))
    return result_of(await caller.request(_command(name, fields, options or {}), deadline))


async def declare_by(caller: Caller, connection: Connection, topic: str) -> None:
    """See that a topic exists, by a connection and no other.

    Raises:
        RpcError: the broker refuses, or the connection was lost.
    """
    result_of(await caller.exchange(_command("declare", {"topic": topic}, {}), None, connection))


def result_of(reply: Message) -> Any:
    """Return the result in a reply.

    Raises:
        RpcError: it holds an error.
    """
    if reply.flags & Flag.ERROR:
        error = envelope.parse_error(reply.body)
        raise RpcError(error.code, error.message, error.details)
    try:
        return from_json(reply.body)["result"]
    except (ValueError, KeyError, TypeError):
        shown = bytes(reply.body[:80]).decode(errors="replace")
        raise RpcError(Code.INTERNAL, f"unreadable answer of the broker: {shown}") from None


def _command(name: str, fields: Mapping[str, Any], options: Mapping[str, Any]) -> Message:
    given = {field: value for field, value in fields.items() if value is not None}
    return Message(Kind.COMMAND, body=envelope.dump({"command": name, **given, **options}))

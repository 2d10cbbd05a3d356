"""Commands: what concerns topics and groups as a whole, one COMMAND and its answer for each broker that is asked.

Commands concern the brokers that are named, and no others that those know of; a tracker that is no broker itself stands
for those that report to it. Where there are several:

    topics, stats, declare                               go to all of them, and the answers are put together
    topic, remove, empty, pause, resume, declare_group   go to all of them, and concern those that have the topic
    peek, seek, dlq, retry_dead, purge_dead              go to the one that has the topic; where several have it, the
                                                         error names them, for offsets are those of one broker

A broker that cannot be reached is left out, with a warning.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic_core import from_json

from zbusrpc import envelope
from zbusrpc.cluster.channel import Channel
from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.mq.checks import check_seconds
from zbusrpc.mq.naming import brokers_of
from zbusrpc.outcome import of_command
from zbusrpc.service.context import ambient_deadline
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import Connection

_FOR_ALL: Final = frozenset({"topics", "stats", "declare"})
_WHERE_IT_IS: Final = frozenset({"topic", "remove", "empty", "pause", "resume", "declare_group"})
_HAS_NOT: Final = frozenset({Code.NOT_FOUND, Code.FAILED_PRECONDITION})
"""What a broker says that has not the topic or the group, or no topics at all."""
_LEFT_OUT: Final = {"declare": frozenset[Code](), "declare_group": frozenset({Code.NOT_FOUND})}
"""Where it says something else by FAILED_PRECONDITION."""
_OF_CONSUMERS: Final = frozenset({"window", "create"})
"""Of the fields of CONSUME: those that do not concern the group."""
_ADDED_UP: Final = ("messages", "bytes", "group_count", "consumers", "produced", "duplicates")

log = get_logger("command")


async def command(
    name: str, broker: str | None, timeout: float, *, options: Mapping[str, Any] | None = None, **fields: Any
) -> Any:
    """Have the brokers that are named carry out a command, and return its result.

    Args:
        options: Fields that are said as they are.
        fields: Those that are None are left out.

    Raises:
        RpcError: a broker refuses, none can be reached, or one does not answer within `timeout` seconds.
    """
    check_seconds("timeout", timeout)
    deadline = time.monotonic() + timeout
    ambient = ambient_deadline()
    if ambient is not None:
        deadline = min(ambient, deadline)
    body = _body(name, fields, options or {})
    seeds = await _named(fleet_of_loop(brokers_of(broker)), deadline)
    if len(seeds) == 1:
        return await _ask(seeds[0], body, deadline)
    if name not in _FOR_ALL | _WHERE_IT_IS:
        return await _ask(await _only_one_with(str(fields["topic"]), seeds, deadline), body, deadline)
    answers = await _ask_all(seeds, body, deadline)
    return _together(name, _results_of(answers, _LEFT_OUT.get(name, _HAS_NOT)))


async def _named(fleet: Fleet, deadline: float) -> list[Endpoint]:
    """Return the brokers that commands concern.

    Raises:
        RpcError: there is one, and it cannot be reached.
    """
    for seed in fleet.seeds:
        seed.renew()
    if len(fleet.seeds) == 1 and not fleet.seeds[0].is_known:
        await fleet.wait_endpoint(b"", deadline, wait_for_ready=False)
    brokers = [seed for seed in fleet.seeds if not seed.is_mere_tracker]
    if not brokers:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                while fleet.is_linking():
                    await fleet.wait_change()
    return brokers or [choice.endpoint for choice in fleet.everyone()] or fleet.seeds


async def declare_by(channel: Channel, connection: Connection, topic: str) -> None:
    """See that a topic exists, by a connection and no other.

    Raises:
        RpcError: the broker refuses, or the connection was lost.
    """
    message = Message(Kind.COMMAND, body=_body("declare", {"topic": topic}, {}))
    result_of(await channel.exchange(message, None, connection))


async def declare_group_by(channel: Channel, connection: Connection, topic: str, fields: Mapping[str, Any]) -> None:
    """Give a group the options that are given, by a connection and no other; make it where there is none.

    Args:
        fields: Body of the CONSUME that follows.

    Raises:
        RpcError: the broker refuses, or the connection was lost.
    """
    options = {name: value for name, value in fields.items() if name not in _OF_CONSUMERS}
    message = Message(Kind.COMMAND, body=_body("declare_group", {"topic": topic, "update": True, **options}, {}))
    result_of(await channel.exchange(message, None, connection))


def result_of(reply: Message) -> Any:
    """Return the result in a reply.

    Raises:
        RpcError: it holds an error.
    """
    if reply.flags & Flag.ERROR:
        raise envelope.error_of(reply)
    try:
        return from_json(reply.body)["result"]
    except (ValueError, KeyError, TypeError):
        shown = bytes(reply.body[:80]).decode(errors="replace")
        raise of_command(Code.INTERNAL, f"unreadable answer of the broker: {shown}") from None


def _body(name: str, fields: Mapping[str, Any], options: Mapping[str, Any]) -> bytes:
    given = {field: value for field, value in fields.items() if value is not None}
    return envelope.dump({"command": name, **given, **options})


async def _ask(endpoint: Endpoint, body: bytes, deadline: float) -> Any:
    return result_of(await endpoint.channel.request(Message(Kind.COMMAND, body=body), deadline))


# -- several brokers -----------------------------------------------------------------------------------------

_Answers = dict[Endpoint, Any]
"""What each broker has answered; an error is one of the answers."""


async def _ask_all(seeds: Sequence[Endpoint], body: bytes, deadline: float) -> _Answers:
    """Ask each broker once, by whatever names it is known."""
    dials = (seed.channel.wait_connection(deadline, wait_for_ready=False) for seed in seeds)
    dialled = dict(zip(seeds, await asyncio.gather(*dials, return_exceptions=True), strict=True))
    away = {seed: error for seed, error in dialled.items() if isinstance(error, BaseException)}
    there = list({seed.address: seed for seed in seeds if seed not in away}.values())
    answers = await asyncio.gather(*[_ask(seed, body, deadline) for seed in there], return_exceptions=True)
    return dict(zip(there, answers, strict=True)) | away


def _results_of(answers: _Answers, left_out: frozenset[Code]) -> _Answers:
    """Return the results; brokers that refuse by those codes are left out, as long as another one does not.

    Raises:
        RpcError: a broker refuses, or none has what is asked for.
    """
    errors = {endpoint: error for endpoint, error in answers.items() if isinstance(error, BaseException)}
    results = {endpoint: answer for endpoint, answer in answers.items() if endpoint not in errors}
    said: list[RpcError] = []
    for endpoint, error in errors.items():
        if not isinstance(error, RpcError):
            raise error
        if results and error.code is Code.UNAVAILABLE:
            log.warning("command.unreachable", broker=endpoint.address, reason=error.message)
        elif not results or error.code not in left_out:
            text = error.message if endpoint.address in error.message else f"broker {endpoint.address}: {error.message}"
            said.append(of_command(error.code, text, error.details))
    if said:
        said.sort(key=lambda error: error.code in left_out)
        raise of_command(said[0].code, "; ".join(error.message for error in said), said[0].details)
    return results


async def _only_one_with(topic: str, seeds: Sequence[Endpoint], deadline: float) -> Endpoint:
    """Return the broker that has a topic.

    Raises:
        RpcError: NOT_FOUND: none has it. INVALID_ARGUMENT: several have it.
    """
    answers = await _ask_all(seeds, _body("topic", {"topic": topic}, {}), deadline)
    having = list(_results_of(answers, _HAS_NOT))
    if len(having) > 1:
        names = ", ".join(endpoint.address for endpoint in having)
        raise of_command(Code.INVALID_ARGUMENT, f"topic {topic} is at several brokers: {names}; name one of them")
    return having[0]


def _together(name: str, results: _Answers) -> Any:
    """Return the results of several brokers as one."""
    if name == "topics":
        found = [{**one, "broker": endpoint.address} for endpoint, result in results.items() for one in result]
        return sorted(found, key=lambda one: (one["topic"], one["broker"]))
    if name in {"stats", "empty"}:
        names = dict.fromkeys(field for result in results.values() for field in result)
        return {field: sum(result.get(field, 0) for result in results.values()) for field in names}
    first = next(iter(results.values()))
    if name == "topic":
        return _details_of(results)
    if isinstance(first, dict):
        return {**first, "created": any(result["created"] for result in results.values())}
    return first


def _details_of(results: _Answers) -> dict[str, Any]:
    """Return the details of a topic that several brokers have: numbers added up, offsets as of the first."""
    details = list(results.values())
    added_up = {field: sum(one[field] for one in details) for field in _ADDED_UP}
    names = [endpoint.address for endpoint in results]
    failing = [one["journal_fails_because"] for one in details if one.get("journal_fails_because")]
    groups = [{**group, "broker": name} for name, one in zip(names, details, strict=True) for group in one["groups"]]
    return {**details[0], **added_up, "broker": ", ".join(names), "groups": groups} | (
        {"journal_fails_because": "; ".join(failing)} if failing else {}
    )

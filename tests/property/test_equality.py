"""Equality: of all types that pydantic offers, values come out as they went in, or the type is refused."""

import asyncio
import math
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.support.inprocess import http_call, running_broker, serving
from tests.support.type_strategies import LEAVES, Drawn, types
from zbusrpc import Code, DefinitionError, RpcError, connect, envelope, service
from zbusrpc.broker.assembly.server import Server
from zbusrpc.mq.bodies import reader_of, writer_of
from zbusrpc.service.forms.form import check_type

EXAMPLES, EXAMPLES_LONG = 40, 3000
VALUES = 3
REASONS = ("beside strings", "strict mode takes no string")
"""Why a value of its own type may be refused when it is written: it shows only then."""


def same(ours: Any, theirs: Any) -> bool:
    """Say whether two values are of one type and equal, also NaN, and whatever a model or dataclass has."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, float) and math.isnan(ours):
        return math.isnan(theirs)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, BaseModel) or hasattr(ours, "__dataclass_fields__"):
        return same(vars(ours), vars(theirs))
    return bool(ours == theirs) or (hasattr(ours, "__iter__") and same(list(ours), list(theirs)))


def may_be_refused(error: RpcError) -> bool:
    """Say whether an error is the refusal of a value of which only the value shows that it would not come out equal."""
    return error.code == Code.INVALID_ARGUMENT and any(reason in error.message for reason in REASONS)


def echoing(annotation: Any) -> type:
    """Return a service that gives back what it is given."""

    class Echo:
        async def echo(self, value: Any) -> Any:
            return value

    Echo.echo.__annotations__ = {"value": annotation, "return": annotation}
    return service(Echo)


async def check(server: Server, drawn: Drawn, values: list[Any], seen: Counter[str]) -> None:
    annotation = drawn[0]
    try:
        cls = echoing(annotation)
    except DefinitionError:
        seen["refused"] += 1
        return
    write, read = writer_of(annotation), reader_of(annotation)
    async with serving(server, cls):
        echo = connect(cls, broker=server.broker.name)
        for value in values:
            try:
                found = await echo.echo(value)
            except RpcError as error:
                if not may_be_refused(error):
                    raise
                seen["refused values"] += 1
                continue
            assert same(value, found)
            seen["equal"] += 1
            if read is not None and not isinstance(value, bytes | str):
                body, _ = write(value)
                assert same(value, read(body))
                status, _, reply = await http_call(server, "POST /rpc/Echo", b'{"method":"echo","params":[%b]}' % body)
                result = envelope.dump(envelope.load(reply)["result"])  # a set may come in another order
                assert (status, same(value, read(result))) == (200, True), reply


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(EXAMPLES_LONG, marks=pytest.mark.long)])
def test_value_of_any_type_comes_out_as_it_went_in(examples: int) -> None:
    """Through a broker, natively, over HTTP and as a message: equal, or the type was refused when it was declared."""
    seen: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        context = running_broker()
        server = runner.run(context.__aenter__())

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def run(data: st.DataObject) -> None:
            drawn = data.draw(types())
            values = [data.draw(drawn[1]) for _ in range(VALUES)]
            runner.run(check(server, drawn, values, seen))

        try:
            run()
        finally:
            runner.run(context.__aexit__(None, None, None))

    assert seen["equal"] > examples / 2, seen
    assert seen["refused"] > 0, seen


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_members_of_unions_are_told_apart(data: st.DataObject) -> None:
    """A union of two plain types is refused, or each value comes out of it as the member that it is."""
    (one, values), (other, others) = data.draw(st.sampled_from(LEAVES)), data.draw(st.sampled_from(LEAVES))
    try:
        check_type(one | other, "it")
    except (DefinitionError, TypeError):
        return
    write, read = writer_of(one | other), reader_of(one | other)
    value = data.draw(values | others)
    if read is None or isinstance(value, bytes | str):
        return
    try:
        body, _ = write(value)
    except RpcError as error:
        if not may_be_refused(error):
            raise
        return

    assert same(value, read(body)), orjson.dumps(str(body))

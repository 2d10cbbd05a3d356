"""Context, deadlines with a timer, hosting, and loading by name."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zbusrpc.cli.loading import load
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, ConfigError, DefinitionError, RpcError, UsageError
from zbusrpc.message import Kind, Message, encode_headers
from zbusrpc.service.context import Context, ambient_deadline, context, deadline
from zbusrpc.service.definition import service
from zbusrpc.service.lifespan import check_target, hosted, make_instance
from zbusrpc.telemetry import current_call


def context_of(headers: dict[str, str], until: float | None = None) -> Context:
    message = Message(Kind.REQUEST, 7, b"Calc", header_bytes=encode_headers(headers), session=3)
    return Context(message, "Calc", "add", until)


def test_context_reads_the_headers_of_its_call() -> None:
    """Id, caller, attempt and metadata are those of the message."""
    call = context_of({"caller": "ann", "attempt": "2", "meta-tenant": "acme", "traceparent": "x"})

    assert (call.call_id, call.caller, call.attempt, call.metadata) == ("3-7", "ann", 2, {"tenant": "acme"})
    plain = context_of({})
    assert (plain.caller, plain.attempt, plain.metadata, plain.time_left) == ("session 3", 1, {}, None)


def test_time_left_is_not_below_zero() -> None:
    """A deadline that has passed leaves no time."""
    assert context_of({}, time.monotonic() - 5).time_left == 0.0
    left = context_of({}, time.monotonic() + 50).time_left
    assert left is not None
    assert 49 < left <= 50


def test_unreadable_headers_are_the_callers_fault() -> None:
    """A handler that asks for headers which break the protocol answers INVALID_ARGUMENT."""
    message = Message(Kind.REQUEST, 1, header_bytes=b"{")

    with pytest.raises(RpcError, match="unusable headers") as caught:
        _ = Context(message, "Calc", "add", None).metadata

    assert caught.value.code is Code.INVALID_ARGUMENT


def test_context_is_for_handlers() -> None:
    """Outside of a handler there is no call to ask about."""
    with pytest.raises(UsageError, match="is for handlers"):
        context()

    call = context_of({})
    token = current_call.set(call)
    assert context() is call
    current_call.reset(token)


def test_inner_deadline_never_reaches_past_the_outer() -> None:
    """The earlier limit holds, and the outer one is back after the block."""
    with deadline(5.0):
        outer = ambient_deadline()
        with deadline(50.0):
            assert ambient_deadline() == outer
        with deadline(1.0):
            inner = ambient_deadline()
            assert inner is not None
            assert outer is not None
            assert inner < outer
        assert ambient_deadline() == outer
    assert ambient_deadline() is None


@pytest.mark.anyio
async def test_timer_tells_of_each_deadline_once_and_not_early() -> None:
    """Deadlines that were added in any order are told in theirs, none before its time."""
    told: list[tuple[str, float]] = []
    all_told = asyncio.Event()

    def tell(item: str) -> None:
        told.append((item, time.monotonic()))
        if len(told) == 3:
            all_told.set()

    timer = DeadlineTimer(tell)
    start = time.monotonic()
    for item, delay in [("late", 0.06), ("removed", 0.03), ("first", 0.01)]:
        tick = timer.add(item, start + delay)
        if item == "removed":
            tick.pop(item)
    timer.add("past", start - 1)

    async with asyncio.timeout(5):
        await all_told.wait()
    timer.close()

    assert [item for item, _ in told] == ["past", "first", "late"]
    assert told[1][1] >= start + 0.01
    assert told[2][1] >= start + 0.06


@pytest.mark.anyio
async def test_closed_timer_tells_of_nothing() -> None:
    """After `close` no deadline is told."""
    told: list[str] = []
    timer = DeadlineTimer(told.append)
    timer.add("x", time.monotonic())

    timer.close()
    await asyncio.sleep(0.03)

    assert told == []


@service
class Plain:
    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.events: list[str] = []

    async def get(self) -> int:
        return self.size


@service
class Entered(Plain):
    async def __aenter__(self) -> "Entered":
        self.events.append("in")
        return self

    async def __aexit__(self, *args: object) -> None:
        self.events.append("out")


@service
class EnteredPlainly(Plain):
    def __enter__(self) -> str:
        self.events.append("in")
        return "something else"

    def __exit__(self, *args: object) -> None:
        self.events.append("out")


@service
class Needy:
    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self) -> str:
        return self.url


async def make_needy() -> Needy:
    """Make a service as a factory that may wait."""
    return Needy("x")


@pytest.mark.anyio
async def test_class_instance_and_factory_make_an_instance() -> None:
    """What a user names becomes an instance; a factory may be `def` or `async def`."""
    ready = Plain(5)

    assert isinstance(await make_instance(Plain), Plain)
    assert await make_instance(ready) is ready
    assert isinstance(await make_instance(lambda: Needy("x")), Needy)
    assert isinstance(await make_instance(make_needy), Needy)


def test_target_is_checked_without_being_made() -> None:
    """What keeps other processes that serve opens nothing itself."""
    made: list[object] = []

    @service
    class Counted:
        def __init__(self) -> None:
            made.append(self)

        async def get(self) -> int:
            return 1

    check_target(Counted)
    check_target(lambda: made.append(1))

    assert made == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Needy, "cannot be made without arguments"),
        (int, "int is no service"),
        (5, "int is no service"),
        (dict, "no service"),
        (lambda: 5, r"returned int, which is no service"),
    ],
)
async def test_target_that_makes_no_service_is_named(target: Any, words: str) -> None:
    """The error says what was named and what to do."""
    with pytest.raises(DefinitionError, match=words):
        await make_instance(target)


@pytest.mark.anyio
@pytest.mark.parametrize("cls", [Entered, EnteredPlainly])
async def test_context_manager_is_entered_while_it_serves(cls: type[Plain]) -> None:
    """A service that is a context manager is entered before and left after."""
    async with hosted(cls) as (definition, instance):
        assert isinstance(instance, cls)
        assert definition.name == cls.__name__
        assert instance.events == ["in"]

    assert instance.events == ["in", "out"]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "calcmod_here.py").write_text(
        "from zbusrpc import service\n\n\n@service\nclass Calc:\n"
        "    async def add(self, a: int) -> int:\n        return a\n"
        "five = 5\n"
    )
    (tmp_path / "brokenmod_here.py").write_text("x = 1 / 0\n")
    (tmp_path / "syntaxmod_here.py").write_text("x = = 1\n")
    (tmp_path / "importmod_here.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "jsonmod_here.py").write_text("import json\n\njson.loads('x')\n")
    (tmp_path / "servicemod_here.py").write_text(
        "from zbusrpc import service\n@service\nclass X:\n    async def f(self, a): ...\n"
    )
    (tmp_path / "exitmod_here.py").write_text("import sys\nsys.exit(3)\n")
    return tmp_path


def test_target_is_loaded_from_the_current_directory(modules: Path) -> None:
    """`mymod:Calc` needs no installation."""
    assert load("calcmod_here:Calc").__name__ == "Calc"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("calcmod_here", r"write module:Class"),
        (":Calc", r"write module:Class"),
        ("calcmod_here:", r"write module:Class"),
        ("calcmod_hree:Calc", r"no module calcmod_hree .* did you mean calcmod_here\?"),
        ("calcmod_here:Clac", r"has no Clac; did you mean Calc\?"),
        ("calcmod_here:zzz", r"has no zzz; it has Calc"),
        ("calcmod_here:five.six", r"has no six"),
        ("calcmod_here:Calc.sub", r"has no sub"),
        ("brokenmod_here:X", r"ZeroDivisionError: .* \(brokenmod_here.py, line 1\)"),
        ("syntaxmod_here:X", r"SyntaxError: .*line 1"),
        ("importmod_here:X", r"No module named 'nothing_of_that_name' \(importmod_here.py, line 1\)"),
        ("jsonmod_here:X", r"JSONDecodeError: .* \(jsonmod_here.py, line 3\)"),
        ("servicemod_here:X", r"DefinitionError: X.f: .* \(servicemod_here.py, line 2\)"),
        ("exitmod_here:X", r"cannot be imported: SystemExit: 3 \(exitmod_here.py, line 2\)"),
        (".relative:X", r"cannot be imported"),
    ],
)
def test_typo_in_a_target_gives_one_line(modules: Path, target: str, words: str) -> None:
    """Whatever is wrong with a target is one ConfigError with the nearest name."""
    with pytest.raises(ConfigError, match=words) as caught:
        load(target)

    assert "\n" not in str(caught.value)

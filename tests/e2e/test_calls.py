"""Calls between processes: what goes over, what comes back, and what every mistake looks like to the caller."""

import asyncio
import signal
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import anyio
import pytest

from tests.support.fixtures import Site, open_site
from tests.support.lab import Color, Lab, OutOfPaint, Parcel
from tests.support.native import NativePeer, statistics
from tests.support.processes import Processes
from tests.support.waiting import eventually, wait_until
from zbusrpc import Code, RpcError, aio, blocking, connect, envelope, options

CALLER_SESSION = 2
"""At a broker of its own: the service's session is the first."""

pytestmark = pytest.mark.anyio


async def test_call_by_position_name_and_default(lab: Lab) -> None:
    """A call takes parameters by position, by name and by default."""
    results = [await lab.add(1, 2), await lab.add(1, b=2), await lab.add(b=2, a=1), await lab.add(1)]

    assert results == [3, 3, 3, 11]


async def test_rich_types_cross_processes(lab: Lab) -> None:
    """Models with UUID, Decimal, datetime, enum and bytes are the same on the other side."""
    parcel = Parcel(
        id=UUID("12345678123456781234567812345678"),
        weight=Decimal("1.10"),
        sent=datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        color=Color.RED,
        seal=bytes(range(256)),
        notes=["first", "\u00fc\U0001f980"],
    )

    repainted = await lab.repaint(parcel)

    assert repainted == parcel.model_copy(update={"color": Color.BLUE})
    assert isinstance(repainted, Parcel)


async def test_empty_and_large_payloads_cross_unchanged(lab: Lab) -> None:
    """Bytes of every size come back as they were sent."""
    for size in (0, 1, 65_535, 65_536, 1_000_001):
        data = bytes(index % 251 for index in range(size))

        assert await lab.echo(data) == data


async def test_each_color_can_be_called_in_both_ways(lab: Lab) -> None:
    """A `def` method is awaited through aio(); an `async def` one blocks through blocking()."""
    assert await aio(lab.subtract)(5, 3) == 2
    assert await anyio.to_thread.run_sync(blocking(lab.add), 1, 2) == 3


def test_blocking_caller_needs_no_event_loop(shared_site: Site) -> None:
    """Without an event loop, `def` methods are called as they stand and others through blocking()."""
    proxy = connect(Lab, broker=shared_site.address)

    assert proxy.subtract(5, 3) == 2
    assert blocking(proxy.add)(1, 2) == 3


async def test_proxy_by_name_needs_no_class(shared_site: Site, links: None) -> None:
    """A proxy made from the service's name calls any method with JSON values."""
    proxy = connect("Lab", broker=shared_site.address)

    assert await proxy.add(1, 2) == 3
    assert await proxy.add(a=1, b=2) == 3
    assert await proxy.any_value({"deep": [1, None, "x"]}) == {"deep": [1, None, "x"]}


async def test_integers_of_any_size_stay_exact(shared_site: Site, lab: Lab) -> None:
    """Integers beyond 64 bits are not rounded, neither by a typed proxy nor by one without types."""
    huge = 2**70 + 1

    assert await lab.add(huge, 0) == huge
    assert await connect("Lab", broker=shared_site.address).add(huge, 0) == huge


async def test_metadata_reaches_the_handler(lab: Lab) -> None:
    """What options(metadata=...) holds is what the handler finds."""
    proxy = options(options(lab, metadata={"tenant": "a", "user": "u"}), metadata={"tenant": "\u00e4"})

    assert await proxy.metadata() == {"tenant": "\u00e4", "user": "u"}


# -- no such service -----------------------------------------------------------------------------------------


async def test_unknown_service_fails_at_once(shared_site: Site, links: None) -> None:
    """A call to a service that nobody serves is UNAVAILABLE, and names it, what runs and the nearest name."""
    with pytest.raises(RpcError) as caught:
        await options(connect("Labb", broker=shared_site.address), timeout=60).add(1, 2)

    assert caught.value.code is Code.UNAVAILABLE
    assert not caught.value.may_have_run
    assert "service Labb" in caught.value.message
    assert "running: Lab" in caught.value.message
    assert "did you mean Lab?" in caught.value.message


async def test_unreachable_broker_fails_at_once(links: None) -> None:
    """Where no broker listens, a call is UNAVAILABLE and says how to start one."""
    with pytest.raises(RpcError) as caught:
        await options(connect(Lab, broker="127.0.0.1:1"), timeout=60).add(1, 2)

    assert caught.value.code is Code.UNAVAILABLE
    assert not caught.value.may_have_run
    assert "127.0.0.1:1: nothing listens there; start one with: zbusrpc broker" in caught.value.message


async def test_wait_for_ready_gets_its_result_when_the_service_comes(processes: Processes, links: None) -> None:
    """With wait_for_ready a call waits in the broker until an instance comes, and then succeeds."""
    _, address = processes.broker()
    proxy = options(connect(Lab, broker=address), wait_for_ready=True, timeout=60)
    call = asyncio.create_task(proxy.add(1, 2))
    await eventually(lambda: statistics(address)["queued"] == 1, "call in the queue")
    processes.serve(address)

    assert await call == 3


async def test_wait_for_ready_ends_with_its_deadline(shared_site: Site, links: None) -> None:
    """With wait_for_ready a call to a service that never comes ends with its deadline, and has not run."""
    proxy = options(connect("NeverThere", broker=shared_site.address), wait_for_ready=True, timeout=0.2)

    with pytest.raises(RpcError) as caught:
        await proxy.add(1, 2)

    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_wait_for_ready_waits_for_a_broker_until_the_deadline(links: None) -> None:
    """With wait_for_ready a call waits for the broker, too, and names it when the deadline passes."""
    with pytest.raises(RpcError) as caught:
        await options(connect(Lab, broker="127.0.0.1:1"), wait_for_ready=True, timeout=0.2).add(1, 2)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert "nothing listens there" in caught.value.message


# -- mistakes of the caller ----------------------------------------------------------------------------------


async def test_unknown_method_names_the_closest(shared_site: Site, links: None) -> None:
    """A method that the service does not have is UNIMPLEMENTED, with the closest name."""
    with pytest.raises(RpcError) as caught:
        await connect("Lab", broker=shared_site.address).subtrakt(1, 2)

    assert caught.value.code is Code.UNIMPLEMENTED
    assert "service Lab has no method subtrakt; did you mean subtract?" in caught.value.message


@pytest.mark.parametrize("name", ["mark", "work_", "__init__", "_work", "__class__"])
async def test_nothing_but_public_methods_can_be_called(shared_site: Site, name: str) -> None:
    """Private and special attributes of the instance are not reachable over the wire."""
    with NativePeer(shared_site.address) as peer:
        peer.request(1, "Lab", envelope.request_body(name, []))
        error = envelope.parse_error(peer.receive().body)

    assert error.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("args", "kwargs", "loc", "kind"),
    [
        (["one", 2], {}, [0], "int_parsing"),
        ([], {"a": 1, "b": [2]}, ["b"], "int_type"),
        ([], {}, ["a"], "missing_argument"),
        ([1, 2, 3], {}, [2], "unexpected_positional_argument"),
        ([], {"a": 1, "c": 3}, ["c"], "unexpected_keyword_argument"),
    ],
)
async def test_unfit_arguments_are_told_by_place(
    shared_site: Site, links: None, args: list[object], kwargs: dict[str, object], loc: list[object], kind: str
) -> None:
    """Wrong, missing, extra and unconvertible arguments are INVALID_ARGUMENT with {loc, msg, type} for each."""
    with pytest.raises(RpcError) as caught:
        await connect("Lab", broker=shared_site.address).add(*args, **kwargs)

    details = caught.value.details
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert {"loc", "msg", "type"} == set(details[0])
    assert (loc, kind) in [(problem["loc"], problem["type"]) for problem in details]


async def test_problem_inside_a_model_is_told_by_its_path(shared_site: Site, links: None) -> None:
    """The place of a problem leads into nested values."""
    with pytest.raises(RpcError) as caught:
        await connect("Lab", broker=shared_site.address).repaint({"id": "no", "notes": [1]})

    places = [problem["loc"] for problem in caught.value.details]
    assert [0, "id"] in places
    assert [0, "notes", 0] in places
    assert [0, "color"] in places


async def test_typed_caller_gets_the_same_errors(lab: Lab) -> None:
    """A typed proxy sends wrong arguments as they are; it is the service that refuses them."""
    with pytest.raises(RpcError) as caught:
        await lab.add("one", 2)  # type: ignore[arg-type]

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.details[0]["loc"] == [0]


# -- errors of the handler -----------------------------------------------------------------------------------


async def test_declared_error_comes_back_as_its_class(lab: Lab) -> None:
    """A declared error is the same class at the caller, its fields of their types again."""
    with pytest.raises(OutOfPaint) as caught:
        await lab.run_dry(Color.RED)

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.color is Color.RED
    assert caught.value.missing == Decimal("2.50")
    assert isinstance(caught.value.missing, Decimal)
    assert caught.value.since == datetime(2024, 5, 6, 7, 8, 9)
    assert caught.value.message == "2.50 litres of red are missing"


def test_declared_error_comes_back_to_a_blocking_caller(shared_site: Site) -> None:
    """A blocking caller catches the same class."""
    with pytest.raises(OutOfPaint, match="litres of blue"):
        blocking(connect(Lab, broker=shared_site.address).run_dry)(Color.BLUE)


@pytest.mark.parametrize("code", list(Code))
async def test_each_code_crosses(lab: Lab, code: Code) -> None:
    """Each of the 16 codes arrives as it was raised, with message and details."""
    with pytest.raises(RpcError) as caught:
        await lab.refuse(code.value)

    assert (caught.value.code, caught.value.message) == (code, "as was asked")
    assert caught.value.details == {"why": "a test"}


async def test_unexpected_error_keeps_its_secrets_and_is_logged_once(site: Site, own_lab: Lab) -> None:
    """What nobody foresaw is INTERNAL without traceback; the service logs it once, with the call's id."""
    with pytest.raises(RpcError) as caught:
        await own_lab.explode("s3cret")

    assert caught.value.code is Code.INTERNAL
    assert caught.value.details is None
    assert "s3cret" not in str(caught.value)
    lines = await eventually(lambda: site.service.log("service.failed"), "log line")
    assert len(lines) == 1
    assert lines[0]["call"] == f"{CALLER_SESSION}-2"  # its first message asked which brokers there are
    assert lines[0]["method"] == "explode"
    assert "ZeroDivisionError: the secret is s3cret" in lines[0]["exception"]
    assert site.service.errors.count("service.failed") == 1


async def test_unexpected_error_shows_its_traceback_in_dev_mode(processes: Processes, links: None) -> None:
    """With --dev the caller gets the traceback."""
    site = open_site(processes, "--dev")

    with pytest.raises(RpcError) as caught:
        await connect(Lab, broker=site.address).explode("here")

    assert caught.value.code is Code.INTERNAL
    assert "ZeroDivisionError: the secret is here" in caught.value.message
    assert "in explode" in caught.value.details["traceback"]


async def test_unfit_result_is_internal_and_logged(site: Site, own_lab: Lab) -> None:
    """A result that does not fit its annotation is INTERNAL at the caller and a clear line at the service."""
    with pytest.raises(RpcError) as caught:
        await own_lab.lie()

    assert caught.value.code is Code.INTERNAL
    assert "Lab.lie returned something that is not int" in caught.value.message
    (line,) = await eventually(lambda: site.service.log("service.result_misfit"), "log line")
    assert (line["service"], line["method"]) == ("Lab", "lie")
    assert "call" in line


async def test_service_lives_on_after_every_error(site: Site, own_lab: Lab) -> None:
    """Errors of handlers and callers leave service and connection as they were."""
    pid = await own_lab.pid()
    for failing in (own_lab.explode("x"), own_lab.lie(), own_lab.run_dry(Color.RED), own_lab.add("x")):  # type: ignore[arg-type]
        with pytest.raises(RpcError):
            await failing

    assert await own_lab.pid() == pid


# -- a service is a context manager --------------------------------------------------------------------------


def test_context_manager_spans_the_calls(processes: Processes) -> None:
    """A service that is a context manager is entered before its first call and left after its last has ended."""
    _, address = processes.broker()
    service = processes.serve(address, target="tests.support.lab:build_greenhouse")
    caller = processes.zbusrpc("call", "Greenhouse.grow", "0.3", "--broker", address)
    wait_until(lambda: "started" in processes.marks("greenhouse"), "start of the handler")

    service.send_signal(signal.SIGTERM)

    assert service.wait_exit() == 0
    assert caller.wait_exit() == 0
    assert caller.output == "grown\n"
    assert processes.marks("greenhouse") == ["entered", "started", "finished", "left"]

"""How handlers end: told once to stop, with time to clean up; answered whatever they raise; what they leave behind."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.inprocess import running_broker, serving
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, aio, connect, context, deadline, options, service
from zbusrpc.broker.assembly.server import Server
from zbusrpc.errors import LinkError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.service.context import ambient_deadline
from zbusrpc.service.worker import Worker

pytestmark = pytest.mark.anyio


class Unspeakable(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class UnspeakableRefusal(RpcError):
    """A declared error that has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class Strange(BaseException):
    """What no handler should raise."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "KeyError": lambda: KeyError("x"),
    "RecursionError": RecursionError,
    "Strange": Strange,
    "Unspeakable": Unspeakable,
    "UnspeakableRefusal": lambda: UnspeakableRefusal(Code.NOT_FOUND, "x"),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError(), KeyError()]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("one", [SystemExit(3)]),
}
IN_THREADS = {**RAISED, "KeyboardInterrupt": KeyboardInterrupt}


@service(concurrency=1)
class Patient:
    """One at a time, so that a place that is not free shows."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.began: list[str] = []
        self.cleaned: list[str] = []
        self.may_clean = asyncio.Event()

    async def answer(self) -> int:
        """Answer at once."""
        return 42

    async def fail(self, name: str) -> None:
        """Raise something in a task."""
        raise RAISED[name]()

    def fail_in_thread(self, name: str) -> None:
        """Raise something in a thread."""
        raise IN_THREADS[name]()

    def find(self, wanted: int) -> int:
        """Do what people write, and what ends a coroutine."""
        return next(number for number in [1, 2, 3] if number == wanted)

    async def work(self) -> None:
        """Take for ever, and clean up in several steps."""
        self.began.append("work")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            await self.may_clean.wait()
            self.cleaned.append("work")

    async def swallow(self) -> str:
        """End in spite of being cancelled, as if nothing were."""
        self.began.append("swallow")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cleaned.append("swallow")
        await self.may_clean.wait()
        return "swallowed"

    async def stubborn(self) -> None:
        """End not for being cancelled."""
        self.began.append("stubborn")
        while not self.may_clean.is_set():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cleaned.append("stubborn")

    def block(self) -> None:
        """Hold a thread until the test says so."""
        self.began.append("block")
        self.gate.wait(30)
        self.cleaned.append("block")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running_broker() as running:
        yield running


@pytest.fixture
def patient() -> Patient:
    return Patient()


async def end_of(call: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


# -- whatever a handler raises -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_task_raises_answers_its_caller(server: Server, patient: Patient, name: str) -> None:
    """The caller hears of it at once, the place is free, and the service goes on."""
    async with serving(server, patient):
        proxy = connect(Patient, broker=server.broker.name)

        error = await end_of(proxy.fail(name))

        assert error.code is Code.INTERNAL
        assert error.may_have_run
        assert name != "CancelledError" or "the handler of Patient.fail was cancelled from inside" in str(error)
        assert await proxy.answer() == 42


@pytest.mark.parametrize("name", IN_THREADS)
async def test_whatever_a_thread_raises_answers_its_caller(server: Server, patient: Patient, name: str) -> None:
    """No exception is one that only ends the thread."""
    async with serving(server, patient):
        proxy = connect(Patient, broker=server.broker.name)

        error = await end_of(aio(proxy.fail_in_thread)(name))

        assert error.code is Code.INTERNAL
        assert await proxy.answer() == 42


async def test_next_without_a_match_is_an_error_like_any_other(server: Server, patient: Patient) -> None:
    """`next(...)` in a `def` method raises StopIteration, which no future takes."""
    async with serving(server, patient):
        proxy = connect(Patient, broker=server.broker.name)

        assert await aio(proxy.find)(2) == 2
        assert (await end_of(aio(proxy.find)(7))).code is Code.INTERNAL
        assert await aio(proxy.find)(3) == 3


# -- one cancellation, and a place that is free when the handler has ended -----------------------------------


async def give_up(call: asyncio.Task[Any], worker: Worker) -> None:
    """Cancel a call, as a caller does that wants no result any more."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def lose_link(call: asyncio.Task[Any], worker: Worker) -> None:
    """Cut the service off its broker."""
    (attachment,) = worker._attachments.values()
    attachment.endpoint.channel.drop(LinkError("cut"))
    await end_of(call)


async def let_time_pass(call: asyncio.Task[Any], worker: Worker) -> None:
    """Wait for the deadline."""
    assert (await end_of(call)).code is Code.DEADLINE_EXCEEDED


ENDS = {"deadline": (0.1, let_time_pass), "caller": (30.0, give_up), "link": (30.0, lose_link)}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", ["work", "swallow"])
async def test_handler_is_told_once_to_end(server: Server, patient: Patient, end: str, method: str) -> None:
    """Whatever asks for it, and however much of it: the clean-up after the first cancellation may wait."""
    timeout, stop = ENDS[end]
    async with serving(server, patient) as worker:
        proxy = options(connect(Patient, broker=server.broker.name), timeout=timeout)
        call = asyncio.ensure_future(getattr(proxy, method)())
        await eventually(lambda: patient.began, "start")
        (running,) = worker.unfinished()

        await stop(call, worker)
        for _ in range(50):  # turns in which another cancellation would come
            await asyncio.sleep(0)
        for attachment in worker._attachments.values():
            attachment._expire(running)
            attachment._cancel(running)

        assert worker.unfinished() == [running]
        patient.may_clean.set()
        await eventually(lambda: patient.cleaned, "end of the clean-up")
        await eventually(lambda: not worker.unfinished(), "end of the handler")
        assert patient.cleaned == [method]


@pytest.mark.parametrize("method", ["work", "swallow", "block"])
async def test_place_is_free_when_the_handler_has_ended(server: Server, patient: Patient, method: str) -> None:
    """A call that has timed out keeps its place until its task or its thread has ended: others go elsewhere."""
    other = Patient()
    async with serving(server, patient):
        busy = options(connect(Patient, broker=server.broker.name), timeout=0.1)
        call = asyncio.ensure_future(_awaitable(getattr(busy, method))())
        await eventually(lambda: patient.began, "start")
        assert (await end_of(call)).code is Code.DEADLINE_EXCEEDED
        waiting = asyncio.ensure_future(options(busy, timeout=30.0).answer())
        async with serving(server, other):
            for _ in range(20):
                assert await options(busy, timeout=30.0).answer() == 42
        assert await asyncio.wait_for(waiting, 30) == 42
        (instance,) = server.broker.services()[0]["instances"]
        assert instance["in_flight"] == 1

        patient.gate.set()
        patient.may_clean.set()

        assert await options(busy, timeout=30.0).answer() == 42
        await eventually(lambda: not server.broker.services()[0]["instances"][0]["in_flight"], "free place")


@pytest.mark.parametrize("method", ["work", "block"])
async def test_place_is_not_free_for_a_lost_link(server: Server, patient: Patient, method: str) -> None:
    """What came by a connection that is gone holds its place on the next one, too, until it has ended."""
    async with serving(server, patient, concurrency=2) as worker:
        proxy = options(connect(Patient, broker=server.broker.name), timeout=30.0)
        call = asyncio.ensure_future(_awaitable(getattr(proxy, method))())
        await eventually(lambda: patient.began, "start")

        await lose_link(call, worker)
        await eventually(lambda: _windows(server), "new subscription")

        assert _windows(server) == [1]
        assert await proxy.answer() == 42
        patient.gate.set()
        patient.may_clean.set()
        await eventually(lambda: _windows(server) == [2], "the whole window")


async def test_instance_without_a_free_place_subscribes_later(server: Server, patient: Patient) -> None:
    """With all places held by what came by a lost connection, nothing is asked for before one has ended."""
    async with serving(server, patient) as worker:
        proxy = options(connect(Patient, broker=server.broker.name), timeout=30.0, wait_for_ready=True)
        call = asyncio.ensure_future(aio(proxy.block)())
        await eventually(lambda: patient.began, "start")
        await lose_link(call, worker)
        (attachment,) = worker._attachments.values()
        await eventually(lambda: attachment.connection is not None, "connection")
        waiting = asyncio.ensure_future(proxy.answer())
        await eventually(lambda: sum(entry["queued"] for entry in server.broker.services()) == 1, "queue")

        assert _windows(server) == []
        patient.gate.set()

        assert await waiting == 42
        assert _windows(server) == [1]


def _windows(server: Server) -> list[int]:
    """Return the windows of all instances of `Patient`."""
    entries = [entry for entry in server.broker.services() if entry["service"] == "Patient"]
    return [instance["window"] for entry in entries for instance in entry["instances"]]


def _awaitable(method: Any) -> Any:
    return method if method.__name__ != "block" else aio(method)


# -- shutdown ------------------------------------------------------------------------------------------------


async def test_shutdown_leaves_time_for_clean_up(server: Server, patient: Patient) -> None:
    """After the grace time a handler is cancelled once, and its clean-up is waited for."""
    async with serving(server, patient) as worker:
        call = asyncio.ensure_future(options(connect(Patient, broker=server.broker.name), timeout=30.0).work())
        await eventually(lambda: patient.began, "start")

        closing = asyncio.ensure_future(worker.close(0.0))
        await eventually(lambda: all(running.is_stopped for running in worker.unfinished()), "cancellation")
        patient.may_clean.set()
        error = await end_of(call)
        await closing

    assert patient.cleaned == ["work"]
    assert (error.code, error.may_have_run) == (Code.UNAVAILABLE, True)
    assert not worker.has_stuck_calls


async def test_handler_that_never_ends_is_answered_once_and_given_up(
    server: Server, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that swallows each cancellation gets two, and keeps nobody waiting."""
    monkeypatch.setattr(sys.modules[Worker.__module__], "CLEANUP_S", 0.05)
    monkeypatch.setattr(sys.modules[Worker.__module__], "GIVE_UP_S", 0.05)
    async with serving(server, patient) as worker:
        call = asyncio.ensure_future(options(connect(Patient, broker=server.broker.name), timeout=30.0).stubborn())
        await eventually(lambda: patient.began, "start")
        (task,) = [running.task for running in worker.unfinished()]
        assert task is not None

        await worker.close(0.0)

        assert (await end_of(call)).code is Code.UNAVAILABLE
        assert worker.has_stuck_calls
        assert patient.cleaned == ["stubborn", "stubborn"]
        assert not worker.unfinished()
        patient.may_clean.set()
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("end", ["deadline", "shutdown"])
async def test_what_has_not_begun_says_so(server: Server, patient: Patient, end: str) -> None:
    """A handler that was stopped before its first step has not run, and only then is that said."""
    async with serving(server, patient) as worker:
        (attachment,) = worker._attachments.values()
        sent: list[Message] = []
        attachment._send = lambda message, connection: sent.append(message)  # type: ignore[method-assign]

        attachment.message_received(
            Message(Kind.REQUEST, 1, b"Patient", b'{"method":"work"}', timeout_ms=60_000, session=9)
        )
        (running,) = worker.unfinished()
        if end == "deadline":
            attachment._expire(running)
        else:
            attachment.return_all()

        (said,) = sent
        assert said.flags & Flag.NOT_RUN
        assert said.kind == (Kind.REPLY if end == "deadline" else Kind.RETURN)
        assert not patient.began


async def test_method_that_waited_for_a_thread_has_not_run(server: Server, patient: Patient) -> None:
    """With all threads busy a `def` method that is stopped has not begun, never does, and says so."""
    async with serving(server, patient) as worker:
        (attachment,) = worker._attachments.values()
        sent: list[Message] = []
        attachment._send = lambda message, connection: sent.append(message)  # type: ignore[method-assign]
        for number in (1, 2):
            attachment.message_received(Message(Kind.REQUEST, number, b"Patient", b'{"method":"block"}', session=9))
        await eventually(lambda: all(running.has_started for running in worker.unfinished()), "start")
        await eventually(lambda: worker._threads._work_queue.qsize() == 1, "a method that waits")

        attachment._expire(worker.unfinished()[1])
        await eventually(lambda: sent, "answer")
        patient.gate.set()
        await eventually(lambda: len(sent) == 2, "end of the other")

    assert [(message.id, bool(message.flags & Flag.NOT_RUN)) for message in sent] == [(2, True), (1, False)]
    assert patient.began == ["block"]


# -- limits that end with what set them ----------------------------------------------------------------------


@service
class Starter:
    """Begins tasks that outlive their handlers, and calls `Patient` from them."""

    def __init__(self, broker: str) -> None:
        self.patient = connect(Patient, broker=broker)
        self.task: asyncio.Task[int] | None = None
        self.go = asyncio.Event()
        self.left: list[float | None] = []
        self.cleaned: list[int] = []

    async def begin(self) -> None:
        """Leave a task behind."""
        self.task = asyncio.create_task(self._later())

    async def begin_in_block(self) -> None:
        """Leave a task behind that was begun under a limit of its own."""
        with deadline(0.01):
            self.task = asyncio.create_task(self._later())

    async def begin_unlimited(self) -> float | None:
        """Begin a task that is never limited, and return what limits the handler."""
        with deadline(None):
            self.task = asyncio.create_task(self._at_once())
        await self.task
        return context().time_left

    async def clean_up(self) -> None:
        """Call in the clean-up of a call whose time has passed."""
        try:
            await asyncio.sleep(60)
        finally:
            self.cleaned.append(await self.patient.answer())

    async def _later(self) -> int:
        await self.go.wait()
        self.left.append(context().time_left)
        return await self.patient.answer()

    async def _at_once(self) -> int:
        assert ambient_deadline() is None
        return await self.patient.answer()


@pytest.fixture
async def starter(server: Server, patient: Patient) -> AsyncIterator[Starter]:
    made = Starter(server.broker.name)
    async with serving(server, patient), serving(server, made):
        yield made


@pytest.mark.parametrize("method", ["begin", "begin_in_block"])
async def test_what_a_handler_left_behind_is_not_limited_by_its_deadline(
    server: Server, starter: Starter, method: str
) -> None:
    """A poller that the first call begins goes on when the time of that call is over."""
    proxy = options(connect(Starter, broker=server.broker.name), timeout=0.2)
    await getattr(proxy, method)()
    await asyncio.sleep(0.25)  # the time of that call passes

    starter.go.set()

    assert starter.task is not None
    assert await starter.task == 42
    assert starter.left == [None]


async def test_block_without_limit_is_a_way_out_while_the_handler_runs(server: Server, starter: Starter) -> None:
    """`deadline(None)` holds for what is begun in it; the handler itself stays limited."""
    proxy = options(connect(Starter, broker=server.broker.name), timeout=20.0)

    left = await proxy.begin_unlimited()

    assert left is not None
    assert 0 < left <= 20.0


async def test_clean_up_after_the_deadline_may_call(server: Server, starter: Starter) -> None:
    """A handler that is told to stop is not limited any more by the time that it has missed."""
    proxy = options(connect(Starter, broker=server.broker.name), timeout=0.1)

    assert (await end_of(proxy.clean_up())).code is Code.DEADLINE_EXCEEDED

    await eventually(lambda: starter.cleaned, "clean-up")
    assert starter.cleaned == [42]


async def test_limit_of_a_block_ends_with_the_block() -> None:
    """What was begun in a block outlives its limit, and an outer limit goes on."""
    go = asyncio.Event()

    async def later() -> float | None:
        await go.wait()
        return ambient_deadline()

    with deadline(50.0):
        outer = ambient_deadline()
        with deadline(1.0):
            inner = asyncio.create_task(later())
        with deadline(None):
            free = asyncio.create_task(later())
            assert ambient_deadline() is None
        go.set()
        assert await inner == outer
        assert await free is None
        assert ambient_deadline() == outer
    assert ambient_deadline() is None

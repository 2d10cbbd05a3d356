"""The watch: who blocks the event loop of a service is named while it does so."""

import asyncio
import threading

import pytest

from tests.support.waiting import eventually
from zbusrpc import connect, options, service
from zbusrpc.service.lifespan import hosted
from zbusrpc.service.watch import BLOCKED_S, watch_of_loop
from zbusrpc.service.worker import Worker
from zbusrpc.testing import running, running_broker
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


@service
class Hog:
    """Blocks its event loop until the test lets it go."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    async def hold(self) -> str:
        """Block at once."""
        return self._hold()

    async def hold_in_task(self) -> str:
        """Block in a task of its own."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._hold_later())
        return task.result()

    async def wait(self) -> str:
        """Wait as one should."""
        await asyncio.sleep(60)
        return "waited"

    async def _hold_later(self) -> str:
        return self._hold()

    def _hold(self) -> str:
        self.gate.wait(PATIENCE_S)
        return "free"


class Elsewhere:
    """A service in an event loop of another thread."""

    def __init__(self, hog: Hog, broker: str) -> None:
        self._hog, self._broker = hog, broker
        self.is_ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def __aenter__(self) -> None:
        self._thread.start()
        assert await asyncio.to_thread(self.is_ready.wait, PATIENCE_S)

    async def __aexit__(self, *_: object) -> None:
        self._hog.gate.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _serve(self) -> None:
        async with hosted(self._hog) as (definition, instance):
            worker = Worker(definition, instance, parse_addresses(self._broker))
            await worker.start()
            self.is_ready.set()
            await self._stop.wait()
            await worker.close()


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the lines of an event; warnings are logged whatever the level."""
    return [line for line in caplog.messages if line.startswith(event)]


@pytest.mark.parametrize("method", ["hold", "hold_in_task"])
async def test_method_that_blocks_the_loop_is_named_while_it_does(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has the method, for how long, and the place in its code; another one says that it is over."""
    hog = Hog()
    async with running_broker() as broker, Elsewhere(hog, broker):
        call = asyncio.ensure_future(getattr(options(connect(Hog, broker=broker), timeout=PATIENCE_S), method)())
        await eventually(lambda: said(caplog, "service.loop_blocked"), "warning")
        assert not call.done()
        hog.gate.set()
        assert await call == "free"
        await eventually(lambda: said(caplog, "service.loop_free"), "all clear")

    line = said(caplog, "service.loop_blocked")[0]
    assert f"method='Hog.{method}'" in line
    assert "test_watch.py" in line
    assert "in _hold" in line
    assert float(line.partition("blocked_s=")[2].split(" ")[0]) >= 1.0


async def test_handler_that_waits_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    """A call that takes long in an `await` blocks nobody."""
    async with running(Hog) as hog:
        call = asyncio.ensure_future(hog.wait())
        await asyncio.sleep(2 * BLOCKED_S)
        call.cancel()

    assert not said(caplog, "service.loop")


async def test_thread_of_the_watch_ends_with_the_last_service() -> None:
    """One thread for all services of a loop, and none after them."""
    async with running_broker() as broker, running(Hog, broker=broker):
        async with running(Hog, broker=broker):
            watch = watch_of_loop()
            assert _threads() == 1
        assert watch_of_loop() is watch

    await eventually(lambda: not _threads(), "end of the thread")


def _threads() -> int:
    return sum(thread.name == "loop-watch" for thread in threading.enumerate())

"""One proxy in many threads, in several event loops, inside a loop where it would block, and after a fork."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop

from tests.support.fixtures import Site, open_site
from tests.support.lab import Lab
from tests.support.native import NativePeer, statistics
from tests.support.processes import Processes
from tests.support.waiting import wait_until
from zbusrpc import Code, RpcError, UsageError, aio, blocking, connect, options
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.mq import Consumer, Producer


def test_blocking_proxy_is_shared_by_64_threads(shared_site: Site) -> None:
    """64 threads call through one blocking proxy at once, each gets its own results, over one connection."""
    proxy = connect(Lab, broker=shared_site.address)
    proxy.subtract(0, 0)
    sessions_before = statistics(shared_site.address)["sessions"]
    together = threading.Barrier(64)

    def calls(number: int) -> list[int]:
        together.wait()
        return [proxy.subtract(number, step) for step in range(10)]

    with ThreadPoolExecutor(64) as threads:
        results = list(threads.map(calls, range(64)))

    assert results == [[number - step for step in range(10)] for number in range(64)]
    assert statistics(shared_site.address)["sessions"] == sessions_before


def test_one_proxy_works_in_loops_one_after_the_other(shared_site: Site) -> None:
    """Each asyncio.run may use the same proxy, with and without an orderly end before."""
    proxy = connect(Lab, broker=shared_site.address)

    async def call(number: int) -> int:
        return await proxy.add(number, 1)

    assert [asyncio.run(call(number)) for number in range(3)] == [1, 2, 3]


Main = Callable[[], Coroutine[Any, Any, Any]]


def _run_by_hand(make: Callable[[], asyncio.AbstractEventLoop], main: Main) -> None:
    """Run a loop as old programs do: no task is cancelled, no generator ended."""
    loop = make()
    loop.run_until_complete(main())
    loop.close()


def _run_beside(main: Main) -> None:
    """Close a loop while another one is running in the same thread, so that nothing can be awaited for it."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(close_fleets())

    async def close() -> None:
        loop.close()

    asyncio.run(close())


WAYS: dict[str, Callable[[Main], Any]] = {
    "asyncio.run": lambda main: asyncio.run(main()),
    "uvloop.run": lambda main: uvloop.run(main()),
    "anyio.run": anyio.run,
    "loop.close": lambda main: _run_by_hand(asyncio.new_event_loop, main),
    "loop.close of uvloop": lambda main: _run_by_hand(uvloop.new_event_loop, main),
    "loop.close in another loop": _run_beside,
}
"""How programs run an event loop to its end."""


def _left_behind() -> tuple[int, int]:
    """Count the loops and fleets of this process."""
    gc.collect()
    found = gc.get_objects()
    loops = sum(isinstance(one, asyncio.AbstractEventLoop) for one in found)
    return loops, sum(isinstance(one, Fleet) for one in found)


@pytest.mark.parametrize("way", WAYS)
def test_event_loop_that_ends_leaves_nothing_behind(shared_site: Site, way: str) -> None:
    """However loops with a call each end, there are not more loops, fleets and connections after six than after one."""
    proxy = connect(Lab, broker=shared_site.address)

    async def call() -> None:
        assert await proxy.add(1, 1) == 2

    WAYS[way](call)
    sessions, before = statistics(shared_site.address)["sessions"], _left_behind()
    for _ in range(5):
        WAYS[way](call)

    assert _left_behind() == before
    wait_until(lambda: statistics(shared_site.address)["sessions"] <= sessions, "the connections are gone")


DROPPED = """
import asyncio, gc, os, sys, warnings
from tests.support.lab import Lab
from zbusrpc import connect
from zbusrpc.mq import Consumer, Producer
address, use = sys.argv[1:]
said = []
sys.unraisablehook = lambda raised: said.append(str(raised.exc_value))

async def call():
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    assert await connect(Lab, broker=address).add(1, 2) == 3
    if use == "messages":
        producer, consumer = Producer("dropped", broker=address), Consumer("dropped", group="all", broker=address)
        await producer.send(b"x")
        (message,) = await consumer.fetch(1)
        await message.ack()
        return producer, consumer

def use_and_drop():
    loop = asyncio.new_event_loop()
    used = loop.run_until_complete(call())

warnings.simplefilter("ignore", ResourceWarning)
open_files = []
for _ in range(3):
    use_and_drop()
    gc.collect()
    open_files.append(len(os.listdir("/proc/self/fd")))
assert not said, said
assert len(set(open_files)) == 1, open_files
"""


@pytest.mark.parametrize("use", ["calls", "messages"])
def test_event_loop_that_is_dropped_leaves_nothing_behind(processes: Processes, tmp_path: Path, use: str) -> None:
    """Not closed, but garbage: nothing stays open, and nobody but asyncio, which warns of it, says anything."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    processes.serve(address)

    program = processes.python(DROPPED, address, use)

    assert program.wait_exit() == 0, program.errors
    assert program.errors == ""


def test_producers_and_consumers_end_with_their_loop(processes: Processes, tmp_path: Path) -> None:
    """Those that nobody has closed leave no loop, no fleet and no connection behind."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))

    async def exchange() -> None:
        await Producer("t", broker=address).send(b"x")
        (message,) = await Consumer("t", group="g", broker=address).fetch(1)
        await message.ack()

    asyncio.run(exchange())
    sessions, before = statistics(address)["sessions"], _left_behind()
    for _ in range(3):
        asyncio.run(exchange())
        _run_by_hand(asyncio.new_event_loop, exchange)

    assert _left_behind() == before
    wait_until(lambda: statistics(address)["sessions"] <= sessions, "the connections are gone")


def test_one_proxy_works_in_several_loops_at_once(shared_site: Site) -> None:
    """Event loops in several threads use the same proxy side by side, and blocking calls go beside them."""
    proxy = connect(Lab, broker=shared_site.address)
    together = threading.Barrier(4)

    async def calls(number: int) -> list[int]:
        await asyncio.to_thread(together.wait)
        results = await asyncio.gather(*[proxy.add(number, step) for step in range(50)])
        await close_fleets()
        return results

    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(asyncio.run, calls(number)) for number in range(4)]
        beside = [proxy.subtract(step, 0) for step in range(50)]
        results = [run.result() for run in runs]

    assert results == [[number + step for step in range(50)] for number in range(4)]
    assert beside == list(range(50))


@pytest.mark.anyio
async def test_blocking_call_inside_a_loop_is_refused_at_once(lab: Lab) -> None:
    """A call that would block an event loop raises an error that names the fix."""
    with pytest.raises(UsageError, match=r"Lab\.subtract blocks, .*write: await aio\(Lab\.subtract\)\(\.\.\.\)"):
        lab.subtract(2, 1)
    with pytest.raises(UsageError, match="await aio"):
        blocking(lab.add)(1, 2)

    assert await aio(lab.subtract)(2, 1) == 1


def test_awaitable_call_without_a_loop_names_the_fix(shared_site: Site) -> None:
    """Awaiting a call where no event loop runs raises an error that names the fix."""
    call = connect(Lab, broker=shared_site.address).add(1, 2)

    with pytest.raises(UsageError, match=r"write: blocking\(proxy\.method\)"):
        call.send(None)


@pytest.mark.anyio
async def test_blocking_handler_stops_no_heartbeat_and_no_other_call(processes: Processes, links: None) -> None:
    """While a `def` handler blocks for longer than the idle time, other calls go on and no connection is lost."""
    site = open_site(processes, broker=("--idle", "1"))
    lab = connect(Lab, broker=site.address)
    sessions_before = statistics(site.address)["sessions"]
    await lab.add(0, 0)

    blocked = asyncio.gather(*[aio(lab.block)("blocked", 1.8) for _ in range(3)])
    others = 0
    while not blocked.done():
        others += await lab.add(1, 0)
        await asyncio.sleep(0.02)
    await blocked

    assert others > 3
    assert site.processes.marks("blocked") == ["started"] * 3 + ["finished"] * 3
    assert statistics(site.address)["sessions"] == sessions_before + 1
    assert site.service.log("worker.link_lost") == []


@pytest.mark.anyio
async def test_quiet_connection_is_kept_alive(processes: Processes, links: None) -> None:
    """A client that does not call for longer than the idle time still has its connection."""
    site = open_site(processes, broker=("--idle", "1"))
    lab = connect(Lab, broker=site.address)
    first = await lab.call_id()

    await asyncio.sleep(1.8)

    assert (await lab.call_id()).partition("-")[0] == first.partition("-")[0]


FORK_OF_A_BLOCKING_CALLER = """
import os, sys
from tests.support.lab import Lab
from zbusrpc import blocking, connect

lab = connect(Lab, broker=sys.argv[1])
print("parent", lab.subtract(5, 3), blocking(lab.call_id)().partition("-")[0], flush=True)
child = os.fork()
if child == 0:
    print("child", lab.subtract(7, 3), blocking(lab.call_id)().partition("-")[0], flush=True)
    os._exit(7)
_, status = os.waitpid(child, 0)
print("parent", lab.subtract(6, 3), blocking(lab.call_id)().partition("-")[0], os.waitstatus_to_exitcode(status))
"""

FORK_INSIDE_A_LOOP = """
import asyncio, os, sys
from tests.support.lab import Lab
from zbusrpc import connect

lab = connect(Lab, broker=sys.argv[1])

async def call(number):
    return await lab.add(number, 1), (await lab.call_id()).partition("-")[0]

async def main():
    print("parent", *await call(1), flush=True)
    child = os.fork()
    if child == 0:
        asyncio._set_running_loop(None)
        print("child", *asyncio.run(call(3)), flush=True)
        os._exit(7)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    print("parent", *await call(2), os.waitstatus_to_exitcode(status))

asyncio.run(main())
"""


@pytest.mark.parametrize("program", [FORK_OF_A_BLOCKING_CALLER, FORK_INSIDE_A_LOOP])
def test_child_of_a_fork_opens_a_link_of_its_own(shared_site: Site, processes: Processes, program: str) -> None:
    """After a fork the child calls over a connection of its own, and the parent's lives on."""
    caller = processes.python(program, shared_site.address)

    assert caller.wait_exit() == 0, caller.errors
    first, child, second = [line.split() for line in caller.output.splitlines()]
    assert first[0] == second[0] == "parent"
    assert (child[0], second[3]) == ("child", "7")
    assert child[1] == "4"
    assert first[2] == second[2] != child[2]


def test_program_ends_by_itself_after_blocking_calls(shared_site: Site, processes: Processes) -> None:
    """A program that made blocking calls and closed nothing ends at once, silently, with exit code 0."""
    program = """
import sys
from tests.support.lab import Lab
from zbusrpc import connect
print(connect(Lab, broker=sys.argv[1]).subtract(5, 3))
"""

    caller = processes.python(program, shared_site.address)

    assert caller.wait_exit() == 0
    assert (caller.output, caller.errors) == ("2\n", "")


def test_program_ends_by_itself_after_awaited_calls(shared_site: Site, processes: Processes) -> None:
    """A program that awaited calls in asyncio.run and closed nothing ends silently with exit code 0."""
    program = """
import asyncio, sys
from tests.support.lab import Lab
from zbusrpc import connect
async def main():
    print(await connect(Lab, broker=sys.argv[1]).add(5, 3))
asyncio.run(main())
"""

    caller = processes.python(program, shared_site.address)

    assert caller.wait_exit() == 0
    assert (caller.output, caller.errors) == ("8\n", "")


def test_wait_of_a_blocking_call_is_bounded_by_its_time_limit(shared_site: Site) -> None:
    """A blocking call whose reply never comes ends with its time limit."""
    with NativePeer(shared_site.address) as silent:
        silent.subscribe("Silent")
        with pytest.raises(RpcError) as caught:
            blocking(options(connect("Silent", broker=shared_site.address), timeout=0.2).anything)()

    assert caught.value.code is Code.DEADLINE_EXCEEDED


CALLS_AT_THE_END = {
    "an exit handler": "import atexit; atexit.register(late)",
    "an exit handler from before": "",
    "an exit handler, with a loop of its own": "atexit.register(lambda: late(lambda *two: asyncio.run(by_name(*two))))",
    "a finalizer": "import weakref; kept = type('Kept', (), {})(); weakref.finalize(kept, late)",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), late())).start()",
    "a forked child": "import multiprocessing as m; child = m.get_context('fork').Process(target=late); "
    "child.start(); child.join()",
    "a signal handler": "import os, signal; signal.signal(signal.SIGUSR1, lambda *_: late()); "
    "os.kill(os.getpid(), signal.SIGUSR1)",
    "__del__ at the very end": "sys.modules['kept'] = type('Kept', (), {'__del__': lambda self: late()})()",
}
"""Where programs make a blocking call late."""

LATE_CALL = """
import asyncio, atexit, sys
if sys.argv[2] == "an exit handler from before":
    atexit.register(lambda: late())
from tests.support.lab import Lab
from zbusrpc import UsageError, aio, connect, options
lab = options(connect(Lab, broker=sys.argv[1]), timeout=20.0)
named = options(connect(Lab, broker="localhost:" + sys.argv[1].rpartition(":")[2]), timeout=20.0)
async def by_name(*two):
    return await aio(named.subtract)(*two)
lab.subtract(0, 0)
def late(subtract=lab.subtract, refusal=UsageError, out=sys.stdout):
    try:
        out.write(f"{subtract(5, 3)}\\n")
    except refusal as error:
        out.write(f"{error}\\n")
    out.flush()
"""


@pytest.mark.parametrize("place", CALLS_AT_THE_END)
def test_blocking_call_at_the_end_of_a_program_works_or_is_refused(
    shared_site: Site, processes: Processes, place: str
) -> None:
    """Where no other thread runs any more a call raises one line; anywhere before it works, and it never hangs."""
    program = [sys.executable, "-c", LATE_CALL + CALLS_AT_THE_END[place], shared_site.address, place]
    caller = processes.start(*program, is_fresh=True)

    assert caller.wait_exit() == 0, caller.errors
    refused = "Lab.subtract: the interpreter ends, and runs no calls; call before that, or by atexit.register"
    assert caller.output == ("2\n" if not place.startswith("__del__") else f"{refused}\n")


PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all",
    "eventlet": "from eventlet import monkey_patch; monkey_patch",
}
"""What replaces the threads of a program by its own, and all else that blocks."""


@pytest.mark.parametrize("library", PATCHES)
def test_blocking_call_where_a_library_has_replaced_threads_is_refused_at_once(
    shared_site: Site, processes: Processes, library: str
) -> None:
    """It would wait for ever for a background thread that is none; the way out that the error names works."""
    program = f"""
import sys
{PATCHES[library]}(thread=sys.argv[2] == "all")
from tests.support.lab import Lab
from zbusrpc import UsageError, connect
try:
    print(connect(Lab, broker=sys.argv[1]).subtract(5, 3))
except UsageError as error:
    print(error)
"""
    outputs = []
    for patched in ("all", "without threads"):
        caller = processes.start(sys.executable, "-c", program, shared_site.address, patched, is_fresh=True)
        assert caller.wait_exit() == 0, caller.errors
        outputs.append(caller.output)

    assert outputs[0].startswith(
        f"Lab.subtract blocks, and {library} has replaced the threads that it needs; use monkey"
    )
    assert "(thread=False)" in outputs[0]
    assert outputs[1] == "2\n"

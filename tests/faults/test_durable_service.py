"""A durable service: requests are stored until they are answered, whatever happens to instances, callers, brokers."""

import asyncio
from pathlib import Path

import pytest

from tests.support.durable import DURABLE, Payments
from tests.support.processes import Process, Processes, port_of
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, options

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("links")]

LONG_S = 60.0

CALL_AND_DIE = """
import asyncio, os, sys
from tests.support.durable import Payments
from zbusrpc import connect

async def main():
    task = asyncio.create_task(connect(Payments, broker=sys.argv[1]).pay("orphan"))
    await asyncio.sleep(float(sys.argv[2]))
    os._exit(0)

asyncio.run(main())
"""


def start_broker(processes: Processes, tmp_path: Path, port: int = 0) -> tuple[Process, str]:
    return processes.broker("--data-dir", str(tmp_path / "data"), port=port)


def proxy_at(address: str, timeout: float = LONG_S) -> Payments:
    return options(connect(Payments, broker=address), timeout=timeout)


async def test_requests_wait_for_an_instance(processes: Processes, tmp_path: Path) -> None:
    """While no instance is there a request waits, and the first that comes answers it."""
    _, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE).kill()
    call = asyncio.create_task(proxy_at(address).pay("waits"))
    await asyncio.sleep(0.1)

    instance = processes.serve(address, target=DURABLE)

    assert await call == instance.pid
    assert processes.marks("waits") == ["started", "finished"]


async def test_requests_survive_kill_of_the_broker(processes: Processes, tmp_path: Path) -> None:
    """Kill -9 of the broker under running and waiting requests: after its return each caller has its result."""
    broker, address = start_broker(processes, tmp_path)
    instance = processes.serve(address, "--concurrency", "2", target=DURABLE)
    names = [f"call{number}" for number in range(6)]
    calls = [asyncio.create_task(proxy_at(address).pay(name, 0.3)) for name in names]
    await eventually(lambda: processes.marks(names[0]), "start of the first")

    broker.kill()
    start_broker(processes, tmp_path, port_of(address))

    assert await asyncio.gather(*calls) == [instance.pid] * 6
    assert all("finished" in processes.marks(name) for name in names)


async def test_request_that_had_begun_is_never_said_not_to_have_run(processes: Processes, tmp_path: Path) -> None:
    """Its broker is killed and not back before the deadline; what the last try met is no proof that none had begun."""
    broker, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE)
    call = asyncio.create_task(proxy_at(address, timeout=1.5).pay("begun", LONG_S))
    await eventually(lambda: processes.marks("begun"), "start")

    broker.kill()
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.may_have_run


async def test_restored_request_is_never_said_not_to_have_run(processes: Processes, tmp_path: Path) -> None:
    """After a restart the broker does not know who had a request before, and no instance is back until its deadline."""
    broker, address = start_broker(processes, tmp_path)
    instance = processes.serve(address, target=DURABLE)
    call = asyncio.create_task(proxy_at(address, timeout=3).pay("restored", LONG_S))
    await eventually(lambda: processes.marks("restored"), "start")

    instance.kill()
    broker.kill()
    start_broker(processes, tmp_path, port_of(address))
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.may_have_run


async def test_request_outlives_its_caller_and_the_broker(processes: Processes, tmp_path: Path) -> None:
    """A request that was stored is carried out although its caller is gone and the broker was killed."""
    broker, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE).kill()
    assert processes.python(CALL_AND_DIE, address, "0.3").wait_exit() == 0

    broker.kill()
    start_broker(processes, tmp_path, port_of(address))
    processes.serve(address, target=DURABLE)

    await eventually(lambda: processes.marks("orphan") == ["started", "finished"], "the orphan's end")


async def test_answered_request_is_not_run_again(processes: Processes, tmp_path: Path) -> None:
    """What was answered before a clean restart of the broker does not run after it."""
    broker, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE)
    await proxy_at(address).pay("once")
    broker.send_signal(15)
    assert broker.wait_exit() == 0

    start_broker(processes, tmp_path, port_of(address))
    await proxy_at(address).pay("after")

    assert processes.marks("once") == ["started", "finished"]


async def test_request_past_its_deadline_never_runs(processes: Processes, tmp_path: Path) -> None:
    """A stored request whose deadline passes while no instance is there ends; one that comes later does not run it."""
    _, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE).kill()

    with pytest.raises(RpcError) as caught:
        await proxy_at(address, timeout=0.2).pay("late")
    processes.serve(address, target=DURABLE)
    await proxy_at(address).pay("after")

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert processes.marks("late") == []


async def test_cancelled_request_never_runs(processes: Processes, tmp_path: Path) -> None:
    """Who cancels a request that waits has it back: it is not run, not after a restart either."""
    broker, address = start_broker(processes, tmp_path)
    processes.serve(address, target=DURABLE).kill()
    call = asyncio.create_task(proxy_at(address).pay("cancelled"))
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.sleep(0.1)

    broker.kill()
    start_broker(processes, tmp_path, port_of(address))
    processes.serve(address, target=DURABLE)
    await proxy_at(address).pay("after")

    assert processes.marks("cancelled") == []


async def test_broker_without_a_data_directory_refuses(processes: Processes) -> None:
    """Where nothing can be stored, a durable service does not start, and says what the broker needs."""
    _, address = processes.broker()

    code, _, errors = processes.run("serve", DURABLE, "--broker", address)

    assert code == 1
    assert "--data-dir" in errors
    assert "Traceback" not in errors

"""The demo behind `make demo`: a broker and a service as processes of their own, called in four ways.

Each call is printed with its result and compared with what it must be. Whatever happens, all processes are stopped at
the end; the exit code is 0 only when every result was right.
"""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from calc import Calc, DivisionByZero

from zbusrpc import RpcError, ZbusError, __version__, aio, blocking, connect, deadline

HERE = Path(__file__).parent
IN_FLIGHT = 64
SECONDS = 1.0
STOP_SECONDS = 10


class DemoError(Exception):
    """Something is not as it must be."""


def main() -> None:
    """Run the demo."""
    started = time.perf_counter()
    print(f"zbusrpc {__version__}\n")
    with process("broker", "--port", "0") as broker:
        address = str(broker["broker"])
        print(f"  broker    {address}, process {broker['pid']}")
        with process("serve", "calc:Calc", "--broker", address) as ready:
            served = ready["services"][0]
            methods = ", ".join(served["methods"])
            print(f"  service   {served['service']} {served['version']} ({methods}), process {ready['pid']}")
            call_awaiting(address)
            call_blocking(address)
            call_http(address)
            call_command_line(address)
            measure(address)
    print(f"\nAll results are right, all processes have stopped; {time.perf_counter() - started:.1f} s.")


# -- four ways to call -------------------------------------------------------------------------------------


def call_awaiting(address: str) -> None:
    """Call as a coroutine does, with types."""
    title("Typed client in an event loop: calc = connect(Calc)")

    async def calls() -> None:
        calc = connect(Calc, broker=address)
        show("await calc.add(1, 2)", await calc.add(1, 2), 3)
        show("await calc.divide(b=8, a=2)", await calc.divide(b=8, a=2), 0.25)
        show("await aio(calc.factor)(1001)", await aio(calc.factor)(1001), [7, 11, 13])
        with deadline(2.0):
            results = await asyncio.gather(*[calc.add(number, number) for number in range(100)])
        show("sum of 100 calls at the same time", sum(results), 9900)
        try:
            await calc.divide(1, 0)
        except DivisionByZero as error:
            show(
                "await calc.divide(1, 0)",
                f"{type(error).__name__}, dividend {error.dividend}",
                "DivisionByZero, dividend 1",
            )

    run(calls)


def call_blocking(address: str) -> None:
    """Call as a program without an event loop does."""
    title("Blocking client")
    calc = connect(Calc, broker=address)
    show("calc.factor(91)", calc.factor(91), [7, 13])
    show("blocking(calc.add)(1, 2)", blocking(calc.add)(1, 2), 3)


def call_http(address: str) -> None:
    """Call as any language can."""
    title(f"Plain HTTP at {address}")
    url = f"http://{address}/rpc/Calc"
    show("GET  /rpc/Calc/add/1/2", fetch(f"{url}/add/1/2"), '200 {"result":3}')
    show("GET  /rpc/Calc/add?a=1&b=2", fetch(f"{url}/add?a=1&b=2"), '200 {"result":3}')
    body = '{"method":"add","params":[1,2]}'
    show(f"POST /rpc/Calc {body}", fetch(url, body), '200 {"result":3}')
    body = '{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}'
    show(f"POST /rpc/Calc {body}", fetch(url, body), '200 {"jsonrpc":"2.0","result":3,"id":1}')
    wrong = "Calc.add: b: Input should be a valid integer, unable to parse string as an integer"
    show("GET  /rpc/Calc/add/1/two", fetch(f"{url}/add/1/two"), f"400 {wrong}")


def call_command_line(address: str) -> None:
    """Call as a person at a terminal does."""
    title("Command line")
    show("zbusrpc call Calc.add 1 2", command("call", "Calc.add", "1", "2", "--broker", address), "3")
    show("zbusrpc call Calc.factor n=91", command("call", "Calc.factor", "n=91", "--broker", address), "[7,13]")
    wrong = "zbusrpc: UNIMPLEMENTED: service Calc has no method ad; did you mean add?"
    show("zbusrpc call Calc.ad 1 2", command("call", "Calc.ad", "1", "2", "--broker", address), wrong)


def measure(address: str) -> None:
    """Print how many calls a second pass."""

    async def calls() -> tuple[int, float]:
        calc = connect(Calc, broker=address)
        done = 0
        started = time.perf_counter()

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() - started < SECONDS:
                await calc.add(done, 1)
                done += 1

        await asyncio.gather(*[caller() for _ in range(IN_FLIGHT)])
        return done, time.perf_counter() - started

    done, seconds = run(calls)
    title("Throughput")
    print(f"  {done / seconds:,.0f} calls/s: {done:,} calls in {seconds:.1f} s, {IN_FLIGHT} at the same time")


# -- helpers -----------------------------------------------------------------------------------------------


def title(text: str) -> None:
    """Print what comes next."""
    print(f"\n{text}")


def show(call: str, result: Any, expected: Any) -> None:
    """Print a call and its result, and check it."""
    print(f"  {call:<70}  {result}")
    if result != expected:
        raise DemoError(f"{call} gave {result!r}, not {expected!r}")


def run(function: Any) -> Any:
    """Run a coroutine function, on uvloop where there is one."""
    return anyio.run(function, backend_options={"use_uvloop": sys.platform != "win32"})


def fetch(url: str, body: str | None = None) -> str:
    """Return status and body of an HTTP response, of an error its message."""
    try:
        with urllib.request.urlopen(url, None if body is None else body.encode(), timeout=5) as response:
            return f"{response.status} {response.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {json.load(error)['error']['message']}"


def command(*arguments: str) -> str:
    """Return what a command of zbusrpc prints."""
    line = [sys.executable, "-m", "zbusrpc", *arguments]
    result = subprocess.run(line, cwd=HERE, capture_output=True, text=True, timeout=30, check=False)
    return (result.stdout or result.stderr).strip()


@contextmanager
def process(*arguments: str) -> Iterator[dict[str, Any]]:
    """Run a server of zbusrpc until the block ends, and yield what its ready line says."""
    line = [sys.executable, "-m", "zbusrpc", *arguments, "--json", "--log-level", "warning"]
    with subprocess.Popen(line, cwd=HERE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = server.stdout.readline()
            if not ready:
                raise DemoError(f"zbusrpc {arguments[0]} did not start")
            yield json.loads(ready)
        finally:
            server.terminate()
            try:
                exit_code = server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                exit_code = server.wait()
    if exit_code != 0:
        raise DemoError(f"zbusrpc {arguments[0]} ended with exit code {exit_code}")


if __name__ == "__main__":
    try:
        main()
    except (DemoError, RpcError, ZbusError, OSError, subprocess.SubprocessError) as problem:
        sys.exit(f"\ndemo failed: {problem}")
    except KeyboardInterrupt:
        sys.exit("\ndemo stopped")

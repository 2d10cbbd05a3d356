"""The command line: what each command prints, takes, refuses and exits with."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

import zbusrpc
from tests.support.fixtures import Site
from tests.support.lab import Lab
from tests.support.native import NativePeer
from tests.support.processes import LAB, Processes, is_alive, port_of
from tests.support.waiting import eventually, wait_until
from zbusrpc import RpcError, connect, options
from zbusrpc.config import Settings

MODULE = """
from zbusrpc import service

@service(name="Greeter", version="2.1", concurrency=5)
class Greeter:
    async def greet(self, name: str, times: int = 1) -> str:
        return " ".join([f"hello {name}"] * times)

    async def forget(self) -> None:
        pass

@service
class Needy:
    def __init__(self, needed: int) -> None:
        self.needed = needed

    async def need(self) -> int:
        return self.needed

needy = Needy(42)

class Plain:
    pass
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory with a module of services."""
    directory = tmp_path / "here"
    directory.mkdir()
    (directory / "mymod.py").write_text(MODULE)
    return directory


def test_version(processes: Processes) -> None:
    """--version prints name and version."""
    assert processes.run("--version") == (0, f"zbusrpc {zbusrpc.__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["broker", "serve", "call", "bench"]),
        (["broker"], ["--host", "--port", "--idle", "--queue-calls-max", "16 MiB"]),
        (["serve"], ["MOD:SERVICE", "--broker", "--workers", "--grace", "--dev", "localhost:15555"]),
        (["call"], ["SERVICE.METHOD", "NAME=VALUE", "--timeout", "zbusrpc call Calc.add 1 2"]),
        (["bench", "rpc"], ["--concurrency", "--seconds", "--size"]),
    ],
)
def test_help_names_what_there_is(processes: Processes, command: list[str], words: list[str]) -> None:
    """--help of each command shows its options with their defaults."""
    code, output, _ = processes.run(*command, "--help", COLUMNS="200")

    assert code == 0
    assert [word for word in words if word not in output] == []


def test_interrupt_while_it_is_loaded_is_no_traceback(processes: Processes) -> None:
    """Ctrl-C before a command has begun ends it as later on: without a word, with 130."""
    program = """
import sys
from importlib.abc import MetaPathFinder
from zbusrpc.__main__ import main

class Interrupted(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "zbusrpc.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
main()
"""
    process = processes.python(program, is_fresh=True)

    assert process.wait_exit() == 130
    assert (process.output, process.errors) == ("", "")


# -- broker --------------------------------------------------------------------------------------------------


def test_broker_says_where_it_listens(processes: Processes) -> None:
    """The broker prints lines for people: its address, how to call, and that calls are in memory."""
    broker = processes.zbusrpc("broker", "--port", "0")
    wait_until(lambda: "Ctrl-C" in broker.output, "lines")

    broker.send_signal(signal.SIGTERM)

    assert broker.wait_exit() == 0
    assert f"zbusrpc {zbusrpc.__version__} broker at 127.0.0.1:" in broker.output
    assert "/rpc/<service>/<method>" in broker.output
    assert "topics       are not stored; start with --data-dir DIR" in broker.output


def test_taken_port_is_one_clear_line(processes: Processes) -> None:
    """A broker that cannot have its port says so in one line and exits with 1."""
    _, address = processes.broker()

    code, output, errors = processes.run("broker", "--port", str(port_of(address)), cwd=processes.directory)

    assert (code, output) == (1, "")
    assert errors == f"zbusrpc: cannot listen on {address}: address already in use\n"


# -- serve ---------------------------------------------------------------------------------------------------


def test_serve_says_what_it_serves(processes: Processes, here: Path) -> None:
    """`serve` imports from the current directory and prints service, version, methods, broker, durability and
    concurrency."""
    _, address = processes.broker()
    service = processes.zbusrpc("serve", "mymod:Greeter", "--broker", address, cwd=here)
    wait_until(lambda: "try" in service.output, "lines")

    service.send_signal(signal.SIGTERM)

    assert service.wait_exit() == 0
    for words in (
        "Greeter 2.1, up to 5 calls at a time",
        "greet, forget",
        address,
        "memory: calls are not kept",
        "zbusrpc call Greeter.greet",
    ):
        assert words in service.output


def test_serve_starts_a_broker_where_none_is_named(processes: Processes, here: Path) -> None:
    """Without --broker, `serve` starts a broker in its process; the next `serve` finds and uses it."""
    first = processes.zbusrpc("serve", "mymod:Greeter", "--json", cwd=here, ZBUSRPC_PORT="0")
    ready = first.wait_ready()
    address = ready["broker"]

    second = processes.zbusrpc("serve", LAB, "--json", ZBUSRPC_PORT=str(port_of(address)))

    assert ready["embedded"] is True
    assert second.wait_ready()["embedded"] is False
    assert processes.run("call", "Greeter.greet", "you", "--broker", address)[:2] == (0, "hello you\n")
    assert processes.run("call", "Lab.add", "1", "2", "--broker", address)[:2] == (0, "3\n")
    first.send_signal(signal.SIGTERM)
    assert first.wait_exit() == 0


def test_default_port_is_the_documented_one() -> None:
    """What `serve`, `call` and `connect` use when nothing is named is localhost:15555."""
    settings = Settings()

    assert (settings.broker, settings.port, settings.host) == ("localhost:15555", 15555, "127.0.0.1")


def test_serve_takes_instances_and_several_services(processes: Processes, here: Path) -> None:
    """`serve` takes classes and instances, several at once."""
    _, address = processes.broker()
    service = processes.zbusrpc("serve", "mymod:Greeter", "mymod:needy", "--broker", address, "--json", cwd=here)

    names = [entry["service"] for entry in service.wait_ready()["services"]]

    assert names == ["Greeter", "Needy"]
    assert processes.run("call", "Needy.need", "--broker", address)[:2] == (0, "42\n")


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("mymdo:Greeter", "there is no module mymdo here or on the path; did you mean mymod?"),
        ("mymod:Greter", "module mymod has no Greter; did you mean Greeter?"),
        ("mymod:Nothing_like_it", "module mymod has no Nothing_like_it; it has Greeter, Needy"),
        ("mymod", "'mymod' names no service; write module:Class, such as mymod:Calc"),
        ("mymod:Plain", "Plain is no service; put @service above the class"),
        ("mymod:Needy", "Needy cannot be made without arguments"),
        ("mymod:Greeter.greet", "mymod:Greeter.greet names a method of Greeter; write mymod:Greeter"),
        ("mymod:needy.need", "mymod:needy.need names a method of Needy; write mymod:needy"),
        ("broken:Thing", "module broken cannot be imported: SyntaxError"),
        (
            "failing:Thing",
            "module failing cannot be imported: ZeroDivisionError: division by zero (failing.py, line 2",
        ),
        ("missing:Thing", "module missing cannot be imported: No module named 'not_there'"),
    ],
)
def test_typo_in_a_target_is_one_clear_line(processes: Processes, here: Path, target: str, line: str) -> None:
    """A target that cannot be served gives one line with the reason and the nearest name, and exit code 1."""
    (here / "broken.py").write_text("def (")
    (here / "failing.py").write_text("x = 0\n1 / x\n")
    (here / "missing.py").write_text("import not_there\n")

    code, output, errors = processes.run("serve", target, cwd=here, ZBUSRPC_PORT="0")

    assert (code, output) == (1, "")
    assert errors.startswith(f"zbusrpc: {line}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("broker", "line"),
    [
        ("127.0.0.1:1", "cannot reach broker 127.0.0.1:1: nothing listens there; start one with: zbusrpc broker"),
        ("localhots:15555", "cannot reach broker localhots:15555: the host name localhots is unknown; "),
        ("localhost:port", "'localhost:port' is no broker address; write host:port with a port from 1 to 65535"),
        ("http://localhost:15555", "'http://localhost:15555' is no broker address"),
    ],
)
@pytest.mark.parametrize("command", [["serve", LAB], ["serve", LAB, "--workers", "2"], ["call", "Lab.add", "1"]])
def test_typo_in_the_broker_is_one_clear_line(processes: Processes, command: list[str], broker: str, line: str) -> None:
    """A broker that is no address or is not there gives one line, and exit code 1."""
    code, output, errors = processes.run(*command, "--broker", broker)

    assert (code, output) == (1, "")
    assert line.rstrip() in errors
    assert errors.startswith("zbusrpc: ")
    assert errors.count("\n") == 1


@pytest.mark.anyio
async def test_workers_share_the_calls_and_are_replaced(processes: Processes, links: None) -> None:
    """`serve --workers 2` serves in two processes, starts a dead one again, and ends both on SIGTERM."""
    _, address = processes.broker()
    parent = processes.zbusrpc("serve", LAB, "--broker", address, "--workers", "2", "--json")
    lab = connect(Lab, broker=address)
    await eventually(lambda: instances(address) == 2, "two instances")

    async def pids() -> set[int]:
        found: set[int] = set()
        for _ in range(20):
            found.add(await lab.pid())
        return found

    first = await pids()
    os.kill(min(first), signal.SIGKILL)
    await eventually(lambda: instances(address) == 1, "death noticed")
    await eventually(lambda: instances(address) == 2, "replacement")
    second = await pids()
    parent.send_signal(signal.SIGTERM)

    assert len(first) == len(second) == 2
    assert len(first & second) == 1
    assert parent.pid not in first | second
    assert parent.wait_exit() == 0
    assert not [pid for pid in second if is_alive(pid)]
    (line,) = parent.log("serve.worker_died")
    assert line["pid"] == min(first)


@pytest.mark.anyio
async def test_second_signal_ends_all_workers_now(processes: Processes, links: None) -> None:
    """A second signal to `serve --workers` ends its processes, too, whatever they work on."""
    _, address = processes.broker()
    parent = processes.zbusrpc("serve", LAB, "--broker", address, "--workers", "2", "--json")
    await eventually(lambda: instances(address) == 2, "two instances")
    lab = options(connect(Lab, broker=address), timeout=60)
    calls = [asyncio.create_task(lab.work(f"worker-{number}", 60)) for number in range(2)]
    await eventually(lambda: processes.marks("worker-0") and processes.marks("worker-1"), "start of both")
    (one,), (other,) = (processes.pids(f"worker-{number}", "started") for number in range(2))

    parent.send_signal(signal.SIGTERM)
    await eventually(lambda: instances(address) == 0, "both left")
    assert parent.is_running
    parent.send_signal(signal.SIGTERM)

    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, RpcError) and result.may_have_run for result in results)
    assert parent.wait_exit() == 130
    await eventually(lambda: not is_alive(one) and not is_alive(other), "end of both")


@pytest.mark.anyio
async def test_interrupt_on_the_terminal_lets_workers_finish(processes: Processes, links: None) -> None:
    """Ctrl-C, which reaches the whole process group, is one signal to `serve --workers`: calls are finished."""
    _, address = processes.broker()
    parent = processes.zbusrpc("serve", LAB, "--broker", address, "--workers", "2", "--json")
    await eventually(lambda: instances(address) == 2, "two instances")
    call = asyncio.create_task(connect(Lab, broker=address).work("finishing", 0.5))
    await eventually(lambda: processes.marks("finishing"), "start")

    parent.interrupt_group()

    assert await call in processes.pids("finishing", "finished")
    assert await asyncio.to_thread(parent.wait_exit) == 0


@pytest.mark.anyio
async def test_interrupt_says_which_calls_are_waited_for(processes: Processes, links: None) -> None:
    """Ctrl-C with calls under way names them, and how to end at once; service and broker do."""
    broker, address = processes.broker()
    service = processes.serve(address)
    call = asyncio.create_task(connect(Lab, broker=address).work("finishing", 1.0))
    await eventually(lambda: processes.marks("finishing"), "start")

    for process in (broker, service):
        process.send_signal(signal.SIGINT)

    assert await call == service.pid
    assert await asyncio.to_thread(service.wait_exit) == 0
    assert await asyncio.to_thread(broker.wait_exit) == 0
    (line,) = service.log("serve.waits_for_calls")
    assert (line["calls"], line["methods"], line["seconds_max"]) == (1, "Lab.work (1)", 10.0)
    assert "another Ctrl-C" in line["hint"]
    assert [line["calls"] for line in broker.log("broker.waits_for_calls")] == [1]


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 2])
async def test_service_waits_for_its_broker_when_asked(processes: Processes, links: None, workers: int) -> None:
    """`serve --wait` says nothing is ready before there is a broker, and serves when there is one."""
    broker, address = processes.broker()
    broker.kill()
    arguments = ["serve", LAB, "--broker", address, "--wait", "--json", "--workers", str(workers)]
    service, other = processes.zbusrpc(*arguments), processes.zbusrpc(*arguments)
    await eventually(lambda: service.log("worker.waits_for_broker") and other.log("worker.waits_for_broker"), "wait")

    other.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(other.wait_exit) == 0
    assert (service.output, other.output) == ("", "")
    processes.broker(port=int(address.rpartition(":")[2]))

    assert (await asyncio.to_thread(service.wait_ready))["broker"] == address
    assert await connect(Lab, broker=address).add(1, 2) == 3
    service.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.wait_exit) == 0


@pytest.mark.anyio
async def test_access_log_has_a_line_for_each_call(processes: Processes, links: None) -> None:
    """`serve --access-log` logs what was called and how it ended; in each of several processes."""
    _, address = processes.broker()
    service = processes.serve(address, "--access-log")

    await connect(Lab, broker=address).add(1, 2)

    await eventually(lambda: service.log("service.call"), "line")
    (line,) = service.log("service.call")
    assert (line["service"], line["method"], line["code"]) == ("Lab", "add", "OK")


def instances(address: str) -> int:
    """Return how many instances of the Lab are connected."""
    with NativePeer(address) as peer:
        services: list[dict[str, list[object]]] = peer.query()["services"]  # type: ignore[assignment]
    return sum(len(service["instances"]) for service in services)


# -- call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["Lab.add", "1", "2"], "3\n"),
        (["Lab.add", "b=5", "a=1"], "6\n"),
        (["Lab.add", "-1", "-2"], "-3\n"),
        (["Lab.add", "1180591620717411303425", "0"], "1180591620717411303425\n"),
        (["Lab.length", "12345"], "5\n"),
        (["Lab.length", "text=--12"], "4\n"),
        (["Lab.fill", "3"], "xxx\n"),
        (["Lab.any_value", "\u00fc"], "\u00fc\n"),
        (["Lab.metadata"], "{}\n"),
        (["Lab.work", "cli", "0", "--json", "--timeout", "5"], None),
    ],
)
def test_call_converts_text_by_the_types(
    shared_site: Site, processes: Processes, arguments: list[str], output: str | None
) -> None:
    """`call` takes values by position or by name as text, and prints the result as JSON, strings bare."""
    code, printed, errors = processes.run("call", *arguments, "--broker", shared_site.address)

    assert (code, errors) == (0, "")
    assert printed == (output or f'{{"result":{shared_site.service.pid}}}\n')


def test_declared_error_of_a_call_keeps_its_name_as_json(shared_site: Site, processes: Processes) -> None:
    """With --json an error is printed as it came: code, message, type and details."""
    code, output, _ = processes.run("call", "Lab.run_dry", "red", "--json", "--broker", shared_site.address)

    error = json.loads(output)["error"]
    assert (code, error["code"], error["type"]) == (1, "FAILED_PRECONDITION", "OutOfPaint")
    assert error["details"]["missing"] == "2.50"


def test_call_takes_json_for_models(shared_site: Site, processes: Processes) -> None:
    """A parameter that is a model is written as JSON, and a long result is indented."""
    parcel = {
        "id": "12345678-1234-5678-1234-567812345678",
        "weight": "1.5",
        "sent": "2024-01-01T00:00:00Z",
        "color": "red",
        "seal": "AAE=",
    }

    code, output, _ = processes.run("call", "Lab.repaint", json.dumps(parcel), "--broker", shared_site.address)

    assert code == 0
    assert json.loads(output) == {**parcel, "color": "blue", "notes": None}
    assert output.startswith('{\n  "id"')


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["Lab.ad", "1"], "UNIMPLEMENTED: service Lab has no method ad; did you mean add?"),
        (["Labb.add", "1"], "UNAVAILABLE: no instance of service Labb is connected"),
        (["Lab.add", "one"], "INVALID_ARGUMENT: Lab.add: a: Input should be a valid integer"),
        (["Lab.add"], "INVALID_ARGUMENT: Lab.add: a: Missing required argument"),
        (["Lab.run_dry", "red"], "FAILED_PRECONDITION: 2.50 litres of red are missing"),
        (["add", "1"], "'add' names no method; write service.method, such as Calc.add"),
        (["Lab.add", "2", "a=1"], "INVALID_ARGUMENT: Lab.add: a: Got multiple values for argument"),
        (["Lab.add", "a=1", "a=2"], "a is given twice"),
        (["Lab.add", "--tiemout", "3"], "there is no option --tiemout; "),
        (["Lab.work", "cli-slow", "60", "--timeout", "0.1"], "DEADLINE_EXCEEDED: "),
        (["Lab.add", "1", "--timeout", "0"], "--timeout = 0.0: input should be greater than or equal to 0.001"),
    ],
)
def test_failed_call_is_one_clear_line(
    shared_site: Site, processes: Processes, arguments: list[str], line: str
) -> None:
    """Whatever is wrong with a call is one line on standard error, and exit code 1."""
    code, output, errors = processes.run("call", *arguments, "--broker", shared_site.address)

    assert (code, output) == (1, "")
    assert errors.startswith(f"zbusrpc: {line}")
    assert errors.count("\n") == 1


def test_failed_call_is_json_when_asked(shared_site: Site, processes: Processes) -> None:
    """With --json an error is the envelope of the error, on standard output."""
    code, output, _ = processes.run("call", "Lab.refuse", "NOT_FOUND", "--json", "--broker", shared_site.address)

    assert code == 1
    assert json.loads(output)["error"] == {
        "code": "NOT_FOUND",
        "message": "as was asked",
        "details": {"why": "a test"},
    }


# -- settings ------------------------------------------------------------------------------------------------


def test_environment_names_the_broker(shared_site: Site, processes: Processes) -> None:
    """ZBUSRPC_BROKER is where commands and programs call when nothing else is named."""
    assert processes.run("call", "Lab.add", "1", ZBUSRPC_BROKER=shared_site.address)[1] == "11\n"


def test_settings_win_in_their_order(shared_site: Site, processes: Processes, tmp_path: Path) -> None:
    """The command line wins over the environment, that over zbusrpc.toml in the current directory."""
    (tmp_path / "zbusrpc.toml").write_text(f'broker = "{shared_site.address}"\ntimeout = 7\n')
    call = ["call", "Lab.add", "1"]

    from_file = processes.run(*call, cwd=tmp_path)
    from_environment = processes.run(*call, cwd=tmp_path, ZBUSRPC_BROKER="127.0.0.1:1")
    from_command_line = processes.run(
        *call, "--broker", shared_site.address, cwd=tmp_path, ZBUSRPC_BROKER="127.0.0.1:1"
    )

    assert from_file[:2] == from_command_line[:2] == (0, "11\n")
    assert from_environment[0] == 1
    assert "127.0.0.1:1" in from_environment[2]


@pytest.mark.parametrize(
    ("text", "env", "line"),
    [
        ("brokr = 'x'", {}, "brokr in zbusrpc.toml is no setting; did you mean broker?"),
        ("timeout = 'soon'", {}, "timeout in zbusrpc.toml = 'soon': input should be a valid number"),
        ("= nonsense", {}, "zbusrpc.toml: "),
        ("", {"ZBUSRPC_TIMEOUT": "-1"}, "ZBUSRPC_TIMEOUT = '-1': input should be greater than or equal to 0.001"),
    ],
)
def test_mistake_in_the_settings_is_one_clear_line(
    processes: Processes, tmp_path: Path, text: str, env: dict[str, str], line: str
) -> None:
    """A setting that cannot be used gives one line with its place, and exit code 1."""
    (tmp_path / "zbusrpc.toml").write_text(text)

    code, output, errors = processes.run("call", "Lab.add", "1", cwd=tmp_path, **env)

    assert (code, output) == (1, "")
    assert errors.startswith(f"zbusrpc: {line}")
    assert errors.count("\n") == 1


# -- bench ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["--size", "1000"]])
def test_bench_measures_and_leaves_nothing(processes: Processes, extra: list[str]) -> None:
    """`bench rpc` starts what it needs, prints its figures as JSON, and ends what it started."""
    code, output, errors = processes.run("bench", "rpc", "--seconds", "0.2", "--concurrency", "4", "--json", *extra)

    figures = json.loads(output)
    assert (code, errors) == (0, "")
    assert figures["calls"] > 0
    assert figures["p50_us"] <= figures["p99_us"]


def test_bench_uses_the_broker_that_is_named(shared_site: Site, processes: Processes) -> None:
    """`bench rpc --broker` measures that broker, in a line for people."""
    code, output, _ = processes.run("bench", "rpc", "--seconds", "0.2", "--broker", shared_site.address)

    assert code == 0
    assert "calls/s with 32 in flight" in output


def test_service_that_cannot_start_says_why_in_one_line(processes: Processes, tmp_path: Path) -> None:
    """What its own code raises when it is entered is told as a line; the traceback stands in the log."""
    (tmp_path / "down.py").write_text(
        "from zbusrpc import service\n\n\n@service\nclass Down:\n    async def ping(self) -> int:\n        return 1\n\n"
        "    async def __aenter__(self) -> 'Down':\n        raise RuntimeError('db down')\n\n"
        "    async def __aexit__(self, *_: object) -> None:\n        pass\n"
    )
    _, address = processes.broker()

    code, output, errors = processes.run("serve", "down:Down", "--broker", address, cwd=tmp_path)

    assert (code, output) == (1, "")
    assert errors.rstrip().splitlines()[-1] == "zbusrpc: Down cannot start: RuntimeError: db down; the log says where"
    assert '"event":"serve.start_failed"' in errors.replace('": "', '":"')

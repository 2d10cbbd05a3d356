"""The house stays in order: layers, pure modules, docstrings and sizes (CONTRIBUTING.md tells why).

Imports point down. A module may import modules of its own layer and of those below:

    5  assembly          cli, testing, __main__, zbusrpc itself
    4  links, servers    what waits: connection, link, peers, server, worker, client, producer, consumer, ...
    3  cores             what decides: broker core; service dispatcher, schema, definition; selection, ring, health, ...
    2  codecs            how bytes become messages
    1  base              errors, bounds, outcome, message, config, web_origins, log_lines, telemetry, deadlines,
                         envelope, long_integers, version

New modules in transport/ and broker/ count as pure; what waits must be named here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zbusrpc

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zbusrpc"
LINES_MAX = 420

ASSEMBLY, SHELL, CORE, CODEC, BASE = 5, 4, 3, 2, 1
BASE_MODULES = {
    "errors",
    "bounds",
    "log_lines",
    "outcome",
    "message",
    "config",
    "telemetry",
    "deadlines",
    "envelope",
    "version",
    "web_origins",
    "long_integers",
}
ASSEMBLY_MODULES = {"cli", "testing", "__main__"}
TRANSPORT_SHELLS = {"connection", "link", "dial", "memory", "tls"}
BROKER_SHELLS = {
    "advertise",
    "arrival",
    "clock",
    "connection",
    "data_directory",
    "dialect",
    "dialects.seams",
    "lingering",
    "loop_scheduler",
    "peer",
    "reporter",
    "reporting",
    "server",
    "tls_listener",
    "turns",
    "usage",
    "weighed",
}
SERVICE_CORES = {
    "arguments",
    "assignable",
    "call_options",
    "checks",
    "declared",
    "definition",
    "dispatcher",
    "error_codec",
    "failures",
    "forms",
    "generics",
    "interface",
    "likeness",
    "members",
    "schema",
    "undecodable",
    "untyped",
}
MQ_CORES = {"bodies", "infos", "naming", "options", "outgoing", "receipt"}
CLUSTER_CORES = {"selection", "ring", "health", "topology"}
CODEGEN_BANNED = {"broker", "transport", "cli"}
WAITING = {
    "asyncio",
    "socket",
    "select",
    "selectors",
    "threading",
    "time",
    "subprocess",
    "anyio",
    "uvloop",
    "concurrent",
}
"""Libraries that wait, or that know the time or the network."""
PURE_BASE = {
    "errors",
    "bounds",
    "outcome",
    "message",
    "deadlines",
    "envelope",
    "version",
    "web_origins",
    "long_integers",
}
HEAVY = {"typer", "httptools", "uvloop", "opentelemetry.sdk", "prometheus_client", "zbusrpc.broker", "zbusrpc.cli"}
"""What `import zbusrpc` must not load: a client does without it. (structlog loads rich.)"""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer_of(module: str) -> int:
    """Return the layer of a module of the package."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in ASSEMBLY_MODULES:
        return ASSEMBLY
    package, name = parts[0], parts[-1]
    if package in BASE_MODULES:
        return BASE
    if len(parts) == 1:
        faces = {"transport": BASE, "broker": BASE, "service": BASE, "codegen": BASE, "cluster": BASE, "mq": SHELL}
        return faces.get(package, ASSEMBLY)
    layers = {
        "transport": SHELL if name in TRANSPORT_SHELLS else CODEC,
        "broker": SHELL if BROKER_SHELLS & {name, ".".join(parts[1:])} else CORE,
        "service": CORE if SERVICE_CORES & set(parts) else SHELL,
        "mq": CORE if name in MQ_CORES else SHELL,
        "cluster": CORE if name in CLUSTER_CORES else SHELL,
        "codegen": CORE,
    }
    return layers[package]


def is_pure(module: str) -> bool:
    """Say whether a module decides only: it must not wait, nor look at clocks and sockets."""
    name = module.removeprefix("zbusrpc.")
    return layer_of(module) in {CODEC, CORE} or name in PURE_BASE


def imports_of(module: str, *, for_types: bool = False) -> Iterator[tuple[str, int]]:
    """Return what a module imports when it runs, or for type checkers only, with line numbers."""
    tree = ast.parse(MODULES[module].read_text())
    named_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if (id(node) in named_only) is not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else str(node.module)), node.lineno


# -- rooms of the broker --------------------------------------------------------------------------------------

ROOMS = (
    "storage",
    "access",
    "sessions",
    "tracker",
    "calls",
    "mq",
    "core",
    "dialects",
    "dialects.native",
    "dialects.http",
    "dialects.zbus",
    "monitor",
    "listeners",
    "assembly",
)
"""From the ground up: a room knows those before it."""
SIBLINGS = {"tracker", "calls", "mq"}
"""None of these knows another one."""
CLIMBS = {
    ("dialects.http.connection", "dialects.zbus.session"),
    ("dialects.http.guard", "dialects.zbus.urls"),
    ("dialects.http.guard", "monitor.paths"),
    ("dialects.http.router", "dialects.zbus.session"),
    ("dialects.http.router", "dialects.zbus.urls"),
    ("dialects.http.router", "monitor.monitor"),
    ("dialects.http.router", "monitor.paths"),
    ("dialects.http.weighed", "dialects.zbus.hub"),
}
"""Still to be straightened: HTTP knows who answers on it. The list only gets shorter."""
NAMED_ONLY = {
    ("broker.dialects.zbus.acknowledging", "broker.dialects.zbus.session"): "commands of a session, by subject",
    ("broker.dialects.zbus.declaring", "broker.dialects.zbus.session"): "commands of a session, by subject",
    ("broker.dialects.zbus.finding", "broker.dialects.zbus.session"): "commands of a session, by subject",
    ("broker.dialects.zbus.reading", "broker.dialects.zbus.session"): "commands of a session, by subject",
    ("broker.dialects.zbus.hub", "broker.dialects.zbus.session"): "finds sessions, and does not make them",
    ("broker.dialects.zbus.waiting", "broker.dialects.zbus.session"): "waits for its session",
    ("broker.monitor.api", "broker.monitor.monitor"): "routes, to what the monitor shows",
    ("broker.monitor.asked", "broker.monitor.monitor"): "names what a look is given",
    ("broker.monitor.metrics", "broker.monitor.monitor"): "writes what the monitor shows",
    ("broker.mq.pending_room", "broker.mq.group"): "counts what groups have, and is theirs",
    ("broker.mq.subscription", "broker.mq.delivery"): "is given deliveries",
    ("broker.mq.subscription", "broker.mq.group"): "is a member of its group",
    ("broker.mq.subscription", "broker.storage.record"): "has sizes of records",
    ("broker.sessions.session", "broker.calls.call"): "a place for what calls keep of a peer",
    ("broker.sessions.session", "broker.mq.subscription"): "a place for what queues keep of a peer",
    ("service.attachment", "service.worker"): "the worker's own part at one broker",
    ("service.watch", "service.worker"): "tells whose handlers block",
}
"""Pairs of which the first names the type of the second, and does not import it when it runs; why that may be."""


def room_of(module: str) -> str:
    """Return the room of a module of the broker."""
    parts = module.split(".")[2:]
    return ".".join(parts[:2]) if parts[0] == "dialects" and len(parts) > 2 else parts[0]


def edges(*, for_types: bool) -> set[tuple[str, str]]:
    """Return who imports whom: when it runs, or for type checkers only."""
    found = {(module, target) for module in MODULES for target, _ in imports_of(module, for_types=for_types)}
    return {(module, target) for module, target in found if target in MODULES and target != module}


def test_broker_reads_downhill() -> None:
    """Each room knows those below it, and the three in the middle not each other; there are no loose files."""
    in_broker = [pair for pair in edges(for_types=False) if all(one.startswith("zbusrpc.broker.") for one in pair)]
    climbs = {
        (module.removeprefix("zbusrpc.broker."), target.removeprefix("zbusrpc.broker."))
        for module, target in in_broker
        if ROOMS.index(room_of(module)) < ROOMS.index(room_of(target))
    }
    met = [pair for pair in in_broker if len(rooms := {room_of(one) for one in pair}) == 2 and rooms <= SIBLINGS]

    assert climbs == CLIMBS
    assert not met
    assert [path.name for path in (PACKAGE / "broker").glob("*.py")] == ["__init__.py"]


def test_broker_has_one_clock() -> None:
    """Whoever needs the time is given it, by the clock of the assembly; how long a sync takes is a measurement."""
    in_broker = [module for module in MODULES if module.startswith("zbusrpc.broker.")]
    readers = {
        module.removeprefix("zbusrpc.broker.")
        for module in in_broker
        if any(target.split(".")[0] == "time" for target, _ in imports_of(module))
    }

    assert readers == {"assembly.clock", "assembly.loop_scheduler"}


def test_nothing_goes_in_circles() -> None:
    """No module imports itself by way of others."""
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, target in edges(for_types=False):
        below[module].add(target)
    while leaves := [module for module, targets in below.items() if not targets & below.keys()]:
        for module in leaves:
            del below[module]

    assert not below


def test_types_are_named_without_import_where_that_is_harmless() -> None:
    """Each such pair has its reason."""
    named = {(one.removeprefix("zbusrpc."), other.removeprefix("zbusrpc.")) for one, other in edges(for_types=True)}

    assert named == NAMED_ONLY.keys()


def package_of(module: str) -> str:
    """Return the first name below zbusrpc."""
    return module.split(".")[1] if module.startswith("zbusrpc.") else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports nothing from a layer above its own; only the program itself imports the package's face."""
    ups = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {target}"
        for target, line in imports_of(module)
        if target.split(".")[0] == "zbusrpc" and target in MODULES and layer_of(target) > layer_of(module)
    ]

    assert not ups


def test_service_and_broker_meet_on_the_wire() -> None:
    """Neither the broker nor what developers touch imports the other."""
    met = [
        (module, target)
        for module in MODULES
        for target, _ in imports_of(module)
        if {package_of(module), package_of(target)} in ({"service", "broker"}, {"mq", "broker"}, {"cluster", "broker"})
    ]

    assert not met


def test_queue_clients_and_broker_meet_on_the_wire() -> None:
    """The client of the message queue knows services' calls and the transport, and nothing of the broker."""
    met = [
        (module, target)
        for module in MODULES
        for target, _ in imports_of(module)
        if (package_of(module), package_of(target)) in {("mq", "broker"), ("broker", "mq"), ("service", "mq")}
    ]

    assert not met


def test_codegen_reads_schemas_only() -> None:
    """Generators know neither broker nor transport."""
    known = [
        (module, target)
        for module in MODULES
        if package_of(module) == "codegen"
        for target, _ in imports_of(module)
        if package_of(target) in CODEGEN_BANNED
    ]

    assert not known


@pytest.mark.parametrize("module", [module for module in MODULES if is_pure(module)])
def test_pure_module_never_waits(module: str) -> None:
    """Modules that decide import nothing that waits or looks at a clock, and have no coroutine."""
    banned = [f"line {line}: {target}" for target, line in imports_of(module) if target.split(".")[0] in WAITING]
    tree = ast.parse(MODULES[module].read_text())
    coroutines = [node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]

    assert not banned
    assert not coroutines


@pytest.mark.parametrize("module", MODULES)
def test_module_is_documented_and_short(module: str) -> None:
    """A module says what it is, as do its public classes and functions, and it is one subject long."""
    text = MODULES[module].read_text()
    tree = ast.parse(text)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = {node.name for node in tree.body if isinstance(node, kinds) and ast.get_docstring(node)}
    public = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}

    assert ast.get_docstring(tree)
    assert not public - documented
    assert len(text.splitlines()) <= LINES_MAX


FILES = [
    f"/{path.relative_to(ROOT)}"
    for folder in ("zbusrpc", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_are_referred_to_are_there(module: str) -> None:
    """A text that sends its reader to another file names one that exists."""
    named = re.findall(r"`((?:\w+/)*[a-z_]+\.py)`|\(see ((?:\w+/)*[a-z_]+\.py)\)", MODULES[module].read_text())

    assert not [
        name for names in named for name in names if name and not any(file.endswith(f"/{name}") for file in FILES)
    ]


@pytest.mark.parametrize("name", zbusrpc.__all__)
def test_public_name_is_documented(name: str) -> None:
    """What the package offers exists, has a docstring of its own, and stands in the README."""
    value = getattr(zbusrpc, name)
    text = (ROOT / "README.md").read_text()

    if name != "__version__":
        assert value.__doc__
        assert name in text


def test_all_is_complete() -> None:
    """Each public name that the package imports is in __all__, once."""
    imported = {
        alias.asname or alias.name
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert imported == set(zbusrpc.__all__)
    assert len(zbusrpc.__all__) == len(imported)


def test_import_of_package_is_light() -> None:
    """A client loads neither broker nor command line, nor what only they need."""
    program = "import sys, zbusrpc; print(*sorted(sys.modules), sep='\\n')"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not HEAVY & set(result.stdout.split())

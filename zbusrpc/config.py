"""Settings: one model whose fields are the options of the command line, `ZBUSRPC_...` and `zbusrpc.toml`.

What is given on the command line wins over the environment, that over `zbusrpc.toml` in the current directory,
that over the defaults here.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationError

from zbusrpc import bounds
from zbusrpc.errors import ConfigError, nearest
from zbusrpc.long_integers import load_toml
from zbusrpc.web_origins import as_browsers_write

DEFAULT_PORT: Final = 15555
DEFAULT_BROKER: Final = f"localhost:{DEFAULT_PORT}"
TIMEOUT_S: Final = 10.0
"""Time limit of a call that names none: long for a call, short for a person who waits."""
CONCURRENCY: Final = 64
"""Calls that one service instance works on at a time."""
CONCURRENCY_MAX: Final = 4096
"""Most that one instance may take on: the largest window that a broker grants."""
ENV_PREFIX: Final = "ZBUSRPC_"
SECRETS: Final = frozenset({"token"})
"""Settings whose value no line shows."""
CONFIG_FILE: Final = "zbusrpc.toml"
DATA_DIR: Final = "zbusrpc-data"
MIB: Final = 1024 * 1024
MESSAGE_BYTES_MAX: Final = 16 * MIB
"""Default limit of a payload: the largest message that is still a message and not a file."""
IDLE_S: Final = 30.0
"""Silence after which a peer is taken for dead."""
QUEUE_CALLS_MAX: Final = 10_000
QUEUED_BYTES_MAX: Final = 256 * MIB
CONNECTIONS_PER_ADDRESS_MAX: Final = 10_000


_ADVERTISED: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\s\[\]]+)(:(?P<port>[0-9]{1,5}))?")

_OF_CONTAINERS: Final = (
    (re.compile(r"ZBUSRPC(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)"), re.compile("")),
    (re.compile(r"ZBUSRPC(_\w+)?_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"), re.compile("")),
    (re.compile(r"ZBUSRPC(_\w+)?_PORT"), re.compile("(tcp|udp|sctp)://")),
    (re.compile(r"ZBUSRPC(_\w+)?_NAME"), re.compile("/")),
    (re.compile(r"ZBUSRPC(_\w+)?_ENV_\w+"), re.compile("")),
)
"""What Kubernetes injects for each Service (kubernetes.io, "Accessing the Service"), and Docker for a link: names, and
how their values begin."""


def _split(value: Any) -> Any:
    """Return what a list of an environment variable holds; anything else is left to the model."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return origins as browsers write them."""
    return tuple(as_browsers_write(origin) for origin in origins)


def _check_advertised(address: str) -> str:
    """Return an address to advertise."""
    found = _ADVERTISED.fullmatch(address)
    if found is None or not 1 <= int(found["port"] or DEFAULT_PORT) <= 65535:
        raise ValueError("write host or host:port, with a port from 1 to 65535")
    return address


class Settings(BaseModel):
    """Every setting there is, by the one name it has everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    broker: str = DEFAULT_BROKER
    """Brokers to use, as `host:port;host2:port`."""
    host: str = "127.0.0.1"
    """Address that a broker listens on."""
    port: Annotated[int, bounds.PORT] = DEFAULT_PORT
    """Port that a broker listens on; 0 takes a free one."""
    advertise: Annotated[str, AfterValidator(_check_advertised)] | None = None
    """Address that a broker tells others to connect to, as `host` or `host:port`; by default where it listens."""
    tracker: str = ""
    """Trackers to which a broker reports, as `host:port;zbus://host2:port` for one of zbus; it may be one itself."""
    nodes: Annotated[int, bounds.NODES] = 1
    """Brokers that are run, each in a process of its own on a port of its own, and that track one another."""
    tracker_only: bool = False
    """Whether a broker has neither topics nor services, and only tracks others."""
    timeout: Annotated[float, bounds.CALL_S] = TIMEOUT_S
    """Time limit of a call, in seconds."""
    concurrency: Annotated[int, bounds.CONCURRENCY] | None = None
    """Calls that a service instance works on at a time; by default what the service says, or 64."""
    workers: Annotated[int, bounds.WORKERS] = 1
    """Processes that serve."""
    data_dir: str | None = None
    """Directory of stored topics; by default zbusrpc-data, and none for a broker on port 0, which is for a while.

    "" stores nothing.
    """
    durability: Literal["disk", "os", "memory"] = "disk"
    """What an acknowledged message of a topic survives that names no level of its own."""
    grace: Annotated[float, bounds.GRACE_S] = 10.0
    """Seconds that running calls get to finish on shut-down."""
    message_bytes_max: Annotated[int, bounds.MESSAGE_BYTES] = MESSAGE_BYTES_MAX
    """Largest request or reply."""
    idle: Annotated[float, bounds.IDLE_S] = IDLE_S
    """Seconds of silence after which a peer is taken for dead; both sides keep to the smaller number."""
    queue_calls_max: Annotated[int, bounds.QUEUED_CALLS] = QUEUE_CALLS_MAX
    """Calls that may wait for one service."""
    queued_bytes_max: Annotated[int, bounds.QUEUED_BYTES] = QUEUED_BYTES_MAX
    """Bytes that may wait for all services together."""
    connections_per_address_max: Annotated[int, bounds.CONNECTIONS] = CONNECTIONS_PER_ADDRESS_MAX
    """Connections that a broker takes from one address."""
    tls_cert: str | None = None
    """File with the certificate that a broker shows, and its chain, PEM; without it nothing is encrypted."""
    tls_key: str | None = None
    """File with the key of that certificate; by default it is in the same file."""
    tls_client_ca: str | None = None
    """File with the CAs whose certificates clients of a broker must show; without it they need none."""
    tokens: str | None = None
    """File with the tokens that a broker knows: see `zbusrpc token`. Without it everybody may do everything."""
    insecure: bool = False
    """Whether a broker without tokens may listen on more than the loopback."""
    allow_origins: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_check_origins)] = ()
    """Web pages that may use a broker, as `https://app.example.org`, `http://localhost:*` for any port, or
    `https://*.example.org` for any name below one; in the environment with commas between them."""
    token: SecretStr = SecretStr("")
    """Secret that a client shows to a broker."""
    tls: bool = False
    """Whether a client speaks TLS also with brokers that are named without `tls://`."""
    tls_ca: str | None = None
    """File with the CA that a client trusts; by default those of the system."""
    tls_client_cert: str | None = None
    """File with the certificate that a client shows, and its chain, PEM."""
    tls_client_key: str | None = None
    """File with the key of that certificate; by default it is in the same file."""
    access_log: bool = False
    """Whether a service logs each call that has ended, with its method, code and time."""
    dev: bool = False
    """Whether callers get the traceback of an unexpected error."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_json: bool | None = None
    """JSON lines; by default wherever standard error is not a terminal."""


def load_settings(**given: Any) -> Settings:
    """Return the settings of this process; `given` are those of the command line, None where not given.

    Raises:
        ConfigError: a value cannot be used; the text names it and where it stands.
    """
    sources = {CONFIG_FILE: _read_file(), "the environment": _read_environment()}
    sources["the command line"] = {name: value for name, value in given.items() if value is not None}
    return _merged(sources)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment of a process that is to have these settings, as far as somebody has given them."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {f"{ENV_PREFIX}{name.upper()}": _text_of(value) for name, value in given.items() if value is not None}


def _text_of(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _merged(sources: dict[str, dict[str, Any]]) -> Settings:
    """Return the settings that some sources give together, of which the later win."""
    merged: dict[str, Any] = {}
    for source in sources.values():
        merged |= source
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        source_name = next((where for where, source in reversed(sources.items()) if name in source), "")
        raise ConfigError(_explain(name, first["type"], first["msg"], merged.get(name), source_name)) from None


_SPELLINGS: Final[dict[str, Callable[[str], str]]] = {
    "the environment": lambda name: f"{ENV_PREFIX}{name.upper()}",
    "the command line": lambda name: f"--{name.replace('_', '-')}",
}
"""How the name of a setting is written, by where it stands."""


def _explain(name: str, kind: str, reason: str, value: Any, source: str) -> str:
    spelled = _SPELLINGS.get(source, str)
    spelling = spelled(name) if source in _SPELLINGS else f"{name} in {source}"
    if kind == "extra_forbidden":
        near = nearest(name, Settings.model_fields)
        return f"{spelling} is no setting{f'; did you mean {spelled(near)}?' if near else ''}"
    shown = "" if name in SECRETS else f" = {value!r}"
    reason = reason.removeprefix("Value error, ")
    return f"{spelling}{shown}: {reason[0].lower()}{reason[1:]}"


def _read_environment() -> dict[str, Any]:
    """Return the `ZBUSRPC_...` variables by their settings' names: unknown ones too, so that a typo is refused."""
    return {
        variable.removeprefix(ENV_PREFIX).lower(): value
        for variable, value in os.environ.items()
        if variable.startswith(ENV_PREFIX) and not _is_of_a_container(variable, value)
    }


def _is_of_a_container(variable: str, value: str) -> bool:
    """Whether Kubernetes, or a link of Docker, has set a variable for a Service or container called `zbusrpc...`.

    Those are told by their names, and the two that could be settings of ours by their values: `ZBUSRPC_PORT` holds a
    URL there, and `ZBUSRPC_NAME` a path.
    """
    pattern = next((value_of for name, value_of in _OF_CONTAINERS if name.fullmatch(variable)), None)
    return pattern is not None and pattern.match(value) is not None


def _read_file() -> dict[str, Any]:
    path = Path(CONFIG_FILE)
    if not path.is_file():
        return {}
    try:
        return load_toml(path.read_text(encoding="utf-8"))
    except (TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{CONFIG_FILE}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSecurity:
    """How this process shows who it is, and sees who a broker is."""

    token: SecretStr
    tls: bool
    tls_ca: str | None
    tls_client_cert: str | None
    tls_client_key: str | None


def client_security() -> ClientSecurity:
    """Return what holds for every connection of this process to a broker: from the environment, then `zbusrpc.toml`.

    Raises:
        ConfigError: `zbusrpc.toml` cannot be read, or a value cannot be used.
    """
    names = {field.name for field in fields(ClientSecurity)}
    sources = {CONFIG_FILE: _read_file(), "the environment": _read_environment()}
    settings = _merged({where: _only(names, source) for where, source in sources.items()})
    return ClientSecurity(**{name: getattr(settings, name) for name in names})


def set_client_security(**given: Any) -> None:
    """Let what the command line says of it hold for this process and for those that it starts.

    It goes by the environment, which other users cannot see; they can see a command line.
    """
    for name in _only({field.name for field in fields(ClientSecurity)}, given):
        if given[name] is not None:
            os.environ[f"{ENV_PREFIX}{name.upper()}"] = str(given[name])


def _only(names: set[str], source: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name in names}


def default_broker() -> str:
    """Return the brokers that `connect` uses when none are named: as the commands do.

    Raises:
        ConfigError: `zbusrpc.toml` cannot be read, or names something else than a text.
    """
    broker = os.environ.get(f"{ENV_PREFIX}BROKER") or _read_file().get("broker", DEFAULT_BROKER)
    if not isinstance(broker, str):
        raise ConfigError(f'broker in {CONFIG_FILE} = {broker!r}: write it as a text, "host:port"')
    return broker

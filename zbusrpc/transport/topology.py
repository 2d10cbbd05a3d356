"""The topology on the wire: what brokers report to trackers, and what trackers tell their clients.

    broker ──REPORT: Report──> tracker ──REPLY to TRACK, TOPOLOGY: Topology──> client

Both are JSON. The first of either on a connection holds everything; those that follow hold what has changed, so that a
change costs what it is worth and not what there is. A broker is named by the address at which clients reach it.

Pure: values to bytes and back.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zbusrpc.errors import Code, RpcError

SELF_ONLY: Final = b'{"scope":"self"}'
"""Body of the TRACK of a client that hears of the other brokers from somebody else."""
REPORT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Fifty thousand topics with a group each; more is a mistake, or malice."""
VERSION_MAX: Final = 2**53 - 1
"""JSON numbers are exact up to here, also in browsers."""
LEARNT_MAX: Final = 2**52
"""A version that is learnt from others is less, so that those that follow are no greater than VERSION_MAX."""
State = Literal["live", "draining"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
_Text = Annotated[str, Field(max_length=300)]
_Address = Annotated[str, Field(max_length=300, pattern=r"^(tls://)?(\[[0-9A-Za-z:.%]+\]|[\w.-]+):[0-9]{1,5}$")]
"""As `str` makes it of an address; whoever is told of it dials it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class GroupFacts(_Part):
    """What a broker reports of a consume group."""

    name: _Text
    mask: Count = 0
    filter: _Text = ""
    consumers: Count = 0
    lag: Count = 0
    """As of the last full report: it changes with every message."""


class TopicFacts(_Part):
    """What a broker reports of a topic, or of a service whose calls are not stored."""

    mask: Count = 0
    """As zbus writes it: whether it is a service, and in memory."""
    consumers: Count = 0
    """Those that are there now: instances of a service, or consumers of all groups."""
    depth: Count = 0
    """Messages ever written, as of the last full report."""
    created_ms: Count = 0
    groups: tuple[GroupFacts, ...] = ()


class ServerFacts(_Part):
    """What a broker reports of itself."""

    address: _Address
    """Where clients reach it, as `host:port`, with `tls://` where the port speaks TLS."""
    boot: _Text
    """Names the process: another one at the same address is another broker."""
    software: _Text = ""
    started_ms: Count = 0
    state: State = "live"
    """Draining: it takes no new work and is about to end."""
    trackers: Annotated[tuple[_Address, ...], Field(max_length=64)] = ()
    """To whom it reports."""
    is_tracker_only: bool = False


class Report(_Part):
    """Body of a REPORT: everything, or what has changed since the one before."""

    is_full: bool = False
    server: ServerFacts | None = None
    """In a full report, and where it has changed."""
    topics: dict[_Text, TopicFacts] = {}
    gone: tuple[_Text, ...] = ()
    """Topics that are there no more."""
    is_leaving: bool = False
    """The broker ends: it is to be forgotten now, and not when its lease is over."""
    version: Annotated[int, Field(ge=0, le=VERSION_MAX)] = 0
    """Of what the broker tells of itself; grows with every report, also over its restarts."""
    seen: Annotated[int, Field(ge=0, lt=LEARNT_MAX)] = 0
    """The highest version that this tracker may have told: what it tells must be higher, whatever its clock says."""


class Noted(_Part):
    """What a tracker answers to a report of everything."""

    tracker: _Text = ""
    """Its address."""
    version: Count
    """Of what it tells."""
    known: Count
    """The greatest version that this broker, or an earlier process at its address, had told before."""


class ServerChange(_Part):
    """What a tracker tells of one broker."""

    is_full: bool = False
    """Whether `topics` are all that it has."""
    boot: _Text = ""
    state: State = "live"
    topics: dict[str, tuple[int, int] | None] = {}
    """Consumers and mask of each; null for a topic that is there no more."""


class Topology(_Part):
    """What a tracker tells: everything, or what has changed since the last."""

    is_full: bool = False
    version: Count
    """Grows with all that this tracker tells, also over its restarts."""
    is_settled: bool = True
    """False while a tracker that has just started may not have heard of all brokers: who is missing may be there."""
    trackers: tuple[_Text, ...] = ()
    """Addresses to which brokers report, where that has changed."""
    servers: dict[_Text, ServerChange] = {}
    gone: tuple[_Text, ...] = ()


def encode(value: Report | Noted | Topology) -> bytes:
    """Return the body that holds a report or what a tracker tells; what is as by default is left out."""
    return value.model_dump_json(exclude_defaults=True).encode()


def parse_report(body: bytes | bytearray) -> Report:
    """Return a report.

    Raises:
        RpcError: INVALID_ARGUMENT: it is none; the text names the field.
    """
    if len(body) > REPORT_BYTES_MAX:
        text = f"REPORT: the body of {len(body)} bytes exceeds the limit of {REPORT_BYTES_MAX} bytes"
        raise RpcError(Code.INVALID_ARGUMENT, text)
    try:
        report = Report.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200] or "body"
        raise RpcError(Code.INVALID_ARGUMENT, f"REPORT: {where}: {first['msg'].lower():.200}") from None
    if report.is_full and report.server is None:
        raise RpcError(Code.INVALID_ARGUMENT, "REPORT: a full one names the server")
    return report


class _Reply(_Part):
    result: Topology


class _NotedReply(_Part):
    result: Noted


def parse_noted(body: bytes | bytearray) -> Noted | None:
    """Return what a tracker answers to a report of everything, or None where that cannot be read."""
    try:
        return _NotedReply.model_validate_json(bytes(body)).result
    except ValidationError:
        return None


def parse_topology(body: bytes | bytearray, *, is_reply: bool = False) -> Topology:
    """Return what a tracker tells, by a TOPOLOGY or in the reply to a TRACK.

    Raises:
        RpcError: INTERNAL: the tracker has told what cannot be read.
    """
    try:
        return _Reply.model_validate_json(bytes(body)).result if is_reply else Topology.model_validate_json(bytes(body))
    except ValidationError as error:
        reason = str(error.errors(include_url=False, include_input=False)[0]["msg"])
        raise RpcError(Code.INTERNAL, f"unreadable topology: {reason:.200}") from None

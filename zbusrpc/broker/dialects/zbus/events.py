"""Events of servers, as brokers of zbus report them by `track_pub`. Pure."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.address import TLS_SCHEME
from zbusrpc.transport.topology import Count, GroupFacts, Report, ServerFacts, TopicFacts

# The names of the fields are zbus's. Whatever else such a broker says is not looked at.


class _Info(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _ServerAddress(_Info):
    address: str
    sslEnabled: bool = False  # noqa: N815


class _GroupInfo(_Info):
    groupName: str  # noqa: N815
    mask: Count | None = 0
    filter: str | None = ""
    consumerCount: Count = 0  # noqa: N815
    messageCount: int = 0  # noqa: N815


class _TopicInfo(_Info):
    mask: Count | None = 0
    messageDepth: Count = 0  # noqa: N815
    consumerCount: Count = 0  # noqa: N815
    createdTime: Count = 0  # noqa: N815
    consumeGroupList: list[_GroupInfo] | None = None  # noqa: N815


class _ServerInfo(_Info):
    serverAddress: _ServerAddress  # noqa: N815
    serverVersion: str | None = ""  # noqa: N815
    infoVersion: Count = 0  # noqa: N815
    trackerList: list[_ServerAddress] | None = None  # noqa: N815
    topicTable: dict[str, _TopicInfo] | None = Field(default=None)  # noqa: N815


class _ServerEvent(_Info):
    serverInfo: _ServerInfo  # noqa: N815
    live: bool


def report_of(body: bytes, boot: str) -> Report:
    """Return what the ServerEvent in the body of a `track_pub` reports.

    Args:
        boot: Names the process that reports; zbus has no name for it.

    Raises:
        RpcError: INVALID_ARGUMENT: it is no ServerEvent.
    """
    try:
        event = _ServerEvent.model_validate_json(body)
        if not event.live:
            return Report(is_leaving=True)
        return _report_of(event.serverInfo, boot)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200] or "body"
        raise RpcError(Code.INVALID_ARGUMENT, f"track_pub: {where}: {first['msg'].lower():.200}") from None


def _report_of(info: _ServerInfo, boot: str) -> Report:
    server = ServerFacts(
        address=_address_of(info.serverAddress),
        boot=boot,
        software=info.serverVersion or "",
        trackers=tuple(_address_of(tracker) for tracker in info.trackerList or ()),
    )
    topics = {name: _topic_of(topic) for name, topic in (info.topicTable or {}).items()}
    return Report(is_full=True, server=server, topics=topics, version=info.infoVersion)


def _topic_of(info: _TopicInfo) -> TopicFacts:
    groups = tuple(
        GroupFacts(
            name=group.groupName,
            mask=group.mask or 0,
            filter=group.filter or "",
            consumers=group.consumerCount,
            lag=max(0, group.messageCount),
        )
        for group in info.consumeGroupList or ()
    )
    consumers = max(info.consumerCount, sum(group.consumers for group in groups))
    return TopicFacts(
        mask=info.mask or 0, consumers=consumers, depth=info.messageDepth, created_ms=info.createdTime, groups=groups
    )


def _address_of(address: _ServerAddress) -> str:
    return f"{TLS_SCHEME if address.sslEnabled else ''}{address.address}"

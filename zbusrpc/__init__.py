"""zbusrpc: typed services whose calls travel through a small, fast message broker in the same package."""

from zbusrpc import mq
from zbusrpc.cluster.selection import Candidate, Selector
from zbusrpc.errors import (
    Code,
    ConfigError,
    DefinitionError,
    LinkError,
    ProtocolError,
    RpcError,
    UsageError,
    ZbusError,
)
from zbusrpc.mq import Consumer, Producer
from zbusrpc.service.client import aio, blocking, connect, disconnect, options
from zbusrpc.service.context import Context, context, deadline
from zbusrpc.service.definition import rpc, service
from zbusrpc.version import __version__

__all__ = [
    "service",
    "rpc",
    "connect",
    "disconnect",
    "options",
    "aio",
    "blocking",
    "deadline",
    "context",
    "Context",
    "Producer",
    "Consumer",
    "mq",
    "Selector",
    "Candidate",
    "RpcError",
    "Code",
    "ZbusError",
    "UsageError",
    "DefinitionError",
    "ConfigError",
    "LinkError",
    "ProtocolError",
    "__version__",
]

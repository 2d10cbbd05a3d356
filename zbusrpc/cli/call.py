"""`zbusrpc call`: one call from the command line, its parameters as text."""

import re
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from zbusrpc import envelope
from zbusrpc.cli.shell import ask, print_text
from zbusrpc.config import Settings
from zbusrpc.errors import ConfigError
from zbusrpc.message import HEADER_PARAMS
from zbusrpc.service.call_options import CallOptions
from zbusrpc.service.client import DynamicProxy
from zbusrpc.transport.address import parse_addresses

_NAMED = re.compile(r"[A-Za-z_]\w*=")


def run_call(method: str, params: list[str], settings: Settings, *, as_json: bool) -> None:
    """Call, print the result and exit with 0, or print one line and exit with 1."""
    service, dot, name = method.rpartition(".")
    if not dot or not service or not name:
        raise ConfigError(f"{method!r} names no method; write service.method, such as Calc.add")
    result = ask(_call(service, name, *_parse_params(params), settings), as_json=as_json)
    if as_json:
        print_text(envelope.dump({"result": result}).decode() + "\n")
    elif isinstance(result, str):
        print_text(result + "\n")
    else:
        indent = 2 if isinstance(result, dict | list) and len(str(result)) > 80 else None
        print_text(to_json(result, indent=indent).decode() + "\n")


def _parse_params(params: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return values by position, and those that are given by name.

    Raises:
        ConfigError: one looks like an option, or is given twice.
    """
    option = next((param for param in params if param.startswith("--")), None)
    if option is not None:
        raise ConfigError(f"there is no option {option}; a value that begins so is given by its name: name={option}")
    args = [param for param in params if not _NAMED.match(param)]
    kwargs: dict[str, str] = {}
    for param in params:
        name, _, value = param.partition("=")
        if _NAMED.match(param) and kwargs.setdefault(name, value) is not value:
            raise ConfigError(f"{name} is given twice")
    return args, kwargs


async def _call(service: str, name: str, args: list[str], kwargs: dict[str, str], settings: Settings) -> Any:
    options = CallOptions(brokers=parse_addresses(settings.broker), timeout=settings.timeout)
    proxy = DynamicProxy(service, replace(options, headers=((HEADER_PARAMS, "text"),)))
    return await getattr(proxy, name)(*args, **kwargs)

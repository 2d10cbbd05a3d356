"""The options of a call: what a proxy has been told about how it calls. A value; it may be pickled.

Pure.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from zbusrpc.cluster.selection import SELECTORS, LeastLoaded, Selector
from zbusrpc.transport.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How a proxy calls."""

    brokers: tuple[Address, ...] | None
    """None for those that are the default ones when a method is called, for the first time in an event loop."""
    timeout: float | None = None
    """Seconds; None for the method's own limit, or 10 s."""
    retries: int = 0
    wait_for_ready: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Further message headers, for tools."""
    selector: Selector = field(default_factory=LeastLoaded)
    """Who chooses among the brokers that have the service."""
    key: str | None = None
    """Calls with the same key go to the same broker."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """What is equal where calls go the same way."""
        values = [getattr(self, name) for name in _OPTIONS if name != "selector"]
        return (*values, self._selector_class or id(self.selector))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in _OPTIONS}
        return _unpickle_options, (values | {"selector": self._selector_class or self.selector},)

    @property
    def _selector_class(self) -> type[Selector] | None:
        """One of ours keeps nothing that another process or another proxy has use for."""
        return type(self.selector) if type(self.selector) in SELECTORS.values() else None


_OPTIONS: Final = tuple(option.name for option in fields(CallOptions))


def _unpickle_options(values: dict[str, Any]) -> CallOptions:
    selector = values.pop("selector")
    return CallOptions(**values, selector=selector() if isinstance(selector, type) else selector)

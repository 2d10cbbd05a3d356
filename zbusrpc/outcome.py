"""The outcome of a call that failed: what this side knows of an error besides what it says.

    may it have run      False only where whoever made the error knows that nothing was begun: a broker that gave the
                         call to nobody, a service before its handler began, this side before it sent anything
    was the link lost    the connection to the broker is gone, and with it perhaps the broker
    what class it had     the name of a declared error whose class this side does not know
    where it came from   service and method of the call that ended with it, or OF_COMMAND for another command of this
                         side, such as a message that was not stored; None for what is raised here, on purpose

It is kept beside the fields of an error, which may have any names and may be frozen. None of it is written to the wire
by an error's body, so that a handler cannot say it by mistake. Pure.
"""

from typing import Any, Final

from zbusrpc.errors import HAS_NOT_RUN, Code, RpcError

OF_COMMAND: Final = ("", "")
"""Origin of an error of another command than a call."""
_WAS_LOST: Final = "__zbusrpc_was_lost__"
_ORIGIN: Final = "__zbusrpc_origin__"
_TYPE: Final = "__zbusrpc_type__"


def of_command(code: Code, message: str, details: Any = None) -> RpcError:
    """Return an error of another command of this side than a call: it says nothing about what a handler was asked."""
    error = RpcError(code, message, details)
    note_origin(error)
    return error


def knowing(code: Code, message: str, details: dict[str, Any] | None = None, *, may_have_run: bool) -> RpcError:
    """Return an error of this side of which is known whether what was asked for may have been begun."""
    error = of_command(code, message, {**(details or {}), "may_have_run": may_have_run})
    note_run(error, may_have_run=may_have_run)
    return error


def not_run(code: Code, message: str, details: dict[str, Any] | None = None) -> RpcError:
    """Return the error for what has not been begun, which whoever makes it must know for certain."""
    return knowing(code, message, details, may_have_run=False)


def like(error: RpcError) -> RpcError:
    """Return the same error to be raised elsewhere: each collects the frames that it is raised through."""
    other = RpcError(error.code, error.message, error.details)
    other.__dict__.update({name: error.__dict__[name] for name in _NAMES if name in error.__dict__})
    return other


def note_run(error: RpcError, *, may_have_run: bool) -> None:
    """Note whether what ended with an error may have been begun; see `RpcError.may_have_run`."""
    error.__dict__[HAS_NOT_RUN] = not may_have_run


def note_lost(error: RpcError) -> None:
    """Note that an error is due to the loss of the connection."""
    error.__dict__[_WAS_LOST] = True


def was_lost(error: RpcError) -> bool:
    """Whether an error is due to the loss of the connection."""
    return _WAS_LOST in error.__dict__


def note_origin(error: RpcError, service: str = "", method: str = "") -> None:
    """Note that an error came back from a call, or from another command of this side."""
    error.__dict__[_ORIGIN] = (service, method)


def origin_of(error: RpcError) -> tuple[str, str] | None:
    """Return where an error came back from, or None where it was raised on purpose."""
    origin: tuple[str, str] | None = error.__dict__.get(_ORIGIN)
    return origin


def note_type(error: RpcError, name: str) -> None:
    """Note the declared class that an error had at the service, where this side does not know it."""
    error.__dict__[_TYPE] = name


def type_of(error: RpcError) -> str:
    """Return the name of the declared class that an error had at the service; nothing where it had none."""
    name: str = error.__dict__.get(_TYPE, "")
    return name


_NAMES: Final = (HAS_NOT_RUN, _WAS_LOST, _ORIGIN, _TYPE)

"""Loading: from `mymod:Calc` on the command line to the object it names."""

import importlib
import inspect
import pkgutil
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from zbusrpc.errors import ConfigError, did_you_mean
from zbusrpc.service.definition import is_service


def load(target: str) -> Any:
    """Import the module and return the attribute that `target` names; the current directory comes first.

    Raises:
        ConfigError: there is no such thing; the text names what is wrong and the nearest name.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{target!r} names no service; write module:Class, such as mymod:Calc")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    value = _import(module_name, target)
    module = holder = value
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [name for name in dir(value) if not name.startswith("_")]
            services = [name for name, found in vars(module).items() if is_service(found)]
            hint = did_you_mean(part, names) or (f"; it has {', '.join(services)}" if services else "")
            raise ConfigError(f"module {module_name} has no {part}{hint}")
        holder, value = value, getattr(value, part)
    if _is_method(holder, part, value):
        owner = holder if inspect.isclass(holder) else type(holder)
        raise ConfigError(f"{target} names a method of {owner.__name__}; write {target.rpartition('.')[0]}")
    return value


def _is_method(holder: Any, name: str, value: Any) -> bool:
    """Whether a value is a method that needs an instance, or one of a service; functions of a class make instances."""
    if inspect.isclass(holder):
        return inspect.isfunction(value) and not isinstance(inspect.getattr_static(holder, name), staticmethod)
    return is_service(type(holder)) and inspect.ismethod(value)


def _import(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = did_you_mean(name, {module.name for module in pkgutil.iter_modules([str(Path.cwd())])})
            raise ConfigError(f"there is no module {name} here or on the path{near}") from None
        raise ConfigError(_unimportable(name, error, str(error))) from None
    except SyntaxError as error:
        place = _place(error.filename or name, error.lineno)
        raise ConfigError(f"module {name} cannot be imported: {type(error).__name__}: {error.msg} ({place})") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(_unimportable(name, error, f"{type(error).__name__}: {error}")) from None


def _unimportable(name: str, error: BaseException, reason: str) -> str:
    """Say why a module cannot be imported, and in which line of the user's own code that came about."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    place = f" ({_place(frames[-1].filename, frames[-1].lineno)})" if frames else ""
    return f"module {name} cannot be imported: {reason}{place}"


def _is_foreign(filename: str) -> bool:
    """Whether a file is Python's, of a package that is installed, or ours."""
    path = Path(filename)
    return filename.startswith("<") or any(path.is_relative_to(place) for place in _FOREIGN)


def _place(filename: str, line: int | None) -> str:
    path = Path(filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}, line {line}"


_FOREIGN = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))
"""Where code is that is not the user's."""

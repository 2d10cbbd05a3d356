"""Loading: from `mymod:Calc` on the command line to the object it names."""

import importlib
import pkgutil
import sys
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
    module = value
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [name for name in dir(value) if not name.startswith("_")]
            services = [name for name, found in vars(module).items() if is_service(found)]
            hint = did_you_mean(part, names) or (f"; it has {', '.join(services)}" if services else "")
            raise ConfigError(f"module {module_name} has no {part}{hint}")
        value = getattr(value, part)
    return value


def _import(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = did_you_mean(name, {module.name for module in pkgutil.iter_modules([str(Path.cwd())])})
            raise ConfigError(f"there is no module {name} here or on the path{near}") from None
        raise ConfigError(f"module {name} cannot be imported: {error}") from None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        if isinstance(error, SyntaxError):
            place = f"{Path(error.filename or name).name}, line {error.lineno}"
        raise ConfigError(f"module {name} cannot be imported: {type(error).__name__}: {error} ({place})") from None

"""The token file: which tokens there are and what each may do, as TOML that people and `zbusrpc token` write.

    [[token]]
    name = "web"
    hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    created = 2026-01-31T12:00:00Z
    rules = [
        { operations = ["produce", "query"], topics = ["orders.*"] },
        { operations = ["consume"], topics = ["replies"], groups = ["web"] },
    ]

    [anonymous]                     # what clients without a token may do: nothing, unless it stands here
    rules = [{ operations = ["query"], topics = ["public.*"] }]

`operations` are those of `rights.py`; `"*"` is each of them but `admin`. `topics` are names, which may end with `*`;
`groups` likewise, and all groups where nothing is said. Of a token the file has a hash, never the secret, which is
shown once, when it is made.

Whoever can write the file can let himself in: the broker refuses one that others than its owner may write. One that
others may read is no more than a warning, since no secret can be got out of it, only names and rights.

Promises: a change is made in a copy that takes the file's place when it is on the disk, so that nobody ever reads half
of one; it is made in the text, so that comments and what people wrote in other entries stay as they are. A new file has
mode 0600; an existing one keeps its owner and mode.
"""

import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from zbusrpc.broker.access.rights import ALL, ANONYMOUS, Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.errors import ConfigError, did_you_mean
from zbusrpc.long_integers import load_toml
from zbusrpc.transport.naming import one_spelling

SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "zb_"
"""Before every secret, so that people, and programs that look for secrets in the wrong place, know one."""
HASH_PREFIX: Final = "sha256:"
EVERY_OPERATION: Final = frozenset(Operation) - {Operation.ADMIN}
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
NAME_PATTERN: Final = r"^[A-Za-z0-9_.@+-]{1,64}$"
_HEADER: Final = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")


def _read_operations(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    for name in value:
        if name != ALL and name not in set(Operation):
            raise ValueError(f"{name!r} is no operation{did_you_mean(str(name), list(Operation))}")
    return EVERY_OPERATION | set(value) - {ALL} if ALL in value else frozenset(value)


def _check_pattern(value: Any) -> Any:
    if isinstance(value, str) and ALL in value[:-1]:
        raise ValueError(f"{value!r}: * stands at the end of a name only")
    if isinstance(value, str) and not set(value) & set('"\\') and value.isprintable():
        return value
    raise ValueError(f"{value!r} is no name")


Pattern = Annotated[str, Field(min_length=1, max_length=255), BeforeValidator(_check_pattern)]
"""Name of a topic or group, or the beginning of such names and `*`."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleEntry(_Strict):
    """One rule, as it stands in the file."""

    operations: Annotated[frozenset[Operation], BeforeValidator(_read_operations)]
    topics: tuple[Pattern, ...]
    groups: tuple[Pattern, ...] = (ALL,)

    def as_rule(self) -> Rule:
        """Return what it says."""
        topics, groups = tuple(map(one_spelling, self.topics)), tuple(map(one_spelling, self.groups))
        return Rule(operations=self.operations, topics=topics, groups=groups)


class Anonymous(_Strict):
    """What clients without a token may do."""

    rules: tuple[RuleEntry, ...]


class Token(Anonymous):
    """One token."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    created: datetime | None = None


class TokenFile(_Strict):
    """All that stands in the file."""

    token: tuple[Token, ...] = ()
    anonymous: Anonymous = Anonymous(rules=())

    def access(self) -> Access:
        """Return what a broker lets in."""
        tokens = [
            Rights(one.name, [rule.as_rule() for rule in one.rules], bytes.fromhex(one.hash.removeprefix(HASH_PREFIX)))
            for one in self.token
        ]
        return Access(tokens, [rule.as_rule() for rule in self.anonymous.rules])


def read_tokens(path: str) -> TokenFile:
    """Return what a token file says.

    Raises:
        ConfigError: it cannot be read, others may write it, or something in it is wrong; the text says what.
    """
    return _parse(path, _read(path))


def is_readable_by_others(path: str) -> bool:
    """Say whether users other than the owner and his group may read a file: worth a warning."""
    return os.name != "nt" and bool(os.stat(path).st_mode & stat.S_IROTH)


def check_token_name(name: str) -> None:
    """See that a token may be called so.

    Raises:
        ConfigError: it may not; the text says why.
    """
    if name == ANONYMOUS or not re.fullmatch(NAME_PATTERN, name):
        rule = f"use 1 to 64 letters, digits and _ . @ + -, and not {ANONYMOUS}"
        raise ConfigError(f"a token may not be called {name!r}: {rule}")


def add_token(path: str, name: str, rule: RuleEntry, created: datetime) -> str:
    """Add a token, to a new file where there is none, and return its secret, which is kept nowhere.

    Raises:
        ConfigError: there is one of that name, or the file cannot be read or written.
    """
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    with _changing(path):
        before = _read(path) if os.path.lexists(path) else ""
        known = _parse(path, before)
        if any(one.name == name for one in known.token):
            raise ConfigError(f"{path}: there is a token {name} already; remove it first: zbusrpc token rm {name}")
        entry = _entry(name, f"{HASH_PREFIX}{digest_of(secret).hex()}", created, rule)
        text = f"{before.rstrip()}\n\n{entry}" if before.strip() else entry
        if len(_parse(path, text).token) != len(known.token) + 1:
            raise ConfigError(f"{path}: the token cannot be added after what stands there; add it by hand")
        _write(path, text)
    return secret


def remove_token(path: str, name: str) -> None:
    """Remove a token.

    Raises:
        ConfigError: there is none of that name, or the file cannot be read or written.
    """
    with _changing(path):
        before = _read(path)
        known = _parse(path, before)
        names = [one.name for one in known.token]
        if name not in names:
            raise ConfigError(f"{path}: there is no token {name}{did_you_mean(name, names)}")
        text = _without(before, names.index(name))
        left = tuple(one for one in known.token if one.name != name)
        if text is None or _parse(path, text) != known.model_copy(update={"token": left}):
            raise ConfigError(f"{path}: token {name} is written in a way that only a person can remove")
        _write(path, text)


# -- the text ------------------------------------------------------------------------------------------------


def _parse(path: str, text: str) -> TokenFile:
    try:
        found = TokenFile.model_validate(load_toml(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {str(error)[0].lower()}{str(error)[1:]}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(text, error)}") from None
    names = [one.name for one in found.token]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None or ANONYMOUS in names:
        what = f"there are two tokens {double}" if double is not None else f"a token may not be called {ANONYMOUS}"
        raise ConfigError(f"{path}: {what}")
    return found


def _explain(text: str, error: ValidationError) -> str:
    """Say in one line which entry and field is wrong. Values are not shown: one may be a secret in the wrong place."""
    first = error.errors(include_url=False, include_input=False)[0]
    table, *rest = first["loc"]
    where = str(table)
    if table == "token" and rest:
        entry = tomllib.loads(text)["token"][rest.pop(0)]
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"token {name}" if isinstance(name, str) else "a token without a name"
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest).removeprefix(".")
    where += f", {path}" if path else ""
    if first["type"] == "extra_forbidden":
        known = {name for kind in (TokenFile, Token, RuleEntry) for name in kind.model_fields}
        return f"{where}: there is no such field{did_you_mean(str(first['loc'][-1]), known)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: {reason[0].lower()}{reason[1:]}"


def _entry(name: str, hashed: str, created: datetime, rule: RuleEntry) -> str:
    """Return a new entry. What stands in quotes was checked to hold neither quotes nor control characters."""
    operations = [ALL] if rule.operations == EVERY_OPERATION else sorted(rule.operations)
    said = f"operations = {_list(operations)}, topics = {_list(rule.topics)}"
    said += f", groups = {_list(rule.groups)}" if rule.groups != (ALL,) else ""
    return (
        f'[[token]]\nname = "{name}"\nhash = "{hashed}"\ncreated = {created.isoformat(timespec="seconds")}\n'
        f"rules = [\n    {{ {said} }},\n]\n"
    )


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _without(text: str, index: int) -> str | None:
    """Return the text without one of its tokens; None where it is not found."""
    lines = text.splitlines(keepends=True)
    headers = [(number, found[1]) for number, line in enumerate(lines) if (found := _HEADER.match(line))]
    starts = [number for number, name in headers if name == "token"]
    if index >= len(starts):
        return None
    start = starts[index]
    others = (number for number, name in headers if number > start and not name.startswith("token."))
    end = next(others, len(lines))
    while end > start and _is_aside(lines[end - 1]):  # what stands above the next entry belongs to it
        end -= 1
    above = start
    while above > 0 and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    start = above or start  # a comment at the very beginning is about the file
    while end < len(lines) and not lines[end].strip() and (start == 0 or not lines[start - 1].strip()):
        end += 1
    return "".join(lines[:start] + lines[end:])


def _is_aside(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


# -- the disk ------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode)
            return file.read(FILE_BYTES_MAX).decode()
    except FileNotFoundError:
        fix = f"make it with: zbusrpc token add NAME --tokens {path}"
        raise ConfigError(f"there is no token file {path}; {fix}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is no text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _check_mode(path: str, mode: int) -> None:
    if os.name != "nt" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: others than its owner may write it, and so let themselves in: chmod 600 {path}")


@contextmanager
def _changing(path: str) -> Iterator[None]:
    """Let nobody else change the file meanwhile."""
    try:
        descriptor = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        if os.name != "nt":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)  # given back with the descriptor
        yield
    finally:
        os.close(descriptor)


def _write(path: str, text: str) -> None:
    """Put a text in the place of a file, whole or not at all; a link stays one."""
    target = Path(os.path.realpath(path))
    copy = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                if target.exists():
                    _keep_owner(target, file.fileno())
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(copy, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(copy)
            raise
        RealDisk().sync_directory(str(target.parent))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _keep_owner(old: Path, descriptor: int) -> None:
    """Give the copy the owner and mode of the file: the broker that reads it may be another user's."""
    if os.name == "nt":
        return
    there = os.stat(old)
    if (there.st_uid, there.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))

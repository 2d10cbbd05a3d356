"""Tokens of tests: a file with some, and the secrets that go with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from zbusrpc.broker.access.rights import digest_of

Rules = list[dict[str, Any]]


def secret_of(name: str) -> str:
    """Return the secret of a token of tests."""
    return f"secret-of-{name}"


def write_tokens(path: Path, tokens: Mapping[str, Rules], anonymous: Rules | None = None) -> Path:
    """Write a token file; each rule has the fields `operations`, `topics` and perhaps `groups`."""
    parts = [
        f'[[token]]\nname = "{name}"\nhash = "sha256:{digest_of(secret_of(name)).hex()}"\n{_rules(rules)}'
        for name, rules in tokens.items()
    ]
    parts += [f"[anonymous]\n{_rules(anonymous)}"] if anonymous is not None else []
    path.write_text("\n".join(parts))
    path.chmod(0o600)
    return path


def _rules(rules: Rules) -> str:
    shown = [", ".join(f"{name} = {orjson.dumps(value).decode()}" for name, value in one.items()) for one in rules]
    return "rules = [" + ", ".join(f"{{ {one} }}" for one in shown) + "]\n"

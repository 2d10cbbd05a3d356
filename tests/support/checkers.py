"""mypy --strict, as the tests run it: over programs of users, which it checks as they would.

All runs share one cache, beside that of `make check`, and take turns at it: what they have in common, such as pydantic,
is read once.
"""

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support.nursery import ROOT

CACHE = ROOT / ".mypy_cache" / "tests"
TIMEOUT_S = 240.0
"""Of all who take turns, on a slow machine."""


def run_mypy(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Check programs; `arguments` are their names and further options."""
    options = ["--strict", "--config-file=", f"--cache-dir={CACHE}", *arguments]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(
            [sys.executable, "-m", "mypy", *options],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

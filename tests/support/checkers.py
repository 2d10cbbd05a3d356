"""mypy --strict, as the tests run it: over programs of users, which it checks as they would.

All runs share one cache, beside that of `make check`, and take turns at it: what they have in common, such as pydantic,
is read once.
"""

import fcntl
import sys
from pathlib import Path

from tests.support.nursery import ROOT
from tests.support.processes import Ended, run_to_end

CACHE = ROOT / ".mypy_cache" / "tests"


def run_mypy(directory: Path, *arguments: str) -> Ended:
    """Check programs; `arguments` are their names and further options."""
    options = ["--strict", "--config-file=", f"--cache-dir={CACHE}", *arguments]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return run_to_end([sys.executable, "-m", "mypy", *options], cwd=directory, is_fresh=True)

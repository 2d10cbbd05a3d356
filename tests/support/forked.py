"""Commands in processes that are forked from one which has imported what they need: as real as any, and much faster.

What differs: they have no terminal, nothing on standard input, and no way to send them a signal.
"""

import multiprocessing
import os
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.support.waiting import WAIT_S

PRELOADED = [
    "tests.support.forked",
    "zbusrpc.cli.app",
    *[f"zbusrpc.cli.{name}" for name in ("groups", "letters", "peek", "pub", "removal", "sub", "topics", "storage")],
]
_numbers = count()


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command printed, and its exit code."""

    exit_code: int
    output: str
    errors: str


def run_forked(arguments: tuple[str, ...], directory: Path, env: dict[str, str]) -> Ended:
    """Run the command line to its end.

    Args:
        directory: Where it runs, and where what it prints is kept.
        env: `ZBUSRPC_...` that it finds, and no others.
    """
    out, err = (directory / f"forked-{next(_numbers)}.{name}" for name in ("out", "err"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(arguments, directory, env, out, err))
    process.start()
    process.join(WAIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    return Ended(-1 if code is None else code, out.read_text(), err.read_text())


def _main(arguments: tuple[str, ...], directory: Path, env: dict[str, str], out: Path, err: Path) -> None:
    for path, number in ((out, 1), (err, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name in [name for name in os.environ if name.startswith("ZBUSRPC_")]:
        del os.environ[name]
    os.environ |= env
    os.chdir(directory)
    sys.argv = ["zbusrpc", *arguments]
    from zbusrpc.cli.app import main

    main()

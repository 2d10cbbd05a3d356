"""Children: processes of the command line that are kept running, and that end with their parent.

    started ──> runs ──> dies: started again, at once the first time and then after pauses that grow
                  └────> ends with 0, where that means that it was taken out; or all are to stop

A child has a session of its own: Ctrl-C on a terminal would reach it as well, and be its first of two signals. Its
standard input is a pipe whose other end only the parent holds, so that it sees the end of a parent that was killed.
What it has to tell goes through a pipe of its own (see `parent.py`); what it prints is the user's, and not touched.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from zbusrpc.cli.parent import OPTION
from zbusrpc.telemetry import get_logger

PAUSE_S: Final = 0.5
"""Before the second start in a row; it doubles from one to the next."""
PAUSE_S_MAX: Final = 30.0
STEADY_S: Final = 10.0
"""A process that has run for so long may be started again at once when it dies."""
LAST_WORDS_S: Final = 1.0
"""How long what a process has told is read after its end: what it has started may hold the pipe open for ever."""

log = get_logger("children")


class Child:
    """A process that is kept running."""

    def __init__(
        self,
        command: list[str],
        *,
        what: str,
        env: Mapping[str, str] | None = None,
        core: int | None = None,
        says_ready: bool = False,
        is_node: bool = False,
    ) -> None:
        """Prepare it; `keep` starts it.

        Args:
            command: Program and arguments; the option that names its pipe is added.
            what: Names it in the log.
            env: Its environment; by default that of this process.
            core: Of the processor, which it is to use and no other.
            says_ready: It tells when it is ready, which it must be once to be started again.
            is_node: It does so, and tells something before, when it takes signals; and it is left alone when it has
                ended with 0.
        """
        self.ready: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        """What it says when it is ready for the first time; None when it ended before that, or is to stop."""
        self.failure: int | None = None
        """Exit code of a process that ended before it was ready, although it was to say so."""
        self._command, self._env, self._core = command, env, core
        self._what, self._says_ready, self._is_node = what, says_ready or is_node, is_node
        self._process: Process | None = None
        self._takes_signals = False
        """Whether the process that runs now has said so."""
        self._due: set[int] = set()
        """Signals that it is to have then."""
        self._deaths = 0

    async def keep(self, stop: asyncio.Event) -> None:
        """Run the process until `stop`, which ends it by SIGTERM, or until it is not to be started again.

        One that is to say that it is ready, and ends before, sets `stop`.
        """
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                began = time.monotonic()
                code = await self._run(stopped)
                if stop.is_set():
                    return
                if self._says_ready and not self.ready.done():
                    self.failure = code
                    stop.set()
                    return
                if self._is_node and code == 0:
                    log.info(f"{self._what}_drained")
                    return
                await asyncio.wait({stopped}, timeout=self._note_death(code, time.monotonic() - began))
        finally:
            stopped.cancel()
            if not self.ready.done():
                self.ready.set_result(None)

    async def _run(self, stopped: asyncio.Task[Any]) -> int:
        """Run the process once, and return its exit code."""
        self._process, self._takes_signals = None, False
        source, target = os.pipe()
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *(OPTION, str(target)),
                stdin=PIPE,
                env=self._env,
                start_new_session=True,
                pass_fds=(target,),
            )
        except OSError as error:  # for example, there are too many processes
            os.close(source)
            log.error(f"{self._what}_not_started", reason=error.strerror or str(error))
            return 1
        finally:
            os.close(target)
        pin(process.pid, self._core)
        reading = asyncio.create_task(self._read(source))
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._signal(signal.SIGTERM)
        code = await ended
        await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        reading.cancel()
        return code

    async def _read(self, source: int) -> None:
        """Take in what the process tells."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0))
        try:
            if self._is_node:
                self._takes_signals = bool(await reader.readline())
            while self._takes_signals and self._due:
                self._signal(self._due.pop())
            line = await reader.readline()
            if line and not self.ready.done():
                self.ready.set_result(orjson.loads(line))
        finally:
            pipe.close()

    def _note_death(self, code: int, ran_s: float) -> float:
        """Tell of a death, and return the seconds until the next start."""
        self._deaths = 1 if ran_s >= STEADY_S else self._deaths + 1
        pause_s = 0.0 if self._deaths == 1 else min(PAUSE_S_MAX, PAUSE_S * 2.0 ** min(self._deaths - 2, 30))
        pid = self._process.pid if self._process is not None else None
        log.warning(f"{self._what}_died", pid=pid, exit_code=code, restart_in_s=pause_s)
        return pause_s

    def send_signal(self, number: int) -> None:
        """Send a node's process a signal, as soon as it takes some."""
        if self._takes_signals:
            self._signal(number)
        else:
            self._due.add(number)

    def kill(self) -> None:
        """End the process now."""
        self._signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def kill_all(children: Iterable[Child]) -> None:
    """End all of them now."""
    for child in children:
        child.kill()


def signal_all(children: Iterable[Child], number: int) -> None:
    """Send all of them a signal, each as soon as it takes some."""
    for child in children:
        child.send_signal(number)


def pin(pid: int, core: int | None) -> None:
    """Have a process use one core of the processor, where the system can do that."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # it has ended already
            os.sched_setaffinity(pid, {core})


def usable_cores() -> list[int]:
    """Return the cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

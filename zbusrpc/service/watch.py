"""The watch: says who blocks the event loop of a service, while it is still blocked.

    loop      beats twice a second: one timer
    thread    looks twice a second: no beat for BLOCKED_S, in the middle of a task ──> a line of the log

A handler that calls `time.sleep` or reads a large file in an `async def` stops all others, and in the end the broker
takes the instance for dead. The line names the method, for how long, and where; it comes again at twice the time, and
once more when the loop is free.

Promises: a process that is stopped or starved as a whole is not blamed on a handler; a loop costs two timers a second
and one thread, however many services it has.
"""

import asyncio
import sys
import threading
import time
from itertools import takewhile
from types import FrameType
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from zbusrpc.service.attachment import Attachment
from zbusrpc.telemetry import get_logger

if TYPE_CHECKING:
    from zbusrpc.service.worker import Worker

BEAT_S: Final = 0.5
"""Between two beats, and between two looks."""
BLOCKED_S: Final = 1.0
"""Who blocks for so long hurts: calls have 10 s, and an instance that is silent for 30 s is taken for dead."""
FRAMES_MAX: Final = 4
"""Frames that a line names, innermost first."""
_WORK: Final = Attachment._work.__code__

log = get_logger("service")


class Watch:
    """The watch of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._workers: list[Worker] = []
        self._stop = threading.Event()
        self._beat()
        threading.Thread(target=self._watch, daemon=True, name="loop-watch").start()

    def enter(self, worker: "Worker") -> None:
        """Watch for one more service."""
        self._workers.append(worker)

    def leave(self, worker: "Worker") -> None:
        """Watch for one service less; after the last one the thread ends by itself."""
        self._workers.remove(worker)
        if not self._workers:
            self._stop.set()
            self._timer.cancel()
            del _watches[self._loop]

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    # -- in the thread -----------------------------------------------------------------------------------

    def _watch(self) -> None:
        blocked_at, who, due_s = 0.0, "", BLOCKED_S
        looked_at = time.monotonic()
        while not self._stop.wait(BEAT_S):
            last, looked_at, beat_at = looked_at, time.monotonic(), self._beat_at
            if who and beat_at != blocked_at:
                log.warning("service.loop_free", method=who, blocked_s=round(beat_at - blocked_at, 1))
                who, due_s = "", BLOCKED_S
            is_late_itself = looked_at - last > 2 * BEAT_S
            if looked_at - beat_at < BEAT_S + due_s or is_late_itself:
                continue
            frames = self._frames()
            if frames:
                blocked_at, who, due_s = beat_at, self._method_in(frames), 2 * due_s
                seconds, where = round(looked_at - beat_at, 1), _places(frames)
                log.warning("service.loop_blocked", method=who, blocked_s=seconds, where=where)

    def _frames(self) -> list[FrameType]:
        """Return what the loop's thread is in, innermost first; nothing where no task runs there."""
        frame = sys._current_frames().get(self._thread_id)
        frames = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames if asyncio.current_task(self._loop) is not None else []

    def _method_in(self, frames: list[FrameType]) -> str:
        """Return whose handler runs; where that is a task which a handler has begun, whose it may be."""
        for frame in frames:
            if frame.f_code is _WORK:
                attachment, running = frame.f_locals["self"], frame.f_locals["running"]
                return f"{attachment.service}.{running.method}"
        under_way = [
            f"{worker.definition.name}.{running.method}"
            for worker in list(self._workers)
            for running in worker.unfinished()
        ]
        return " or ".join(dict.fromkeys(under_way)) or "no method"


def _places(frames: list[FrameType]) -> str:
    """Return where a handler is: its own frames up to ours."""
    theirs = list(takewhile(lambda frame: not _is_ours(frame), frames)) or frames
    return " < ".join(
        f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" for frame in theirs[:FRAMES_MAX]
    )


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "zbusrpc"


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()


def watch_of_loop() -> Watch:
    """Return the watch of the running event loop; whoever has it enters it, and leaves it."""
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = Watch(loop)
    return watch

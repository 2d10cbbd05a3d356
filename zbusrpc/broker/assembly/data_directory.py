"""The data directory of a broker process, with what works on it.

Making it takes the directory's lock and attaches the message queue to the broker core; opening reads what is there, and
closing writes what is to be written and gives the directory back. Upkeep goes on in between.
"""

import asyncio
import contextlib
import itertools
import os
from typing import Final

from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.loop_scheduler import LoopScheduler
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.mq.backend import FileBackend
from zbusrpc.broker.mq.slices import do_slice
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.upkeep import Upkeep
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.descriptors import Reserve
from zbusrpc.broker.storage.errors import DirectoryInUseError, StorageError, place_of
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.lock import lock_directory
from zbusrpc.errors import ConfigError
from zbusrpc.telemetry import get_logger

CLOSE_TIMEOUT_S = 30.0
"""A disk that takes longer for the last sync is not waited for."""
SAID_EVERY_S: Final = 5.0
"""How often the log says how far a long start is."""

log = get_logger("broker")


class Progress:
    """When it is time to say how far long work is."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.seconds = 0
        """How long it took when that was said last."""

    def is_due(self, now: float) -> bool:
        """Say whether it is to be said now: each SAID_EVERY_S, and never of work that is done before."""
        if now - self.began - self.seconds < SAID_EVERY_S:
            return False
        self.seconds = int(now - self.began)
        return True


class DataDirectory:
    """The data directory of a running broker."""

    def __init__(self, broker: Broker, data_dir: str, durability: Durability, clock: Clock) -> None:
        """Take the directory, which is made where it does not exist.

        Raises:
            ConfigError: it is in use, or cannot be used; the text says why.
        """
        self._broker, self._data_dir = broker, data_dir
        self.scheduler = LoopScheduler(asyncio.get_running_loop(), clock)
        try:
            self._lock = lock_directory(data_dir)
        except DirectoryInUseError as error:
            raise ConfigError(str(error)) from error
        except (StorageError, OSError) as error:
            raise self._cannot(error) from error
        self._reserve = Reserve()
        limits = broker.calls.limits
        try:
            backend = FileBackend(RealDisk(self._reserve), data_dir)
            self.store = Store(backend, self.scheduler, durability=durability, limits=limits)
        except OSError as error:
            self._give_back()
            raise self._cannot(error) from error
        broker.attach(self.store)
        self._upkeep = Upkeep(self.store)

    async def open(self) -> None:
        """Read what is there, a share in each turn of the loop; where that takes long, the log says how far it is.

        Raises:
            ConfigError: it is of a newer version, or cannot be read; the text says which. The directory is free again.
        """
        steps = itertools.chain(self.store.opening(), self._broker.restoring())
        said = Progress(self.scheduler.now())
        try:
            while do_slice(steps):
                if said.is_due(self.scheduler.now()):
                    log.info("broker.starting", seconds=said.seconds, **self._counts())
                await asyncio.sleep(0)
        except (StorageError, OSError) as error:
            self._give_back()
            raise self._cannot(error) from error
        except BaseException:
            self._give_back()
            raise
        if said.seconds:
            log.info("broker.read", seconds=round(self.scheduler.now() - said.began), **self._counts())
        _warn_of_readers(self._data_dir)
        self._upkeep.begin()

    def _counts(self) -> dict[str, int]:
        """Return how far the opening is."""
        store = self.store
        opened = len(store.topics) + len(store.unreadable)
        return {"topics": opened, "of": store.found, "calls": self._broker.restored}

    def _cannot(self, error: Exception) -> ConfigError:
        reason = place_of(error) if isinstance(error, OSError) else str(error)
        return ConfigError(f"data directory {self._data_dir}: {reason}")

    def _give_back(self) -> None:
        """Let the directory be free."""
        self.scheduler.close()
        self._lock.close()
        self._reserve.close()

    async def close(self) -> None:
        """Return when everything is on the disk and the directory is free."""
        closed = asyncio.get_running_loop().create_future()
        self.store.close(lambda: None if closed.done() else closed.set_result(None))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed, CLOSE_TIMEOUT_S)
        self._give_back()


def _warn_of_readers(data_dir: str) -> None:
    """Let the log say where others on this machine may look into a directory that was there before."""
    if os.name != "nt" and os.stat(data_dir).st_mode & 0o077:
        log.warning("broker.data_readable", directory=data_dir, fix=f"chmod 700 {data_dir}")

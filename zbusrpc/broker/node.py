"""A node: the data directory of a broker process, with what works on it.

Opening takes the directory's lock, reads what is there and attaches the message queue to the broker core; closing
writes what is to be written and gives the directory back. Upkeep goes on in between.
"""

import asyncio
import contextlib
import os

from zbusrpc.broker.broker import Broker
from zbusrpc.broker.clock import Clock
from zbusrpc.broker.loop_scheduler import LoopScheduler
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.upkeep import Upkeep
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.descriptors import Reserve
from zbusrpc.broker.storage.errors import DirectoryInUseError, StorageError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.lock import lock_directory
from zbusrpc.errors import ConfigError
from zbusrpc.telemetry import get_logger

CLOSE_TIMEOUT_S = 30.0
"""A disk that takes longer for the last sync is not waited for."""

log = get_logger("broker")


class Node:
    """The data directory of a running broker."""

    def __init__(self, broker: Broker, data_dir: str, durability: Durability, clock: Clock) -> None:
        """Open the directory, which is made where it does not exist.

        Raises:
            ConfigError: it is in use, of a newer version, or cannot be read; the text says which.
        """
        loop = asyncio.get_running_loop()
        self.scheduler = LoopScheduler(loop, clock)
        try:
            self._lock = lock_directory(data_dir)
        except DirectoryInUseError as error:
            raise ConfigError(str(error)) from error
        except (StorageError, OSError) as error:
            raise ConfigError(f"data directory {data_dir}: {_reason(error)}") from error
        self._reserve = Reserve()
        try:
            limits = broker.calls.limits
            self.store = Store(RealDisk(self._reserve), data_dir, self.scheduler, durability=durability, limits=limits)
            broker.attach(self.store)
            self.store.open()
            broker.restore()
        except (StorageError, OSError) as error:
            self._lock.close()
            self._reserve.close()
            raise ConfigError(f"data directory {data_dir}: {_reason(error)}") from error
        _warn_of_readers(data_dir)
        self._upkeep = Upkeep(self.store)
        self._upkeep.begin()

    async def close(self) -> None:
        """Return when everything is on the disk and the directory is free."""
        closed = asyncio.get_running_loop().create_future()
        self.store.close(lambda: None if closed.done() else closed.set_result(None))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed, CLOSE_TIMEOUT_S)
        self.scheduler.close()
        self._lock.close()
        self._reserve.close()


def _warn_of_readers(data_dir: str) -> None:
    """Let the log say where others on this machine may look into a directory that was there before."""
    if os.name != "nt" and os.stat(data_dir).st_mode & 0o077:
        log.warning("broker.data_readable", directory=data_dir, fix=f"chmod 700 {data_dir}")


def _reason(error: Exception) -> str:
    return (error.strerror or repr(error)) if isinstance(error, OSError) else str(error)

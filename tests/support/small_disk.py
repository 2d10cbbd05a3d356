"""A disk of a few MiB that can be filled up: a file system in memory, in a mount namespace of its own.

A process that sleeps holds the namespace. Nobody else sees the mount, and it is gone with the last process in there,
however that ends. It takes root, or a system that lets users have namespaces; `SmallDisk.is_possible` says so.
"""

import subprocess
import sys
from pathlib import Path

from tests.support.processes import Process, Processes

_MOUNT = 'mount -t tmpfs -o size="$1" zbusrpc-test "$0" && echo mounted && exec sleep 600'
_UNSHARE = ("unshare", "--mount", "sh", "-c", _MOUNT)
_BLOCK = bytes(4096)


class SmallDisk:
    """A file system that only processes of one test see."""

    def __init__(self, processes: Processes, directory: Path, size: str) -> None:
        directory.mkdir()
        self._processes = processes
        self._holder = processes.start(*_UNSHARE, str(directory), size)
        assert self._holder.wait_line() == "mounted"
        self._ballast = Path(f"/proc/{self._holder.pid}/root{directory}/ballast")

    @staticmethod
    def is_possible(directory: Path) -> bool:
        """Say whether this machine lets a test mount something."""
        script = 'mount -t tmpfs zbusrpc-test "$0"'
        try:
            command = ["unshare", "--mount", "sh", "-c", script, str(directory)]
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            return False
        return done.returncode == 0

    def broker(self, *arguments: str, port: int = 0) -> tuple[Process, str]:
        """Start a broker that sees the disk, and return it with its address."""
        inside = ("nsenter", "--mount", "--target", str(self._holder.pid))
        command = (sys.executable, "-m", "zbusrpc", "broker", "--json", "--port", str(port), *arguments)
        process = self._processes.start(*inside, *command)
        return process, process.wait_ready()["broker"]

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(_BLOCK):
                    pass
            except OSError:
                return

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

"""A network namespace: a machine of its own, as far as the network goes, with a cable to this one that may be parted.

with network_namespace() as net:
    processes.start(*net.inside(...))       at net.there; processes of the test are at net.here
    net.part(), net.heal()                  nothing passes from there to net.tracker
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Namespace:
    """The other machine."""

    def __init__(self) -> None:
        number = os.getpid()
        network = f"198.{18 + (number >> 8) % 2}.{number % 256}"  # RFC 2544: of no network that anybody uses
        self.name = f"zbusrpc-test-{number}"
        self._cable = f"zb{number}"
        self.there, self.here, self.tracker = (f"{network}.{host}" for host in (2, 1, 3))

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one there."""
        return ["ip", "netns", "exec", self.name, *command]

    def part(self) -> None:
        """Let nothing from there reach the tracker's address; other addresses are reached as before."""
        _ip("-n", self.name, "route", "add", "blackhole", f"{self.tracker}/32")

    def heal(self) -> None:
        """Let it pass again."""
        _ip("-n", self.name, "route", "del", "blackhole", f"{self.tracker}/32")

    def lay_cable(self) -> None:
        """Connect the two machines."""
        far = f"{self._cable}n"
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", far, "netns", self.name)
        for address in (self.here, self.tracker):
            _ip("address", "add", f"{address}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        _ip("-n", self.name, "address", "add", f"{self.there}/24", "dev", far)
        _ip("-n", self.name, "link", "set", far, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def network_namespace() -> Iterator[Namespace]:
    """Make one for the time of a test; skip the test where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces: there is no program `ip`")
    net = Namespace()
    try:
        _ip("netns", "add", net.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    try:
        try:
            net.lay_cable()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be connected here: {error.stderr.strip()}")
        yield net
    finally:
        _ip("netns", "delete", net.name)

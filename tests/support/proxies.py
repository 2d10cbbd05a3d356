"""Real reverse proxies with the very configurations of docs/operations.md: with other ports and files.

What Debian's own files say around them is said here: that of nginx includes conf.d in its `http`.
"""

import os
import pwd
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker_set import free_ports
from tests.support.nursery import ROOT
from tests.support.processes import Process, Processes
from tests.support.waiting import wait_until

PAGE = ROOT / "docs" / "operations.md"
NAME = "mq.example.org"
"""What the page calls the site."""
PROGRAMS = {"nginx": ("nginx", "/usr/sbin/nginx"), "haproxy": ("haproxy", "/usr/sbin/haproxy")}
TRIES_MAX = 3
"""A port that was free is rarely taken before it is used."""
BROKER, CERTIFICATE = "127.0.0.1:15555", "/etc/ssl/mq.pem"
"""What stands in the page."""


def program(name: str) -> str | None:
    """Return where a program is, also for who has no sbin in the path."""
    return next((found for one in PROGRAMS[name] if (found := shutil.which(one))), None)


needs_proxies = pytest.mark.skipif(
    not all(map(program, PROGRAMS)), reason="no nginx or no haproxy; on Debian: apt-get install nginx-light haproxy"
)


def shown(language: str) -> str:
    """Return the configuration that the page shows."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy that runs, and where it listens."""

    process: Process
    http: int
    https: int
    other: int
    """One more port: see those who start it."""


def replaced(text: str, names: dict[str, str]) -> str:
    """Return a text with others in the place of some, each of which stands there."""
    for name, value in names.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


def start_nginx(processes: Processes, broker: str, certificate: Path, more: str = "") -> Proxy:
    """Start nginx with the page's configuration, and `more` beside it, in which `OTHER` is the port of that name."""

    def start(http: int, https: int, other: int) -> Process:
        names = {"listen 80;": f"listen 127.0.0.1:{http};", "listen 443 ssl;": f"listen 127.0.0.1:{https} ssl;"}
        site = replaced(shown("nginx"), names | {BROKER: broker, CERTIFICATE: str(certificate)})
        directory = processes.directory / f"nginx-{http}"
        directory.mkdir()
        file = directory / "nginx.conf"
        file.write_text(_around(f"{site}\n{more.replace('OTHER', str(other))}", directory))
        return processes.start(str(program("nginx")), "-p", str(directory), "-e", "stderr", "-c", str(file))

    return _started(start)


def start_haproxy(processes: Processes, broker: str, certificate: Path) -> Proxy:
    """Start haproxy with the page's configuration, of which the other port is that for programs."""

    def start(http: int, https: int, other: int) -> Process:
        names = {"bind :80": f"bind 127.0.0.1:{http}", "bind :443": f"bind 127.0.0.1:{https}"}
        names |= {"bind :15556": f"bind 127.0.0.1:{other}", BROKER: broker, CERTIFICATE: str(certificate)}
        file = processes.directory / f"haproxy-{http}.cfg"
        file.write_text(replaced(shown("haproxy"), names))
        return processes.start(str(program("haproxy")), "-db", "-f", str(file))

    return _started(start)


def _around(site: str, directory: Path) -> str:
    """Return the whole configuration of an nginx that writes to one directory only."""
    user = pwd.getpwuid(os.getuid()).pw_name
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    return (
        (f"user {user} {user};\n" if os.getuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr notice;\nevents {{}}\n"
        + f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )


def _started(start: Callable[[int, int, int], Process]) -> Proxy:
    """Start a proxy on ports that nobody uses: on others where somebody else was faster."""
    errors = ""
    for _ in range(TRIES_MAX):
        http, https, other = free_ports(3)
        process = start(http, https, other)
        wait_until(lambda: not process.is_running or _are_open(http, https), "the proxy listens")  # noqa: B023
        if process.is_running:
            return Proxy(process=process, http=http, https=https, other=other)
        errors = process.errors
    raise AssertionError(errors)


def _are_open(*ports: int) -> bool:
    with suppress(ConnectionRefusedError):
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False

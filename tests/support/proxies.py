"""Real reverse proxies with the very configurations of docs/operations.md: with other ports and files.

What Debian's own files say around them is said here: that of nginx includes conf.d in its `http`.
"""

import os
import pwd
import re
import shutil
import socket
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
    programs: int = 0


def replaced(text: str, names: dict[str, str]) -> str:
    """Return a text with others in the place of some, each of which stands there."""
    for name, value in names.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


def start_nginx(processes: Processes, broker: str, certificate: Path, more: str = "") -> Proxy:
    """Start nginx with the page's configuration, and `more` servers beside it.

    Args:
        more: With `HTTP` for a port of its own, which is returned as `programs`.
    """
    http, https, other = free_ports(3)
    names = {"listen 80;": f"listen 127.0.0.1:{http};", "listen 443 ssl;": f"listen 127.0.0.1:{https} ssl;"}
    site = replaced(shown("nginx"), names | {BROKER: broker, CERTIFICATE: str(certificate)})
    directory = processes.directory / f"nginx-{http}"
    directory.mkdir()
    user = pwd.getpwuid(os.getuid()).pw_name
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = (
        (f"user {user} {user};\n" if os.getuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr notice;\nevents {{}}\n"
        + f"http {{\naccess_log off;\n{temporary}{site}\n{more.replace('HTTP', str(other))}\n}}\n"
    )
    (directory / "nginx.conf").write_text(text)
    command = (str(program("nginx")), "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf"))
    process = processes.start(*command)
    _wait_listening(process, [http, https])
    return Proxy(process=process, http=http, https=https, programs=other)


def start_haproxy(processes: Processes, broker: str, certificate: Path) -> Proxy:
    """Start haproxy with the page's configuration."""
    http, https, programs = free_ports(3)
    names = {"bind :80": f"bind 127.0.0.1:{http}", "bind :443": f"bind 127.0.0.1:{https}"}
    names |= {"bind :15556": f"bind 127.0.0.1:{programs}", BROKER: broker, CERTIFICATE: str(certificate)}
    file = processes.directory / f"haproxy-{http}.cfg"
    file.write_text(replaced(shown("haproxy"), names))
    process = processes.start(str(program("haproxy")), "-db", "-f", str(file))
    _wait_listening(process, [http, https, programs])
    return Proxy(process=process, http=http, https=https, programs=programs)


def _wait_listening(process: Process, ports: list[int]) -> None:
    def is_listening() -> bool:
        assert process.is_running, process.errors
        with suppress(ConnectionRefusedError):
            for port in ports:
                socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    wait_until(is_listening, f"listens on {ports}: {process.errors}")

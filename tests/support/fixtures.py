"""Fixtures of end-to-end tests: processes that end with their test, and a broker with a Lab that tests share."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lab import Lab
from tests.support.processes import Process, Processes
from zbusrpc import connect
from zbusrpc.cluster.fleets import close_fleets


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A broker and a service that run."""

    address: str
    broker: Process
    service: Process
    processes: Processes


def open_site(processes: Processes, *serve: str, broker: tuple[str, ...] = ()) -> Site:
    """Start a broker and one Lab."""
    process, address = processes.broker(*broker)
    service = processes.serve(address, *serve, LAB_BROKER=address)
    return Site(address=address, broker=process, service=service, processes=processes)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Start processes that are killed at the end of the test."""
    with Processes(tmp_path) as started:
        yield started


@pytest.fixture
def site(processes: Processes) -> Site:
    """Run a broker and a Lab for this test alone."""
    return open_site(processes)


@pytest.fixture
async def links() -> AsyncIterator[None]:
    """Close the connections that the test's calls open."""
    yield
    await close_fleets()


@pytest.fixture
def own_lab(site: Site, links: None) -> Lab:
    """Return a proxy of the Lab that runs for this test alone."""
    return connect(Lab, broker=site.address)


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a broker and a Lab for all tests that harm neither."""
    with Processes(tmp_path_factory.mktemp("shared")) as started:
        yield open_site(started)


@pytest.fixture
def lab(shared_site: Site, links: None) -> Lab:
    """Return a proxy of the shared Lab."""
    return connect(Lab, broker=shared_site.address)

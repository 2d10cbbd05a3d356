"""Fixtures for tests with zbus clients: a broker that stores topics, a Python service, and the clients of a test."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.fixtures import Site, open_site
from tests.support.processes import Processes
from tests.support.zbus_client import ZbusLab


@pytest.fixture(scope="session")
def zbus_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a broker that stores topics and a Lab, for all tests that harm neither."""
    directory = tmp_path_factory.mktemp("zbus")
    with Processes(directory) as started:
        yield open_site(started, broker=("--data-dir", str(directory / "data")))


@pytest.fixture
def zbus(zbus_site: Site) -> Iterator[ZbusLab]:
    """Connect clients to the shared broker; the test fails when one crashes."""
    lab = ZbusLab(zbus_site.address)
    yield lab
    lab.close()


@pytest.fixture
def topic() -> str:
    """Return a name that no other test uses, and that is the name of a service as well."""
    return f"Topic{uuid4().hex}"

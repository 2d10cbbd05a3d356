"""Fixtures for tests that speak HTTP with a shared broker by hand."""

from collections.abc import Iterator

import pytest

from tests.support.fixtures import Site
from tests.support.web import Web, WebLab


@pytest.fixture
def web_lab(zbus_site: Site) -> WebLab:
    """Look at the shared broker."""
    return WebLab(zbus_site.address)


@pytest.fixture
def queue(web_lab: WebLab, topic: str) -> str:
    """Return the name of a topic with its own group, and a group g."""
    web_lab.declare(topic, "g")
    return topic


@pytest.fixture
def web(zbus_site: Site) -> Iterator[Web]:
    """Return a connection."""
    with Web(zbus_site.address) as connection:
        yield connection

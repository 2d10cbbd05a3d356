"""Real processes for the tests of this directory."""

from tests.support.fixtures import lab, links, own_lab, processes, shared_site, site
from tests.support.web_fixtures import queue, web, web_lab
from tests.support.zbus_fixtures import topic, zbus, zbus_site

__all__ = [
    "lab",
    "links",
    "own_lab",
    "processes",
    "queue",
    "shared_site",
    "site",
    "topic",
    "web",
    "web_lab",
    "zbus",
    "zbus_site",
]

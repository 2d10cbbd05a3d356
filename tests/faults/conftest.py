"""Real processes for the tests of this directory."""

from tests.support.fixtures import lab, links, own_lab, processes, shared_site, site

__all__ = ["lab", "links", "own_lab", "processes", "shared_site", "site"]

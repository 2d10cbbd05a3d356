"""What all tests share: async tests run on uvloop, and tests marked `long` run only with `--long`."""

import gc

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="Run the tests marked long as well.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Spare the collector what lives as long as the process: thousands of tests, at each of its rounds."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests as the product runs."""
    return "asyncio", {"use_uvloop": True}

"""A real browser: headless Chromium, started once for all tests of a module, with a page of its own for each test."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.support.waiting import WAIT_S

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; on Debian: apt-get install chromium"
)
one_browser = pytest.mark.xdist_group("browser")
"""One worker runs these modules, so that each starts one browser, which costs seconds, and not one in each worker."""
expect.set_options(timeout=WAIT_S * 1000)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run all tests of a module in one event loop, which is the browser's."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def browser(anyio_backend: object) -> AsyncIterator[Browser]:
    """Start the browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@asynccontextmanager
async def open_page(
    browser: Browser, request: pytest.FixtureRequest, tmp_path: Path, **options: Any
) -> AsyncIterator[Page]:
    """Open a page; keep a picture of it when the test fails, which it does on an error of the page's own.

    Args:
        options: Of the browser's context, such as `color_scheme`.
    """
    failed_before = request.session.testsfailed
    errors: list[str] = []
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(WAIT_S * 1000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    if errors or request.session.testsfailed > failed_before:
        await page.screenshot(path=tmp_path / "page.png", full_page=True)
    await context.close()
    assert not errors

"""Events, headers and the monitor's page in a real browser: from another origin, and behind real proxies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme
from playwright.async_api import Browser, Page, expect

from tests.support.browser import anyio_backend, browser, needs_chromium, open_page
from tests.support.processes import Processes
from tests.support.proxies import needs_proxies, start_haproxy, start_nginx
from tests.support.tokens import secret_of, write_tokens
from tests.support.waiting import WAIT_S
from tests.support.web import WebLab

__all__ = ["anyio_backend", "browser"]
pytestmark = [pytest.mark.anyio, needs_chromium]
FOLLOW = """url => {
  window.seen = [];
  const source = new EventSource(url);
  source.onmessage = ({ lastEventId, data }) => window.seen.push(`${lastEventId} ${data}`);
}"""
WAIT = """count => new Promise((resolve) => {
  const look = () => (window.seen.length < count ? setTimeout(look, 10) : resolve(window.seen));
  look();
})"""
"""Done by the page itself, whose policy lets no text be a script."""
READ = """async url => {
  const answer = await fetch(url, { method: "POST" });
  return Object.fromEntries(["x-trace", "tag", "offset", "id"].map((name) => [name, answer.headers.get(name)]));
}"""


class EmptyPage(BaseHTTPRequestHandler):
    """Shows a page with nothing on it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Return the origin of another server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
async def page(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> AsyncIterator[Page]:
    """Return a page of a browser that takes any certificate."""
    async with open_page(browser, request, tmp_path, ignore_https_errors=True) as page:
        yield page


async def see_events(page: Page, lab: WebLab, url: str) -> None:
    """Follow the topic T by a page, and see that each event is there before the next is produced."""
    await page.evaluate(FOLLOW, url)
    seen: list[str] = []
    for number in range(3):
        lab.produce("T", f"{number}")
        seen.append(f"{number} {number}")
        async with asyncio.timeout(WAIT_S):
            assert await page.evaluate(WAIT, len(seen)) == seen


async def test_page_of_another_origin_follows_events_and_reads_headers(
    page: Page, processes: Processes, tmp_path: Path, elsewhere: str
) -> None:
    """One that is let in by a star for its port; the headers of a message are the application's own."""
    _, address = processes.broker("--allow-origin", "http://127.0.0.1:*", "--data-dir", str(tmp_path / "data"))
    lab = WebLab(address)
    lab.declare("T", "g")
    await page.goto(elsewhere)

    await see_events(page, lab, f"http://{address}/consume/T")
    lab.ask("POST /produce/T?tag=a.b", b"x", X_Trace="7")
    read = await page.evaluate(READ, f"http://{address}/consume/T/g?offset=3")

    assert read == {"x-trace": "7", "tag": "a.b", "offset": "3", "id": None}


@needs_proxies
@pytest.mark.parametrize("program", ["nginx", "haproxy"])
@pytest.mark.parametrize("prefix", ["", "/mq"])
async def test_page_works_behind_proxies(
    page: Page, processes: Processes, tmp_path: Path, program: str, prefix: str
) -> None:
    """By HTTPS at an address that the broker does not know, below a path or not: live data, login, events."""
    tokens = write_tokens(tmp_path / "tokens.toml", {"ops": [{"operations": ["admin"], "topics": ["*"]}]})
    _, address = processes.broker("--tokens", str(tokens), "--data-dir", str(tmp_path / "data"))
    certificate = tmp_path / "mq.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    start = start_nginx if program == "nginx" else start_haproxy
    url = f"https://127.0.0.1:{start(processes, address, certificate).https}{prefix}"

    await page.goto(f"{url}/")
    await page.get_by_label("Token").fill(secret_of("ops"))
    await page.get_by_role("dialog").get_by_role("button", name="Log in", exact=True).click()

    await expect(page.locator("#state")).to_have_text("live")
    (cookie,) = await page.context.cookies()
    assert cookie["secure"]
    lab = OfOps(address)
    lab.declare("T")
    await see_events(page, lab, f"{url}/consume/T")
    await page.get_by_role("tab", name="Topics").click()
    await expect(page.get_by_role("rowheader").get_by_role("button", name="T", exact=True)).to_be_visible()


class OfOps(WebLab):
    """Looks at a broker by the token of `ops`."""

    def produce(self, topic: str, *bodies: str | bytes) -> None:
        """Store messages in order."""
        for body in bodies:
            data = body.encode() if isinstance(body, str) else body
            assert self.ask(f"POST /produce/{topic}", data, Token=secret_of("ops")).status == 200

    def declare(self, topic: str, *groups: str) -> None:
        """Make a topic."""
        assert not groups
        assert self.ask(f"GET /declare/{topic}", Token=secret_of("ops")).status == 200

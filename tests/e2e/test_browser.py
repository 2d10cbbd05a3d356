"""The browser example in a real browser: headless Chromium, a real broker, a Python service, producer and consumer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.browser import anyio_backend, browser, needs_chromium, one_browser, open_page
from tests.support.processes import ROOT, Processes, port_of
from tests.support.waiting import WAIT_S
from zbusrpc import Consumer, Producer

__all__ = ["anyio_backend", "browser"]
pytestmark = [pytest.mark.anyio, needs_chromium, one_browser]


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site_url() -> Iterator[str]:
    """Serve the example's directory, as `python -m http.server` does; return its origin."""
    handler = partial(QuietHandler, directory=str(ROOT / "examples" / "15_browser"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def broker(processes: Processes, site_url: str, tmp_path: Path) -> str:
    """Run a broker that lets in the example's page."""
    _, address = processes.broker("--allow-origin", site_url, "--data-dir", str(tmp_path / "data"))
    return address


@pytest.fixture
async def page(request: pytest.FixtureRequest, browser: Browser, site_url: str, tmp_path: Path) -> AsyncIterator[Page]:
    """Show the example."""
    async with open_page(browser, request, tmp_path) as page:
        await page.goto(site_url)
        yield page


async def connect(page: Page, broker: str) -> None:
    """Type the broker's address and press Enter."""
    await page.get_by_label("Broker").fill(f"ws://{broker}/")
    await page.get_by_label("Broker").press("Enter")
    await expect(page.locator("#state")).to_have_text("connected")


async def call(page: Page, method: str, params: str, service: str = "Calc") -> str:
    """Call a method of a service with the page's form, and return what the page shows."""
    await page.get_by_label("Service", exact=True).fill(service)
    await page.get_by_label("Method").fill(method)
    await page.get_by_label("Parameters").fill(params)
    await page.get_by_role("button", name="Call").click()
    result = page.locator("#call-result")
    await expect(result).not_to_have_text("…")
    return await result.inner_text()


async def consume_one(broker: str, group: str) -> tuple[str, str]:
    """Return body and tag of the next message of a group of the topic `news`."""
    async with Consumer("news", group=group, broker=broker) as consumer, asyncio.timeout(WAIT_S):
        message = await anext(consumer)
        await message.ack()
        return bytes(message.body).decode(), message.tag


async def test_page_produces_and_python_consumes(page: Page, broker: str) -> None:
    """A message of the page is an ordinary message, with its tag; a topic that is not there is told."""
    await connect(page, broker)
    await page.get_by_label("Message", exact=True).fill("grüße <b>☃</b>")
    await page.get_by_label("Tag").fill("eu.new")
    result = page.locator("#produce-result")

    await page.get_by_role("button", name="Produce").click()
    await expect(result).to_contain_text("not found")
    await page.get_by_role("button", name="Declare").click()
    await expect(page.locator("#topic-result")).to_have_text("declared")
    await page.get_by_role("button", name="Produce").click()
    await expect(result).to_have_text("stored")

    assert await consume_one(broker, "news") == ("grüße <b>☃</b>", "eu.new")


async def test_python_produces_and_page_consumes(page: Page, broker: str) -> None:
    """The page declares what is missing, shows messages as they come and in order, and takes none once it is told."""
    await connect(page, broker)
    await page.get_by_role("button", name="Consume").click()
    await expect(page.locator("#traffic")).to_contain_text("declare")
    bodies = [f"message {number} ä<i>" for number in range(20)]

    async with Producer("news", broker=broker) as producer:
        for body in bodies:
            await producer.send(body, tag="de")
        await expect(page.locator("#received-count")).to_have_text("20")
        await page.get_by_role("button", name="Stop consuming").click()
        await page.get_by_role("button", name="Declare").click()
        await expect(page.locator("#topic-result")).to_have_text("declared")
        await producer.send("for another")

    assert await consume_one(broker, "news") == ("for another", "")
    assert await page.locator("#received .body").all_inner_texts() == bodies[::-1]
    assert (await page.locator("#received .note").first.inner_text()).startswith("de · ")


async def test_groups_of_the_page_each_get_every_message(page: Page, broker: str) -> None:
    """What the page takes as a group of its own stays there for the other groups."""
    await connect(page, broker)
    await page.get_by_role("button", name="Declare").click()
    await expect(page.locator("#topic-result")).to_have_text("declared")
    await page.get_by_label("Group").fill("page")
    await page.get_by_role("button", name="Consume").click()

    await page.get_by_role("button", name="Produce").click()

    await expect(page.locator("#received .body")).to_have_text("hello from the browser")
    assert await consume_one(broker, "news") == ("hello from the browser", "")


async def test_page_calls_a_python_service(page: Page, broker: str, processes: Processes) -> None:
    """Results, errors of the service, mistakes of the caller: each is shown."""
    processes.serve(broker, target="examples.calc:Calc")
    await connect(page, broker)

    assert await call(page, "add", "[1, 2]") == "3"
    assert await call(page, "factor", "[84]") == "[\n  2,\n  2,\n  3,\n  7\n]"
    assert "1 cannot be divided by zero" in await call(page, "divide", "[1, 0]")
    assert "subtract" in await call(page, "subtract", "[1, 2]")
    assert "JSON" in await call(page, "add", "[1, ")
    assert "JSON array" in await call(page, "add", '{"a": 1}')
    assert "Nobody" in await call(page, "add", "[1, 2]", service="Nobody")
    await expect(page.locator("#call-result")).to_have_class("block error")


async def test_traffic_is_shown_as_it_is(page: Page, broker: str) -> None:
    """Each message that went over the WebSocket can be unfolded; the newest is first."""
    await connect(page, broker)
    await page.get_by_role("button", name="Declare").click()
    await expect(page.locator("#traffic > li")).to_have_count(2)
    sent, received = page.locator("#traffic > li").nth(1), page.locator("#traffic > li").nth(0)

    await sent.locator("summary").click()
    await received.locator("summary").press("Enter")

    text = await sent.locator("pre").inner_text()
    assert text.startswith("GET / HTTP/1.1\r\ncmd: declare\r\ntopic: news\r\nid: ")
    assert text.endswith("content-length: 0\r\n\r\n")
    answer = await received.locator("pre").inner_text()
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert '"topicName":"news"' in answer
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator("#traffic > li")).to_have_count(0)


async def test_page_comes_back_and_goes_on_consuming(
    page: Page, processes: Processes, site_url: str, tmp_path: Path
) -> None:
    """When the broker is gone the page says so; when there is one again, it connects and consumes as before."""
    options = ("--allow-origin", site_url, "--data-dir", str(tmp_path / "data"))
    process, broker = processes.broker(*options)
    await connect(page, broker)
    await page.get_by_role("button", name="Consume").click()
    await page.get_by_role("button", name="Produce").click()
    await expect(page.locator("#received-count")).to_have_text("1")

    process.kill()
    await expect(page.locator("#state")).to_have_text("connecting …")
    await expect(page.get_by_role("alert")).to_contain_text("Does the broker run")
    processes.broker(*options, port=port_of(broker))
    await expect(page.locator("#state")).to_have_text("connected")
    await page.get_by_label("Message", exact=True).fill("again")
    await page.get_by_role("button", name="Produce").click()

    await expect(page.locator("#received .body").first).to_have_text("again")
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_page_that_is_not_allowed_is_refused(page: Page, processes: Processes, site_url: str) -> None:
    """A broker lets in no page it was not told of, and the page shows the command that would."""
    _, broker = processes.broker("--allow-origin", "http://elsewhere.example")

    await page.get_by_label("Broker").fill(f"ws://{broker}/")
    await page.get_by_role("button", name="Connect").click()

    await expect(page.get_by_role("alert")).to_contain_text(f"zbusrpc broker --allow-origin {site_url}")
    assert await page.locator("#traffic > li").count() == 0


@pytest.mark.parametrize("address", ["localhost:15555", "http://localhost:15555/"])
async def test_wrong_address_is_not_taken(page: Page, address: str) -> None:
    """What does not begin as the address of a WebSocket is refused by the field."""
    await page.get_by_label("Broker").fill(address)
    await page.get_by_label("Broker").press("Enter")

    assert await page.locator("#address:invalid").count() == 1
    await expect(page.locator("#state")).to_have_text("not connected")


async def test_broken_address_is_told(page: Page) -> None:
    """What a browser cannot read as an address is told, with one that it can."""
    await page.get_by_label("Broker").fill("ws://[")
    await page.get_by_label("Broker").press("Enter")

    await expect(page.get_by_role("alert")).to_contain_text("An address looks like ws://localhost:15555/")
    await expect(page.locator("#state")).to_have_text("not connected")


async def test_page_is_used_without_a_mouse(page: Page, broker: str) -> None:
    """Every field and button is reached with Tab, in the order they are read, and has a name."""
    await connect(page, broker)
    await page.locator("body").click(position={"x": 1, "y": 1})

    names = []
    for _ in range(15):
        await page.keyboard.press("Tab")
        names.append(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    fields = ["address", "connect", "topic", "group", "Declare", "consume", "body", "tag", "Produce", "received"]
    assert names == [*fields, "service", "method", "params", "Call", "clear"]
    for field in await page.locator("input, textarea").all():
        assert await field.evaluate("element => element.labels.length") == 1


async def test_token_stands_in_the_address(page: Page, processes: Processes, site_url: str, tmp_path: Path) -> None:
    """A broker with tokens tells the page without one what is missing, and takes the one in the address."""
    tokens = str(tmp_path / "tokens.toml")
    code, output, errors = processes.run("token", "add", "page", "--operations", "*", "--tokens", tokens)
    assert code == 0, errors
    secret = output.split()[0]
    data = str(tmp_path / "data")
    _, broker = processes.broker("--allow-origin", site_url, "--tokens", tokens, "--data-dir", data)
    result = page.locator("#topic-result")

    await connect(page, broker)
    await page.get_by_role("button", name="Declare").click()
    await expect(result).to_contain_text("anonymous")
    await page.get_by_role("button", name="Disconnect").click()
    await page.get_by_label("Broker").fill(f"ws://{broker}/?token={secret}")
    await page.get_by_role("button", name="Connect").click()
    await page.get_by_role("button", name="Declare").click()

    await expect(result).to_have_text("declared")

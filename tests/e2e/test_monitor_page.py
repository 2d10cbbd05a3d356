"""The monitor's page in a real browser: what a person sees and does, with and without a mouse."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, WebSocketRoute, expect

from tests.support.broker_set import BrokerSet
from tests.support.browser import anyio_backend, browser, needs_chromium, one_browser, open_page
from tests.support.processes import ROOT, Processes, port_of
from tests.support.queue_peer import QueuePeer, entry
from tests.support.tokens import secret_of, write_tokens

__all__ = ["anyio_backend", "browser"]
pytestmark = [pytest.mark.anyio, needs_chromium, one_browser]

HOSTILE = "<img src=x onerror='window.hacked = true'>"
PAGE_CHECK = (ROOT / "tests" / "support" / "page_check.js").read_text()
TABS = ["Servers", "Topics", "Groups", "Services", "Dead letters"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker and a service for the tests of this module, which name their topics apart."""
    directory = tmp_path_factory.mktemp("monitor")
    with Processes(directory) as processes:
        _, address = processes.broker("--data-dir", str(directory / "data"))
        processes.serve(address)
        yield address


@pytest.fixture
def peer(broker: str) -> Iterator[QueuePeer]:
    """Return somebody else who uses the broker."""
    with QueuePeer(broker) as connected:
        yield connected


@pytest.fixture
async def page(request: pytest.FixtureRequest, browser: Browser, broker: str, tmp_path: Path) -> AsyncIterator[Page]:
    """Show the page of the broker, once it is live."""
    async with open_page(browser, request, tmp_path) as page:
        await page.goto(f"http://{broker}/")
        await expect(page.locator("#state")).to_have_text("live")
        yield page


def opener(page: Page, name: str) -> Locator:
    """Return the button in a table that opens the details of a row."""
    return page.get_by_role("rowheader").get_by_role("button", name=name, exact=True)


def cell(page: Page, name: str, column: str) -> Locator:
    """Return a cell of the row with this name."""
    return page.get_by_role("row").filter(has=opener(page, name)).locator(f"[data-column={column}]")


async def open_row(page: Page, tab: str, name: str) -> Locator:
    """Open the details of a row, and return their panel."""
    await page.get_by_role("tab", name=tab).click()
    await opener(page, name).click()
    return page.get_by_role("complementary", name=name)


async def confirm(page: Page, button: str) -> None:
    """Do what a dialog is about, and wait for its end."""
    await page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
    await expect(page.get_by_role("dialog")).to_have_count(0)


def toast(page: Page) -> Locator:
    """Return the notes of what has happened."""
    return page.locator("#toasts")


# -- rows ----------------------------------------------------------------------------------------------------


async def test_topics_come_change_and_go_while_somebody_looks(page: Page, peer: QueuePeer) -> None:
    """Rows follow the broker within a push or two, and whoever stands on one of them keeps the focus."""
    peer.declare("live.b")
    await opener(page, "live.b").focus()

    peer.declare("live.a")
    await expect(opener(page, "live.a")).to_be_visible()
    peer.produce("live.a", "1", "2", "3")
    await expect(cell(page, "live.a", "messages")).to_have_text("3")
    await expect(cell(page, "live.a", "in_rate").locator("path.line")).to_have_attribute("d", re.compile("L"))
    await expect(opener(page, "live.b")).to_be_focused()
    peer.command("remove", topic="live.a")
    await expect(opener(page, "live.a")).to_have_count(0)

    await expect(opener(page, "live.b")).to_be_focused()


async def test_search_and_order_stand_in_the_address(page: Page, peer: QueuePeer) -> None:
    """What is searched for and sorted by is there again after a reload, and the back button closes the details."""
    for number in (1, 2, 10):
        peer.declare(f"sorted.{number}")
        peer.produce(f"sorted.{number}", *["x"] * number)
    names = page.get_by_role("rowheader")

    await page.keyboard.press("/")
    await page.keyboard.type("sorted.")
    await expect(names).to_have_text(["sorted.1", "sorted.2", "sorted.10"])
    await page.get_by_role("button", name="Messages").click()
    await expect(names).to_have_text(["sorted.10", "sorted.2", "sorted.1"])
    await page.reload()
    await expect(names).to_have_text(["sorted.10", "sorted.2", "sorted.1"])
    await expect(page.get_by_role("columnheader", name="Messages")).to_have_attribute("aria-sort", "descending")

    await opener(page, "sorted.2").click()
    await expect(page.get_by_role("complementary", name="sorted.2")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("complementary", name="sorted.2")).to_have_count(0)
    await expect(names).to_have_count(3)


async def test_thousand_topics_are_shown_in_parts(page: Page, broker: str, peer: QueuePeer) -> None:
    """Of many rows only the first are made, and more on demand; a search finds the others."""
    peer.declare("like.others")
    await expect(opener(page, "like.others")).to_be_visible()
    await change_pushes(page, broker, lambda push: push["topics"].extend(copies(push["topics"][0], 1000)))
    rows = page.get_by_role("rowheader")

    await expect(rows).to_have_count(200)
    await page.get_by_role("button", name="Show more").click()
    await expect(rows).to_have_count(400)
    await page.get_by_label("Search").fill("bulk.0999")

    await expect(rows).to_have_text(["bulk.0999"])


# -- what can be done ----------------------------------------------------------------------------------------


async def test_topic_is_declared_browsed_and_removed(page: Page, peer: QueuePeer) -> None:
    """A topic with options; its messages from the last ones back to the first; and its end, which has to be typed."""
    await page.get_by_role("button", name="Declare topic").click()
    await page.get_by_label("Name").fill("no spaces, please")
    await page.get_by_role("button", name="Declare", exact=True).click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("no spaces, please")
    await page.get_by_label("Name").fill("browsed")
    await page.get_by_label("Durability").select_option("memory")
    await page.get_by_label("Keep for hours").fill("2")
    await confirm(page, "Declare")
    await expect(toast(page)).to_contain_text("topic browsed is declared")
    assert peer.command("topic", topic="browsed")["options"]["keep_s"] == 7200

    peer.produce("browsed", *(entry(json.dumps({"number": n, "id": 2**60 + 1}), tag=f"t.{n % 2}") for n in range(25)))
    panel = await open_row(page, "Topics", "browsed")
    await expect(panel.locator("dl.facts").first).to_contain_text("0 to 25")
    messages = panel.get_by_role("list", name="Messages").get_by_role("listitem")
    await panel.get_by_role("button", name="Browse").click()
    await expect(messages).to_have_count(20)
    await panel.get_by_role("button", name="Earlier").click()
    await expect(messages).to_have_count(25)
    await messages.last.locator("summary").click()
    await expect(messages.last.get_by_label("Body")).to_have_text('{\n  "number": 24,\n  "id": 1152921504606846977\n}')
    await panel.get_by_label("From").select_option("oldest")
    await panel.get_by_label("Tags").fill("t.1")
    await panel.get_by_label("Count").fill("10")
    await panel.get_by_role("button", name="Browse").click()
    await expect(messages).to_have_count(10)
    await panel.get_by_role("button", name="Load more").click()
    await expect(messages).to_have_count(12)

    await panel.get_by_role("button", name="Remove").click()
    remove = page.get_by_role("dialog").get_by_role("button", name="Remove")
    await expect(remove).to_be_disabled()
    await page.get_by_label("Type browsed to confirm").fill("browsed")
    await remove.click()
    await expect(opener(page, "browsed")).to_have_count(0)
    await expect(panel.get_by_text("This is gone")).to_be_visible()


async def test_method_is_called_by_a_form(page: Page) -> None:
    """Fields come from the method's types; what is left out has its default; results, errors and mistakes are shown."""
    panel = await open_row(page, "Services", "Lab")
    result, error, call = (
        panel.get_by_label("Result"),
        panel.get_by_role("alert"),
        panel.get_by_role("button", name="Call"),
    )

    await panel.get_by_label("Method").select_option("add")
    await panel.get_by_label("a integer").fill("1152921504606846977")
    await call.click()
    await expect(result).to_have_text("1152921504606846987")
    await expect(panel.get_by_text("answered in")).to_be_visible()
    await panel.get_by_label("b integer · default 10").fill("-1152921504606846977")
    await call.click()
    await expect(result).to_have_text("0")
    await panel.get_by_label("a integer").fill("one")
    await call.click()
    await expect(error).to_have_text('a is a whole number, not "one"')

    await panel.get_by_label("Method").select_option("run_dry")
    await panel.get_by_label("color choice").select_option("blue")
    await call.click()
    await expect(error).to_contain_text("FAILED_PRECONDITION: 2.50 litres of blue are missing")
    await expect(result).to_contain_text('"missing": "2.50"')
    await panel.get_by_label("Method").select_option("repaint")
    await panel.get_by_label("parcel").fill("{")
    await call.click()
    await expect(error).to_contain_text("parcel is no JSON")


async def test_group_is_moved_paused_and_removed(page: Page, peer: QueuePeer) -> None:
    """A group goes to an offset, rests and goes on, and is gone; each time the dialog names it."""
    peer.declare("moved")
    peer.produce("moved", "0", "1", "2", "3")
    peer.command("declare_group", topic="moved", group="mover")
    panel = await open_row(page, "Groups", "mover")
    await expect(cell(page, "mover", "state")).to_have_text("nobody consumes")

    await panel.get_by_role("button", name="Seek …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("The group mover of moved")
    await page.get_by_label("Go on at").select_option("offset")
    await page.get_by_label("Offset", exact=True).fill("3")
    await confirm(page, "Seek")
    await expect(toast(page)).to_contain_text("mover goes on at offset 3")
    assert peer.group("moved", "mover")["next_offset"] == 3

    await panel.get_by_role("button", name="Pause").click()
    await confirm(page, "Pause")
    await expect(cell(page, "mover", "state")).to_have_text("paused")
    await expect(cell(page, "mover", "lag")).to_have_text("1")
    await panel.get_by_role("button", name="Resume").click()
    await confirm(page, "Resume")
    assert not peer.group("moved", "mover")["options"]["paused"]
    await panel.get_by_role("button", name="Remove").click()
    await page.get_by_label("Type mover to confirm").fill("mover")
    await confirm(page, "Remove")
    await expect(opener(page, "mover")).to_have_count(0)


async def test_dead_letters_are_retried_and_purged(page: Page, peer: QueuePeer) -> None:
    """A letter comes with its reason, goes back to its consumer, and what is left of them can be purged."""
    peer.declare("failing")
    subscription = peer.consume("failing", "strict")
    peer.produce("failing", "first", "second")
    offsets = [peer.take(subscription, 1)[0].first for _ in range(2)]
    await page.get_by_role("tab", name="Dead letters").click()
    peer.nack(subscription, *offsets, then="dead", reason=f"no stock {HOSTILE}")
    letters = page.get_by_role("table", name="Dead letters of failing").get_by_role("row")
    first = letters.filter(has_text="first")

    await expect(first).to_contain_text(f"no stock {HOSTILE}")
    await expect(letters).to_have_count(3)
    await first.get_by_role("button", name="Retry").click()
    await confirm(page, "Retry")
    await expect(toast(page)).to_contain_text("1 dead letter given back")
    await expect(letters).to_have_count(2)
    assert peer.take(subscription, 1)[0].body == b"first"

    await page.get_by_role("button", name="Purge all").click()
    await page.get_by_label("Type failing to confirm").fill("failing")
    await confirm(page, "Purge")
    await expect(letters).to_have_count(0)
    assert await page.evaluate("window.hacked") is None


async def test_hostile_texts_are_texts(page: Page, broker: str, peer: QueuePeer) -> None:
    """Names, tags, headers, bodies and filters that are programs are shown, and never run."""
    peer.declare("hostile")
    peer.produce("hostile", entry(f"<script>window.hacked = true</script>{HOSTILE}", tag=HOSTILE, key=HOSTILE))

    await expect(opener(page, "hostile")).to_be_visible()

    def rename(push: dict[str, list[dict[str, object]]]) -> None:
        for topic in push["topics"]:
            if topic["topic"] == "hostile":
                push["topics"].append(topic | {"topic": HOSTILE, "mask_names": [HOSTILE], "closed_because": HOSTILE})
                push["groups"].append({**copies(topic, 1)[0], **GROUP, "topic": HOSTILE, "group": HOSTILE})

    await change_pushes(page, broker, rename)
    panel = await open_row(page, "Topics", "hostile")
    await panel.get_by_role("button", name="Browse").click()
    await panel.get_by_role("listitem").locator("summary").click()
    await expect(panel.get_by_label("Body")).to_contain_text("<script>window.hacked = true</script>")
    for tab in ("Topics", "Groups"):
        panel = await open_row(page, tab, HOSTILE)
        await expect(panel.get_by_role("heading", level=2)).to_have_text(HOSTILE)
        await panel.get_by_role("button", name="Remove").click()
        await expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
        await page.keyboard.press("Escape")

    assert await page.evaluate("window.hacked") is None
    assert await page.locator("main img, aside img, dialog img").count() == 0


# -- who looks, and how --------------------------------------------------------------------------------------


async def test_page_is_used_by_keyboard_alone(page: Page, peer: QueuePeer) -> None:
    """Tabs by arrows, a topic declared, its details opened and closed, and the focus back where it was."""
    keyboard = page.keyboard
    await page.get_by_role("tab", name="Topics").focus()
    await keyboard.press("End")
    await expect(page.get_by_role("tab", name="Dead letters")).to_have_attribute("aria-selected", "true")
    await keyboard.press("Home")
    await keyboard.press("ArrowRight")
    await expect(page.get_by_role("tab", name="Topics")).to_be_focused()

    await keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Declare topic")).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.type("typed.by.hand")
    await keyboard.press("Enter")
    await expect(toast(page)).to_contain_text("topic typed.by.hand is declared")
    await expect(page.get_by_role("button", name="Declare topic")).to_be_focused()

    await keyboard.press("/")
    await keyboard.type("typed.by.hand")
    await expect(page.get_by_role("rowheader")).to_have_count(1)
    await opener(page, "typed.by.hand").focus()
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="typed.by.hand")).to_be_focused()
    await keyboard.press("Escape")
    await expect(opener(page, "typed.by.hand")).to_be_focused()
    assert peer.command("topic", topic="typed.by.hand")["topic"] == "typed.by.hand"


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_page_is_accessible(page: Page, peer: QueuePeer, theme: str) -> None:
    """Everything has a name, headings are in order, tables have captions, and texts have contrast: in each view."""
    topic, group = f"accessible.{theme}", f"reader.{theme}"
    peer.declare(topic)
    subscription = peer.consume(topic, group)
    peer.produce(topic, entry("{}", tag="a"))
    peer.nack(subscription, peer.take(subscription, 1)[0].first, then="dead", reason="a test")
    await page.emulate_media(color_scheme="light" if theme == "dark" else "dark", reduced_motion="reduce")
    while theme not in (await page.get_by_role("button", name="Theme").inner_text()).lower():
        await page.get_by_role("button", name="Theme").click()
    await page.reload()
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) > 384) == (theme == "light")
    found = {}

    for tab in TABS:
        await page.get_by_role("tab", name=tab).click()
        await expect(page.locator("tbody tr").first).to_be_visible()
        found[tab] = await page.evaluate(PAGE_CHECK)
    for tab, name in {"Services": "Lab", "Groups": group, "Topics": topic}.items():
        panel = await open_row(page, tab, name)
        await expect(panel).to_be_visible()
        found[name] = await page.evaluate(PAGE_CHECK)
    await panel.get_by_role("button", name="Browse").click()
    await panel.get_by_role("listitem").locator("summary").click()
    await panel.get_by_role("button", name="Remove").click()
    found["dialog"] = await page.evaluate(PAGE_CHECK)

    assert {where: problems for where, problems in found.items() if problems} == {}


async def test_small_windows_need_no_scrolling_sideways(page: Page, peer: QueuePeer) -> None:
    """At 400 pixels everything is within the window, the details too."""
    name = "small.window.with.a.rather.long.name.for.a.topic"
    peer.declare(name)
    peer.command("declare_group", topic=name, group=f"group.of.{name}")
    await page.set_viewport_size({"width": 400, "height": 800})
    too_wide = """() => [...document.querySelectorAll("body *")]
        .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > 401)
        .map((element) => element.outerHTML.slice(0, 100))"""

    for tab in TABS[:4]:
        await page.get_by_role("tab", name=tab).click()
        await expect(page.locator("tbody tr").first).to_be_visible()
        assert await page.evaluate(too_wide) == []
    await open_row(page, "Topics", name)
    assert await page.evaluate(too_wide) == []


async def test_broker_that_is_away_is_told_and_comes_back(
    browser: Browser, request: pytest.FixtureRequest, processes: Processes, tmp_path: Path
) -> None:
    """Without its broker the page keeps what it knows, says so, and goes on by itself when there is one again."""
    data_dir = ("--data-dir", str(tmp_path / "data"))
    process, address = processes.broker(*data_dir)
    with QueuePeer(address) as peer:
        peer.declare("kept")
    async with open_page(browser, request, tmp_path) as page:
        await page.goto(f"http://{address}/")
        await expect(opener(page, "kept")).to_be_visible()

        process.kill()
        await expect(page.get_by_role("alert")).to_contain_text("No connection to the broker")
        await expect(page.locator("#state")).to_have_text("not connected")
        await expect(opener(page, "kept")).to_be_visible()
        await expect(page.get_by_role("button", name="Declare topic")).to_be_disabled()
        processes.broker(*data_dir, port=port_of(address))

        await expect(page.locator("#state")).to_have_text("live")
        await expect(page.get_by_role("alert")).to_have_count(0)
        await expect(page.get_by_role("button", name="Declare topic")).to_be_enabled()


async def test_token_is_asked_for_and_its_rights_are_seen(
    browser: Browser, request: pytest.FixtureRequest, processes: Processes, tmp_path: Path
) -> None:
    """Without a token there is a login; what the token may not do is disabled, and says why; logging out forgets it."""
    rules = {
        "reader": [{"operations": ["query"], "topics": ["orders.*"]}],
        "ops": [{"operations": ["admin"], "topics": ["*"]}],
    }
    tokens = write_tokens(tmp_path / "tokens.toml", rules)
    _, address = processes.broker("--tokens", str(tokens), "--data-dir", str(tmp_path / "data"))
    with QueuePeer(address, secret_of("ops")) as peer:
        peer.declare("orders.eu")
        peer.declare("secrets")
    async with open_page(browser, request, tmp_path) as page:
        await page.goto(f"http://{address}/")
        await page.get_by_label("Token").fill("wrong")
        await page.get_by_label("Token").press("Enter")
        await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("does not know the token")
        await page.get_by_label("Token").fill(secret_of("reader"))
        await confirm(page, "Log in")

        panel = await open_row(page, "Topics", "orders.eu")
        await expect(page.get_by_role("rowheader")).to_have_text(["orders.eu"])
        remove = panel.get_by_role("button", name="Remove")
        await expect(remove).to_be_disabled()
        await expect(remove).to_have_attribute("title", "the token reader may not remove")
        await expect(panel.get_by_role("button", name="Browse")).to_be_enabled()
        await page.reload()
        await expect(opener(page, "orders.eu")).to_be_visible()
        assert await page.evaluate("document.cookie") == ""

        await page.get_by_role("button", name="Log out reader").click()
        await page.get_by_label("Token").fill(secret_of("ops"))
        await confirm(page, "Log in")
        await expect(opener(page, "secrets")).to_be_visible()
        await expect(page.get_by_role("button", name="Declare topic")).to_be_enabled()


async def test_brokers_come_and_go_with_their_topics(
    browser: Browser, request: pytest.FixtureRequest, processes: Processes, tmp_path: Path
) -> None:
    """One page shows the topics of all brokers of a set and acts on each; brokers die, come back and are drained."""
    brokers = BrokerSet(processes, 2)
    brokers.wait_known(0, 1)
    first, second = brokers.addresses
    async with open_page(browser, request, tmp_path) as page:
        await page.goto(f"http://{first}/")
        await page.get_by_role("button", name="Declare topic").click()
        await page.get_by_label("Name").fill("elsewhere")
        await page.get_by_label("Broker").select_option(second)
        await confirm(page, "Declare")
        await expect(cell(page, "elsewhere", "broker")).to_have_text(second)

        brokers.kill(1)
        await expect(opener(page, "elsewhere")).to_have_count(0)
        await expect(page.get_by_role("alert")).to_contain_text(f"Gone: {second}. What it has is not shown")
        await page.get_by_role("tab", name="Servers").click()
        await expect(opener(page, first)).to_be_visible()
        await expect(cell(page, second, "state")).to_have_text("gone")
        await expect(cell(page, second, "drain").get_by_role("button")).to_be_disabled()
        brokers.start(1)

        await expect(cell(page, second, "state")).to_have_text("live")
        await expect(page.get_by_role("alert")).to_have_count(0)
        await cell(page, second, "drain").get_by_role("button", name="Drain").click()
        await page.get_by_label(f"Type {second} to confirm").fill(second)
        await confirm(page, "Drain")
        await expect(opener(page, second)).to_have_count(0)
        await expect(page.get_by_role("alert")).to_have_count(0)
        assert brokers[1].wait_exit() == 0

        brokers.start(1)
        await expect(cell(page, second, "state")).to_have_text("live")
        brokers.kill(0)
        await expect(cell(page, first, "state")).to_contain_text("lost")
        await expect(cell(page, second, "state")).to_have_text("live")


# -- what the broker says, and something else ------------------------------------------------------------------

GROUP = {
    "lag": 1, "in_flight": 0, "waiting": 0, "delayed": 0, "held": 0, "dead": 0, "filter": HOSTILE,
    "dead_letters": 0, "paused": False,
    "position": 0, "oldest_unacked_ms": None,
    "consumers": [{"name": HOSTILE, "session": 1, "window": 1, "in_flight": 1}],
    "counters": {HOSTILE: 1}, "options": {HOSTILE: HOSTILE},
}  # fmt: skip


def copies(topic: dict[str, object], count: int) -> list[dict[str, object]]:
    """Return rows of so many topics that are like another."""
    return [topic | {"topic": f"bulk.{number:04}"} for number in range(count)]


async def change_pushes(
    page: Page, broker: str, change: Callable[[dict[str, list[dict[str, object]]]], object]
) -> None:
    """Load the page anew, with snapshots that were changed on their way."""

    def between(browser_side: WebSocketRoute) -> None:
        broker_side = browser_side.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            text = message if isinstance(message, str) else message.decode()
            head, _, body = text.partition("\r\n\r\n")
            answer = json.loads(body) if body.startswith('{"result":{"at_ms"') else None
            if answer is not None:
                change(answer["result"])
                text = f"{head}\r\n\r\n{json.dumps(answer)}"
            browser_side.send(text)

        broker_side.on_message(pass_on)

    await page.route_web_socket(f"ws://{broker}/", between)
    await page.reload()
    await expect(page.locator("#state")).to_have_text("live")

"""`zbusrpc peek`: messages that a topic holds, without consuming them."""

import sys
from collections.abc import AsyncIterator
from typing import Any, Final

from zbusrpc.cli.shell import ask, forget_output
from zbusrpc.cli.show import print_messages
from zbusrpc.cli.starts import parse_start
from zbusrpc.config import Settings
from zbusrpc.mq.commands import command
from zbusrpc.mq.options import start_to_wire

PAGE: Final = 1000
"""Messages that a broker shows at a time."""

Page = dict[str, Any]
"""`messages`, `next_offset` and `end_offset`, as docs/protocol.md has it."""


def run_peek(
    topic: str,
    settings: Settings,
    *,
    start: str,
    count: int,
    filter: str,  # noqa: A002 - the word for it everywhere else
    as_json: bool,
) -> None:
    """Print up to `count` messages."""
    place = start_to_wire(parse_start("--start", start))
    pages = read_pages("peek", settings, count, topic=topic, start=place, filter=filter)

    ask(_show(pages, as_json=as_json), as_json=as_json)


async def _show(pages: AsyncIterator[Page], *, as_json: bool) -> None:
    page: Page = {}
    try:
        async for page in pages:
            print_messages(page["messages"], as_json=as_json)
    except BrokenPipeError:
        forget_output()
    if sys.stdout.isatty() and page["next_offset"] < page["end_offset"]:
        sys.stderr.write(f"more follow: --start offset:{page['next_offset']}\n")


async def read_pages(name: str, settings: Settings, count: int, *, start: Any, **fields: Any) -> AsyncIterator[Page]:
    """Yield what a command shows, page by page, up to `count` messages; one page at least, which may be empty.

    Raises:
        RpcError: the broker refuses.
    """
    while True:
        page = await command(name, settings.broker, settings.timeout, start=start, count=min(count, PAGE), **fields)
        yield page
        count -= len(page["messages"])
        following = {"offset": page["next_offset"]}
        if count <= 0 or page["next_offset"] >= page["end_offset"] or start == following:
            return
        start = following

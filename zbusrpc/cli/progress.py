"""Progress of long work: one line on standard error that is rewritten, and only where somebody watches."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

LOOK_S: Final = 0.2
"""How often it is looked how far the work is: work of a moment shows nothing."""


@asynccontextmanager
async def counting(verb: str, count: Callable[[], int], *, is_wanted: bool = True) -> AsyncIterator[None]:
    """Show how many messages are done so far, and how many a second, while the block runs."""
    console = Console(stderr=True)
    if not (is_wanted and console.is_terminal):
        yield
        return
    showing = asyncio.create_task(_show(verb, count, console))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})


async def _show(verb: str, count: Callable[[], int], console: Console) -> None:
    await asyncio.sleep(LOOK_S)
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} messages"), _Rate())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(verb, total=None)
        while True:
            progress.update(task, completed=count())
            await asyncio.sleep(LOOK_S)


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Return the rate, once there is one."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")

"""Processes that are kept running: when they are started again, and when not."""

import asyncio
import sys

import pytest

from tests.support.waiting import eventually
from zbusrpc.cli.children import PAUSE_S_MAX, STEADY_S, Child

pytestmark = pytest.mark.anyio

TELLS = "import os, sys; print('half a line', end=''); os.write(int(sys.argv[-1]), b'{}\\n{\"port\": 1}\\n')"
"""A program that prints something of its own, and tells its parent two lines."""


def child(program: str, *, is_node: bool) -> Child:
    """Return a child that runs a short program."""
    return Child([sys.executable, "-S", "-c", program], what="test.child", is_node=is_node)


async def test_pauses_grow_until_a_process_has_run_for_a_while() -> None:
    """The first death is followed by a start at once, those after it by longer and longer pauses."""
    mortal = child("", is_node=False)

    pauses = [mortal._note_death(1, 0.1) for _ in range(9)]
    later = [mortal._note_death(1, STEADY_S), mortal._note_death(1, 0.1)]

    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, PAUSE_S_MAX, PAUSE_S_MAX]
    assert later == [0, 0.5]


async def test_node_that_cannot_start_ends_all() -> None:
    """Its exit code is known, and whoever waits for it or runs with it is told."""
    stop, node = asyncio.Event(), child("raise SystemExit(7)", is_node=True)

    await node.keep(stop)

    assert (node.failure, stop.is_set(), await node.ready) == (7, True, None)


async def test_node_is_left_alone_when_it_has_ended_in_order() -> None:
    """Exit code 0 is not a death, and others go on."""
    stop, node = asyncio.Event(), child(TELLS, is_node=True)

    await node.keep(stop)

    assert (node.failure, stop.is_set(), await node.ready) == (None, False, {"port": 1})


async def test_stop_ends_a_process_that_has_just_died() -> None:
    """While it waits to be started again it is ended, too; and its death was noted."""
    stop, worker = asyncio.Event(), child("raise SystemExit(1)", is_node=False)
    keeping = asyncio.create_task(worker.keep(stop))
    await eventually(lambda: worker._deaths == 2, "two deaths")
    stop.set()
    await keeping

    assert worker._deaths == 2
    assert await worker.ready is None

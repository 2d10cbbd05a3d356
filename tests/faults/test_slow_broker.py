"""A broker that does not read for a while: callers wait for it instead of losing their connection."""

import asyncio
import signal

import pytest

from tests.support.fixtures import Site
from tests.support.lab import Lab
from zbusrpc import Code, RpcError, connect, options

pytestmark = pytest.mark.anyio
TEXT = "x" * 300_000
"""A hundred of them are far more than any socket's buffers hold."""


async def test_burst_waits_for_a_broker_that_stands_still(site: Site, links: None) -> None:
    """Large requests that are made while the broker stands still are all answered once it goes on."""
    lab = options(connect(Lab, broker=site.address), timeout=60)
    await lab.length("")
    site.broker.send_signal(signal.SIGSTOP)

    calls = [asyncio.create_task(lab.length(TEXT)) for _ in range(100)]
    await asyncio.sleep(0.2)
    site.broker.send_signal(signal.SIGCONT)

    assert await asyncio.gather(*calls) == [len(TEXT)] * 100


async def test_deadline_passes_while_the_broker_stands_still(site: Site, links: None) -> None:
    """A request that waits its turn ends at its deadline and says that it has not run."""
    lab = connect(Lab, broker=site.address)
    await lab.length("")
    site.broker.send_signal(signal.SIGSTOP)

    calls = [asyncio.create_task(options(lab, timeout=0.5).length(TEXT)) for _ in range(100)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    site.broker.send_signal(signal.SIGCONT)

    assert {error.code for error in results if isinstance(error, RpcError)} == {Code.DEADLINE_EXCEEDED}
    assert any(isinstance(error, RpcError) and not error.may_have_run for error in results)
    assert await lab.length("abc") == 3


async def test_callers_that_wait_learn_of_the_brokers_death(site: Site, links: None) -> None:
    """A request that waits its turn fails at once when the broker dies, and says that it has not run."""
    lab = options(connect(Lab, broker=site.address), timeout=60)
    await lab.length("")
    site.broker.send_signal(signal.SIGSTOP)

    calls = [asyncio.create_task(lab.length(TEXT)) for _ in range(100)]
    await asyncio.sleep(0.2)
    site.broker.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert {error.code for error in results if isinstance(error, RpcError)} == {Code.UNAVAILABLE}
    assert any(isinstance(error, RpcError) and not error.may_have_run for error in results)

"""Tokens that a tracker does not know, or that allow too little: brokers and calls do without it."""

import asyncio
import signal

import pytest

from tests.support.broker_set import fleet_at, serving_at, table_of, wait_table
from tests.support.lab import Lab
from tests.support.processes import Process, Processes
from tests.support.tokens import secret_of, write_tokens
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect
from zbusrpc.broker.tracker.reporter import TOKEN_REFUSED_S
from zbusrpc.broker.tracker.teller import REFUSED_S
from zbusrpc.transport.hello import Hello

pytestmark = pytest.mark.anyio

REPORTS = [{"operations": ["track_pub"], "topics": ["*"]}]
ASKS = [{"operations": ["tracker", "query"], "topics": ["*"]}]
CALLS_ONLY = [{"operations": ["produce"], "topics": ["Lab"]}]
SERVES = [{"operations": ["consume", "declare"], "topics": ["Lab"]}]
IMPATIENT = """
import sys
from zbusrpc.broker.tracker import reporter, teller
reporter.TOKEN_REFUSED_S = teller.REFUSED_S = 0.5
from zbusrpc.__main__ import main
main()
"""
"""The command line of a broker that does not wait so long before it tries again."""


def impatient_broker(processes: Processes, tracker: str) -> Process:
    """Start a broker that reports with a token of its own."""
    options = ["--port", "0", "--json", "--data-dir", str(processes.directory / "data")]
    return processes.python(IMPATIENT, "broker", "--tracker", tracker, *options, ZBUSRPC_TOKEN=secret_of("broker"))


async def test_token_that_a_tracker_does_not_know(processes: Processes, links: None) -> None:
    """The broker serves on and says why in one line, seldom; once the tracker has read the token it is listed."""
    tokens = write_tokens(processes.directory / "tokens.toml", {"somebody": ASKS}, anonymous=ASKS)
    tracker, tracker_at = await asyncio.to_thread(processes.broker, "--tracker-only", "--tokens", str(tokens))
    broker = impatient_broker(processes, tracker_at)
    address = (await asyncio.to_thread(broker.wait_ready))["broker"]
    async with serving_at(address):
        await eventually(lambda: broker.log("tracker.token_refused"), "a line that says so")
        assert await connect(Lab, broker=address).add(1, 2) == 3
        assert await asyncio.to_thread(table_of, tracker_at) == {}

        write_tokens(tokens, {"broker": REPORTS}, anonymous=ASKS)
        tracker.send_signal(signal.SIGHUP)
        await wait_table(tracker_at, [address])

    lines = broker.log("tracker.token_refused")
    assert all(line["tracker"] == tracker_at and "token" in line["reason"] for line in lines)
    assert "Traceback" not in broker.errors
    assert TOKEN_REFUSED_S >= 10


async def test_token_that_may_not_report(processes: Processes) -> None:
    """The broker says once what it lacks, and is listed as soon as it may."""
    tokens = write_tokens(processes.directory / "tokens.toml", {"broker": ASKS}, anonymous=ASKS)
    tracker, tracker_at = await asyncio.to_thread(processes.broker, "--tracker-only", "--tokens", str(tokens))
    broker = impatient_broker(processes, tracker_at)
    address = (await asyncio.to_thread(broker.wait_ready))["broker"]
    await eventually(lambda: broker.log("tracker.report_refused"), "a line that says so")
    assert "track_pub" in broker.log("tracker.report_refused")[0]["reason"]

    write_tokens(tokens, {"broker": REPORTS}, anonymous=ASKS)
    tracker.send_signal(signal.SIGHUP)
    await wait_table(tracker_at, [address])

    assert "Traceback" not in broker.errors
    assert REFUSED_S >= 5


async def test_client_that_may_not_track_still_calls(
    processes: Processes, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told nothing of other brokers, and uses those that it was given; what it may not do it hears."""
    tokens = write_tokens(processes.directory / "tokens.toml", {"caller": CALLS_ONLY, "service": SERVES})
    _, address = await asyncio.to_thread(processes.broker, "--tokens", str(tokens))
    async with serving_at(address, hello=Hello(name="service", token=secret_of("service"))):
        monkeypatch.setenv("ZBUSRPC_TOKEN", secret_of("caller"))
        assert await connect(Lab, broker=address).add(1, 2) == 3
        with pytest.raises(RpcError) as refused:
            await connect("Other", broker=address).go()

    assert refused.value.code is Code.PERMISSION_DENIED
    assert not fleet_at(address).topology.brokers

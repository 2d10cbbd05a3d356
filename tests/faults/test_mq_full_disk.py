"""A disk that is full: producers are told so, consumers go on, and when there is room again nothing was lost."""

import resource
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import Process, Processes, port_of
from tests.support.queue_load import Load, end
from tests.support.queue_peer import QueuePeer, entry
from tests.support.small_disk import SmallDisk
from tests.support.waiting import wait_until
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.entries import Entry

PADDING = 1000
REFUSED = 20
BYTES = 8000
"""Of events, before the disk fills up and while it is full."""


def limit_files(broker: Process, size: int = resource.RLIM_INFINITY) -> None:
    """Let a process write no file beyond a size; what it tries fails with EFBIG, which is as good as a full disk."""
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def produce_until_refused(load: Load, producer: Process) -> None:
    """Return when the broker has refused some messages because its disk is full."""
    before = len(load.ledger.refused("orders"))
    wait_until(lambda: len(load.ledger.refused("orders")) >= before + REFUSED, f"refusals: {producer.errors}")


def run_through_a_full_disk(
    load: Load, address: str, fill: Callable[[], None], free: Callable[[], None], restart: Callable[[], None]
) -> str:
    """Produce and consume before, while and after the disk is full; return what producers were told."""
    with QueuePeer(address) as peer:
        peer.declare("orders")
        peer.command("declare_group", topic="orders", group="late")
    early = load.consume("orders", "early")
    producer = load.produce("orders", label="p", padding=PADDING)
    load.grow(BYTES)
    assert figure(address, "zbusrpc_messages_refused_total") == 0
    fill()
    produce_until_refused(load, producer)
    assert figure(address, "zbusrpc_messages_refused_total") >= REFUSED
    late = load.consume("orders", "late")
    load.drain("orders", "early")
    load.drain("orders", "late")
    produce_until_refused(load, producer)
    restart()
    produce_until_refused(load, producer)
    acked = len(load.ledger.acked("orders"))
    free()
    wait_until(lambda: len(load.ledger.acked("orders")) > acked + REFUSED, "room again")
    end(producer)
    load.drain("orders", "early")
    load.drain("orders", "late")
    end(early, late)
    return producer.output


def figure(address: str, name: str) -> float:
    """Return one figure of a broker's /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def assert_all_is_good(load: Load) -> None:
    """See that everybody got all that was acknowledged, and nothing that was refused."""
    for group in ("early", "late"):
        verdict = load.ledger.verdict("orders", group)
        print(f"{group}: {verdict}, refused {len(load.ledger.refused('orders'))}")
        assert verdict.is_good
    assert set(load.ledger.refused("orders").values()) == {"RESOURCE_EXHAUSTED"}


def test_full_disk_stops_producers_only(processes: Processes, tmp_path: Path) -> None:
    """On a full disk producers get RESOURCE_EXHAUSTED with the cause; consumers drain; with room all goes on.

    That holds through a kill -9 as well: the broker starts on the full disk.
    """
    if not SmallDisk.is_possible(tmp_path):
        pytest.skip("this machine lets nobody mount: test_file_size_limit_stops_producers_only does what it can")
    directory = tmp_path / "disk"
    disk = SmallDisk(processes, directory, "4m")
    arguments = ("--data-dir", str(directory / "data"))
    broker, address = disk.broker(*arguments)
    load = Load(processes, address)

    def restart() -> None:
        broker.kill()
        disk.broker(*arguments, port=port_of(address))

    told = run_through_a_full_disk(load, address, disk.fill, disk.free, restart)

    assert_all_is_good(load)
    assert "topic orders: cannot write" in told
    assert "No space left on device" in told


def test_file_size_limit_stops_producers_only(processes: Processes, tmp_path: Path) -> None:
    """Where files cannot grow, producers get RESOURCE_EXHAUSTED with the cause, and consumers drain."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"))
    load = Load(processes, address)

    told = run_through_a_full_disk(
        load, address, lambda: limit_files(broker, 100_000), lambda: limit_files(broker), lambda: None
    )

    assert_all_is_good(load)
    assert "topic orders: cannot write" in told
    assert "File too large" in told


def test_groups_forget_nothing_that_a_full_disk_did_not_take(processes: Processes, tmp_path: Path) -> None:
    """What consumers had while the journal could not be written comes again after a kill -9, whatever else failed."""
    arguments = ("--data-dir", str(tmp_path / "data"))
    broker, address = processes.broker(*arguments)
    with QueuePeer(address) as peer:
        peer.declare("orders")
        peer.command("declare_group", topic="orders", group="billing")
        peer.produce("orders", *"abc")
        limit_files(broker, 100)
        subscription = peer.consume("orders", "billing", window=3)
        had = peer.take(subscription, 3)
        with pytest.raises(RpcError) as unconfirmed:
            peer.ack(subscription, had[0].first)
        with pytest.raises(RpcError) as refused:
            peer.command("pause", topic="orders", group="billing")
        assert figure(address, "zbusrpc_journal_failing") == 1
        limit_files(broker)
        wait_until(lambda: figure(address, "zbusrpc_journal_failing") == 0, "journal well again")
        peer.produce("orders", "d")
        (last,) = peer.take(subscription, 1)
        wait_until(lambda: is_taken(peer, subscription, last), "room noticed")
        broker.kill()
    _, address = processes.broker(*arguments)
    with QueuePeer(address) as peer:
        again = peer.take(peer.consume("orders", "billing"), 2)

    for error in (unconfirmed.value, refused.value):
        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "File too large" in error.message
    assert last.body == b"d"
    assert [one.body for one in again] == [b"b", b"c"]


def is_taken(peer: QueuePeer, subscription: int, entry: Entry) -> bool:
    """Acknowledge a message, and say whether that survives a kill -9."""
    try:
        peer.ack(subscription, entry.first)
    except RpcError:
        return False
    return True


def test_message_that_does_not_fit_is_refused_alone(processes: Processes, tmp_path: Path) -> None:
    """A message that the disk has no room for is refused; a smaller one that fits is stored right behind."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"))
    with QueuePeer(address) as peer:
        peer.declare("orders")
        limit_files(broker, 20_000)
        with pytest.raises(RpcError) as refused:
            peer.produce("orders", entry("x" * 30_000, id_="large"))
        small = peer.produce("orders", entry("small", id_="small"))
        limit_files(broker)
        large = peer.produce("orders", entry("x" * 30_000, id_="large"))

    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.may_have_run is False
    assert refused.value.retry_after_s == 0.5
    assert (small["offset"], large["offset"]) == (0, 1)
    assert "duplicates" not in large

"""A data directory that is in use, of a newer zbusrpc, torn or damaged: said in one line, and nothing is made worse."""

import json
import signal
import struct
import zlib
from pathlib import Path

import pytest

from tests.support.processes import Process, Processes, port_of
from tests.support.queue_peer import QueuePeer, entry
from tests.support.waiting import wait_until

HEAD_BYTES = 32
NEWER = 7
COUNT = 60


class DataDirectory:
    """A broker's data directory, with one topic in it."""

    def __init__(self, processes: Processes, path: Path) -> None:
        self.path = path
        self._processes = processes
        self._port = 0

    def start(self) -> tuple[Process, QueuePeer]:
        """Start a broker, and connect."""
        broker, address = self._processes.broker("--data-dir", str(self.path), port=self._port)
        self._port = port_of(address)
        return broker, QueuePeer(address)

    def refuse(self) -> str:
        """Start a broker that must not start, and return the one line that it says."""
        code, output, errors = self._processes.run("broker", "--port", "0", "--data-dir", str(self.path))
        assert code == 1
        assert not output
        assert errors.count("\n") == 1, errors
        return errors

    def segments(self) -> list[Path]:
        """Return the segments of the topic, oldest first."""
        return sorted(self.path.glob("topics/orders-*/*.log"))

    def contents(self) -> dict[str, bytes]:
        """Return every file but the lock, which names who tried last."""
        files = (path for path in sorted(self.path.rglob("*")) if path.is_file() and path.name != "lock")
        return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def data(processes: Processes, tmp_path: Path) -> DataDirectory:
    """Return a data directory that nobody uses yet."""
    return DataDirectory(processes, tmp_path / "data")


def fill(peer: QueuePeer, count: int = COUNT) -> list[str]:
    """Store messages one by one in small segments, and return their bodies."""
    peer.declare("orders", segment_bytes=4096, durability="os")
    peer.command("declare_group", topic="orders", group="billing")
    bodies = [f"message {number} {'x' * 200}" for number in range(count)]
    for request in [peer.post_produce("orders", entry(body, id_=body[:12])) for body in bodies]:
        peer.answer(request)
    return bodies


# -- in use ----------------------------------------------------------------------------------------------


def test_directory_in_use_is_refused(processes: Processes, data: DataDirectory) -> None:
    """A second broker says in one line which directory is in use by which process; after its kill -9 one starts."""
    first, peer = data.start()
    with peer:
        bodies = fill(peer)

        line = data.refuse()
        assert str(data.path) in line
        assert str(first.pid) in line
        assert line.count(str(data.path)) == 1
        assert peer.command("topic", topic="orders")["messages"] == COUNT

    first.kill()
    _, peer = data.start()
    with peer:
        got = peer.take(peer.consume("orders", "billing"), COUNT)
        assert [one.body.decode() for one in got] == bodies


# -- newer formats ---------------------------------------------------------------------------------------


def make_newer_segment(path: Path) -> None:
    """Give a segment the head of a format that is not known yet; its checksum is right."""
    data = bytearray(path.read_bytes())
    data[8:10] = struct.pack(">H", NEWER)
    data[28:HEAD_BYTES] = struct.pack(">I", zlib.crc32(data[:28]))
    path.write_bytes(data)


def make_newer_catalog(path: Path) -> None:
    """Let a topic's file be of a format that is not known yet."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": NEWER, "shards": 3}))


NEWER_FILES = {
    "topics/zoo-*/*.log": make_newer_segment,
    "journal/*.log": make_newer_segment,
    "topics/zoo-*/topic.json": make_newer_catalog,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_newer_format_is_refused_and_untouched(data: DataDirectory, number: signal.Signals) -> None:
    """A broker does not start on files of a newer format, names file and both versions, and changes nothing.

    The other topics are not touched either, though they would need to be put in order after a kill -9.
    """
    broker, peer = data.start()
    with peer:
        peer.declare("zoo")
        peer.produce("zoo", "gnu")
        fill(peer)
    broker.send_signal(number)
    broker.wait_exit()

    for pattern, make_newer in NEWER_FILES.items():
        (path,) = data.path.glob(pattern)
        original = path.read_bytes()
        make_newer(path)
        before = data.contents()

        line = data.refuse()

        assert path.name in line
        assert f"version {NEWER}, this zbusrpc reads versions up to 1" in line
        assert data.contents() == before
        path.write_bytes(original)
    with data.start()[1]:
        pass


# -- damage ----------------------------------------------------------------------------------------------


def test_torn_tail_is_cut_and_logged(data: DataDirectory) -> None:
    """What a crash left of the last write is cut off, with its bytes in the log; all before it is there."""
    broker, peer = data.start()
    with peer:
        bodies = fill(peer)
    broker.kill()
    last = data.segments()[-1]
    torn = last.read_bytes()[:-10]
    last.write_bytes(torn)

    broker, peer = data.start()
    with peer:
        got = peer.take(peer.consume("orders", "billing"), COUNT - 1)
        receipt = peer.produce("orders", "next")
        (following,) = peer.take(1, 1)

    (line,) = broker.log("mq.damage")
    assert line["topic"] == "orders"
    cut = len(torn) - last.read_bytes().index(b"next") + len(encoded_head())
    assert f"torn tail of {cut} bytes" in line["finding"]
    assert [one.body.decode() for one in got] == bodies[:-1]
    assert receipt["offset"] == following.first == COUNT - 1


def encoded_head() -> bytes:
    """Return as many bytes as stand before the body of a record that has nothing else."""
    return bytes(56)


def test_flipped_bit_costs_its_batch_only(processes: Processes, data: DataDirectory) -> None:
    """A segment with a flipped bit is kept aside, all its other messages are served, and `storage check` names it."""
    broker, peer = data.start()
    with peer:
        bodies = fill(peer)
    broker.send_signal(signal.SIGTERM)
    assert broker.wait_exit() == 0
    damaged = data.segments()[1]
    content = bytearray(damaged.read_bytes())
    position = content.index(b"x" * 200)
    content[position + 100] ^= 4
    lost = bytes(content[position - 20 : position]).decode(errors="replace").partition("message ")[2]
    damaged.write_bytes(content)
    others = {str(path): path.read_bytes() for path in data.segments()[:-1] if path != damaged}

    broker, peer = data.start()
    with peer:
        got = peer.take(peer.consume("orders", "billing"), COUNT - 1)
        peer.produce("orders", "next")
    finding = wait_until(lambda: broker.log("mq.damage"), "report")[0]["finding"]
    broker.send_signal(signal.SIGTERM)
    assert broker.wait_exit() == 0
    code, output, _ = processes.run("storage", "check", str(data.path))

    assert [one.body.decode() for one in got] == [body for body in bodies if not body.startswith(f"message {lost}")]
    assert damaged.name in finding
    assert "damage" in finding
    kept = damaged.with_suffix(".quarantined")
    assert kept.read_bytes() == content
    assert code == 0
    assert f"orders: {kept.name}: in quarantine: {len(content)} bytes" in output
    assert {name: data.contents()[name] for name in others} == others


def test_damaged_journal_lets_messages_come_again(data: DataDirectory) -> None:
    """Where a record of the journal is damaged, no group skips what it had in hand then: it comes again."""
    broker, peer = data.start()
    with peer:
        peer.declare("orders")
        subscription = peer.consume("orders", "billing")
        for number in range(3):
            peer.produce("orders", f"message {number}")
            peer.take(subscription, 1)
            wait_until(lambda number=number: said(number) in journal(data).read_bytes(), "journal written")
        broker.kill()
    content = bytearray(journal(data).read_bytes())
    content[content.index(said(1)) + 1] ^= 4
    journal(data).write_bytes(content)

    broker, peer = data.start()
    with peer:
        again = peer.take(peer.consume("orders", "billing"), 3)

    assert [one.body for one in again] == [b"message 0", b"message 1", b"message 2"]
    assert broker.log("mq.damage")[0]["topic"] == "the journal"
    assert journal(data).with_suffix(".quarantined").read_bytes() == content


def journal(data: DataDirectory) -> Path:
    """Return the file where groups stand."""
    (path,) = data.path.glob("journal/*.log")
    return path


def said(offset: int) -> bytes:
    """Return what the journal says of a message that was handed out for the first time."""
    return b'"once":[[%d,%d]]' % (offset, offset)

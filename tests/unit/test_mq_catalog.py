"""The catalog: topics are made and removed whole, whatever fails on the way, and one bad directory harms no other."""

import errno
import os
from dataclasses import replace

import orjson
import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.queue_lab import QueueLab, bodies_of, lab_with
from tests.support.storage import open_at
from zbusrpc.broker.mq.catalog import Catalog, TopicFile, Unreadable, file_of
from zbusrpc.broker.mq.journal import OPTIONS as JOURNAL_OPTIONS
from zbusrpc.broker.mq.names import slug
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.errors import FormatVersionError
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError

TOPIC = file_of("orders", "00ff", 5, TopicOptions(durability=Durability.OS, keep_s=3))
OTHER = file_of("mails", "11ff", 6, TopicOptions())
ORDERS = "/data/topics/orders-00ff"


def catalog_on(disk: FaultyDisk) -> Catalog:
    return Catalog(disk, "/data")


def names_in(disk: FaultyDisk) -> list[str]:
    return [found.name for found in catalog_on(disk).read() if isinstance(found, TopicFile)]


def write_file(disk: FaultyDisk, path: str, data: bytes) -> None:
    """Put other bytes into a file, as if they had always been there."""
    inode = disk.names[path]
    inode.data[:] = data
    inode.safe = data


# -- making, changing, removing --------------------------------------------------------------------------


def test_topic_is_read_as_it_was_written() -> None:
    """Everything that is said of a topic is read again."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    catalog_on(disk).write(OTHER)

    assert list(catalog_on(disk).read()) == [OTHER, TOPIC]


def test_topics_of_one_slug_have_directories_of_their_own() -> None:
    """Names that look alike as files, and one name used again, do not meet on the disk."""
    disk = FaultyDisk()
    for uid, name in enumerate(("a:b", "a@b", "订单", "a:b")):
        catalog_on(disk).write(file_of(name, f"{uid:04x}", 1, TopicOptions()))

    assert sorted(names_in(disk)) == ["a:b", "a:b", "a@b", "订单"]


def test_changed_topic_is_never_half_changed() -> None:
    """A power cut while a topic is changed leaves it as it was or as it shall be."""
    changed = TOPIC.model_copy(update={"options": TopicOptions(keep_s=99)})
    for cut_after in range(1, 6):
        disk = FaultyDisk()
        catalog_on(disk).write(TOPIC)
        disk.cut_after = disk.changes + cut_after
        try:
            catalog_on(disk).write(changed)
        except PowerCut:
            for title, image in disk.images():
                found = list(catalog_on(image).read())
                assert found in ([TOPIC], [changed]), title
        else:
            for _, image in disk.images():
                assert list(catalog_on(image).read()) == [changed]


@pytest.mark.parametrize("cut_after", range(1, 8))
def test_topic_whose_making_was_cut_off_is_there_or_not(cut_after: int) -> None:
    """A power cut while a topic is made leaves it whole or not at all; what it leaves of it is taken away."""
    disk = FaultyDisk()
    catalog_on(disk).write(OTHER)
    disk.cut_after = disk.changes + cut_after
    was_told = False

    try:
        catalog_on(disk).write(TOPIC)
        was_told = True
    except PowerCut:
        pass

    for title, image in disk.images():
        found = list(catalog_on(image).read())
        assert found in ([OTHER, TOPIC], [OTHER]), title
        assert TOPIC in found or not was_told, title
        assert TOPIC in found or not image.exists(ORDERS), title


@pytest.mark.parametrize("cut_after", range(1, 8))
def test_discarded_topic_does_not_come_back(cut_after: int) -> None:
    """Once `discard` has returned no power cut brings a topic back, and the next start finishes its removal."""
    disk = FaultyDisk()
    catalog = catalog_on(disk)
    catalog.write(OTHER)
    catalog.write(TOPIC)
    disk.cut_after = disk.changes + cut_after
    was_told = False

    try:
        directory = catalog.discard(TOPIC)
        was_told = True
        catalog.delete(directory)
    except PowerCut:
        pass

    for title, image in disk.images():
        found = list(catalog_on(image).read())
        assert found == [OTHER] or (found == [OTHER, TOPIC] and not was_told), title
        assert TOPIC in found or not [path for path in image.names if "00ff" in path], title


def test_change_of_a_topic_that_is_gone_does_not_make_it_again() -> None:
    """Options that are written after a topic was removed do not bring it back."""
    disk = FaultyDisk()
    catalog = catalog_on(disk)
    catalog.write(TOPIC)
    catalog.delete(catalog.discard(TOPIC))

    with pytest.raises(OSError, match="No such file"):
        catalog.rewrite(TOPIC)

    assert names_in(disk) == []


# -- what cannot be read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "topic.json"),
        (b"{", "topic.json"),
        (b"\0" * 200, "topic.json"),
        (b'{"version": 1, "name": "x"}', "uid"),
        (b'{"version": 1, "name": "x", "uid": "y", "created_ms": 1, "options": {"keep_s": -1}}', "keep_s"),
    ],
)
def test_unreadable_topic_is_reported_and_left_alone(data: bytes, reason: str) -> None:
    """A `topic.json` that is damaged is reported; the others are read, and nothing is removed."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    catalog_on(disk).write(OTHER)
    write_file(disk, f"{ORDERS}/topic.json", data)

    found = list(catalog_on(disk).read())

    assert found[0] == OTHER
    assert isinstance(found[1], Unreadable)
    assert found[1].directory == ORDERS
    assert reason in found[1].reason
    assert disk.names[f"{ORDERS}/topic.json"].data == data


def test_topic_that_the_disk_does_not_give_is_reported() -> None:
    """A disk that fails at one topic does not keep the others from being read."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    catalog_on(disk).write(OTHER)
    disk.fail("pread", errno.EIO, call=2)

    found = list(catalog_on(disk).read())

    assert found[0] == OTHER
    assert isinstance(found[1], Unreadable)
    assert "Input/output error" in found[1].reason


def test_stray_file_is_reported() -> None:
    """A file that somebody has put between the topics stops nobody."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    disk.open("/data/topics/.DS_Store", create=True).close()

    found = list(catalog_on(disk).read())

    assert found == [TOPIC]
    assert [str(one) for one in catalog_on(disk).strays()] == [".DS_Store: stray file"]


def test_directory_that_cannot_be_removed_stops_nobody() -> None:
    """What is left of a removed topic, and cannot be taken away, is reported and tried again at the next start."""
    disk = FaultyDisk()
    catalog = catalog_on(disk)
    catalog.write(OTHER)
    catalog.write(TOPIC)
    catalog.discard(TOPIC)
    disk.fail("remove_directory", errno.EACCES)

    first = list(catalog_on(disk).read())
    second = list(catalog_on(disk).read())

    assert isinstance(first[1], Unreadable)
    assert second == [OTHER]
    assert not disk.exists(f"{ORDERS}.removed")


@pytest.mark.parametrize("extra", [b"", b', "moons": 3'])
def test_newer_version_is_refused_with_both_versions(extra: bytes) -> None:
    """A topic of a newer zbusrpc is refused by name and number, also where its fields cannot be understood."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    data = b'{"version": 7, "name": "orders", "uid": "00ff", "created_ms": 5, "options": {"fridge": true}%b}' % extra
    write_file(disk, f"{ORDERS}/topic.json", data)

    with pytest.raises(FormatVersionError) as caught:
        list(catalog_on(disk).read())

    assert "topic.json has format version 7, this zbusrpc reads versions up to 1" in str(caught.value)
    assert disk.names[f"{ORDERS}/topic.json"].data == data


# -- with all of the queue -------------------------------------------------------------------------------


def damage(lab: QueueLab, topic: str, data: bytes = b"{") -> str:
    """Damage what is said of a topic, and return its directory."""
    path = next(path for path in lab.disk.names if f"/{topic}-" in path and path.endswith("topic.json"))
    write_file(lab.disk, path, data)
    return path.removesuffix("/topic.json")


def test_unreadable_topic_does_not_hurt_others_and_is_not_replaced() -> None:
    """While a topic cannot be read the others are served, and nobody makes another one in its place."""
    lab, anna = lab_with("one")
    anna.declare("mails")
    anna.produce("mails", "mail")
    directory = damage(lab, "orders")
    before = {path: bytes(inode.data) for path, inode in lab.disk.names.items() if path.startswith(directory)}
    lab.crash()
    anna = lab.peer()

    with pytest.raises(RpcError) as caught:
        anna.declare("orders")

    assert bodies_of(anna.command("peek", topic="mails")) == ["mail"]
    rows = anna.command("topics")
    assert [(row["topic"], row["unreadable_because"] is not None) for row in rows] == [
        ("mails", False),
        ("orders", True),
    ]
    assert rows[0].keys() == rows[1].keys()
    assert caught.value.code is Code.INTERNAL
    assert "orders" in caught.value.message
    assert f"{os.path.basename(directory)}/topic.json" in caught.value.message
    assert {path: bytes(lab.disk.names[path].data) for path in before} == before


@pytest.mark.parametrize("command", ["dlq", "retry_dead", "purge_dead"])
def test_dead_letters_that_cannot_be_read_are_no_empty_list(command: str) -> None:
    """That there are none is not said of what nobody can look at."""
    lab, anna = lab_with("poison")
    anna.consume("orders").nack(0, then="dead")
    lab.run()
    directory = damage(lab, slug("orders.dlq"))
    lab.crash()

    with pytest.raises(RpcError, match=r"topic orders\.dlq cannot be read") as caught:
        lab.peer().command(command, topic="orders")

    assert caught.value.code is Code.INTERNAL
    assert f"{os.path.basename(directory)}/topic.json" in caught.value.message


def test_letter_of_a_topic_that_cannot_be_read_stays_and_says_so() -> None:
    """Its topic is not gone, so that there is hope."""
    lab, anna = lab_with("poison")
    anna.consume("orders").nack(0, then="dead")
    lab.run()
    damage(lab, "orders")
    lab.crash()

    result = lab.peer().command("retry_dead", topic="orders.dlq")
    shown = lab.peer().command("peek", topic="orders.dlq")

    assert result["retried"] == 0
    assert bodies_of(shown) == ["poison"]


def test_end_that_was_damaged_is_passed() -> None:
    """Where the last messages were damaged, looking comes to the end, and a new group has no lag that stays."""
    lab, _ = lab_with("one")
    lab.peer().produce("orders", "two")
    lab.peer().produce("orders", "three")
    lab.peer().consume("orders").work_off()
    lab.pass_time(1)
    (path,) = [path for path in lab.disk.names if "/orders-" in path and path.endswith(".log")]
    lab.disk.names[path].data[-1] ^= 1
    lab.crash()
    lab.run()

    shown = lab.peer().command("peek", topic="orders")
    late = lab.peer().consume("orders", "late")
    late.ack_all()
    lab.run()

    assert bodies_of(shown) == late.take() == ["one", "two"]
    assert shown["next_offset"] == shown["end_offset"] == 3
    groups = {group["group"]: group["lag"] for group in lab.peer().command("topic", topic="orders")["groups"]}
    assert groups == {"billing": 0, "late": 0}


@pytest.mark.parametrize(("was", "now"), [(2**64, 2**63 - 1), (2**70, 2**63 - 1)])
def test_number_past_its_bound_becomes_the_bound(was: int, now: int, caplog: pytest.LogCaptureFixture) -> None:
    """What an earlier build has stored costs no topic: it is said once, and stored as it is now."""
    lab, _ = lab_with("one")
    path = next(path for path in lab.disk.names if "/orders-" in path and path.endswith("topic.json"))
    said = lab.disk.names[path].data.replace(b'"keep_bytes": null', b'"keep_bytes": %d' % was)
    write_file(lab.disk, path, bytes(said).rpartition(b",")[0] + b"}")
    lab.crash()

    shown = lab.peer().command("topic", topic="orders")
    lines = [line for line in caplog.messages if line.startswith("mq.option_clamped")]
    caplog.clear()
    lab.restart()

    assert shown["options"]["keep_bytes"] == now
    assert lines == [f"mq.option_clamped topic='orders' option='keep_bytes' was={was} now={now}"]
    assert "clamped" not in caplog.text
    assert lab.peer().command("topic", topic="orders")["options"]["keep_bytes"] == now


def test_number_of_a_group_past_its_bound_becomes_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    """The journal has it as it is now from then on."""
    lab, anna = lab_with("one")
    anna.consume("orders")
    group = lab.group()
    group.options = group.options.model_copy(update={"in_flight_max": 2**40, "lease_ms": 1})
    lab.store.journal.put(group.key, group, lambda error: None)
    lab.run()
    lab.crash()

    options = lab.group().options
    assert "option='in_flight_max'" in caplog.text
    lab.pass_time(1)
    caplog.clear()
    lab.crash()

    assert (options.in_flight_max, options.lease_ms) == (2**31 - 1, 100)
    assert lab.group().options == options
    assert "clamped" not in caplog.text


def test_number_below_zero_is_damage() -> None:
    """The least time to keep would remove what there is."""
    lab, _ = lab_with("one")
    path = next(path for path in lab.disk.names if "/orders-" in path and path.endswith("topic.json"))
    said = lab.disk.names[path].data.replace(b'"keep_s": 604800.0', b'"keep_s": -1')
    write_file(lab.disk, path, bytes(said).rpartition(b",")[0] + b"}")
    lab.crash()

    with pytest.raises(RpcError, match=r"cannot be read: .*keep_s"):
        lab.peer().command("topic", topic="orders")


def test_places_of_a_topic_that_could_not_be_read_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """When an unreadable topic was repaired its groups go on where they were, however long the others worked."""
    monkeypatch.setattr("zbusrpc.broker.mq.group_logs.OPTIONS", replace(JOURNAL_OPTIONS, segment_bytes_max=1000))
    lab, anna = lab_with("one", "two", "three")
    anna.declare("mails")
    consumer = anna.consume("orders", "billing")
    consumer.ack(0, 1)
    lab.pass_time(1)
    path = next(path for path in lab.disk.names if "/orders-" in path and path.endswith("topic.json"))
    good = bytes(lab.disk.names[path].data)
    damage(lab, "orders")
    lab.crash()
    busy = lab.peer().consume("mails", "x" * 100, window=1)
    for number in range(40):
        lab.peer().produce("mails", f"{number}")
        busy.ack_all()
        lab.pass_time(0.01)
    assert lab.store.journal.committer.log.start_offset > 5
    lab.restart()

    write_file(lab.disk, path, good)
    lab.crash()

    assert lab.peer().consume("orders", "billing").take() == ["three"]


def test_topic_whose_log_cannot_be_opened_keeps_its_groups() -> None:
    """A disk that fails at the log of one topic costs neither its messages nor where its groups are."""
    lab, anna = lab_with("one", "two")
    anna.consume("orders").ack(0)
    lab.pass_time(1)
    before = lab.disk.calls["pread"]
    lab.crash()
    lab.disk.fail("pread", errno.EIO, call=lab.disk.calls["pread"] - before)  # the last thing that is read

    lab.crash()
    with pytest.raises(RpcError, match=r"topic orders cannot be read.*Input/output error"):
        lab.peer().produce("orders", "three")
    with pytest.raises(RpcError, match="topic orders cannot be read"):
        lab.peer().declare("orders")
    lab.restart()

    assert lab.peer().consume("orders").take() == ["two"]


def test_group_with_options_of_a_newer_version_does_not_hurt_other_topics() -> None:
    """A topic with a group that cannot be understood is reported, its messages stay, and the others are served."""
    lab, anna = lab_with("one")
    anna.declare("mails")
    anna.consume("orders")
    log = open_at(lab.disk, "/data/journal", JOURNAL_OPTIONS)
    said = orjson.loads(log.read(0)[0].body)
    said["options"]["fridge"] = True
    log.append([[Record(orjson.dumps(said), tag=b"group", key=log.read(0)[0].key)]], 1)

    lab.crash()
    lab.run()

    assert lab.peer().declare("mails")["created"] is False
    with pytest.raises(RpcError, match=r"topic orders cannot be read.*fridge"):
        lab.peer().produce("orders", "two")


@pytest.mark.parametrize("is_own_uid", [True, False])
def test_two_directories_that_say_the_same_name_are_not_mixed_up(is_own_uid: bool) -> None:
    """A copied directory, with a uid of its own or without, is reported, and the topic it was made of is served."""
    lab, _ = lab_with("one")
    uid = lab.topic().uid.encode()
    lab.disk.make_directory("/data/topics/orders-zzzz")
    for path, inode in lab.disk.names.items():
        if "/orders-" in path:
            file = lab.disk.open(path.replace(uid.decode(), "zzzz"), create=True)
            file.append(bytes(inode.data).replace(uid, b"zzzz" if is_own_uid else uid))
            file.close()

    for body in ("two", "three"):
        lab.crash()
        lab.run()
        lab.peer().produce("orders", body)

    lab.crash()
    lab.run()
    assert bodies_of(lab.peer().command("peek", topic="orders")) == ["one", "two", "three"]


def test_changed_byte_of_what_is_said_of_a_topic_is_found() -> None:
    """Whichever it is: an option that somebody altered is not taken for what was declared."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    path = next(path for path in disk.names if path.endswith("topic.json"))
    data = bytes(disk.names[path].data)

    for position in range(len(data)):
        write_file(disk, path, data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :])
        (found,) = catalog_on(disk).read()
        assert isinstance(found, Unreadable), (position, found)
        assert "topic.json" in found.reason
    for size in range(len(data)):
        write_file(disk, path, data[:size])
        (found,) = catalog_on(disk).read()
        assert isinstance(found, Unreadable), size


def test_topic_of_a_broker_that_wrote_no_checksum_is_read() -> None:
    """It is taken as it is, and has one when it is written next."""
    disk = FaultyDisk()
    catalog_on(disk).write(TOPIC)
    path = next(path for path in disk.names if path.endswith("topic.json"))
    write_file(disk, path, TOPIC.model_dump_json(indent=2, exclude={"checksum"}).encode() + b"\n")

    assert list(catalog_on(disk).read()) == [TOPIC]
    catalog_on(disk).rewrite(TOPIC)
    assert b"checksum" in disk.names[path].data

"""A process without descriptors: storage has some of its own, and what it was told to keep is kept."""

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.inprocess import running_broker
from tests.support.neighbours import open_neighbours
from tests.support.queue_lab import lab_with
from tests.support.waiting import eventually
from zbusrpc.broker.storage.descriptors import OTHERS, RESERVED, Reserve, connections_of, raise_limit
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles


def in_child(check: Callable[[], None]) -> None:
    """Do something in a fork, whose limits are its own."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def use_up() -> list[int]:
    """Leave this process without descriptors."""
    soft = len(os.listdir("/dev/fd")) + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return held


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="the system does not show descriptors")
def test_reserve_opens_files_where_there_is_no_descriptor_left(tmp_path: Path) -> None:
    """As many as it has kept; and it fills itself when there are some again."""

    def check() -> None:
        reserve = Reserve(4)
        disk = RealDisk(reserve)
        held = use_up()
        files = [disk.open(str(tmp_path / f"{number}"), create=True) for number in range(3)]
        assert disk.list(str(tmp_path)) == ["0", "1", "2"]
        disk.sync_directory(str(tmp_path))
        for descriptor in held:
            os.close(descriptor)
        disk.open(str(tmp_path / "3"), create=True)
        for file in files:
            file.append(b"x")
        assert len(reserve._held) == 4

    in_child(check)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="the system does not show descriptors")
def test_files_take_turns_where_there_is_no_descriptor_left(tmp_path: Path) -> None:
    """The one that was used least lately is closed for the next, whatever the bound of open files says."""

    def check() -> None:
        handles = Handles(RealDisk())
        handles.create(str(tmp_path / "first"))
        use_up()
        for number in range(20):
            handles.create(str(tmp_path / f"{number}")).append(b"x")
        assert len(handles) == 1

    in_child(check)


def test_other_faults_are_told_at_once() -> None:
    """Nothing is given up for a file that is not there."""
    reserve = Reserve(2)

    with pytest.raises(FileNotFoundError):
        reserve.use(lambda: os.open("/no/such", os.O_RDONLY))

    assert len(reserve._held) == 2
    reserve.close()


def test_what_cannot_be_opened_at_all_is_told_in_the_end() -> None:
    """After everything that was kept was given up."""
    reserve, tries = Reserve(2), []

    def fail() -> int:
        tries.append(1)
        raise OSError(errno.EMFILE, "too many open files")

    with pytest.raises(OSError, match="too many open files"):
        reserve.use(fail)

    assert len(tries) == 3
    reserve.close()


def test_limit_is_raised_as_far_as_it_goes() -> None:
    """To the hard one."""

    def check() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, min(hard, 4096) if hard > 0 else 4096))
        assert raise_limit() == min(hard, 4096) if hard > 0 else 4096

    in_child(check)


def test_connections_leave_descriptors_to_storage() -> None:
    """Whatever the limit of the process is."""
    assert connections_of(None, 512) is None
    assert connections_of(1024, 512) == 1024 - 512 - RESERVED - OTHERS
    assert connections_of(256, 512) == 256 - 128 - RESERVED - OTHERS
    assert connections_of(64, 512) == 1


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="the system does not show descriptors")
def test_broker_without_descriptors_serves_those_who_are_there(tmp_path: Path) -> None:
    """Messages are stored, synced and consumed, calls answered, and a topic made; nothing is closed for good."""

    async def serve() -> None:
        async with running_broker(data_dir=str(tmp_path)) as server, open_neighbours(server) as good:
            held = use_up()
            for _ in range(3):
                await good.check()
            store = server.hub.queues.store
            made: list[object] = []
            store.declare("new", {}, update=False, done=lambda topic, error: made.append(error))
            await eventually(lambda: made, "topic made")
            assert made == [None]
            for descriptor in held:
                os.close(descriptor)
            await good.check()
            assert [topic.log.closed_because for topic in store.topics.values()] == [None] * len(store.topics)

    in_child(lambda: asyncio.run(serve()))


def test_log_that_fails_is_told_and_one_that_is_closed_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with why; closing is nothing to be told of."""
    lab, anna = lab_with("one")
    anna.declare("other")

    lab.topic().log.fail("the disk is gone")
    lab.topic().log.fail("again")
    lab.topic("other").log.close()

    lines = [record.getMessage() for record in caplog.records if "storage.log_closed" in record.getMessage()]
    assert len(lines) == 1
    assert "the disk is gone" in lines[0]

"""Group logs: the two logs of a data directory that say where groups stand, and what becomes of one that is gone.

Every start begins both, journal and register, so that a directory with topics has both, whatever happened to it:

    one is gone     said, with the groups concerned: the other has them. It is begun again
    both are gone   no start: nobody knows which groups there were. Whoever deleted them, or copied the topics alone,
                    may still put them back; once groups had begun anew, nothing could be

`zbusrpc storage repair` begins both again: whoever does that says that groups are to begin anew.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import orjson

from zbusrpc.broker.mq.catalog import REGISTER_DIRECTORY, being_removed, is_foreign, is_removed, look_at_topic
from zbusrpc.broker.mq.journal import OPTIONS
from zbusrpc.broker.mq.recollection import Said, recollect
from zbusrpc.broker.storage.check import known_end, readable_records
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY, TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import ReadFailedError, StorageError
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import Finding, FindingKind
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.salvage import SALVAGE_SUFFIX
from zbusrpc.broker.storage.segment import LOG_SUFFIX
from zbusrpc.errors import one_of

GROUP_LOGS: Final = (JOURNAL_DIRECTORY, REGISTER_DIRECTORY)
_ONE_IS_GONE: Final = {
    JOURNAL_DIRECTORY: "groups go on from their beginnings, which the register has",
    REGISTER_DIRECTORY: "it is written again from the journal at the next start",
}


_WHAT: Final = {JOURNAL_DIRECTORY: "the journal", REGISTER_DIRECTORY: "the register of groups"}
Report = Callable[[str, list[Finding]], None]
"""Says what was found in which log."""


class GroupsLostError(StorageError):
    """Nobody knows where groups stood: both logs that say so are gone. Nothing was changed."""


def gone(disk: Disk, data_dir: str) -> list[Finding]:
    """Return which of the two logs a data directory with topics does not have.

    Raises:
        OSError: the disk does not say what there is.
    """
    if not topic_directories(disk, data_dir):
        return []
    missing = [name for name in GROUP_LOGS if not _has_a_log(disk, os.path.join(data_dir, name))]
    if len(missing) == 1:
        return [Finding(kind=FindingKind.NO_LOG, name=missing[0], note=_ONE_IS_GONE[missing[0]])]
    note = f"where the groups of {_topics(disk, data_dir)} stand is lost"
    return [Finding(kind=FindingKind.NO_LOG, name=name, note=note) for name in missing]


def open_group_logs(disk: Disk, handles: Handles, data_dir: str, now_ms: int, report: Report) -> tuple[Log, Log]:
    """Return journal and register; one that is gone is begun again, and safe before there are groups.

    Raises:
        GroupsLostError: both are gone, and there are topics.
        StorageError: one of them cannot be opened; the text says which.
        OSError: the disk does not say what there is.
    """
    missing = gone(disk, data_dir)
    check_not_lost(data_dir, missing)
    report("the data directory", missing)
    register = _open(disk, handles, data_dir, REGISTER_DIRECTORY, now_ms, report)
    return _open(disk, handles, data_dir, JOURNAL_DIRECTORY, now_ms, report), register


def _open(disk: Disk, handles: Handles, data_dir: str, name: str, now_ms: int, report: Report) -> Log:
    directory, what = os.path.join(data_dir, name), _WHAT[name]
    is_new = not _has_a_log(disk, directory)
    try:
        opened = open_log(disk, handles, directory, OPTIONS, now_ms=now_ms)
    except ReadFailedError as error:
        raise ReadFailedError(f"{what}, {directory}: {error}") from error.__cause__
    if is_new:
        opened.sync()
    report(what, opened.findings)
    opened.on_finding = lambda finding: report(what, [finding])
    return opened


def check_not_lost(data_dir: str, missing: list[Finding]) -> None:
    """See that a start knows the groups, where some of the two logs are `missing`.

    Raises:
        GroupsLostError: it does not; the text names the topics, and what can be done.
    """
    if len(missing) == len(GROUP_LOGS):
        raise GroupsLostError(f"journal and groups are gone: {missing[0].note}; {ways_out(data_dir)}")


def topic_directories(disk: Disk, data_dir: str) -> list[str]:
    """Return the directories of the topics; none where there is no directory of topics.

    Raises:
        OSError: the disk does not say.
    """
    root = os.path.join(data_dir, TOPICS_DIRECTORY)
    paths = [os.path.join(root, name) for name in (disk.list(root) if disk.exists(root) else ())]
    return [path for path in paths if not is_removed(path) and not is_foreign(disk, path)]


def topic_names(disk: Disk, data_dir: str) -> dict[str, str]:
    """Return the names of the topics by uid, or what their directories say of them.

    Raises:
        OSError: the disk does not say which there are.
        FormatVersionError: a newer zbusrpc wrote one of them.
    """
    found = (look_at_topic(disk, directory) for directory in topic_directories(disk, data_dir))
    return {topic.uid: topic.name for topic in found if topic is not None}


def orphans_of(disk: Disk, data_dir: str, said: Mapping[bytes, Said]) -> dict[bytes, Said]:
    """Return the groups whose topic is not there, nor was removed.

    Raises:
        OSError: the disk does not say which there are.
        FormatVersionError: a newer zbusrpc wrote one of them.
    """
    root = os.path.join(data_dir, TOPICS_DIRECTORY)
    known = {*topic_names(disk, data_dir), *(being_removed(disk, root) if disk.exists(root) else ())}
    return {key: of_group for key, of_group in said.items() if uid_of(key) not in known}


def uid_of(key: bytes) -> str:
    """Return the uid of the topic of a group, by the group's key."""
    return key.partition(b"/")[0].decode()


def about_orphans(uid: str, orphans: Iterable[Said]) -> dict[str, str]:
    """Return what there is to say of groups whose topic is not there."""
    groups = one_of(said["name"] for said in orphans)
    what = f"no topic has the uid {uid}, and its groups are kept: put its directory back from a copy"
    return {"uid": uid, "groups": groups, "what": f"{what}, or let them be forgotten: zbusrpc storage repair"}


def where_groups_stand(disk: Disk, data_dir: str) -> dict[bytes, Said]:
    """Return what the two logs say of each group, as far as they can be read; nothing is written.

    Raises:
        OSError: a file cannot be read.
    """
    said: dict[bytes, Said] = {}
    for name in reversed(GROUP_LOGS):
        directory = os.path.join(data_dir, name)
        if disk.exists(directory):
            said = recollect(readable_records(disk, directory), said, known_end(disk, directory))
        else:
            said = recollect((), said)
    return said


def may_have_lost_groups(*findings: Iterable[Finding]) -> bool:
    """Say whether something is missing in each of the two logs: what stood in both may have been lost in both."""
    return all(any(found.needs_attention for found in of_one) for of_one in findings)


def forget_groups(disk: Disk, data_dir: str, orphans: Mapping[bytes, Said], now_ms: int) -> None:
    """Let journal and register say that groups are gone.

    Raises:
        StorageError: the disk does not take it.
    """
    batch = [Record(orjson.dumps({"era": said["era"]}), tag=b"removed", key=key) for key, said in orphans.items()]
    for name in GROUP_LOGS:
        log = open_log(disk, Handles(disk), os.path.join(data_dir, name), OPTIONS, now_ms=now_ms)
        try:
            log.append([[record] for record in batch], now_ms)
            log.sync()
        finally:
            log.close()


def _has_a_log(disk: Disk, directory: str) -> bool:
    try:
        return any(name.endswith((LOG_SUFFIX, SALVAGE_SUFFIX)) for name in disk.list(directory))
    except FileNotFoundError:
        return False
    except NotADirectoryError:  # it is told when it is opened
        return True


def _topics(disk: Disk, data_dir: str) -> str:
    return one_of(topic_names(disk, data_dir).values())


def ways_out(data_dir: str) -> str:
    """Say what can be done where both logs are gone."""
    return (
        "put journal and groups back from a copy, or have all groups begin anew, where their consumers say: "
        f"zbusrpc storage repair {data_dir}"
    )

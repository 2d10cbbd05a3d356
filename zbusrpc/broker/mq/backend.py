"""The seam of the store: where its topics are kept, with what is said of them, and where it is kept how groups stand.

    Backend        opens the logs of topics, and the two of groups
      .catalog     which topics there are: made, changed, removed

Here and not beside the logs in storage/, because it speaks of topics. `FileBackend` keeps them in a data directory,
`memory_backend.MemoryBackend` in this process; tests/unit/test_storage_contract.py is what each is held to.
"""

from collections.abc import Iterator
from typing import Protocol

from zbusrpc.broker.mq.catalog import Catalog, TopicFile, Unreadable
from zbusrpc.broker.mq.group_logs import Report, open_group_logs
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import Finding
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.seams import TopicLog


class TopicCatalog(Protocol):
    """The topics that there are.

    Promises: one that `write` has returned for is there after a restart, as far as what is kept outlives that; one that
    `discard` has returned for does not come back.
    """

    def directory(self, topic: TopicFile) -> str:
        """Return where a topic is, for the lines of the broker's log."""

    def read(self) -> Iterator[TopicFile | Unreadable]:
        """Yield the topics that there are, and those of which nobody knows what they are.

        Raises:
            OSError: it cannot be said which there are.
            FormatVersionError: a newer zbusrpc wrote one of them.
        """

    def strays(self) -> list[Finding]:
        """Return what lies among the topics and is none.

        Raises:
            OSError: that cannot be said.
        """

    def being_removed(self) -> set[str]:
        """Return the uids of the topics whose removal a crash cut short.

        Raises:
            OSError: that cannot be said.
        """

    def write(self, topic: TopicFile) -> None:
        """Make a topic; may run in another thread.

        Raises:
            OSError: it was not possible; what there is of it is to be discarded.
        """

    def rewrite(self, topic: TopicFile) -> None:
        """Replace what is said of a topic.

        Raises:
            OSError: it was not possible; what was said before still holds.
        """

    def discard(self, topic: TopicFile) -> str:
        """Let a topic be gone, and return what `delete` is given.

        Raises:
            FileNotFoundError: there is none.
            OSError: it was not possible; the topic is still there.
        """

    def delete(self, directory: str) -> None:
        """Give the room of a discarded topic back; may run in another thread.

        Raises:
            OSError: that is left to the next start.
        """


class Backend(Protocol):
    """Where topics and groups are kept."""

    @property
    def catalog(self) -> TopicCatalog:
        """The topics that there are."""

    def open_topic(self, topic: TopicFile, *, now_ms: int, next_offset_min: int) -> TopicLog:
        """Return the log of a topic of the catalog: the records it had, and none before the first time.

        Args:
            topic: Which one, with the options that its log is to have.
            now_ms: The time.
            next_offset_min: What the next record's offset must not be below: groups were given all before it.

        Raises:
            StorageError: it cannot be opened.
        """

    def open_group_logs(self, now_ms: int, report: Report) -> tuple[TopicLog, TopicLog]:
        """Return the logs of journal and register; a `report` says what was wrong with them, now or later.

        Raises:
            StorageError: one of them cannot be opened, or nobody knows any more which groups there were.
            OSError: it cannot be said what there is.
        """


class FileBackend:
    """Topics and groups in a data directory, of which the caller has the lock."""

    def __init__(self, disk: Disk, data_dir: str) -> None:
        """Take the directory, with one for topics, which is made where it does not exist.

        Raises:
            OSError: that was not possible.
        """
        self._disk = disk
        self._handles = Handles(disk)
        self.catalog = Catalog(disk, data_dir)

    def open_topic(self, topic: TopicFile, *, now_ms: int, next_offset_min: int) -> TopicLog:
        """Open the log of a topic, and put in order what a crash left."""
        return open_log(
            self._disk,
            self._handles,
            self.catalog.directory(topic),
            topic.options.log_options(),
            now_ms=now_ms,
            next_offset_min=next_offset_min,
        )

    def open_group_logs(self, now_ms: int, report: Report) -> tuple[TopicLog, TopicLog]:
        """Open journal and register; see `group_logs.py` for what becomes of one that is gone."""
        return open_group_logs(self._disk, self._handles, self.catalog.data_dir, now_ms, report)

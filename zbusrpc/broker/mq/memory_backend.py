"""Topics and groups in the memory of this process, for tests and for brokers that keep nothing: no disk is touched.

What is closed can be opened again, by another store, as long as the backend lives.
"""

from collections.abc import Iterator

from zbusrpc.broker.mq.catalog import REGISTER_DIRECTORY, TopicFile, Unreadable, directory_name
from zbusrpc.broker.mq.group_logs import Report
from zbusrpc.broker.mq.journal import OPTIONS
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY
from zbusrpc.broker.storage.finding import Finding
from zbusrpc.broker.storage.memory import BYTES_MAX, MESSAGES_MAX, MemoryLog
from zbusrpc.broker.storage.options import LogOptions


class MemoryCatalog:
    """The topics of a `MemoryBackend`, with their logs."""

    def __init__(self) -> None:
        self.logs: dict[str, MemoryLog] = {}
        """Those that were opened, by their directories."""
        self._topics: dict[str, TopicFile] = {}

    def directory(self, topic: TopicFile) -> str:
        """Return what a topic is called in the lines of the broker's log."""
        return f"memory:{directory_name(topic)}"

    def read(self) -> Iterator[TopicFile | Unreadable]:
        """Yield the topics that there are."""
        yield from list(self._topics.values())

    def strays(self) -> list[Finding]:
        """Return nothing: there is nothing else."""
        return []

    def being_removed(self) -> set[str]:
        """Return none: each removal is whole."""
        return set()

    def write(self, topic: TopicFile) -> None:
        """Make a topic."""
        self._topics[self.directory(topic)] = topic

    def rewrite(self, topic: TopicFile) -> None:
        """Replace what is said of a topic."""
        self._topics[self.directory(topic)] = topic

    def discard(self, topic: TopicFile) -> str:
        """Let a topic be gone.

        Raises:
            FileNotFoundError: there is none.
        """
        directory = self.directory(topic)
        if self._topics.pop(directory, None) is None:
            raise FileNotFoundError(f"there is no topic {topic.name} in memory")
        self.logs.pop(directory, None)
        return directory

    def delete(self, directory: str) -> None:
        """Do nothing: its room is free already."""


class MemoryBackend:
    """Topics and groups in memory; each log is bounded as `MemoryLog` is."""

    def __init__(self, *, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX) -> None:
        """Begin with none.

        Args:
            messages_max: How many messages each topic holds.
            bytes_max: How many bytes they take together.
        """
        self.catalog = MemoryCatalog()
        self._messages_max, self._bytes_max = messages_max, bytes_max

    def open_topic(self, topic: TopicFile, *, now_ms: int, next_offset_min: int) -> MemoryLog:
        """Return the log of a topic."""
        options, directory = topic.options.log_options(), self.catalog.directory(topic)
        return self._open(directory, options, now_ms, next_offset_min, self._messages_max, self._bytes_max)

    def open_group_logs(self, now_ms: int, report: Report) -> tuple[MemoryLog, MemoryLog]:
        """Return the logs of journal and register."""
        journal, register = (
            self._open(f"memory:{name}", OPTIONS, now_ms) for name in (JOURNAL_DIRECTORY, REGISTER_DIRECTORY)
        )
        return journal, register

    def _open(
        self,
        directory: str,
        options: LogOptions,
        now_ms: int,
        next_offset_min: int = 0,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> MemoryLog:
        logs = self.catalog.logs
        before = logs.get(directory)
        if before is not None:
            before.close()  # whoever had it is gone
        logs[directory] = MemoryLog(
            directory,
            options,
            now_ms=now_ms,
            next_offset_min=next_offset_min,
            messages_max=messages_max,
            bytes_max=bytes_max,
            before=before,
        )
        return logs[directory]

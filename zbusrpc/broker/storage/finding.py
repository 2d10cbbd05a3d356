"""A finding: one thing that is wrong with a log, or was. Opening a log and checking one say the same words.

Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FindingKind(StrEnum):
    """What was found in a log."""

    TORN_TAIL = "torn tail"
    """The last write was not finished when the broker or the machine died. It is cut off."""
    UNBEGUN = "empty segment"
    """The last segment holds nothing: it was being begun when the broker died, or was emptied. It is begun again."""
    DAMAGE = "damage"
    """Bytes that were complete before have changed or are gone. The file is quarantined."""
    MISSING = "missing segment"
    """Its index is here, and it is not: somebody took it away, or a crash cut its removal short."""
    GAP = "gap"
    """Offsets that no file has: a segment is gone, or its end. It is said once, and then sealed."""
    NO_LOG = "missing log"
    """A directory has no log where there was one."""
    NO_TOPIC = "missing topic"
    """There are places of groups, and no directory of their topic."""
    LOST_SEGMENT = "segment under another name"
    """A file that nothing reads, as it has no segment's name; it looks like one."""
    STRAY = "stray file"
    """It is none of a log's; nothing reads it."""
    QUARANTINED = "in quarantine"
    """A damaged file as it was, which was reported when it was set aside; nothing reads it."""


REMARKS: Final = frozenset({FindingKind.STRAY, FindingKind.QUARANTINED})
"""What is said of a log that is in order."""
MENDED: Final = frozenset(FindingKind) - REMARKS - {FindingKind.LOST_SEGMENT}
"""What a repair leaves in order."""
_WITH_BYTES: Final = frozenset({FindingKind.TORN_TAIL, FindingKind.UNBEGUN, FindingKind.DAMAGE, FindingKind.MISSING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a log, or was."""

    kind: FindingKind
    name: str
    """The file's name."""
    position: int = 0
    """The first byte concerned."""
    lost_bytes: int = 0
    """How many bytes are not served."""
    kept_as: str = ""
    """The name under which the damaged file is kept, where it was quarantined."""
    note: str = ""
    """What else there is to say."""

    @property
    def needs_attention(self) -> bool:
        """Whether the log is not in order for it."""
        return self.kind not in REMARKS

    def __str__(self) -> str:
        text = f"{self.name}: {self.kind}"
        if self.kind is FindingKind.QUARANTINED:
            text += f": {self.lost_bytes} bytes"
        elif self.kind in _WITH_BYTES:
            text += f" of {self.lost_bytes} bytes at byte {self.position}"
        if self.note:
            text += f"; {self.note}"
        return f"{text}; the file is kept as {self.kept_as}" if self.kept_as else text

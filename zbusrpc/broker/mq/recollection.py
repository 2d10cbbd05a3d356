"""Recollection: what the records of the journal say of each group, also where some of them are missing.

A group is *begun* when it is made, sought elsewhere or given other options: a record in full, with a number that
grows, the group's `era`. What changed since names the era that it belongs to, so that a beginning that is missing is
noticed. The register has each group's last beginning as well; it is another log, and one damage hits one of the two.

    damage in the journal               what the group does then
    a change is missing                 it stays where it was before, until it is said in full again
    a beginning, or the end, is missing it goes on from the beginning that the register has
    a beginning said again is missing   as where a change is

Pure. Promises: what is missing lets messages come again; no group is forgotten, nor passes what it is not done with.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from zbusrpc.broker.mq.standing import apply
from zbusrpc.broker.storage.record import Record

Said = dict[str, Any]
"""What is known of a group: what `describe` told, with `pending` and `era`."""


_FIELDS: Final[dict[bytes, frozenset[str]]] = {
    b"group": frozenset({"name", "options", "next"}),
    b"moved": frozenset({"next"}),
    b"removed": frozenset(),
}
"""By tag, what a record of a group says at least."""


class Recollection:
    """What is known of the groups, record by record."""

    def __init__(self, registered: Mapping[bytes, Said]) -> None:
        self.found: dict[bytes, Said] = {}
        self._registered = registered
        self._removed: dict[bytes, int] = {}

    def add(self, record: Record) -> None:
        """Let one record change what is known of its group."""
        key, said = record.key, _said_in(record)
        if said is None:
            self.note_gap()
            return
        era = said.get("era", 0)
        if record.tag == b"removed":
            gone = self.found.pop(key, {})
            self._removed[key] = max(era, gone.get("era", 0))
            return
        if record.tag == b"group":
            self.found[key] = said | {"pending": {}, "era": era, "has_gap": False}
        known = self.found.get(key)
        if known is None or known["era"] < era:
            known = self._begin_again(key, era)
        if known is not None:
            _change(known, said)

    def note_gap(self) -> None:
        """Take note that records are missing: no group may go on as if they were there.

        Until a group is said in full again it stays where it was before the gap. What came later comes again then; had
        it moved on, what became pending within the gap would be lost.
        """
        for known in self.found.values():
            known["has_gap"] = True

    def end(self) -> dict[bytes, Said]:
        """Return what is known in the end: what the register has and the journal has not was lost.

        Of groups with `has_gap` something is missing: messages of theirs come again.
        """
        for key, said in self._registered.items():
            known = self.found.get(key)
            era = known["era"] if known is not None else self._removed.get(key, -1)
            if era < said["era"]:
                self._begin_again(key, said["era"])
        return self.found

    def _begin_again(self, key: bytes, era: int) -> Said | None:
        """Begin a group as the register has it; where it has another beginning, leave it as it was, if it is known."""
        said, known = self._registered.get(key), self.found.get(key)
        if said is not None and said["era"] == era:
            known = self.found[key] = said | {"pending": dict(said["pending"])}
        if known is not None:
            known["has_gap"] = True
        return known


def recollect(records: Iterable[Record], registered: Mapping[bytes, Said], end: int = 0) -> dict[bytes, Said]:
    """Return what all records of a journal say that can be read, and the register has.

    Args:
        records: Those that can be read.
        registered: What the register has.
        end: The offset after all that it had, as far as that is known.
    """
    recollection, position = Recollection(registered), -1
    for record in records:
        if record.offset != position >= 0:
            recollection.note_gap()
        recollection.add(record)
        position = record.offset + 1
    if position < end:
        recollection.note_gap()
    return recollection.end()


def reached(groups: Iterable[Said]) -> int:
    """Return the offset after all messages that one of these groups was given."""
    return max(
        (end for said in groups for end in (said["next"], *(offset + 1 for offset in said["pending"]))), default=0
    )


def _said_in(record: Record) -> Said | None:
    """Return what a record says; None where it is that of another log, whose file has the place of one of ours."""
    needed = _FIELDS.get(record.tag)
    if needed is None:
        return None
    try:
        said = orjson.loads(record.body) if record.body else {}
    except ValueError:
        return None
    return said if isinstance(said, dict) and needed <= said.keys() else None


def _change(known: Said, said: Said) -> None:
    known["pending"] = apply(said, known["pending"])
    if known["has_gap"] and not said.get("full"):
        known["next"] = min(known["next"], said["next"])
        known["pending"] = {offset: of for offset, of in known["pending"].items() if offset < known["next"]}
    else:
        known["next"] = said["next"]
        known["has_gap"] = False

"""The ledger: what producers were told and what consumers got, and what follows for the promises of the queue.

Producers and consumers are processes of their own that may be killed at any time. Each writes what happens to it to a
file, one event a line and one write each, so that its death loses nothing that it knew:

    sent <topic> <name> <key> <tag> <batch>     before a message is handed in; "-" stands for nothing
    acked <topic> <name> <offset>               its receipt came
    refused <topic> <name> <code>               the broker said that it is not stored
    got <topic> <group> <name> <offset> <attempt> <key> <ns>     a consumer has it, in ns of the machine's clock
    done <topic> <group> <name> <attempt> <ns>  its acknowledgement was confirmed

What was sent and neither acked nor refused is *unknown*: it may be stored or not. Of each group:

    lost          acked, for this group, and never consumed; split into those before the first, between, and behind the
                  last that was consumed, in the order of the log: one in the middle is the most alarming
    unexpected    consumed and never sent, or refused
    recovered     unknown and consumed
    duplicated    consumed more than once: allowed, where something was killed
    stored twice  consumed at two offsets, though it was sent with one id
    repeated      delivered again after its acknowledgement was confirmed
    disordered    first consumed after a later message of its key
    torn          of a batch that was consumed in part
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

NOTHING = "-"
Wanted = Callable[["Sent"], bool]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that a producer handed in."""

    name: str
    key: str
    tag: str
    batch: str
    number: int
    """In the order in which they were sent."""


@dataclass(frozen=True, slots=True)
class Got:
    """One delivery of a message."""

    name: str
    offset: int
    attempt: int
    key: str
    ns: int


@dataclass(slots=True)
class Verdict:
    """What became of the messages that one group should have got."""

    acked: int
    consumed: int
    lost_prefix: set[str] = field(default_factory=set)
    lost_middle: set[str] = field(default_factory=set)
    lost_postfix: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)
    duplicated: int = 0
    stored_twice: set[str] = field(default_factory=set)
    repeated: set[str] = field(default_factory=set)
    disordered: list[tuple[str, str]] = field(default_factory=list)
    torn: set[str] = field(default_factory=set)

    @property
    def lost(self) -> set[str]:
        """All that are lost."""
        return self.lost_prefix | self.lost_middle | self.lost_postfix

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        broken = (self.lost, self.unexpected, self.stored_twice, self.repeated, self.disordered, self.torn)
        return not any(broken)

    def __str__(self) -> str:
        lost = f"{len(self.lost_prefix)}/{len(self.lost_middle)}/{len(self.lost_postfix)}"
        line = (
            f"acked {self.acked}, consumed {self.consumed}, lost {len(self.lost)} (prefix/middle/postfix {lost}), "
            f"unexpected {len(self.unexpected)}, recovered {len(self.recovered)}, duplicated {self.duplicated}, "
            f"stored twice {len(self.stored_twice)}, repeated {len(self.repeated)}, "
            f"disordered {len(self.disordered)}, torn {len(self.torn)}"
        )
        if self.is_good:
            return line
        broken = [*self.lost, *self.unexpected, *self.stored_twice, *self.repeated, *self.disordered, *self.torn]
        return f"{line}; such as {sorted(map(str, broken))[:10]}"


class Ledger:
    """The files of the producers and consumers of one test."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._count = 0

    def new_file(self, role: str) -> str:
        """Return the path of a file for one more process."""
        self._count += 1
        return str(self.directory / f"{self._count:03}-{role}")

    @property
    def size(self) -> int:
        """How much was written: it grows as long as something happens."""
        return sum(path.stat().st_size for path in self.directory.iterdir())

    def written_by(self, number: int) -> str:
        """Return what the process has written that was started as the first, second, ..."""
        (path,) = self.directory.glob(f"{number:03}-*")
        return path.read_text()

    def sent(self, topic: str) -> dict[str, Sent]:
        """Return what was handed in, by name."""
        lines = (words[2:] for words in self._lines() if words[:2] == ["sent", topic])
        return {name: Sent(name, key, tag, batch, number) for number, (name, key, tag, batch) in enumerate(lines)}

    def acked(self, topic: str) -> dict[str, int]:
        """Return what producers have a receipt for: offsets by name."""
        return {words[2]: int(words[3]) for words in self._lines() if words[:2] == ["acked", topic]}

    def refused(self, topic: str) -> dict[str, str]:
        """Return what the broker said is not stored: codes by name."""
        return {words[2]: words[3] for words in self._lines() if words[:2] == ["refused", topic]}

    def got(self, topic: str, group: str) -> list[Got]:
        """Return the deliveries to a group, in the order of time."""
        lines = (words[3:] for words in self._lines() if words[:3] == ["got", topic, group])
        deliveries = [Got(name, int(offset), int(number), key, int(ns)) for name, offset, number, key, ns in lines]
        return sorted(deliveries, key=lambda one: one.ns)

    def done(self, topic: str, group: str) -> dict[str, tuple[int, int]]:
        """Return the confirmed acknowledgements in a group: attempts and times by name."""
        lines = (words[3:] for words in self._lines() if words[:3] == ["done", topic, group])
        return {name: (int(attempt), int(ns)) for name, attempt, ns in lines}

    def verdict(self, topic: str, group: str, is_for_group: Wanted = lambda sent: True) -> Verdict:
        """Return what became of the messages that `is_for_group`."""
        sent, refused, got = self.sent(topic), self.refused(topic), self.got(topic, group)
        acked = {name: offset for name, offset in self.acked(topic).items() if is_for_group(sent[name])}
        consumed = {one.name for one in got}
        verdict = Verdict(len(acked), len(consumed), duplicated=len(got) - len(consumed))
        reached = [acked[name] for name in consumed & acked.keys()]
        for name in acked.keys() - consumed:
            if not reached or acked[name] < min(reached):
                verdict.lost_prefix.add(name)
            elif acked[name] > max(reached):
                verdict.lost_postfix.add(name)
            else:
                verdict.lost_middle.add(name)
        wrong = {name for name in consumed & sent.keys() if not is_for_group(sent[name])}
        verdict.unexpected = (consumed - sent.keys()) | (consumed & refused.keys()) | wrong
        verdict.recovered = consumed & sent.keys() - self.acked(topic).keys() - refused.keys()
        verdict.stored_twice = _with_two_offsets(got)
        verdict.repeated = _repeated(got, self.done(topic, group))
        verdict.disordered = list(_disordered(got, sent))
        verdict.torn = _torn([one for one in sent.values() if is_for_group(one)], consumed)
        return verdict

    def _lines(self) -> Iterator[list[str]]:
        for path in sorted(self.directory.iterdir()):
            whole, _, _ = path.read_text().rpartition("\n")  # the last write may be cut short by a full disk
            yield from (line.split(" ") for line in whole.split("\n") if line)


def _repeated(got: Iterable[Got], done: dict[str, tuple[int, int]]) -> set[str]:
    """Return what was delivered after its end; an earlier delivery may have waited in a consumer that hung."""
    later = (one for one in got if one.name in done and one.ns > done[one.name][1])
    return {one.name for one in later if one.attempt >= done[one.name][0]}


def _with_two_offsets(got: Iterable[Got]) -> set[str]:
    offsets: defaultdict[str, set[int]] = defaultdict(set)
    for one in got:
        offsets[one.name].add(one.offset)
    return {name for name, places in offsets.items() if len(places) > 1}


def _disordered(got: list[Got], sent: dict[str, Sent]) -> Iterator[tuple[str, str]]:
    """Yield pairs that were first consumed in another order than their producer sent them with the same key.

    Delayed messages have no key in these tests: they come when their time does.
    """
    first: dict[str, Got] = {}
    for one in got:
        first.setdefault(one.name, one)
    by_key: defaultdict[str, list[Got]] = defaultdict(list)
    for one in first.values():
        if one.key != NOTHING and one.name in sent:
            by_key[one.key].append(one)
    for deliveries in by_key.values():
        for before, after in pairwise(deliveries):
            if sent[before.name].number > sent[after.name].number or before.offset > after.offset:
                yield before.name, after.name


def _torn(sent: Iterable[Sent], consumed: set[str]) -> set[str]:
    batches: defaultdict[str, set[bool]] = defaultdict(set)
    for one in sent:
        if one.batch != NOTHING:
            batches[one.batch].add(one.name in consumed)
    return {batch for batch, outcomes in batches.items() if len(outcomes) > 1}

"""The message queue against a model of a few dictionaries, through any history that hypothesis can think of.

Held at every step: nothing is handed out to two consumers at a time; attempts are counted and bounded; messages of a
key come one at a time and in order, others in the order of the log; nothing comes before its time, after its time to
live, or after it was acknowledged. At the end: whatever was acknowledged to its producer was acknowledged by each
group, is a dead letter of it, or has expired.
"""

import sys
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.property.queue_model import ATTEMPTS_MAX, LEASE_S, ModelGroup, ModelMessage, QueueModel
from tests.support.queue_lab import HOUR_MS, Consumer, Peer, QueueLab, entry
from zbusrpc.broker.mq.counters import DONE
from zbusrpc.broker.mq.delivery import State
from zbusrpc.broker.mq.group import Group
from zbusrpc.transport.entries import Entry

GROUPS = st.sampled_from(["a", "b"])
NUMBERS = st.integers(0, 1000)
OPTIONS = {"lease_ms": round(LEASE_S * 1000), "max_attempts": ATTEMPTS_MAX, "backoff_ms": 1500, "backoff_max_ms": 3000}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["", "", "k", "l"]),
            "delay_ms": st.sampled_from([0, 0, 0, 4000, 60_000]),
            "ttl_ms": st.sampled_from([0, 0, 0, 20_000]),
            "id_": st.sampled_from(["", "", "x", "y", "z"]),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda fields: fields["id_"] or id(fields),
)


class QueueAndModel(RuleBasedStateMachine):
    """One topic, two groups, some consumers, and what the model knows of them."""

    def __init__(self) -> None:
        super().__init__()
        self.lab = QueueLab()
        self.lab.on_delivery = self.note_delivery
        self.deliveries: list[tuple[Consumer, Entry, float, int]] = []
        self.model = QueueModel()
        self.consumers: list[Consumer] = []
        self.jumped_ms = 0
        self.uncounted: dict[Group, int] = {}
        self.letters_before: dict[str, Counter[int]] = {}

    @initialize()
    def declare(self) -> None:
        self.peer().declare("orders", duplicate_window_s=50_000, segment_bytes=4096)

    def peer(self) -> Peer:
        return self.lab.peer()

    @property
    def now_s(self) -> float:
        return self.lab.scheduler.now_s

    def note_delivery(self, consumer: Consumer, one: Entry) -> None:
        self.deliveries.append((consumer, one, self.now_s, self.lab.scheduler.now_ms()))

    def look_at_deliveries(self) -> None:
        """Show the model what was delivered since it was last shown."""
        deliveries, self.deliveries = self.deliveries, []
        for consumer, one, now_s, now_ms in deliveries:
            self.model.deliver(consumer.group, consumer, one.first, one.attempts, now_s, now_ms)

    # -- producers ---------------------------------------------------------------------------------------

    @rule(messages=MESSAGES)
    def produce(self, messages: list[dict[str, Any]]) -> None:
        known = {
            place: self.model.ids[one["id_"]] for place, one in enumerate(messages) if one["id_"] in self.model.ids
        }
        new = [one for place, one in enumerate(messages) if place not in known]
        next_offset = self.lab.topic().log.next_offset
        now_ms = self.lab.scheduler.now_ms()
        for offset, one in enumerate(new, next_offset):
            self.model.messages[offset] = ModelMessage(
                key=one["key"],
                delay_s=one["delay_ms"] / 1000,
                produced_s=self.now_s,
                due_ms=now_ms + one["delay_ms"],
                expiry_ms=now_ms + one["ttl_ms"] if one["ttl_ms"] else 0,
            )
            if one["id_"]:
                self.model.ids[one["id_"]] = offset

        receipt = self.peer().produce("orders", *(entry("body", **one) for one in messages))

        assert receipt["offset"] == next_offset
        assert dict(receipt.get("duplicates", [])) == known

    # -- consumers ---------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.consumers) < 4)
    @rule(group=GROUPS, window=st.integers(1, 4))
    def join(self, group: str, window: int) -> None:
        self.model.groups.setdefault(group, ModelGroup(start=0))
        self.consumers.append(self.peer().consume("orders", group, window=window, **OPTIONS))

    @precondition(lambda self: self.consumers)
    @rule(number=NUMBERS, is_polite=st.booleans())
    def leave(self, number: int, is_polite: bool) -> None:
        consumer = self.consumers.pop(number % len(self.consumers))
        self.model.leave(consumer)
        if is_polite:
            consumer.leave()
        else:
            consumer.peer.disconnect()

    @precondition(lambda self: any(consumer.entries for consumer in self.consumers))
    @rule(
        number=NUMBERS, what=st.sampled_from(["ack", "ack", "ack", "nack", "release", "dead", "extend"]), late=NUMBERS
    )
    def answer(self, number: int, what: str, late: int) -> None:
        having = [consumer for consumer in self.consumers if consumer.entries]
        consumer = having[number % len(having)]
        offset = consumer.entries[-1 - late % min(3, len(consumer.entries))].first
        group = self.model.groups[consumer.group]
        is_last = group.holder.get(offset) is consumer
        has = is_last and group.until_s.get(offset, 0.0) > self.now_s
        before = group.copy_of(offset)
        if is_last:  # the model is told first, because what comes of an answer comes before it returns
            self._expect(group, offset, what, has=has)

        count = self._say(consumer, offset, what)
        self.look_at_deliveries()

        assert count == 1 or not has, "the answer of a consumer that has the message was left out"
        assert count == 0 or is_last, "the answer of another consumer was taken"
        if what == "extend" and count:
            group.until_s[offset] = self.now_s + LEASE_S
        elif is_last and not count and offset not in group.until_s:  # it came too late, and changed nothing
            group.put_back(offset, before)

    def _expect(self, group: ModelGroup, offset: int, what: str, *, has: bool) -> None:
        if what == "extend":  # brings nothing of that message
            return
        group.until_s.pop(offset, None)
        if what == "ack":
            group.done.add(offset)
        elif what == "dead" or (what == "nack" and group.attempts[offset] >= ATTEMPTS_MAX):
            group.dead.add(offset)
        elif what == "release" and has:
            group.attempts[offset] -= 1

    def _say(self, consumer: Consumer, offset: int, what: str) -> int:
        if what == "ack":
            return consumer.ack(offset)
        if what == "extend":
            return consumer.extend(offset)
        return consumer.nack(offset, then={"nack": "retry"}.get(what, what))

    # -- people ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.groups)
    @rule(number=NUMBERS, to=st.one_of(st.sampled_from(["oldest", "newest"]), st.integers(0, 30)))
    def seek(self, number: int, to: str | int) -> None:
        name = sorted(self.model.groups)[number % len(self.model.groups)]
        log = self.lab.topic().log
        offset = {"oldest": log.start_offset, "newest": log.next_offset}.get(str(to), to)
        assert isinstance(offset, int)
        offset = max(log.start_offset, min(offset, log.next_offset))
        self._begin_anew(name, offset)

        result = self.peer().command(
            "seek", topic="orders", group=name, start=to if isinstance(to, str) else {"offset": offset}
        )

        assert result["offset"] == offset

    def _begin_anew(self, name: str, offset: int) -> None:
        self.uncounted.clear()  # what is passed or comes again by it was counted, or is not
        self.model.groups[name] = ModelGroup(start=offset)
        self.letters_before[name] = self._letters(name)

    @precondition(lambda self: self.model.messages)
    @rule()
    def empty(self) -> None:
        self.model.messages.clear()
        self.model.ids.clear()
        for name in self.model.groups:
            self._begin_anew(name, self.lab.topic().log.next_offset)

        self.peer().command("empty", topic="orders")

    @precondition(lambda self: self.model.groups)
    @rule(number=NUMBERS)
    def remove_group(self, number: int) -> None:
        name = sorted(self.model.groups)[number % len(self.model.groups)]
        del self.model.groups[name]

        self.peer().command("remove", topic="orders", group=name)

        assert all((consumer.ended is not None) == (consumer.group == name) for consumer in self.consumers)
        self.consumers = [consumer for consumer in self.consumers if consumer.group != name]
        self.letters_before[name] = self._letters(name)

    @rule()
    def remove_topic(self) -> None:
        self.peer().command("remove", topic="orders")
        assert all(consumer.ended is not None for consumer in self.consumers)
        self.consumers, self.model = [], QueueModel()
        self.declare()
        self.letters_before = {name: self._letters(name) for name in ("a", "b")}

    # -- time, ends and beginnings -----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.07, 1.13, 3.31, 10.61, 61.37]))
    def pass_time(self, seconds: float) -> None:
        self.lab.pass_time(seconds)

    @rule(direction=st.sampled_from([-1, 1]))
    def jump(self, direction: int) -> None:
        by_ms = direction * HOUR_MS if not self.jumped_ms else -self.jumped_ms
        self.jumped_ms += by_ms
        self.lab.jump_clock(by_ms)

    @rule(how=st.sampled_from(["clean", "crash", "settled crash"]))
    def restart(self, how: str) -> None:
        if how == "clean":
            self._disconnect_all()
            self.lab.restart()
        else:
            self.lab.pass_time(0.01 if how == "settled crash" else 0)
            self.look_at_deliveries()
            self.lab.crash()
        self.consumers = []
        for group in self.model.groups.values():
            group.forget_in_flight()
            group.is_unsure = group.is_unsure or how == "crash"
        self.lab.run()

    def _disconnect_all(self) -> None:
        for consumer in self.consumers:
            self.model.leave(consumer)
            consumer.peer.disconnect()
            self.look_at_deliveries()

    @invariant()
    def books_are_kept(self) -> None:
        """What the broker lists agrees with itself and with the model."""
        self.look_at_deliveries()
        self.model.latest_ms = max(self.model.latest_ms, self.lab.scheduler.now_ms())
        if "orders" not in self.lab.store.topics:
            return
        for name, group in self.lab.topic().groups.items():
            self._check_counters(group)
            self._check_states(group)
            for one in group.pool.members:
                assert 0 <= one.in_flight <= one.window
                assert one.credit == one.window - one.in_flight - one.overdue
            pending = {offset for offset in group.pending if group.pending[offset].consumer is not None}
            assert pending <= set(self.model.groups[name].attempts)

    def _check_counters(self, group: Group) -> None:
        """Each message that was passed and is not in hand is in one counter, and in no other."""
        done = sum(getattr(group.counters, name) for name in DONE)
        in_hand = sum(one.state is not State.DEAD for one in group.pending.values())
        before = done - (group.position - in_hand)
        assert self.uncounted.setdefault(group, before) == before

    def _check_states(self, group: Group) -> None:
        """What is counted as it happens is what a walk over all that is in hand finds."""
        states = Counter(one.state for one in group.pending.values())
        assert group.in_flight == states[State.IN_FLIGHT] == sum(one.in_flight for one in group.pool.members)
        assert {state: group.count_in(state) for state in (State.HELD, State.DELAYED, State.DEAD)} == {
            state: states[state] for state in (State.HELD, State.DELAYED, State.DEAD)
        }
        assert group.oldest() == min(group.pending, default=group.position)
        had = {offset: one for offset, one in group.pending.items() if one.consumer is not None}
        assert had == {offset: one for member in group.pool.members for offset, one in member.had.items()}
        assert (group in self.lab.topic().consumed) == bool(group.pool.members)

    def _letters(self, name: str) -> Counter[int]:
        """Return how many dead letters of a group there are, by offset."""
        shown = self.peer().command("dlq", topic="orders", count=1000)["messages"]
        return Counter(int(one["headers"]["dead-offset"]) for one in shown if one["headers"]["dead-group"] == name)

    def teardown(self) -> None:
        """Let everybody go, and one consumer for each group work off what is left: nothing is missing."""
        if sys.exc_info()[0] is not None:  # a step failed, and that is to be told
            return
        self._disconnect_all()
        for name in self.model.groups:
            self._work_off(name)
        self.model.latest_ms = max(self.model.latest_ms, self.lab.scheduler.now_ms())
        for name in self.model.groups:
            new_letters = self._letters(name) - self.letters_before.get(name, Counter())
            lost = self.model.owed(name) - set(new_letters)
            assert not lost, f"group {name} never got {sorted(lost)}"
            assert not self.lab.group(name=name).pending

    def _work_off(self, name: str) -> None:
        options = {"lease_ms": 24 * HOUR_MS, "group": name, "topic": "orders"}
        self.peer().command("declare_group", **options, update=True)
        worker = self.peer().consume("orders", name, window=4096)
        for _ in range(5):  # the clock may have been set back by two hours since a delay began
            while entries := worker.take_entries():
                self.look_at_deliveries()
                offsets = {one.first for one in entries}
                self.model.groups[name].done |= offsets
                worker.ack(*offsets)
            self.lab.pass_time(2000)


TestQueueAndModel = QueueAndModel.TestCase
TestQueueAndModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

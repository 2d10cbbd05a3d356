"""A small independent model of the broker core: dictionaries that say what must happen, step by step.

The model predicts which calls end, how, which are delivered and which cancellations are sent. Only the choice of
the consumer is read from the broker, and checked: it must have credit, and the most of all when one call goes out.
"""

from collections import Counter
from dataclasses import dataclass, field

from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.limits import ATTEMPTS_MAX, SERVICE_SHARE, TOKEN_SHARE, Limits
from zbusrpc.broker.sessions.session import Session
from zbusrpc.envelope import parse_error
from zbusrpc.message import Flag, Kind, Message

Key = tuple[int, int]
"""A call: the session of its caller and its id."""


@dataclass
class ModelCall:
    """One call that has not ended."""

    topic: str
    flags: int
    deadline: float | None
    size: int
    worker: int | None = None
    attempts: int = 0


@dataclass
class ModelSubscription:
    """One session serving one topic."""

    window: int
    credit: int
    work: set[Key] = field(default_factory=set)


class Model:
    """What a broker should know and say."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions: dict[int, bool] = {}
        """Session number to whether it is congested."""
        self.calls: dict[Key, ModelCall] = {}
        self.queues: dict[str, list[Key]] = {}
        self.subscriptions: dict[tuple[int, str], ModelSubscription] = {}
        self.held: dict[int, dict[Key, tuple[str, ModelSubscription]]] = {}
        """What each session works on, also calls that have ended, in the order of delivery."""
        self.endings: Counter[tuple[Key, str]] = Counter()
        self.cancels: Counter[tuple[int, Key]] = Counter()
        self.given: list[Key] = []
        self.answers: Counter[tuple[int, str]] = Counter()
        self.ended_before: set[Key] = set()
        self.payers: dict[str, int] = {}
        """Which session each topic is charged to; of no meaning for topics that are gone."""

    # -- helpers -----------------------------------------------------------------------------------------

    def topics(self) -> set[str]:
        return {name for name, queue in self.queues.items() if queue} | {name for _, name in self.subscriptions}

    def queued_bytes(self) -> int:
        return sum(self.calls[key].size for queue in self.queues.values() for key in queue)

    def _may_open(self, topic: str, session: int, *, to_serve: bool = False) -> bool:
        """Let a session have a topic, which it pays for if it makes it or serves it first; False when it may not."""
        is_there = topic in self.topics()
        if is_there and (not to_serve or self._has_consumers(topic) or self.payers[topic] == session):
            return True
        if not is_there and len(self.topics()) >= self.limits.topics_max:
            return False
        made = sum(self.payers[name] == session for name in self.topics())
        if made and made + 1 > int(self.limits.topics_max * TOKEN_SHARE):
            return False
        self.payers[topic] = session
        return True

    def _has_room(self, key: Key, call: ModelCall) -> bool:
        limits, queue = self.limits, self.queues[call.topic]
        if len(queue) >= limits.queue_calls_max or self.queued_bytes() + call.size > limits.queued_bytes_max:
            return False
        mine = sum(other[0] == key[0] for other in queue)
        if mine and mine + 1 > int(limits.queue_calls_max * TOKEN_SHARE):
            return False
        waiting = [other for calls in self.queues.values() for other in calls]
        own_bytes = sum(self.calls[other].size for other in waiting if other[0] == key[0])
        if own_bytes and own_bytes + call.size > int(limits.queued_bytes_max * TOKEN_SHARE):
            return False
        service_bytes = sum(self.calls[other].size for other in queue)
        return not service_bytes or service_bytes + call.size <= int(limits.queued_bytes_max * SERVICE_SHARE)

    def _put_back(self, key: Key, topic: str, *, is_there: bool) -> None:
        if not is_there and topic not in self.topics():
            self.payers[topic] = key[0]
        self.queues.setdefault(topic, []).insert(0, key)

    def _free(self, topic: str) -> int:
        credits_left = sum(
            subscription.credit
            for (session, name), subscription in self.subscriptions.items()
            if name == topic and not self.sessions[session]
        )
        return credits_left - sum(1 for key in self.given if self.calls[key].topic == topic)

    def _has_consumers(self, topic: str) -> bool:
        return any(name == topic for _, name in self.subscriptions)

    def _end(self, key: Key, outcome: str | None) -> None:
        call = self.calls.pop(key)
        if call.worker is None:
            queue = self.queues.get(call.topic, [])
            if key in queue:
                queue.remove(key)
        if outcome is not None:
            self.endings[key, outcome] += 1

    def _dispatch(self, topic: str, now: float) -> None:
        queue = self.queues.get(topic, [])
        while queue and self._free(topic) > 0:
            key = queue.pop(0)
            deadline = self.calls[key].deadline
            if deadline is not None and deadline <= now:
                self._end(key, "DEADLINE_EXCEEDED")
            else:
                self.calls[key].attempts += 1
                self.given.append(key)

    def _settle(self, topic: str, now: float) -> None:
        self._dispatch(topic, now)
        if not self._has_consumers(topic):
            for key in list(self.queues.get(topic, [])):
                if not self.calls[key].flags & Flag.WAIT_FOR_READY:
                    self._end(key, "UNAVAILABLE")

    # -- commands ----------------------------------------------------------------------------------------

    def connect(self, session: int) -> None:
        self.sessions[session] = False
        self.held[session] = {}

    def request(self, key: Key, call: ModelCall, now: float) -> None:
        self.calls[key] = call
        if sum(1 for other in self.calls if other[0] == key[0]) > self.limits.calls_per_session_max:
            self._end(key, "RESOURCE_EXHAUSTED")
            return
        if not self._has_consumers(call.topic):
            if not call.flags & Flag.WAIT_FOR_READY:
                self._end(key, "UNAVAILABLE")
                return
            if not self._may_open(call.topic, key[0]):
                self._end(key, "RESOURCE_EXHAUSTED")
                return
        queue = self.queues.setdefault(call.topic, [])
        if not queue and self._free(call.topic) > 0:
            call.attempts += 1
            self.given.append(key)
        elif not self._has_room(key, call):
            self._end(key, "RESOURCE_EXHAUSTED")
        else:
            queue.append(key)

    def cancel(self, key: Key) -> None:
        if key in self.calls:
            self._abandon(key)

    def _abandon(self, key: Key) -> None:
        worker = self.calls[key].worker
        if worker is not None:
            self.cancels[worker, key] += 1
        self._end(key, None)

    def subscribe(self, session: int, topic: str, window: int, now: float) -> None:
        if not self._may_open(topic, session, to_serve=True):
            self.answers[session, "RESOURCE_EXHAUSTED"] += 1
            return
        self.answers[session, "ok"] += 1
        self.subscriptions[session, topic] = ModelSubscription(window, window)
        self._dispatch(topic, now)

    def unsubscribe(self, session: int, topic: str, now: float) -> None:
        self.answers[session, "ok"] += 1
        if self.subscriptions.pop((session, topic), None) is not None:
            self._settle(topic, now)

    def finish(self, session: int, key: Key, kind: Kind, now: float) -> None:
        """Let a session send REPLY, DONE or RETURN for a call; one it does not hold changes nothing."""
        held = self.held[session].pop(key, None)
        if held is None:
            return
        topic, subscription = held
        if self.subscriptions.get((session, topic)) is subscription:
            subscription.credit += 1
            subscription.work.discard(key)
            self._dispatch(topic, now)
        if key not in self.calls:
            return
        if kind is Kind.REPLY:
            self._end(key, "ok")
        elif kind is Kind.DONE:
            self._end(key, "UNAVAILABLE")
        else:
            call = self.calls[key]
            call.worker = None
            call.attempts -= (session, topic) not in self.subscriptions
            if call.attempts < ATTEMPTS_MAX:
                self._put_back(key, topic, is_there=False)
            else:
                self._end(key, "UNAVAILABLE")
            self._settle(topic, now)

    def congest(self, session: int, is_congested: bool, now: float) -> None:
        self.sessions[session] = is_congested
        for number, topic in list(self.subscriptions):
            if number == session:
                self._dispatch(topic, now)

    def expire(self, now: float) -> None:
        for key, call in list(self.calls.items()):
            if call.deadline is not None and call.deadline < now:
                if call.worker is not None:
                    self.cancels[call.worker, key] += 1
                self._end(key, "DEADLINE_EXCEEDED")

    def disconnect(self, session: int, now: float) -> None:
        del self.sessions[session]
        for key in [key for key in self.calls if key[0] == session]:
            self._abandon(key)
        names = [topic for number, topic in self.subscriptions if number == session]
        for topic in names:
            del self.subscriptions[session, topic]
        held = self.held.pop(session)
        for key in reversed(held):
            call = self.calls.get(key)
            if call is None:
                continue
            if call.flags & Flag.IDEMPOTENT and call.attempts < ATTEMPTS_MAX:
                call.worker = None
                self._put_back(key, call.topic, is_there=call.topic in names)
            else:
                self._end(key, "UNAVAILABLE")
        for topic in dict.fromkeys([*names, *(topic for topic, _ in held.values())]):
            self._settle(topic, now)

    # -- what the broker said ----------------------------------------------------------------------------

    def observe(self, broker: Broker, now: float) -> None:
        """Compare what stands in the outboxes with what was predicted, and empty them."""
        best = self._most_credit()
        dirty, broker.dirty = broker.dirty, []
        given: list[Key] = []
        for session in dirty:
            messages, session.outbox = session.outbox, []
            if session.number in self.sessions:
                for message in messages:
                    self._observe_one(session, message, given, now)
        assert sorted(given) == sorted(self.given), "other calls were delivered than predicted"
        if len(given) == 1 and given[0] in self.calls:
            chosen = self.calls[given[0]]
            assert chosen.worker is not None
            assert best[chosen.topic][chosen.worker] == max(best[chosen.topic].values()), "not the least loaded"
        assert not +self.endings, f"did not end: {self.endings}"
        expected_cancels = {pair: n for pair, n in self.cancels.items() if n and pair[0] in self.sessions}
        assert not expected_cancels, f"were not cancelled: {expected_cancels}"
        assert not +self.answers, f"were not answered: {self.answers}"
        self.given.clear()
        self.cancels.clear()

    def _most_credit(self) -> dict[str, dict[int, int]]:
        best: dict[str, dict[int, int]] = {}
        for (session, topic), subscription in self.subscriptions.items():
            if not self.sessions[session]:
                best.setdefault(topic, {})[session] = subscription.credit
        return best

    def _observe_one(self, session: Session, message: Message, given: list[Key], now: float) -> None:
        if message.kind == Kind.REQUEST:
            self._observe_delivery(session.number, message, now)
            given.append((message.session, message.id))
        elif message.kind == Kind.CANCEL:
            pair = session.number, (message.session, message.id)
            assert self.cancels[pair] == 1, "cancelled twice, or what was not given up"
            self.cancels[pair] -= 1
        else:
            assert message.kind == Kind.REPLY
            outcome = str(parse_error(message.body).code) if message.flags & Flag.ERROR else "ok"
            if message.id == 0:
                assert self.answers[session.number, outcome] > 0
                self.answers[session.number, outcome] -= 1
                return
            key = session.number, message.id
            assert self.endings[key, outcome] == 1, f"{key} ended with {outcome}, expected {self.endings}"
            assert key not in self.ended_before, "a call ended twice"
            self.endings[key, outcome] -= 1
            self.ended_before.add(key)

    def _observe_delivery(self, worker: int, message: Message, now: float) -> None:
        key, topic = (message.session, message.id), message.topic.decode()
        assert key in self.given, f"{key} was delivered, and should not be"
        call = self.calls[key]
        assert topic == call.topic
        assert not self.sessions[worker], "a congested session was given work"
        subscription = self.subscriptions[worker, topic]
        subscription.credit -= 1
        subscription.work.add(key)
        assert subscription.credit >= 0, "more was delivered than the window allows"
        call.worker = worker
        self.held[worker][key] = topic, subscription
        if call.attempts > 1:
            assert message.headers()["attempt"] == str(call.attempts)
            call.size = len(message.body) + len(message.header_bytes)
        if call.deadline is not None:
            assert message.timeout_ms == max(1, round((call.deadline - now) * 1000))

    def check(self, broker: Broker) -> None:
        """Compare sizes and listings."""
        statistics = broker.statistics()
        assert statistics["queued"] == sum(len(queue) for queue in self.queues.values())
        assert statistics["queued_bytes"] == self.queued_bytes()
        assert statistics["topics"] == len(self.topics())
        assert statistics["sessions"] == len(self.sessions)
        assert statistics["in_flight"] == sum(len(held) for held in self.held.values())
        listed = {
            (instance["session"], service["service"]): (instance["window"], instance["in_flight"])
            for service in broker.services()
            for instance in service["instances"]
        }
        expected = {
            who: (subscription.window, len(subscription.work)) for who, subscription in self.subscriptions.items()
        }
        assert listed == expected
        assert all(0 <= in_flight <= window for window, in_flight in listed.values())
        assert all(s.credit == s.window - len(s.work) for s in self.subscriptions.values())

"""The courier: what groups hand out, on its way to consumers, as one frame for each; and the pulls that it answers.

A frame is sent when it is long, or when all that a group handed out has been added. A pull ends when it has got as
many messages as it wants; when it has some and there are no more; or, where it does not wait, when there are none.

Pure: what is to be sent goes through `send`.
"""

from collections.abc import Callable
from typing import Final

import orjson

from zbusrpc import envelope
from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.subscription import Pull, Subscription
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.storage.record import Record
from zbusrpc.message import Kind, Message
from zbusrpc.transport.entries import encode_entry
from zbusrpc.transport.native import TIMEOUT_MS_MAX

FRAME_BYTES_MAX: Final = 256 * 1024
"""A DELIVER frame is sent when it is so long."""

Send = Callable[[Session, Message], None]


class Courier:
    """Takes messages to consumers."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def add(self, subscription: Subscription, delivery: Delivery, record: Record, now_ms: int) -> str:
        """Put a message into the next frame to a consumer; return why that is not possible, or nothing."""
        entry = encode_entry(
            record.offset,
            record.timestamp_ms,
            delivery.attempts,
            record.id,
            record.tag,
            record.key,
            record.headers,
            record.body,
        )
        bytes_max = subscription.session.message_bytes_max
        if len(entry) > bytes_max:
            return f"its {len(entry)} bytes exceed what its consumer takes"
        if subscription.entries_bytes + len(entry) > min(bytes_max, FRAME_BYTES_MAX):
            self.send(subscription)
        if record.expiry_ms and not delivery.is_lifted:
            live_ms = max(1, record.expiry_ms - now_ms)
            subscription.entries_live_ms = min(subscription.entries_live_ms or TIMEOUT_MS_MAX, live_ms)
        subscription.entries.append(entry)
        subscription.entries_bytes += len(entry)
        subscription.sent += 1
        delivery.number = subscription.sent
        return ""

    def send(self, subscription: Subscription) -> None:
        """Send what was added for a consumer, and answer the pulls that are complete with it."""
        entries, subscription.entries, subscription.entries_bytes = subscription.entries, [], 0
        if not entries:
            return
        live_ms, subscription.entries_live_ms = subscription.entries_live_ms, 0
        message = Message(Kind.DELIVER, 0, b"", b"".join(entries), timeout_ms=live_ms, session=subscription.number)
        self._send(subscription.session, message)
        left = len(entries)
        while left and subscription.pulls:
            pull = subscription.pulls[0]
            taken = min(left, pull.left)
            pull.left -= taken
            pull.delivered += taken
            left -= taken
            if not pull.left:
                subscription.pulls.popleft()
                self._answer(subscription, pull)
        if subscription.pulls and subscription.pulls[0].delivered:
            subscription.group.satisfied[subscription] = None

    def end_satisfied(self, group: Group) -> None:
        """End the pulls that have got something, or that do not wait: there is no more now."""
        satisfied, group.satisfied = group.satisfied, {}
        for subscription in satisfied:
            self.end_pulls(subscription, lambda pull: pull.delivered > 0 or not pull.is_patient)

    def end_pulls(self, subscription: Subscription, is_over: Callable[[Pull], bool]) -> None:
        """End some of a consumer's pulls with what they have got."""
        for pull in [pull for pull in subscription.pulls if is_over(pull)]:
            subscription.pulls.remove(pull)
            subscription.group.pool.withdraw(subscription, pull.left)
            self._answer(subscription, pull)

    def _answer(self, subscription: Subscription, pull: Pull) -> None:
        pull.unwatch()
        if pull.request_id:
            body = envelope.result_body(orjson.dumps(pull.delivered))
            self._send(subscription.session, Message(Kind.REPLY, pull.request_id, b"", body))

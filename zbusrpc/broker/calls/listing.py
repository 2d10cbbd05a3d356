"""What a broker reports of itself: counters, and the list of what is running.

Pure: values for whoever shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.calls.service_queue import ServiceQueue


@dataclass(slots=True)
class Counters:
    """What happened since the broker started."""

    requests: int = 0
    replies: int = 0
    refused: int = 0
    """Calls that the broker answered with an error itself."""
    expired: int = 0
    """Of those: the deadline passed."""
    redelivered: int = 0
    """Calls given to another instance after one died or handed them back."""
    late_replies: int = 0
    """Replies to calls that had already ended; they were dropped."""


def list_services(topics: Mapping[bytes, ServiceQueue]) -> list[dict[str, Any]]:
    """Return topics with their instances and queues, in their order."""
    return [
        {
            "service": topic_name(name),
            "queued": len(topic.queue),
            "not_everywhere": topic.editions.not_everywhere(),
            "instances": [
                {
                    **consumer.about,
                    "session": consumer.session.number,
                    "name": consumer.session.name,
                    "window": consumer.window,
                    "in_flight": consumer.window - consumer.credit,
                }
                for consumer in topic.consumers.values()
            ],
        }
        for name, topic in topics.items()
    ]

"""Why nobody takes a call: there is no instance, or none with the method that it names.

A call that is not to wait is told so at once, one that waits when its deadline has passed. The error says what there
is, as far as its caller may know of it.

Pure.
"""

from zbusrpc.broker.calls import refusals
from zbusrpc.broker.calls.call import Call
from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.calls.methods import method_of
from zbusrpc.broker.calls.service_queue import ServiceQueue
from zbusrpc.broker.calls.service_queues import ServiceQueues
from zbusrpc.errors import RpcError
from zbusrpc.message import Flag, Message


def no_instance(call: Call, topics: ServiceQueues, broker: str, now: float) -> RpcError:
    """Return what a call is told for which there is no instance."""
    return refusals.no_instance(topic_name(call.message.topic), broker, topics.running(call.caller, now))


def no_method(message: Message, topics: ServiceQueues, now: float) -> RpcError | None:
    """Return what a request is told at once that is not to wait: there are instances, and none has its method."""
    topic = topics.get(message.topic)
    if topic is None or not topic.consumers or message.flags & Flag.WAIT_FOR_READY or topic.is_able(message.body):
        return None
    return _no_method(message, topic, topics, now)


def expiry(call: Call, topics: ServiceQueues, broker: str, now: float) -> RpcError:
    """Return what a call is told whose deadline has passed."""
    name, topic = topic_name(call.message.topic), topics.get(call.message.topic)
    if call.consumer is not None or topic is None or not topic.is_unserved(call):
        return refusals.expired(name, has_started=call.consumer is not None)
    if topic.consumers:
        return refusals.in_vain(_no_method(call.message, topic, topics, now))
    return refusals.in_vain(no_instance(call, topics, broker, now))


def _no_method(message: Message, topic: ServiceQueue, topics: ServiceQueues, now: float) -> RpcError:
    methods = sorted(topic.editions.methods) if topics.hints.has_time(now) else None
    return refusals.no_method(topic_name(message.topic), method_of(message.body), methods)

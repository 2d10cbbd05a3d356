"""The message queue: stored topics, those who write them, and consume groups that share the work.

    async with Producer("orders") as producer:
        receipt = await producer.send({"item": "tea"}, key="42", tag="eu.new")

    async with Consumer("orders", group="billing", body=Order, filter="eu.*") as consumer:
        async for message in consumer:
            await bill(message.body)
            await message.ack()

A broker with a data directory stores the messages of a topic in a log. A consume group is a place in that log: each
message goes to one of its consumers, and is delivered again until one of them acknowledges it. `SyncProducer`,
`SyncConsumer` and `mq.sync` are the same for programs without an event loop.

Of several brokers each stores what it is sent, and has groups of its own: producers choose among them, consumers take
part at all, and commands concern those that are named.
"""

from zbusrpc.mq import sync
from zbusrpc.mq.admin import (
    dead_letters,
    declare,
    declare_group,
    empty,
    pause,
    peek,
    purge_dead,
    remove,
    resume,
    retry_dead,
    seek,
    stats,
    topic,
    topics,
)
from zbusrpc.mq.consumer import Consumer
from zbusrpc.mq.infos import (
    ConsumerInfo,
    DeadLetter,
    GroupInfo,
    LeftLetter,
    Page,
    RetryResult,
    SeekResult,
    StoredMessage,
    TopicDetails,
    TopicInfo,
)
from zbusrpc.mq.message import ReceivedMessage
from zbusrpc.mq.options import AtMessage, GroupOptions, LikeGroup, StartAt, TopicOptions
from zbusrpc.mq.outgoing import MessageOptions, Outgoing
from zbusrpc.mq.producer import Producer
from zbusrpc.mq.receipt import Durability, Receipt
from zbusrpc.mq.sync import SyncConsumer, SyncProducer, SyncReceivedMessage

__all__ = [
    "Producer",
    "Outgoing",
    "MessageOptions",
    "Receipt",
    "Durability",
    "Consumer",
    "ReceivedMessage",
    "StartAt",
    "AtMessage",
    "LikeGroup",
    "TopicOptions",
    "GroupOptions",
    "declare",
    "declare_group",
    "topics",
    "topic",
    "remove",
    "empty",
    "pause",
    "resume",
    "seek",
    "peek",
    "dead_letters",
    "retry_dead",
    "purge_dead",
    "stats",
    "TopicInfo",
    "TopicDetails",
    "GroupInfo",
    "ConsumerInfo",
    "StoredMessage",
    "DeadLetter",
    "LeftLetter",
    "RetryResult",
    "SeekResult",
    "Page",
    "sync",
    "SyncProducer",
    "SyncConsumer",
    "SyncReceivedMessage",
]

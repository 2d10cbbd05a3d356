"""Positions: from where somebody wants to read ("oldest", a time, a message id, ...) to an offset.

Pure but for the look into the log.
"""

from typing import Final

from zbusrpc.broker.access.rights import Operation, Rights, not_allowed
from zbusrpc.broker.mq.options import Start, StartAt
from zbusrpc.broker.mq.standing import Pending
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.errors import Code, RpcError

_OF_GROUPS: Final = (Operation.QUERY, Operation.CONSUME, Operation.DECLARE)


def resolve(topic: Topic, start: StartAt, rights: Rights | None) -> tuple[int, Pending]:
    """Return the offset that comes first, and what is pending below it (for the copy of a group).

    Args:
        topic: Where it is.
        start: What was asked for.
        rights: Of who asks; None where nobody does, or anybody may.

    Raises:
        RpcError: PERMISSION_DENIED, INVALID_ARGUMENT, NOT_FOUND or OUT_OF_RANGE; the text names the value.
        ReadFailedError: the disk did not say.
    """
    if start == "oldest":
        return topic.log.start_offset, {}
    if start == "newest":
        return topic.log.next_offset, {}  # not where readers are: after a restart that comes up to it only with a sync
    assert isinstance(start, Start)
    kinds = [name for name in ("offset", "id", "time_ms", "group") if getattr(start, name) is not None]
    if len(kinds) != 1 and kinds != ["offset", "id"]:
        text = (
            f"a start is one of offset, id, time_ms, group, or id with offset, not {' with '.join(kinds) or 'nothing'}"
        )
        raise RpcError(Code.INVALID_ARGUMENT, text)
    if start.group is not None:
        check_start(topic, start, rights)
        return _copy(topic, start.group)
    if start.time_ms is not None:
        return topic.log.offset_at_time(start.time_ms), {}
    if start.id is not None:
        return _offset_of_id(topic, start.id, start.offset), {}
    assert start.offset is not None
    if start.offset > topic.log.next_offset:
        text = f"topic {topic.name} has no offset {start.offset}: the next message gets {topic.log.next_offset}"
        raise RpcError(Code.OUT_OF_RANGE, text)
    return max(start.offset, topic.log.start_offset), {}


def check_start(topic: Topic, start: StartAt | None, rights: Rights | None) -> None:
    """See that another group's place is told and taken only by who may know of that group, whether there is one or not.

    Raises:
        RpcError: PERMISSION_DENIED.
    """
    other = start.group if isinstance(start, Start) else None
    if rights is None or other is None:
        return
    if not may_begin_at(rights, topic, other):
        raise not_allowed(rights, Operation.QUERY, topic.name, other)


def may_begin_at(rights: Rights | None, topic: Topic, group: str) -> bool:
    """Say whether somebody with `rights` may know where a group stands, and begin there."""
    return rights is None or any(rights.allows(operation, topic.name, group) for operation in _OF_GROUPS)


def _copy(topic: Topic, name: str) -> tuple[int, Pending]:
    other = topic.groups.get(name)
    if other is None:
        raise RpcError(Code.NOT_FOUND, f"topic {topic.name} has no group {name}")
    return other.position, other.pending_copy()


def _offset_of_id(topic: Topic, id_: str, offset: int | None) -> int:
    """Return the offset of the message with an id: where it is said to be, or among the last ones."""
    if offset is None:
        found = topic.find_id(id_.encode())
        if found is None:
            text = f"topic {topic.name}: no message {id_} among the last ones; name its offset too"
            raise RpcError(Code.NOT_FOUND, text)
        return found
    record = topic.load(offset)
    if record is None or record.id != id_.encode():
        there = "nothing" if record is None else f"message {record.id.decode(errors='replace')}"
        raise RpcError(Code.NOT_FOUND, f"topic {topic.name}: message {id_} is not at offset {offset}, there is {there}")
    return offset

"""Unreadable topics: those that are on the disk and cannot be opened, and why.

They are no topics to work with, and not absent either: whoever asks for one is told why, nobody makes another in its
place, and listings show it.
"""

from dataclasses import dataclass

from zbusrpc.broker.mq.names import slug
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.errors import Code, RpcError


@dataclass(frozen=True, slots=True)
class UnreadableTopic:
    """One topic that cannot be opened."""

    name: str
    """Its name, or the slug of it where that is not known."""
    reason: str
    created_ms: int = 0
    """0 where that is not known."""
    options: TopicOptions = TopicOptions()  # noqa: RUF009 - frozen
    """As it was declared; where that is not known, as by default."""


class UnreadableTopics(dict[str, UnreadableTopic]):
    """The topics of a data directory that cannot be opened, by name."""

    def note(self, one: UnreadableTopic) -> None:
        """Take note of one; what was said of another of its name first stays."""
        self.setdefault(one.name, one)

    def check(self, name: str) -> None:
        """See that it is not because it cannot be read that there is no topic of this name.

        Raises:
            RpcError: INTERNAL, with the reason.
        """
        found = self.get(name) or self.get(slug(name))
        if found is not None:
            raise RpcError(Code.INTERNAL, f"topic {name} cannot be read: {found.reason}")

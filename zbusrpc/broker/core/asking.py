"""Asking: a session whose peer speaks no native protocol asks things of the core, and hears of the replies.

    ask           a REQUEST or COMMAND of the session, with who is to hear of the reply
    take_reply    the core's REPLY goes there
    push          what is sent to the peer though it answers nothing

Whoever answers on one connection asks by the same asker, so that no two questions have the same id.

Pure: time comes from outside, and what is pushed leaves through `push`.
"""

from collections.abc import Callable

from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.session import Session
from zbusrpc.message import Message


class Asker:
    """A session that asks."""

    def __init__(
        self, broker: Broker, session: Session, push: Callable[[bytes], None], now: Callable[[], float]
    ) -> None:
        """Ask in the name of a session.

        Args:
            broker: Is asked.
            session: Of the connection.
            push: Sends what answers nothing.
            now: The core's clock.
        """
        self.broker = broker
        """Who is asked."""
        self.session = session
        """In whose name."""
        self.push = push
        """Sends a message that answers nothing."""
        self._now = now
        self._asked: dict[int, Callable[[Message], None]] = {}
        self._last_ask = 0

    def ask(self, message: Message, on_reply: Callable[[Message], None]) -> None:
        """Have the core carry out a message of this session that gets a reply, and hear of it."""
        self._last_ask += 1
        message.id = self._last_ask
        self._asked[message.id] = on_reply
        self.broker.receive(self.session, message, self._now())

    def take_reply(self, message: Message) -> None:
        """Hand a REPLY to whoever asked for it; one that nobody waits for any more is dropped."""
        on_reply = self._asked.pop(message.id, None)
        if on_reply is not None:
            on_reply(message)

    @property
    def is_waiting(self) -> bool:
        """Whether a reply is owed."""
        return bool(self._asked)

    def close(self) -> None:
        """Push nothing any more: the connection has ended."""
        self.push = push_nowhere


def push_nowhere(data: bytes) -> None:
    """Send nothing: the connection has ended."""

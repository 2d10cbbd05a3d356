"""Shares: how much each has of what all have together, so that no one takes everything.

Who pays for something is a number: that of a token, which is known again after a restart; 0 for whoever has shown none
to a broker that has tokens; and where there are no tokens a session, by its number below 0. What outlives sessions
nobody pays for there: without tokens everybody may remove it.

Whoever has nothing may have one thing, whatever its size: a share refuses what comes on top, and not what is large.

Pure. What is kept is bounded by what is held: who has given everything back is forgotten.
"""

from collections.abc import Hashable

from zbusrpc.broker.access.rights import ANONYMOUS, Rights
from zbusrpc.broker.sessions.limits import TOKEN_SHARE
from zbusrpc.broker.sessions.session import Session

Payer = int


class Shares:
    """Who has how much of one thing."""

    __slots__ = ("_used", "most", "total", "whole")

    def __init__(self, whole: int, share: float = TOKEN_SHARE) -> None:
        self.whole = whole
        """What all may have together."""
        self.most = int(whole * share)
        """What one may have."""
        self.total = 0
        """What all have."""
        self._used: dict[Hashable, int] = {}

    def is_full(self, size: int = 1) -> bool:
        """Say whether there is no room for more, whoever asks."""
        return self.total + size > self.whole

    def is_used_up(self, who: Hashable, size: int = 1) -> bool:
        """Say whether somebody may have no more."""
        used = self._used.get(who)
        return used is not None and used + size > self.most

    def take(self, who: Hashable, size: int = 1) -> None:
        """Take note of what somebody has now."""
        self.total += size
        self._used[who] = self._used.get(who, 0) + size

    def give_back(self, who: Hashable, size: int = 1) -> None:
        """Take note of what somebody has no more."""
        self.total -= size
        left = self._used[who] - size
        if left:
            self._used[who] = left
        else:
            del self._used[who]

    def __len__(self) -> int:
        return len(self._used)


def payer_of(session: Session) -> Payer:
    """Return who pays for what goes with a session."""
    return session.rights.owner if session.rights is not None else -session.number


def lasting_payer(rights: Rights | None) -> Payer | None:
    """Return who pays for what outlives a session; nobody where there are no tokens."""
    return rights.owner if rights is not None else None


def whose(rights: Rights | None, session: str = "") -> str:
    """Return who pays, for people."""
    if rights is None:
        return session or "this client"
    return f"token {rights.name}" if rights.digest else f"clients without a token ({ANONYMOUS})"

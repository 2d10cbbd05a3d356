"""Access: which token may do what, and with which topics and groups.

A token is a secret that a client shows. Of the secret only its SHA-256 is known here, which is enough: it is made of 32
random bytes, so that nobody finds it by trying (a slow hash is for what people think up). A `Rule` says which things
are allowed on which topics and groups; the `Rights` of a token are its rules together. A client without a token has the
rights of `anonymous`, which are none unless the file says otherwise (see `token_file.py`).

Names are compared as they are stored, so case counts. In a rule a name may end with `*`, which stands for any rest:
`orders.*` is what begins with `orders.`, and `*` alone is everything.

Pure: no file, no clock. Deciding takes as long for every secret, right or wrong.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import not_run

ALL: Final = "*"
"""Every topic or group. As a question: whether the answer is yes for all of them."""
ANONYMOUS: Final = "anonymous"
"""Name of the rights of a client that shows no token."""
NO_OWNER: Final = 0
"""Owner of what comes without a token."""
DECISIONS_MAX: Final = 4096
"""Remembered answers of one token: names of topics come from clients, so there must be a bound."""

NAMES_REMEMBERED_MAX: Final = 512
"""Longer names, of which there are none, are asked about as well: their answers are not remembered."""


class Operation(StrEnum):
    """What a token may be allowed to do."""

    PRODUCE = "produce"
    """Store messages in a topic, call a service, give dead letters back."""
    CONSUME = "consume"
    """Take messages of a topic by a group, serve calls."""
    ROUTE = "route"
    """Send a message to a session that asked something (the zbus dialect)."""
    QUERY = "query"
    """See what is there: topics, groups, messages, services."""
    DECLARE = "declare"
    """Make topics and groups, and change what they are: options, pause, position."""
    EMPTY = "empty"
    """Remove the messages of a topic, or let a group pass them."""
    REMOVE = "remove"
    """Remove topics and groups."""
    TRACK_PUB = "track_pub"
    """Tell a tracker of brokers."""
    TRACK_SUB = "track_sub"
    """Be told by a tracker of every change."""
    TRACKER = "tracker"
    """Ask a tracker once."""
    SERVER = "server"
    """See what the broker tells of itself."""
    SSL = "ssl"
    """Be given the broker's certificate."""
    ADMIN = "admin"
    """Everything, whatever topics and groups the rule names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Some operations on some topics and groups."""

    operations: frozenset[Operation]
    topics: tuple[str, ...] = (ALL,)
    groups: tuple[str, ...] = (ALL,)

    def allows(self, operation: Operation, topic: str, group: str | None) -> bool:
        """Say whether this rule allows it."""
        if Operation.ADMIN in self.operations:
            return True
        if operation not in self.operations:
            return False
        return (not topic or _matches(self.topics, topic)) and (group is None or _matches(self.groups, group))


class Rights:
    """What one token, or a client without a token, may do."""

    __slots__ = ("_decisions", "_rules", "digest", "name", "owner")

    def __init__(self, name: str, rules: Iterable[Rule] = (), digest: bytes = b"") -> None:
        self.name = name
        """Name of the token, for logs and error texts; the secret is in neither."""
        self.digest = digest
        """SHA-256 of the secret, by which a token is known again; nothing for anonymous."""
        self.owner = (int.from_bytes(digest[:2], "big") or 1) if digest else NO_OWNER
        """Whose ids are meant: what two tokens call by the same id is not the same. Known again after a restart."""
        self._rules = tuple(rules)
        self._decisions: dict[tuple[Operation, str, str | None], bool] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What it is allowed, to be shown to whoever has the token."""
        return self._rules

    def allows(self, operation: Operation, topic: str = "", group: str | None = None) -> bool:
        """Say whether the token may do something.

        Args:
            topic: Name of the topic or service; "" where the operation concerns none, or asks for a list that is
                filtered afterwards. `ALL` asks for every topic.
            group: Name of the group; None where the operation concerns none. `ALL` asks for every group.
        """
        question = (operation, topic, group)
        known = self._decisions.get(question)
        if known is None:
            known = any(rule.allows(operation, topic, group) for rule in self._rules)
            if len(topic) + len(group or "") > NAMES_REMEMBERED_MAX:
                return known
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            self._decisions[question] = known
        return known

    def __repr__(self) -> str:
        return f"<rights of {self.name}>"


class Access:
    """The rights of all tokens."""

    def __init__(self, tokens: Iterable[Rights] = (), anonymous: Iterable[Rule] = ()) -> None:
        """Take the rights of tokens, each with the digest of its secret, and what is allowed without one."""
        self._tokens = tuple(tokens)
        self.anonymous = Rights(ANONYMOUS, anonymous)

    def rights_of(self, secret: str) -> Rights | None:
        """Return the rights of whoever shows `secret`: "" is anonymous, and None means that it is unknown."""
        return self._known(digest_of(secret)) if secret else self.anonymous

    def may_ask(self, secret: str) -> bool:
        """Say whether whoever shows `secret` is known, or may do something all the same."""
        rights = self.rights_of(secret)
        return rights is not None and bool(rights.digest or rights.rules)

    def renewed(self, rights: Rights | None) -> Rights | None:
        """Return what the holder of `rights`, which are of an earlier file, has now; None where its token is gone."""
        return self._known(rights.digest) if rights is not None and rights.digest else self.anonymous

    def _known(self, digest: bytes) -> Rights | None:
        found = None
        for token in self._tokens:  # all of them: the time taken must not tell which one was close
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def visible(rights: Rights | None, topics: Iterable[str]) -> Iterable[str]:
    """Return which of these topics or services somebody with `rights` may know of."""
    return topics if rights is None else (name for name in topics if rights.allows(Operation.QUERY, name))


def visible_groups(rights: Rights | None, topic: str, groups: Iterable[str]) -> Iterable[str]:
    """Return which of these groups of a topic somebody with `rights` may know of."""
    return groups if rights is None else (name for name in groups if rights.allows(Operation.QUERY, topic, name))


def may_see(rights: Rights | None, name: str, group: str | None = None) -> bool:
    """Say whether somebody with `rights` may know of a topic, service or group."""
    return rights is None or rights.allows(Operation.QUERY, name, group)


def owner_of(rights: Rights | None) -> int:
    """Return whose the ids are that somebody with `rights` chooses."""
    return rights.owner if rights is not None else NO_OWNER


def digest_of(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return sha256(secret.encode(errors="surrogatepass")).digest()


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith(ALL) else one == name for one in patterns)


def not_allowed(
    rights: Rights, operation: Operation, topic: str, group: str | None = None, *, unseen: str = ""
) -> RpcError:
    """The peer has no right to do this; `unseen` is what to call a topic that it has not named and may not know of."""
    who = f"token {rights.name}" if rights.digest else f"a client without a token ({ANONYMOUS})"
    of_what = f" on topic {topic}" if topic else ""
    if unseen and not may_see(rights, topic):
        of_what = f" on {unseen}"
    of_what += f" and {'all its groups' if group == ALL else f'group {group}'}" if group is not None else ""
    return not_run(Code.PERMISSION_DENIED, f"{who} has no right to {operation}{of_what}")

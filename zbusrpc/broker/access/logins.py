"""Logins: people who have shown their token to the page, and what their browsers show from then on in its place.

A browser sends a cookie to every port of its host, so what stands in one may be read by whoever has another port. It is
therefore no token but a random id that only this broker knows, under a name with this broker's port. It is worth what
the token is worth until it is ended: by logging out, by IDLE_S without a request, or with its token, when the file is
read again; a broker that is started anew knows none. Of ids only their digests are kept.

Pure but for randomness: time comes from outside.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from zbusrpc.broker.access.rights import Access, Rights, digest_of

IDLE_S: Final = 12 * 3600.0
"""A working day: who comes back the next morning logs in again."""
LOGINS_MAX: Final = 1000
"""Of all tokens together; the one that was not used for the longest time makes room."""
LOGINS_PER_TOKEN_MAX: Final = 100
"""So that no token can end the logins of the others by logging in again and again."""
ID_BYTES: Final = 32


class Logins:
    """The logins of one broker."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.cookie = "zbusrpc"
        """Name of the cookie, with the broker's port once that is known."""
        self._now = now
        self._logins: OrderedDict[bytes, tuple[Rights, float]] = OrderedDict()  # used last at the end

    def listen_on(self, port: int) -> None:
        """Have a cookie of its own for this port."""
        self.cookie = f"zbusrpc-{port}"

    def begin(self, rights: Rights) -> str:
        """Return the id by which somebody who has shown the token of `rights` is known from now on."""
        same = [key for key, (known, _) in self._logins.items() if known.digest == rights.digest]
        if len(same) >= LOGINS_PER_TOKEN_MAX:
            del self._logins[same[0]]
        elif len(self._logins) >= LOGINS_MAX:
            self._logins.popitem(last=False)
        id_ = secrets.token_urlsafe(ID_BYTES)
        self._logins[digest_of(id_)] = Rights(rights.name, rights.rules, rights.digest), self._now() + IDLE_S
        return id_

    def rights_of(self, id_: str) -> Rights | None:
        """Return the rights of a login, which are no other's, or None where it is unknown or has ended."""
        key = digest_of(id_)
        rights, until = self._logins.get(key, (None, 0.0))
        if rights is None:
            return None
        now = self._now()
        if now >= until:
            del self._logins[key]
            return None
        self._logins[key] = rights, now + IDLE_S
        self._logins.move_to_end(key)
        return rights

    def end(self, id_: str) -> Rights | None:
        """End a login, and return the rights that nobody has any more by it."""
        return self._logins.pop(digest_of(id_), (None, 0.0))[0]

    def renew(self, access: Access) -> dict[Rights, Rights]:
        """Let each login have the rights that its token has now, and return them by those that it had.

        Those whose token is gone end.
        """
        renewed: dict[Rights, Rights] = {}
        before, self._logins = self._logins, OrderedDict()
        for key, (rights, until) in before.items():
            now = access.renewed(rights)
            if now is not None and now.digest:
                renewed[rights] = Rights(now.name, now.rules, now.digest)
                self._logins[key] = renewed[rights], until
        return renewed

"""Live: who watches, and what they are told once a second.

    watch     a session gets a Snapshot, and from the next tick on what has changed since then
    tick      one table for all; a Push for each viewer, as far as its token may see
    missed    a viewer that reads too slowly is left out, and gets a new Snapshot when it has caught up

A tick takes place while somebody watches, once in TICK_S, and less often where it takes long: ticks cost a twentieth of
the time at most. Pure: time and timers come from outside.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson

from zbusrpc.broker.access.rights import Access, Operation, Rights, may_see
from zbusrpc.broker.core.asking import Asker
from zbusrpc.broker.monitor.rows import EMPTY, Table
from zbusrpc.broker.mq.told import topics_as_told
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.transport.text import JSON_HEADER, encode_text

TICK_S: Final = 1.0
SHARE_MAX: Final = 0.05
"""Of its time a broker spends at most so much on ticks."""
PUSH_HEAD: Final = f"cmd: live\r\n{JSON_HEADER}"

Later = Callable[[float, Callable[[], None]], object]


class Live:
    """The viewers of one broker."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        later: Later,
        measure: Callable[[float], Table],
        head: Callable[[Rights | None], dict[str, Any]],
        rest: Callable[[], None],
    ) -> None:
        """Take what makes what viewers are told.

        Args:
            measure: Makes the table of a tick, by its time.
            head: Makes what stands in Snapshots and Pushes besides rows of the table.
            rest: Is told when nobody watches any more.
        """
        self._now, self._later, self._measure, self._head, self._rest = now, later, measure, head, rest
        self._viewers: dict[Asker, Rights | None] = {}
        self._behind: set[Asker] = set()
        self._table = EMPTY
        self._is_ticking = False

    def watch(self, asker: Asker) -> bytes:
        """Tell a session of every change from now on, and return the Snapshot that these changes are of."""
        if not self._is_ticking:
            self._is_ticking = True
            self._table = self._measure(self._now())
            self._later(TICK_S, self._tick)
        self._viewers[asker] = asker.session.rights
        return self._snapshot(asker.session.rights)

    def leave(self, asker: Asker) -> None:
        """Tell a session of nothing any more."""
        self._viewers.pop(asker, None)

    def renew(self, access: Access) -> None:
        """Let viewers see what their tokens may see now, and those whose token is gone or may not look nothing."""
        renewed = {asker: access.renewed(rights) for asker, rights in self._viewers.items()}
        self._viewers = {
            asker: rights for asker, rights in renewed.items() if rights is not None and rights.allows(Operation.QUERY)
        }
        self._behind |= self._viewers.keys()

    def _tick(self) -> None:
        self._viewers = {asker: rights for asker, rights in self._viewers.items() if not asker.session.is_gone}
        self._behind &= self._viewers.keys()
        if not self._viewers:
            self._is_ticking, self._table = False, EMPTY
            self._rest()
            return
        began = self._now()
        before, self._table = self._table, self._measure(began)
        tell_one(self._tell, _changed(before, self._table), _gone(before, self._table))
        self._later(max(TICK_S, (self._now() - began) / SHARE_MAX), self._tick)

    def _tell(self, changed: Table, gone: dict[str, list[Any]]) -> None:
        pushes: dict[Rights | None, bytes] = {}
        snapshots: dict[Rights | None, bytes] = {}
        for asker, rights in self._viewers.items():
            if asker.session.is_congested:
                self._behind.add(asker)
            elif asker in self._behind:
                self._behind.discard(asker)
                if rights not in snapshots:
                    snapshots[rights] = self._snapshot(rights)
                asker.push(encode_text(HTTPStatus.OK, PUSH_HEAD, snapshots[rights]))
            else:
                if rights not in pushes:
                    body = {
                        **self._head(rights),
                        "changed": shown(changed, rights, self._table),
                        "gone": _visible(gone, rights),
                    }
                    pushes[rights] = encode_text(HTTPStatus.OK, PUSH_HEAD, orjson.dumps(body))
                asker.push(pushes[rights])

    def _snapshot(self, rights: Rights | None) -> bytes:
        return snapshot(self._head(rights), self._table, rights)


def snapshot(head: dict[str, Any], table: Table, rights: Rights | None) -> bytes:
    """Return a Snapshot."""
    return orjson.dumps({**head, **shown(table, rights, table)})


def shown(table: Table, rights: Rights | None, whole: Table) -> dict[str, list[Any]]:
    """Return the rows that `rights` may see of a table, which is a part of the `whole` one."""
    return {
        "topics": topics_as_told(table.topics, whole.groups, rights),
        "groups": [row for (topic, group), row in table.groups.items() if may_see(rights, topic, group)],
        "services": [row for name, row in table.services.items() if may_see(rights, name)],
    }


def _changed(before: Table, after: Table) -> Table:
    return Table(
        _differing(before.topics, after.topics),
        _differing(before.groups, after.groups),
        _differing(before.services, after.services),
    )


def _differing(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: row for key, row in after.items() if before.get(key) != row}


def _gone(before: Table, after: Table) -> dict[str, list[Any]]:
    return {name: [key for key in getattr(before, name) if key not in getattr(after, name)] for name in Table._fields}


def _visible(gone: dict[str, list[Any]], rights: Rights | None) -> dict[str, list[Any]]:
    return {
        "topics": [name for name in gone["topics"] if may_see(rights, name)],
        "groups": [key for key in gone["groups"] if may_see(rights, *key)],
        "services": [name for name in gone["services"] if may_see(rights, name)],
    }

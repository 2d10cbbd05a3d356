"""Start-up and shut-down: a service that is an async context manager, made by a factory."""

import asyncio
import sqlite3
from typing import Self

from zbusrpc import service
from zbusrpc.testing import running


@service
class Notes:
    """Keeps notes in a database that is open while the service runs."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        print("opened", self._path)
        self._database = sqlite3.connect(self._path)
        self._database.execute("create table notes (text)")
        return self

    async def __aexit__(self, *error: object) -> None:
        self._database.close()
        print("closed", self._path)

    async def add(self, text: str) -> int:
        """Add a note and return how many there are."""
        self._database.execute("insert into notes values (?)", [text])
        return int(self._database.execute("select count(*) from notes").fetchone()[0])


def make_notes() -> Notes:
    """Make the service with its settings; on the command line: zbusrpc serve 07_startup:make_notes"""
    return Notes(":memory:")


async def main() -> None:
    """Serve what the factory makes."""
    async with running(make_notes) as notes:
        await notes.add("buy tea")
        print("notes:", await notes.add("drink tea"))


if __name__ == "__main__":
    asyncio.run(main())

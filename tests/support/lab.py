"""The services that end-to-end tests call. Handlers note what happens to them in a file that the tests read."""

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from zbusrpc import Code, RpcError, connect, context, options, rpc, service


class Color(StrEnum):
    """Paint."""

    RED = "red"
    BLUE = "blue"


class Parcel(BaseModel):
    """A model with many types in it."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    id: UUID
    weight: Decimal
    sent: datetime
    color: Color
    seal: bytes
    notes: list[str] | None = None


@dataclass(eq=False)
class OutOfPaint(RpcError):
    """A declared error with typed fields."""

    code = Code.FAILED_PRECONDITION
    message = "{missing} litres of {color} are missing"
    color: Color
    missing: Decimal
    since: datetime


def mark(name: str, event: str) -> None:
    """Note that something happened, in one write."""
    with Path(os.environ["LAB_MARKS"]).open("a") as marks:
        marks.write(f"{name} {event} {os.getpid()}\n")


def has_mark(name: str, event: str) -> bool:
    """Say whether something happened in any process."""
    marks = Path(os.environ["LAB_MARKS"])
    return marks.exists() and f"{name} {event} " in marks.read_text()


@service(version="7")
class Lab:
    """Whatever tests need to be done."""

    async def add(self, a: int, b: int = 10) -> int:
        """Return the sum."""
        return a + b

    def subtract(self, a: int, b: int) -> int:
        """Return the difference, out of a thread."""
        return a - b

    async def echo(self, data: bytes) -> bytes:
        """Return what came."""
        return data

    async def fill(self, size: int) -> str:
        """Return so many letters."""
        return "x" * size

    async def length(self, text: str) -> int:
        """Return how long the text is."""
        return len(text)

    async def repaint(self, parcel: Parcel, color: Color = Color.BLUE) -> Parcel:
        """Return the parcel in another color."""
        return parcel.model_copy(update={"color": color})

    async def run_dry(self, color: Color) -> None:
        """Raise a declared error."""
        raise OutOfPaint(color=color, missing=Decimal("2.50"), since=datetime(2024, 5, 6, 7, 8, 9))

    async def refuse(self, code: str) -> None:
        """Raise a plain error of some code."""
        raise RpcError(code, "as was asked", {"why": "a test"})

    async def explode(self, secret: str) -> None:
        """Fail in a way that nobody foresaw."""
        raise ZeroDivisionError(f"the secret is {secret}")

    async def lie(self) -> int:
        """Return something that is not what it says."""
        return cast("int", "not a number")

    async def pid(self) -> int:
        """Return the process that runs this."""
        return os.getpid()

    async def metadata(self) -> dict[str, str]:
        """Return the caller's metadata."""
        return context().metadata

    async def call_id(self) -> str:
        """Return the name of the call."""
        return context().call_id

    async def time_left(self) -> float:
        """Return the seconds left."""
        return context().time_left or 0.0

    async def work(self, name: str, seconds: float) -> int:
        """Take a while, and return the process that ran this."""
        return await self._work(name, seconds)

    @rpc(idempotent=True)
    async def work_again(self, name: str, seconds: float) -> int:
        """Take a while; may be run again."""
        return await self._work(name, seconds)

    @rpc(idempotent=True)
    async def work_until(self, name: str, attempt: int) -> int:
        """Hang until the call is given to the `attempt`-th instance; return its number."""
        mark(name, "started")
        if context().attempt < attempt:
            await asyncio.sleep(60)
        return context().attempt

    @rpc(idempotent=True)
    async def work_elsewhere(self, name: str) -> int:
        """Hang in the first process that is given this, and return the second."""
        is_first = not has_mark(name, "started")
        mark(name, "started")
        if is_first:
            await asyncio.sleep(60)
        return os.getpid()

    def block(self, name: str, seconds: float) -> None:
        """Block a thread."""
        mark(name, "started")
        time.sleep(seconds)
        mark(name, "finished")

    async def hog(self, name: str, seconds: float) -> int:
        """Do in a coroutine what blocks, and return the process that ran this."""
        return self._hog(name, seconds)

    @rpc(idempotent=True)
    async def hog_elsewhere(self, name: str, seconds: float) -> int:
        """Block in the first process that is given this, and return the second."""
        if has_mark(name, "started"):
            return os.getpid()
        return self._hog(name, seconds)

    def _hog(self, name: str, seconds: float) -> int:
        mark(name, "started")
        time.sleep(seconds)
        mark(name, "finished")
        return os.getpid()

    async def relay(self, name: str, seconds: float, timeout: float) -> int:
        """Call `work` at the same broker, with more time than is left."""
        proxy = options(connect(Lab, broker=os.environ["LAB_BROKER"]), timeout=timeout)
        return await proxy.work(name, seconds)

    async def relayed_time(self, timeout: float) -> float:
        """Return the time that a nested call has left."""
        proxy = options(connect(Lab, broker=os.environ["LAB_BROKER"]), timeout=timeout)
        return await proxy.time_left()

    def relayed_time_from_thread(self, timeout: float) -> float:
        """Return the time that a nested, blocking call has left."""
        from zbusrpc import blocking

        proxy = options(connect(Lab, broker=os.environ["LAB_BROKER"]), timeout=timeout)
        return blocking(proxy.time_left)()

    async def any_value(self, value: Any) -> Any:
        """Return any JSON value."""
        return value

    async def _work(self, name: str, seconds: float) -> int:
        mark(name, "started")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            mark(name, "cancelled")
            raise
        mark(name, "finished")
        return os.getpid()


class _Greenhouse:
    """Entered before it serves, left after its last call."""

    async def __aenter__(self) -> "_Greenhouse":
        mark("greenhouse", "entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        mark("greenhouse", "left")


@service
class Greenhouse(_Greenhouse):
    """A service that is a context manager."""

    async def grow(self, seconds: float) -> str:
        """Take a while."""
        mark("greenhouse", "started")
        await asyncio.sleep(seconds)
        mark("greenhouse", "finished")
        return "grown"


def build_greenhouse() -> Greenhouse:
    """Make a greenhouse: a factory."""
    return Greenhouse()


async def refusal_of(lab: Lab) -> RpcError:
    """Call until a call is refused, and return the error."""
    while True:
        try:
            await lab.add(1, 2)
        except RpcError as error:
            return error

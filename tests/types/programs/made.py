"""Methods of every make, and calls of every form: what checkers accept of the class is what the proxy takes."""

import functools
from collections.abc import Awaitable, Callable
from typing import Generic, ParamSpec, Required, TypedDict, TypeVar, Unpack, assert_type

from zbusrpc import Code, RpcError, aio, blocking, connect, rpc, service

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Gone(RpcError):
    """A declared error without fields."""

    code = Code.NOT_FOUND


class Options(TypedDict, total=False):
    """What `list` may be told besides."""

    size: Required[int]
    order: str


def watched(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate without being async."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


class Repo(Generic[T]):
    """A generic base."""

    async def first(self, items: list[T]) -> T:
        """Return the first."""
        if not items:
            raise Gone("there is none")
        return items[0]


@service
class Texts(Repo[str]):
    """A service of methods of every make."""

    maximum = 100

    @staticmethod
    def trim(text: str) -> str:
        """Return the text without blanks."""
        return text.strip()

    @rpc(idempotent=True)
    @classmethod
    async def join(cls, *texts: str, between: str = "") -> str:
        """Return one text."""
        return between.join(texts)

    @watched
    async def length(self, text: str, /) -> int:
        """Return the length."""
        return len(text)

    def later(self, text: str) -> Awaitable[int]:
        """Return what can be awaited."""
        return self.length(text)

    async def list(self, prefix: str, /, **options: Unpack[Options]) -> dict[str, int]:
        """Return what there is."""
        return {prefix: options["size"]}


async def calls(texts: Texts) -> None:
    """All of them keep their types."""
    assert_type(await texts.first(["a"]), str)
    assert_type(texts.trim(" a "), str)
    assert_type(await texts.join("a", "b", between="-"), str)
    assert_type(await texts.length("a"), int)
    assert_type(await texts.later("a"), int)
    assert_type(await texts.list("a", size=1, order="up"), dict[str, int])
    assert_type(texts.maximum, int)
    assert_type(await aio(texts.trim)(" a "), str)
    assert_type(blocking(texts.join)("a", between="-"), str)
    try:
        await texts.first([])
    except Gone as error:
        assert_type(error.code, Code)


assert_type(connect(Texts), Texts)

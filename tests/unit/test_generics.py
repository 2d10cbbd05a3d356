"""Generic base classes: the types of a service's methods are those that its bases were given."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Generic, Protocol

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypeVar

from tests.support.inprocess import http_call, running_broker, serving
from zbusrpc import Code, DefinitionError, RpcError, connect, service
from zbusrpc.service.definition import define
from zbusrpc.testing import running

T = TypeVar("T")
K = TypeVar("K")
B = TypeVar("B", bound=BaseModel)
D = TypeVar("D", default=date)
Page_T = TypeVar("Page_T")


class Item(BaseModel):
    day: date


class Page(BaseModel, Generic[Page_T]):
    items: list[Page_T]


class Own(BaseModel, Generic[T]):
    """A model with the same variable as the class that uses it."""

    items: list[T]


@dataclass
class Pair(Generic[T]):
    left: T
    right: T


class Repo(Generic[K, T]):
    async def get(self, key: K) -> T:
        return self._known(key)

    async def put(self, key: K, value: "T | None" = None) -> "T | None":
        return value

    async def page(self, page: Page[T], own: list[Own[T]]) -> tuple[Page[T], list[Own[T]]]:
        return page, own

    async def pairs(self, *pairs: Annotated[dict[K, Pair[T]], Field(max_length=2)]) -> list[dict[K, Pair[T]]]:
        return list(pairs)

    def _known(self, key: K) -> Any:
        raise NotImplementedError


class Dated(Protocol[D]):
    async def day(self, day: D) -> D: ...


class Named:
    async def name(self) -> str:
        return type(self).__name__


class Bound(Generic[B]):
    async def same(self, model: B) -> B:
        return model


class ById(Repo[int, T], Generic[T]):
    """Half of the variables are given."""


class Swapped(Repo[T, K], Generic[K, T]):
    """The variables of the base in another order."""


@service
class Items(Named, ById[Item], Dated, Bound[Item]):
    def _known(self, key: int) -> Any:
        return Item(day=date(2026, 1, key))

    async def day(self, day: date) -> date:
        return day


@service
class Swap(Swapped[Item, str]):
    pass


@service
class Days(Dated[date]):
    async def day(self, day: date) -> date:
        return day


DAY = date(2026, 1, 2)


def test_variables_are_what_the_bases_were_given() -> None:
    """Over several levels, through mixins, protocols, defaults and in any order."""
    items, swap = define(Items).methods, define(Swap).methods

    assert items["get"].signature.parameters["key"].annotation is int
    assert items["get"].signature.return_annotation is Item
    assert items["put"].signature.return_annotation == Item | None
    assert items["page"].signature.return_annotation == tuple[Page[Item], list[Own[Item]]]
    assert items["same"].signature.return_annotation is Item
    assert items["pairs"].signature.return_annotation == list[dict[int, Pair[Item]]]
    assert (swap["get"].signature.parameters["key"].annotation, swap["get"].signature.return_annotation) == (str, Item)


def test_default_of_a_variable_is_its_type() -> None:
    """A variable that a base is not given has its default."""

    @service
    class Plain(Dated):  # type: ignore[type-arg]
        pass

    assert define(Plain).methods["day"].signature.return_annotation is date


@pytest.mark.anyio
async def test_values_are_of_their_types_on_both_sides() -> None:
    """What goes in comes out equal, nested models and generic ones too."""
    item = Item(day=DAY)
    async with running(Items) as items:
        assert await items.get(3) == Item(day=date(2026, 1, 3))
        assert await items.put(1, item) == item
        page, own = Page[Item](items=[item]), [Own[Item](items=[item])]
        assert await items.page(page, own) == (page, own)
        assert await items.pairs({1: Pair(item, item)}) == [{1: Pair(item, item)}]
        assert await items.same(item) == item
        assert await items.day(DAY) == DAY
        assert await items.name() == "Items"


@pytest.mark.anyio
async def test_wrong_values_are_refused() -> None:
    """The methods of a generic base check what they take, whoever calls."""
    async with running_broker() as server, serving(server, Items):
        items = connect("Items", broker=server.broker.name)
        for method, args in [("get", ("x",)), ("put", (1, {"day": "x"})), ("same", ({},)), ("pairs", ({1: {}},))]:
            with pytest.raises(RpcError) as caught:
                await getattr(items, method)(*args)
            assert caught.value.code is Code.INVALID_ARGUMENT
        assert (await http_call(server, "GET /rpc/Items/get/x"))[0] == 400


class Loose(Generic[T]):
    async def first(self, things: list[T]) -> T:
        return things[0]


def open_class() -> type:
    class Open(Loose):  # type: ignore[type-arg]
        pass

    return Open


def generic_class() -> type:
    class Open(Generic[T]):
        async def first(self, thing: T) -> None: ...

    return Open


def generic_method() -> type:
    class Open:
        async def first(self, thing: B) -> B:
            return thing

    return Open


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (open_class, r"give it to the base: class Open\(Loose\[\.\.\.\]\)"),
        (generic_class, r"give it to the base: class Mine\(Open\[\.\.\.\]\)"),
        (generic_method, "name the type, or a union of types"),
    ],
)
def test_variable_that_nothing_is_known_of_is_refused(make: Any, fix: str) -> None:
    """Callers and service would not agree on its values."""
    with pytest.raises(DefinitionError, match=rf"Open\.first: nothing says what ~\w of things? is; {fix}"):
        define(service(make()))

"""Types of overriding methods: what certainly does not fit is refused, what a type checker takes never is."""

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, Protocol, TypeVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from zbusrpc.errors import DefinitionError
from zbusrpc.service.assignable import is_assignable
from zbusrpc.service.definition import define, service

T = TypeVar("T")
UserId = NewType("UserId", int)


class Animal(BaseModel):
    name: str


class Cat(Animal):
    lives: int = 9


class Box(BaseModel, Generic[T]):
    value: T


class Row(TypedDict):
    number: int


class Named(Protocol):
    name: str


class Rank(enum.IntEnum):
    FIRST = 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, int),
        (int, float),
        (bool, float),
        (Rank, complex),
        (bytearray, bytes),
        (int, object),
        (Any, int),
        (int, Any),
        (None, None),
        (None, int | None),
        (int, int | None),
        (int | None, int | str | None),
        (Cat, Animal),
        (datetime, date),
        (Literal["a"], str),
        (Literal["a"], Literal["a", "b"]),
        (Rank, int),
        (Literal[Rank.FIRST], Rank),
        (Annotated[int, Field(ge=0)], int),
        (UserId, int),
        (int, UserId),
        (list[int], Sequence[int]),
        (list[Cat], Sequence[Animal]),
        (list[Cat], list[Animal]),
        (dict[str, int], Mapping[str, float]),
        (list[int], list),
        (list, list[int]),
        (Box[Cat], Box[Animal]),
        (Box[Cat], Box[Any]),
        (tuple[int, str], tuple[int, ...]),
        (Row, Mapping[str, object]),
        (dict[str, int], Row),
        (Animal, Named),
        (Callable[[int], int], Callable[[int], int]),
        (int, T),
        (str, "Later"),
    ],
)
def test_type_that_may_stand_for_another_does(given: Any, wanted: Any) -> None:
    """Where it cannot be told, too."""
    assert is_assignable(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, str),
        (float, int),
        (str, bytes),
        (bytes, str),
        (None, int),
        (int | None, int),
        (int | str, int | bytes),
        (Animal, Cat),
        (date, datetime),
        (Decimal, float),
        (Literal["a", "b"], Literal["a"]),
        (Literal["a"], int),
        (list[int], list[str]),
        (list[int], set[int]),
        (Sequence[int], list[int]),
        (dict[str, int], dict[str, str]),
        (Box[int], Box[str]),
        (tuple[int, int], tuple[int, str]),
        (list[Animal | None], list[int]),
    ],
)
def test_type_that_certainly_does_not_fit_is_told(given: Any, wanted: Any) -> None:
    """Classes, unions, literals and what generic types hold are compared."""
    assert not is_assignable(given, wanted)


class Shop(Generic[T]):
    """A contract."""

    async def buy(self, item: T, count: int, /, *, price: Decimal = Decimal(1)) -> Animal | None: ...

    def all(self) -> Sequence[Animal]: ...


class Fits(Shop[str]):
    """Takes more and gives less."""

    async def buy(self, what: str | None, number: float, /, *, price: Decimal | int = 1) -> Cat:
        return Cat(name="Tom")

    def all(self) -> list[Cat]:
        return []


class OtherItem(Shop[str]):
    async def buy(self, item: int, count: int, /, *, price: Decimal = Decimal(1)) -> Animal | None: ...  # type: ignore[override]


class OtherPrice(Shop[str]):
    async def buy(self, item: str, count: int, /, *, price: str = "") -> Animal | None: ...  # type: ignore[override]


class OtherResult(Shop[str]):
    async def buy(self, item: str, count: int, /, *, price: Decimal = Decimal(1)) -> str: ...  # type: ignore[override, empty-body]


class OtherList(Fits):
    def all(self) -> list[int]: ...  # type: ignore[override, empty-body]


def test_override_that_takes_more_and_gives_less_is_a_service() -> None:
    """As type checkers have it."""
    assert set(define(service(Fits)).methods) == {"buy", "all"}


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (
            OtherItem,
            "OtherItem.buy: parameter item is int, and Shop.buy, which it overrides, takes str; take",
        ),
        (OtherPrice, "OtherPrice.buy: parameter price is str, and Shop.buy, which it overrides, takes Decimal; take"),
        (OtherResult, "OtherResult.buy returns str, and Shop.buy, which it overrides, Animal | None; return that"),
        (OtherList, "OtherList.all returns list[int], and Fits.all, which it overrides, list[Cat]; return that"),
    ],
)
def test_override_of_other_types_is_refused(cls: type, reason: str) -> None:
    """Where the class is declared, with both methods and both types: callers go by the contract."""
    with pytest.raises(DefinitionError) as refused:
        service(cls)

    assert str(refused.value).startswith(reason)
    assert "\n" not in str(refused.value)

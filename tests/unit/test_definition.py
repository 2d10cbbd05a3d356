"""Definitions: what `@service` and `@rpc` read out of a class, and each mistake that they name."""

import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from zbusrpc.errors import Code, DefinitionError, RpcError
from zbusrpc.service.definition import Color, define, is_service, rpc, service


class Broke(RpcError):
    code = Code.FAILED_PRECONDITION

    def __init__(self, missing: int) -> None:
        super().__init__(Code.FAILED_PRECONDITION, "broke")
        self.missing = missing


class Base:
    async def inherited(self) -> int:
        return 1

    def _private(self):  # type: ignore[no-untyped-def]
        return 2


@service(name="Shop", version="2", concurrency=3)
class ShopService(Base):
    """Sells.

    And more."""

    async def buy(self, what: str, *, count: int = 1) -> "Receipt | None":
        """Buy something."""

    @rpc(name="look", timeout=2.0, idempotent=True, deprecated="use buy")
    def view(self) -> list[str]:
        return []

    @staticmethod
    def _helper(x):  # type: ignore[no-untyped-def]
        return x

    @property
    def size(self):  # type: ignore[no-untyped-def]
        return 1

    constant = 3


@dataclass
class Receipt:
    total: int


def test_definition_holds_what_the_class_says() -> None:
    """Public methods are the interface, bases first; the rest of the class is its own affair."""
    definition = define(ShopService)

    assert (definition.name, definition.version, definition.concurrency) == ("Shop", "2", 3)
    assert definition.doc == "Sells.\n\nAnd more."
    assert list(definition.methods) == ["inherited", "buy", "look"]
    assert definition.errors["Broke"] is Broke


def test_method_holds_color_options_and_real_types() -> None:
    """Annotations are types, not strings, and `self` is gone."""
    methods = define(ShopService).methods

    assert methods["buy"].color is Color.ASYNC
    assert list(methods["buy"].signature.parameters) == ["what", "count"]
    assert methods["buy"].signature.return_annotation == Receipt | None
    look = methods["look"]
    assert (look.attribute, look.color) == ("view", Color.SYNC)
    assert (look.options.timeout, look.options.idempotent, look.options.deprecated) == (2.0, True, "use buy")


def test_decorated_class_is_still_itself() -> None:
    """Decorating adds nothing that a test of the class would notice."""
    assert ShopService().view() == []
    assert is_service(ShopService)


def test_subclass_is_a_service_only_when_it_says_so() -> None:
    """A subclass may be a test double; it does not become a service by accident."""

    class Double(ShopService):
        pass

    assert not is_service(Double)
    with pytest.raises(DefinitionError, match="Double is no service; put @service above"):
        define(Double)


def a_class(**attributes: Any) -> type:
    return types.new_class("Wrong", (), {}, lambda namespace: namespace.update(attributes))


def untyped_parameter(self, a) -> int: ...  # type: ignore[no-untyped-def]
def untyped_result(self, a: int): ...  # type: ignore[no-untyped-def]
def no_self() -> int: ...  # type: ignore[empty-body]
def untyped_args(self, *args) -> int: ...  # type: ignore[no-untyped-def]
def generator(self) -> Iterator[int]:  # type: ignore[no-untyped-def]
    yield 1


async def async_generator(self) -> AsyncIterator[int]:  # type: ignore[no-untyped-def]
    yield 1


def unknown_type(self, a: "Nowhere") -> int: ...  # type: ignore[no-untyped-def,name-defined]  # noqa: F821
def fine(self) -> int: ...  # type: ignore[no-untyped-def,empty-body]
def no_schema(self, a: Callable[..., Base] | Base) -> int: ...  # type: ignore[no-untyped-def,empty-body]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped_parameter, r"Wrong\.method: parameter a has no type; annotate it, or .* _method"),
        (untyped_args, r"Wrong\.method: parameter args has no type"),
        (untyped_result, r"Wrong\.method has no return type; annotate it, -> None"),
        (no_self, r"Wrong\.method takes no self"),
        (generator, r"Wrong\.method is a generator.*return a list"),
        (async_generator, r"Wrong\.method is a generator.*return a list"),
    ],
)
def test_method_that_cannot_be_called_is_named_with_the_fix(function: Any, words: str) -> None:
    """A class that cannot be a service is refused where it is decorated."""
    with pytest.raises(DefinitionError, match=words):
        service(a_class(method=function))


@pytest.mark.parametrize("name", ["a.b", "a/b", "a b", "a?b", "a#b", "a%b", "x" * 256, "\u20ac" * 86])
def test_name_that_does_not_fit_an_address_is_refused(name: str) -> None:
    """A service's name stands in topics and in URLs."""
    with pytest.raises(DefinitionError, match="service name"):
        service(name=name)(a_class(method=fine))


@pytest.mark.parametrize("concurrency", [0, 4097, -1])
def test_concurrency_has_bounds(concurrency: int) -> None:
    """A window of none or of too many is refused."""
    with pytest.raises(DefinitionError, match=r"in 1\.\.4096"):
        service(concurrency=concurrency)(a_class(method=fine))


def test_only_classes_are_services() -> None:
    """A function cannot be a service."""
    with pytest.raises(DefinitionError, match="decorates a class"):
        service(fine)  # type: ignore[type-var]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_time_limit_of_a_method_is_a_positive_number(timeout: float) -> None:
    """No time at all, and no limit that is none, are refused."""
    with pytest.raises(DefinitionError, match="time limit"):
        rpc(timeout=timeout)


def test_service_without_methods_is_refused() -> None:
    """A service offers at least one method."""
    with pytest.raises(DefinitionError, match="no public method"):
        define(service(a_class(_private=fine)))


def test_two_methods_of_one_name_are_refused() -> None:
    """On the wire each name is one method."""
    with pytest.raises(DefinitionError, match="two methods are called same"):
        define(service(a_class(same=fine, other=rpc(name="same")(lambda_like()))))


def lambda_like() -> Callable[..., int]:
    def other(self: object) -> int:
        return 1

    return other


def test_annotation_that_cannot_be_read_is_named() -> None:
    """A name that does not exist in the module is named with its method."""
    with pytest.raises(DefinitionError, match=r"Wrong\.method: unreadable annotation: .*Nowhere"):
        define(service(a_class(method=unknown_type)))


def test_type_without_a_schema_is_named() -> None:
    """A type that pydantic cannot read from JSON is refused when the class is declared."""
    with pytest.raises(DefinitionError, match=r"Wrong\.method, parameter a: .* has no form in JSON"):
        service(a_class(method=no_schema))


def test_type_of_a_name_that_comes_later_is_refused_when_it_can_be_told() -> None:
    """A class may name what stands below it; then the first proxy or worker finds what is wrong."""

    def method(self: object, a: "LaterUnion") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Take what is not defined yet."""

    cls = service(a_class(method=method))
    globals()["LaterUnion"] = str | date

    with pytest.raises(DefinitionError, match=r"Wrong\.method, parameter a: JSON does not tell str from date"):
        define(cls)

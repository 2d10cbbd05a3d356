"""Declared errors of every shape: raised, copied, pickled, sent and caught as what they were."""

import copy
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, InitVar, dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Generic, TypeVar

import pytest

from tests.support.inprocess import http_call, running_broker, serving
from zbusrpc import Code, DefinitionError, RpcError, connect, envelope, rpc, service
from zbusrpc.errors import FrameTooLargeError, ZbusError
from zbusrpc.service.declared import errors_of
from zbusrpc.service.error_codec import error_body, revive

T = TypeVar("T")


class Gone(RpcError):
    code = Code.NOT_FOUND


class LongGone(Gone):
    message = "gone for long"


class Locked(RpcError):
    code = Code.ABORTED

    def __init__(self, owner: str, *, since: date) -> None:
        super().__init__(f"locked by {owner}")
        self.owner, self.since = owner, since


class LockedByMany(Locked):
    def __init__(self, *owners: str, **days: date) -> None:
        super().__init__(owners[0], since=days["first"])
        self.owners, self.days = owners, days


class Untold(RpcError):
    """Keeps nothing but its text, which it makes of what it was given."""

    def __init__(self, message: str, /) -> None:
        super().__init__(Code.ABORTED, f"it failed: {message}")


class Hinted(RpcError):
    """Has details that are no field."""

    def __init__(self, order: int) -> None:
        super().__init__(Code.NOT_FOUND, "gone", {"hint": "look elsewhere"})
        self.order = order


class Mixed(KeyError, RpcError):
    code = Code.NOT_FOUND


@dataclass(eq=False)
class Short(RpcError):
    code = Code.FAILED_PRECONDITION
    message = "{cents:,} cents are missing since {since.year}, {owners[0]}"
    cents: Decimal
    since: date = date(2026, 1, 2)
    owners: list[str] = field(default_factory=lambda: ["ada"])


@dataclass(eq=False, kw_only=True)
class Shorter(Short):
    percent: float


@dataclass(eq=False, slots=True)
class Slotted(RpcError):
    code = Code.ABORTED
    message = "{day} is taken"
    day: date


@dataclass(frozen=True)
class Frozen(RpcError):
    message = "{day} is taken"
    day: date


@dataclass(eq=False)
class Named(RpcError):
    """Its fields have the names of an error's own."""

    code: Code
    message: str
    details: list[date]


@dataclass(eq=False, slots=True)
class NamedOtherwise(RpcError):
    code: int  # type: ignore[assignment]
    message: dict[str, date]  # type: ignore[assignment]
    details: Decimal = Decimal("0.1")


@dataclass(eq=False)
class Own(RpcError):
    """Completes itself, and not its base."""

    message = "{cents} cents"
    cents: int
    factor: InitVar[int]

    def __post_init__(self, factor: int) -> None:
        self.cents *= factor


@dataclass(eq=False)
class Conflict(RpcError, Generic[T]):
    code = Code.ABORTED
    item: T


@dataclass(eq=False)
class DayConflict(Conflict[date]):
    pass


@dataclass(eq=False)
class Misspelt(RpcError):
    message = "{mising} are missing"
    missing: int


DAY = date(2026, 5, 6)
MAKERS: list[Callable[[], RpcError]] = [
    lambda: Gone("order 7"),
    lambda: Gone(Code.ABORTED, "order 7", [1]),
    lambda: Gone("NOT_FOUND"),
    lambda: LongGone(Code.NOT_FOUND),
    lambda: Locked("ann", since=DAY),
    lambda: LockedByMany("ann", "bob", first=DAY),
    lambda: Untold("no disk"),
    lambda: Hinted(7),
    lambda: Mixed("key"),
    lambda: Short(Decimal("1250.5")),
    lambda: Shorter(cents=Decimal(1), owners=["bob"], percent=0.5),
    lambda: Slotted(DAY),
    lambda: Frozen(DAY),
    lambda: Named(Code.DATA_LOSS, "lost", [DAY]),
    lambda: NamedOtherwise(404, {"day": DAY}),
    lambda: Conflict[int](3),
    lambda: DayConflict(DAY),
]
NAMES = [f"{number}-{type(make()).__name__}" for number, make in enumerate(MAKERS)]
EXAMPLES = pytest.mark.parametrize("make", MAKERS, ids=NAMES)


def told(error: RpcError) -> dict[str, Any]:
    """Return all that can be seen of an error; attributes of typing's own are not."""
    attributes, slots = state if isinstance(state := object.__getstate__(error), tuple) else (state, None)
    seen = {**(attributes or {}), **(slots or {})}
    return {name: value for name, value in seen.items() if name != "__orig_class__"} | {
        "class": type(error),
        "text": str(error),
        "args": error.args,
    }


@EXAMPLES
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_error_can_be_copied_and_pickled(make: Callable[[], RpcError], copied: Callable[[Any], Any]) -> None:
    """A copy is the same in all its fields: process pools and queues hand errors on."""
    error = make()

    assert told(copied(error)) == told(error)


@EXAMPLES
def test_error_passes_through_what_handles_errors(make: Callable[[], RpcError]) -> None:
    """Context managers, process pools and notes set attributes of their own, of a frozen dataclass too."""

    @contextmanager
    def block() -> Iterator[None]:
        yield

    with pytest.raises(type(make())) as caught, block():
        raise make()
    error = caught.value
    error.__traceback__ = None
    error.__cause__ = KeyError()
    error.add_note("a note")

    assert (error.__traceback__, error.__notes__) == (None, ["a note"])


def test_fields_of_a_frozen_error_stay_frozen() -> None:
    """What Python notes on an error is not what its class froze."""
    with pytest.raises(FrozenInstanceError, match="day"):
        Frozen(DAY).day = DAY  # type: ignore[misc]


@EXAMPLES
def test_error_comes_back_as_it_was_raised(make: Callable[[], RpcError]) -> None:
    """Class, code, message and fields of an error are those that were raised."""
    error, errors = make(), {type(make()).__name__: type(make())}

    back = revive(envelope.parse_error(error_body(error, errors)), errors)

    expected, seen = told(error), told(back)
    if expected.get("details") is None:  # of fields that are kept in attributes callers see the JSON as well
        seen.pop("details", None), expected.pop("details", None)
    assert seen | {"args": ()} == expected | {"args": ()}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Gone("order 7"), "NOT_FOUND: order 7"),
        (LongGone("NOT_FOUND"), "NOT_FOUND: gone for long"),
        (Locked("ann", since=DAY), "ABORTED: locked by ann"),
        (Short(Decimal(12500)), "FAILED_PRECONDITION: 12,500 cents are missing since 2026, ada"),
        (Frozen(DAY), "UNKNOWN: 2026-05-06 is taken"),
        (Named(Code.DATA_LOSS, "lost", []), "DATA_LOSS: lost"),
        (NamedOtherwise(404, {}), "UNKNOWN: NamedOtherwise"),
        (Own(3, 2), "UNKNOWN: 6 cents"),
        (Misspelt(3), "UNKNOWN: {mising} are missing"),
    ],
)
def test_error_shows_code_and_message_of_its_class(error: RpcError, text: str) -> None:
    """A code, a template and fields of any name make the text; a wrong template loses no error."""
    assert str(error) == text


def test_code_that_is_none_is_refused_beside_a_message() -> None:
    """Where a message stands, the first argument is the code, and a wrong one is named."""
    with pytest.raises(ValueError, match="GONE"):
        Gone("GONE", "order 7")


@pytest.mark.parametrize("error", [FrameTooLargeError(20, 10), ZbusError("x")])
def test_errors_of_the_package_can_be_pickled(error: ZbusError) -> None:
    """Also those whose `__init__` makes their text."""
    back = pickle.loads(pickle.dumps(error))

    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def module_with(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def test_errors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes of one name go by their full names, on both sides."""

    class Other(RpcError):
        code = Code.ABORTED

    Other.__name__, Other.__qualname__, Other.__module__ = "Gone", "Gone", "elsewhere"

    class Shop:
        pass

    errors = errors_of(Shop, [Other])

    assert (errors["elsewhere.Gone"], errors[f"{__name__}.Gone"]) == (Other, Gone)
    for cls in (Gone, Other):
        assert type(revive(envelope.parse_error(error_body(cls("gone"), errors)), errors)) is cls


def test_error_is_at_least_what_its_ancestor_is() -> None:
    """A subclass that the service does not show comes back as the class that it does."""

    class Hidden(Locked):
        pass

    back = revive(envelope.parse_error(error_body(Hidden("ann", since=DAY), {"Locked": Locked})), {"Locked": Locked})

    assert (type(back), str(back)) == (Locked, "ABORTED: locked by ann")
    assert isinstance(back, Locked)
    assert back.since == DAY


def test_template_that_does_not_fit_its_fields_is_named() -> None:
    """An error that a method names is looked at when the service is defined."""

    class Shop:
        pass

    with pytest.raises(DefinitionError, match=r"Misspelt.message .* names \{mising\}, and its fields are missing"):
        errors_of(Shop, [Misspelt])


@service
class Shop:
    """Raises what it is asked for."""

    @rpc(errors=(Locked, Named))
    async def fail(self, number: int) -> None:
        """Raise an error of the table."""
        raise MAKERS[number]()

    def fail_in_thread(self, number: int) -> None:
        """Raise an error of the table in a thread."""
        raise MAKERS[number]()


@pytest.mark.anyio
async def test_callers_of_every_kind_see_the_error() -> None:
    """A typed caller catches the class, one by name and one over HTTP get code, message, class and fields."""
    async with running_broker() as server, serving(server, Shop):
        shop, dynamic = connect(Shop, broker=server.broker.name), connect("Shop", broker=server.broker.name)
        for number, make in enumerate(MAKERS):
            error = make()
            with pytest.raises(type(error)) as caught:
                await shop.fail(number)
            assert type(caught.value) is type(error)
            assert str(caught.value) == str(error)
            with pytest.raises(RpcError) as plain:
                await dynamic.fail_in_thread(number)
            _, _, body = await http_call(server, f"GET /rpc/Shop/fail/{number}")
            answer = envelope.load(body)["error"]
            assert (answer["type"], plain.value.code) == (type(error).__name__, answer["code"])
            assert (plain.value.message, plain.value.details) == (answer["message"], answer.get("details"))


@pytest.mark.parametrize(
    ("make", "message", "details"),
    [
        (lambda: Gone("order 7", {"k": 1}), "order 7", {"k": 1}),
        (lambda: Gone("order 7", [1]), "order 7", [1]),
        (lambda: Gone("order 7", details=7), "order 7", 7),
        (lambda: Gone(message="order 7"), "order 7", None),
        (lambda: Gone(message="order 7", details={"k": 1}), "order 7", {"k": 1}),
        (lambda: Gone(details={"k": 1}), "", {"k": 1}),
        (Gone, "", None),
        (LongGone, "gone for long", None),
        (lambda: Gone(7), "7", None),  # type: ignore[arg-type]
    ],
)
def test_subclass_without_fields_takes_message_and_details_without_a_code(
    make: Callable[[], RpcError], message: str, details: Any
) -> None:
    """Its class has the code; the error is the same at a caller's, and as a copy."""
    error = make()
    errors = {"Gone": Gone, "LongGone": LongGone}
    again = revive(envelope.parse_error(error_body(error, errors)), errors)

    for one in (error, again, copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (type(one), one.code, one.message, one.details) == (type(error), Code.NOT_FOUND, message, details)


def test_message_that_is_no_text_is_shown_as_text() -> None:
    """Whoever raises an error with a number or an exception as its message reads it at the caller's."""
    assert str(RpcError(Code.ABORTED, 5)) == "ABORTED: 5"  # type: ignore[call-overload]
    assert str(RpcError(Code.ABORTED, ValueError("no"))) == "ABORTED: no"  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"RpcError takes a code first, such as Code\.NOT_FOUND"):
        RpcError(message="no")

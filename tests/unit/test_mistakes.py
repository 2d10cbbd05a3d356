"""What a newcomer does wrong: one line that names the thing, and where possible the fix."""

import math
from datetime import timedelta
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict

from zbusrpc import (
    Code,
    ConfigError,
    DefinitionError,
    Producer,
    RpcError,
    UsageError,
    connect,
    deadline,
    options,
    rpc,
    service,
)
from zbusrpc.service.lifespan import check_target, make_instance
from zbusrpc.testing import running

T = TypeVar("T")


@service
class Calc:
    """Arithmetic, with every kind of parameter."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    async def echo(self, data: bytes) -> bytes:
        """Return what came."""
        return data


class Letter(BaseModel):
    """A model that says that its bytes are text."""

    model_config = ConfigDict(ser_json_bytes="utf8", val_json_bytes="utf8")

    seal: bytes


@service
class Post:
    """Takes letters, and gives one that cannot be written."""

    async def take(self, letter: Letter, copies: int = 1) -> None:
        """Take a letter."""

    async def give(self) -> list[Letter]:
        """Return a letter with bytes that are no text."""
        return [Letter(seal=b"\xff")]


@pytest.mark.anyio
async def test_bytes_of_a_model_that_are_no_text_are_named() -> None:
    """The error names the parameter, or the result, and the field, and says how the model takes them."""
    reason = 'seal: these bytes are no UTF-8; let the model have model_config = ConfigDict(ser_json_bytes="base64", '
    bad = Letter(seal=b"\xff")
    async with running(Post) as post:
        dynamic: Any = connect("Post")
        for call, words in [
            (post.take(bad), f"INVALID_ARGUMENT: Post.take: letter.{reason}"),
            (post.take(copies=2, letter=bad), f"INVALID_ARGUMENT: Post.take: letter.{reason}"),
            (dynamic.take([bad]), f"INVALID_ARGUMENT: Post.take: argument 1.0.{reason}"),
            (post.give(), f"INTERNAL: Post.give returned something that is not list: 0.{reason}"),
        ]:
            with pytest.raises(RpcError) as raised:
                await call
            assert str(raised.value).startswith(words)


class Unknown:
    """A type without a form in JSON."""


def test_instance_in_place_of_class_is_named() -> None:
    """connect() of an instance says that the class is wanted."""
    with pytest.raises(DefinitionError, match="Calc is a service, and this is an instance of it; name the class"):
        connect(Calc())  # type: ignore[call-overload]


def test_proxy_in_place_of_class_is_named() -> None:
    """connect() of a proxy says that it is one."""
    with pytest.raises(DefinitionError, match="<proxy of service Calc> stands for an instance already; name the class"):
        connect(connect(Calc))  # type: ignore[call-overload]


def test_generic_type_in_place_of_class_is_named() -> None:
    """A class with its types written behind it is none that could have a service's name."""

    @service
    class Repo(Generic[T]):
        async def get(self) -> T: ...

    with pytest.raises(
        DefinitionError, match=r"Repo\[int\] is no class; put @service above one: class Mine\(.*Repo\[int"
    ):
        connect(Repo[int])


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_name_that_no_broker_takes_is_refused_at_once(name: str) -> None:
    """A name that would cost everybody the connection never reaches it."""
    with pytest.raises(UsageError, match="1 to 255 bytes"):
        connect(name)


def test_metadata_are_strings() -> None:
    """Other values are refused where they are given."""
    with pytest.raises(UsageError, match="names and values are strings"):
        options(connect(Calc), metadata={"user": 1})  # type: ignore[dict-item]


def test_key_is_a_text() -> None:
    """A number as a key is refused where it is given, and not by a call."""
    with pytest.raises(UsageError, match=r"options\(key=42\): a key is a str"):
        options(connect(Calc), key=42)  # type: ignore[arg-type]


WRONG_OPTIONS: list[tuple[str, Any, str]] = [
    ("timeout", "5", "timeout='5'): a time limit is a number of seconds, not a str"),
    ("timeout", True, "timeout=True): a time limit is a number of seconds, not a bool"),
    ("timeout", timedelta(seconds=5), "a number of seconds, not a timedelta"),
    ("timeout", 0, "timeout=0): a time limit is a number greater than 0"),
    ("timeout", math.nan, "timeout=nan): a time limit is a number greater than 0"),
    ("retries", "3", "retries='3'): a whole number, 0 or more, not a str"),
    ("retries", -1, "retries=-1): a whole number, 0 or more"),
    ("retries", 1.5, "retries=1.5): a whole number, 0 or more, not a float"),
    ("metadata", ["user"], "metadata=['user']): a dict of strings, not a list"),
    ("wait_for_ready", "no", "wait_for_ready='no'): True or False, not a str"),
    ("wait_for_ready", 0, "wait_for_ready=0): True or False, not an int"),
    ("caller", 5, "caller=5): a str, not an int"),
    ("caller", 0, "caller=0): a str, not an int"),
    ("caller", "a\nb", "caller='a\\nb'): a text on one line, without control characters"),
    ("metadata", 0, "metadata=0): a dict of strings, not an int"),
    ("metadata", {"": "x"}, "a name is one character or more, without blanks and control characters, not ''"),
    ("metadata", {"a b": "x"}, "a name is one character or more, without blanks and control characters, not 'a b'"),
    ("metadata", {"a\r\nb": "x"}, "without blanks and control characters, not 'a\\r\\nb'"),
    ("metadata", {"a": "\ud800"}, "the value of a has no form in UTF-8"),
]


@pytest.mark.parametrize(("option", "value", "words"), WRONG_OPTIONS)
def test_wrong_option_of_a_proxy_is_named(option: str, value: Any, words: str) -> None:
    """A value of another type is refused where it is given, with what is wanted."""
    with pytest.raises(UsageError) as raised:
        options(connect(Calc), **{option: value})
    assert str(raised.value).startswith("options(")
    assert str(raised.value).endswith(words)


@pytest.mark.parametrize("seconds", ["1", math.nan, timedelta(seconds=1), True])
def test_deadline_is_a_number(seconds: Any) -> None:
    """Anything else is refused before the block."""
    with pytest.raises(UsageError, match=r"^deadline\(.*\): a number of seconds, not "), deadline(seconds):
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    ("decorate", "words"),
    [
        (lambda: rpc(timeout=wrong("5")), "@rpc(timeout='5'): a time limit is a number of seconds, not a str"),
        (lambda: rpc(name=wrong(5)), "@rpc(name=5): a str, not an int"),
        (lambda: rpc(name=""), "@rpc(name=''): a name is one character or more, without blanks and control characters"),
        (lambda: rpc(name="two words"), "@rpc(name='two words'): a name is one character or more, without blanks"),
        (lambda: rpc(name="a\nb"), "@rpc(name='a\\nb'): a name is one character or more"),
        (lambda: service(name="")(Calc), "service name '': 1 to 255 bytes, without / . ? # % and"),
        (lambda: service(name="\ta")(Calc), "service name '\\ta': 1 to 255 bytes, without / . ? # % and"),
        (lambda: service(name=wrong(0))(Calc), "@service(name=0): a str, not an int"),
        (lambda: rpc(idempotent=wrong("yes")), "@rpc(idempotent='yes'): True or False, not a str"),
        (lambda: rpc(deprecated=wrong(True)), "@rpc(deprecated=True): a str, not a bool"),
        (lambda: rpc(errors=wrong(RpcError)), "@rpc(errors=<class 'zbusrpc.errors.RpcError'>): a tuple of subclasses"),
        (lambda: rpc(errors=wrong((ValueError,))), "@rpc(errors=(<class 'ValueError'>,)): a tuple of subclasses"),
        (lambda: rpc(errors=wrong(5)), "@rpc(errors=5): a tuple of subclasses of RpcError, as in (NotThere,)"),
        (lambda: service(concurrency=wrong("4"))(Calc), "@service(concurrency='4'): a whole number in 1..4096, not a"),
        (lambda: service(concurrency=wrong(1.0))(Calc), "@service(concurrency=1.0): a whole number in 1..4096, not a"),
        (lambda: service(concurrency=0)(Calc), "@service(concurrency=0): a whole number in 1..4096"),
        (lambda: service(name=wrong(5))(Calc), "@service(name=5): a str, not an int"),
        (lambda: service(version=wrong(2))(Calc), "@service(version=2): a str, not an int"),
        (lambda: service(durable=wrong("no"))(Calc), "@service(durable='no'): True or False, not a str"),
    ],
)
def test_wrong_option_of_a_decorator_is_named(decorate: Any, words: str) -> None:
    """A value of another type is refused where the class is declared, with what is wanted."""
    with pytest.raises(DefinitionError) as raised:
        decorate()
    assert str(raised.value).startswith(words)


def wrong(value: Any) -> Any:
    """Return a value that the type checker must not see."""
    return value


def test_brokers_are_one_text() -> None:
    """A list of them says how they are written."""
    brokers: Any = ["mq1:15555", "mq2:15555"]
    for make in (lambda: connect(Calc, broker=brokers), lambda: Producer("orders", broker=brokers)):
        with pytest.raises(ConfigError, match=r"named by one text, host:port;host2:port, and not by .'mq1:15555'"):
            make()


def test_options_of_decorators_go_by_name() -> None:
    """@rpc("x") and @service("x") say so."""
    wrong: Any = "x"
    with pytest.raises(DefinitionError, match="@rpc decorates a method, not 'x'; options go by name"):
        rpc(wrong)(lambda: None)
    with pytest.raises(DefinitionError, match="@service decorates a class, not 'x'; options go by name"):
        service(wrong)


def test_constructor_with_parameters_names_the_way_out() -> None:
    """A class that needs arguments is to be served as an instance or by a factory."""

    @service
    class Store:
        def __init__(self, path: str) -> None:
            self.path = path

        async def get(self) -> str:
            return self.path

    with pytest.raises(DefinitionError, match="missing a required argument: 'path'"):
        check_target(Store)


@pytest.mark.anyio
async def test_error_inside_constructor_is_not_covered_up() -> None:
    """A TypeError that the constructor itself raises comes out as it is."""

    @service
    class Store:
        def __init__(self) -> None:
            raise TypeError("from inside")

        async def get(self) -> str:
            return ""

    with pytest.raises(TypeError, match="from inside") as raised:
        await make_instance(Store)
    assert not isinstance(raised.value, DefinitionError)


def test_type_without_form_in_json_is_named() -> None:
    """The error names service, method, parameter and type, and what to do."""
    wanted = r"Odd.take, parameter thing: .*Unknown.* has no form in JSON; make it a dataclass or a"
    with pytest.raises(DefinitionError, match=wanted):

        @service
        class Odd:
            async def take(self, thing: Unknown) -> None:
                """Take what cannot be sent."""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, "x"), {}, "Calc.add: b: Input should be a valid integer"),
        ((1,), {"b": "x"}, "Calc.add: b: Input should be a valid integer"),
        ((1, 2, 3), {}, "Calc.add: argument 3: Unexpected positional argument"),
        ((1, 2), {"a": 1}, "Calc.add: parameter a is given twice"),
        ((1,), {}, "Calc.add: b: Missing required argument"),
    ],
)
async def test_wrong_argument_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    """However a parameter was given, the message calls it by its name."""
    async with running(Calc) as calc:
        with pytest.raises(RpcError) as raised:
            await calc.add(*args, **kwargs)

    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.startswith(message)


@pytest.mark.anyio
async def test_bytes_come_back_as_they_went() -> None:
    """Bytes that are no text survive both ways."""
    async with running(Calc) as calc:
        assert await calc.echo(b"\x00\xff") == b"\x00\xff"

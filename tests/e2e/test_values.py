"""Values: what goes in comes out equal, by typed and untyped calls, HTTP, errors and stored messages."""

import dataclasses
import enum
import math
from collections.abc import AsyncIterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, Secret, SecretBytes, SecretStr, computed_field
from pydantic.alias_generators import to_camel

from tests.support.inprocess import http_call, serving
from tests.support.inprocess import running_broker as running_server
from zbusrpc import Code, Consumer, DefinitionError, Producer, RpcError, connect, envelope, service
from zbusrpc.broker.assembly.server import Server
from zbusrpc.testing import running

pytestmark = pytest.mark.anyio


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Account(BaseModel):
    """All that is written in another way than it is called, hidden, or has no number in JSON."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    full_name: str
    user_id: int = Field(validation_alias="uid", serialization_alias="userID")
    password: SecretStr
    key: SecretBytes = SecretBytes(b"\xff")
    pin: Secret[int] | None = None
    ratio: float = math.inf
    limits: dict[Level, float] = {}
    since: date | datetime | None = None

    @computed_field
    @property
    def initial(self) -> str:
        return self.full_name[:1]


WRITTEN = {
    "fullName": "Ann",
    "userID": 7,
    "password": "hunter2",
    "key": "_w==",
    "pin": 4711,
    "ratio": "Infinity",
    "limits": {"1": "-Infinity", "2": 1.5},
    "since": "2024-01-01",
}


def ann() -> Account:
    return Account(
        fullName="Ann",
        uid=7,
        password=SecretStr("hunter2"),
        pin=Secret[int](4711),
        limits={Level.LOW: -math.inf, Level.HIGH: 1.5},
        since=date(2024, 1, 1),
    )


@dataclasses.dataclass(eq=False)
class Locked(RpcError):
    code = Code.PERMISSION_DENIED
    account: Account
    level: Level


class Special(Account):
    discount: int = 5


def special() -> Special:
    return Special(fullName="Ann", uid=7, password=SecretStr("hunter2"))


@service
class Accounts:
    """Gives back what it is given."""

    async def echo(self, account: Account) -> Account:
        assert account == ann()
        return account

    async def refuse(self, account: Account) -> None:
        raise Locked(account, Level.HIGH)

    async def special(self) -> Account:
        return special()

    async def anything(self) -> Any:
        return datetime(2024, 1, 1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Run a broker that stores topics, and the service at it."""
    async with running_server(data_dir=str(tmp_path)) as server, serving(server, Accounts):
        yield server


async def test_typed_call_and_its_error_give_back_what_they_were_given(server: Server) -> None:
    """The handler has what the caller had, and the caller what the handler returned or raised."""
    accounts = connect(Accounts, broker=server.broker.name)

    assert await accounts.echo(ann()) == ann()
    with pytest.raises(Locked) as raised:
        await accounts.refuse(ann())
    assert (raised.value.account, raised.value.level) == (ann(), Level.HIGH)


async def test_untyped_call_writes_models_as_their_class_says(server: Server) -> None:
    """A proxy by name takes the model or its JSON, and returns its JSON, by the same names."""
    accounts = connect("Accounts", broker=server.broker.name)

    assert await accounts.echo(ann()) == WRITTEN
    assert await accounts.echo(account=WRITTEN) == WRITTEN


async def test_http_uses_the_names_and_forms_of_the_wire(server: Server) -> None:
    """A request with the names of the published schema is answered with the same; pydantic's others work."""
    for given in (WRITTEN, {("uid" if name == "userID" else name): value for name, value in WRITTEN.items()}):
        body = envelope.request_body("echo", [given])
        status, _, reply = await http_call(server, "POST /rpc/Accounts", body)
        assert (status, envelope.load(reply)) == (200, {"result": WRITTEN})


@pytest.mark.parametrize("body_type", [Account, None])
async def test_stored_message_is_read_as_it_was_written(server: Server, body_type: Any) -> None:
    """A producer with or without a type stores what a consumer with the type reads equal."""
    broker = server.broker.name
    async with Producer("accounts", body=body_type, broker=broker) as producer:
        await producer.send(ann())
    async with Consumer("accounts", group="readers", body=Account, broker=broker, start="oldest") as consumer:
        async for message in consumer:
            assert message.body == ann()
            await message.ack()
            break


async def test_value_that_only_shows_when_it_is_written_is_refused_by_its_place() -> None:
    """A caller hears of it before anything is sent, a service answers INTERNAL; neither shows a secret."""
    async with running(Accounts) as accounts:
        for call, words in [
            (
                accounts.echo(special()),
                "INVALID_ARGUMENT: Accounts.echo: .*a Special would come out",
            ),
            (accounts.special(), "INTERNAL: Accounts.special returned .*a Special would come out as an Account"),
            (accounts.anything(), "INTERNAL: Accounts.anything returned .*a datetime is no JSON value"),
        ]:
            with pytest.raises(RpcError, match=words) as raised:
                await call
            assert "hunter2" not in str(raised.value)


def test_type_that_would_not_come_out_equal_is_refused_at_definition() -> None:
    """Services, producers and consumers refuse it where they are made, in one line with the way out."""
    words = "JSON does not tell str from datetime, and a value could come out as the other; use one of them"
    with pytest.raises(DefinitionError, match=rf"^Clock.at, parameter when: {words}"):

        @service
        class Clock:
            async def at(self, when: str | datetime) -> None: ...

    with pytest.raises(DefinitionError, match=f"^body: {words}"):
        Producer("times", body=str | datetime)
    with pytest.raises(DefinitionError, match=f"^body: {words}"):
        Consumer("times", group="readers", body=str | datetime)

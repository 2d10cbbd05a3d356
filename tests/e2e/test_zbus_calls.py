"""Calls of old zbus programs: to services of any language and to Python's, and from Python to theirs."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fixtures import Site
from tests.support.waiting import WAIT_S
from tests.support.zbus_client import Refused, ZbusLab
from tests.support.zbus_profiles import PROFILES, Profile
from tests.support.zbus_rpc import CallFailed, RpcInvoker, RpcService
from zbusrpc import Code, RpcError, blocking, connect, options

EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
GO, PYTHON = PROFILES["go"], PROFILES["python"]
MANY = ("python", "javascript", "java", "php")
SENTENCE = "naïve ☃: 100 %"
VALUE = {"text": SENTENCE, "list": [1, None, 2.5, {"deep": True}]}


def fail(reason: str) -> None:
    """Raise what was asked for."""
    raise ValueError(reason)


METHODS: dict[str, Callable[..., Any]] = {"add": lambda a, b: a + b, "echo": lambda value: value, "fail": fail}


# -- who calls whom ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", MANY)
@pytest.mark.parametrize("caller", MANY)
def test_any_language_calls_any_other(zbus: ZbusLab, topic: str, caller: str, service: str) -> None:
    """Numbers, text and nested values arrive and come back, with and without a module."""
    RpcService(zbus.broker(PROFILES[service]), topic, METHODS)
    invoker = RpcInvoker(zbus.broker(PROFILES[caller]), topic)

    assert invoker.invoke("add", 1, 2) == 3
    assert invoker.invoke("echo", VALUE, module="values") == VALUE
    assert invoker.invoke("echo", None) is None


@EVERY_PROFILE
def test_every_language_calls_a_python_service(zbus: ZbusLab, profile: Profile) -> None:
    """`{method, params, module}` is answered by `{result, error}`; a Python service is a topic like others."""
    invoker = RpcInvoker(zbus.broker(profile), "Lab")

    assert invoker.invoke("add", 1, 2) == 3
    assert invoker.invoke("add", 1) == 11
    assert invoker.invoke("subtract", 1, 2) == -1
    assert invoker.invoke("length", SENTENCE) == len(SENTENCE)
    assert invoker.invoke("any_value", VALUE) == VALUE


@EVERY_PROFILE
def test_every_language_gets_the_errors_of_a_python_service(zbus: ZbusLab, profile: Profile) -> None:
    """An error names code and message; a wrong method and wrong parameters are errors of the call, not silence."""
    invoker = RpcInvoker(zbus.broker(profile), "Lab")

    with pytest.raises(CallFailed, match=r"^PERMISSION_DENIED: as was asked$"):
        invoker.invoke("refuse", "PERMISSION_DENIED")
    with pytest.raises(CallFailed, match=r"^UNIMPLEMENTED: .*no_such_method"):
        invoker.invoke("no_such_method")
    with pytest.raises(CallFailed, match=r"^INVALID_ARGUMENT: "):
        invoker.invoke("add", "one", "two")
    assert invoker.invoke("add", 1, 2) == 3


@EVERY_PROFILE
def test_python_calls_a_service_of_every_language(zbus: ZbusLab, zbus_site: Site, topic: str, profile: Profile) -> None:
    """`connect` with the name of the topic makes a proxy of an old service."""
    RpcService(zbus.broker(profile), topic, METHODS)
    proxy: Any = connect(topic, broker=zbus_site.address)

    assert blocking(proxy.add)(1, 2) == 3
    assert blocking(proxy.echo)(VALUE) == VALUE
    with pytest.raises(RpcError) as caught:
        blocking(proxy.fail)("no tea")
    if profile.rpc_error != "nothing":
        assert "no tea" in str(caught.value)
    assert blocking(proxy.add)(2, 2) == 4


def test_old_service_is_called_by_url(zbus: ZbusLab, topic: str) -> None:
    """The request that a browser makes of a URL reaches a service in strings, as it always did."""
    RpcService(zbus.broker(PYTHON), topic, METHODS)
    client = zbus.client(GO)

    client.send_bytes(f"GET /rpc/{topic}/echo/hello HTTP/1.1\r\nid: url\r\n\r\n".encode())

    assert RpcInvoker(zbus.broker(GO), topic).result(client.wait("url")) == "hello"


def test_instances_of_a_service_share_its_calls(zbus: ZbusLab, topic: str) -> None:
    """Calls that are sent together are answered each once, by its own caller's id, in whatever order."""
    RpcService(zbus.broker(PYTHON), topic, METHODS)
    RpcService(zbus.broker(PROFILES["java"]), topic, METHODS, consumers=5)
    client, invoker = zbus.client(GO), RpcInvoker(zbus.broker(GO), topic)

    ids = [invoker.post(client, "echo", number) for number in range(100)]

    assert [invoker.result(client.wait(id_)) for id_ in ids] == list(range(100))


def test_calls_follow_each_other_without_a_pause(zbus: ZbusLab, topic: str) -> None:
    """Each hop of a call goes on at once; if one waited for a timer, so many calls would not be done in time."""
    RpcService(zbus.broker(PYTHON), topic, METHODS)
    invoker, until = RpcInvoker(zbus.broker(GO), topic), time.monotonic() + WAIT_S

    for number in range(100):
        assert invoker.invoke("echo", number) == number
        assert time.monotonic() < until, f"{number + 1} calls took {WAIT_S:g} s"


# -- a caller always gets an answer --------------------------------------------------------------------------


@EVERY_PROFILE
def test_call_of_an_unknown_service_is_answered(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """404 comes even though a caller sends ack=false; so clients learn that the service does not exist."""
    client = zbus.client(profile)

    for command in ("produce", "rpc"):
        refusal = client.refusal(command, b"{}", topic=topic, ack=False)
        assert (refusal.status, refusal.text) == (404, f"Topic({topic}) not found")


@EVERY_PROFILE
def test_wrong_requests_are_answered_as_text(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """Each has its status, its id and a text without content-type, which all clients can read."""
    client = zbus.client(profile)
    client.ask("declare", topic=topic)

    refusals = [
        client.refusal("produce", b"{}"),
        client.refusal("consume"),
        client.refusal("declare"),
        client.refusal("consume", topic=topic, consume_group="g"),
        client.refusal("consume", topic="no_such_topic"),
        client.refusal("no_such_command", topic=topic),
    ]

    assert [(refusal.status, refusal.text) for refusal in refusals[:5]] == [
        (400, "Missing topic"),
        (400, "Missing topic"),
        (400, "Missing topic"),
        (404, "ConsumeGroup(g) not found"),
        (404, "Topic(no_such_topic) not found"),
    ]
    assert refusals[5].status == 400
    assert "no_such_command" in refusals[5].text


@EVERY_PROFILE
def test_call_whose_service_loses_its_connection_fails_at_once(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """The caller gets a 5xx as soon as the service that has its call is gone, not after a minute."""
    service, caller = zbus.client(profile), zbus.client(profile)
    service.ask("declare", topic=topic, topic_mask=2)
    taken = service.post("consume", topic=topic)
    service.ask("query", topic=topic)

    call = RpcInvoker(zbus.broker(profile), topic).post(caller, "add", 1, 2)
    assert service.wait(taken).headers["origin_id"] == call
    service.kill()

    assert caller.wait(call).status in {502, 503}


def test_call_from_python_whose_old_service_dies_fails_at_once(zbus: ZbusLab, zbus_site: Site, topic: str) -> None:
    """A Python caller gets UNAVAILABLE when the old service that has its call is gone."""
    service = zbus.client(GO)
    service.ask("declare", topic=topic, topic_mask=2)
    taken = service.post("consume", topic=topic)
    service.ask("query", topic=topic)

    def die_on_call() -> None:
        service.wait(taken)
        service.kill()

    dying = threading.Thread(target=die_on_call)
    dying.start()
    proxy: Any = connect(topic, broker=zbus_site.address)
    with pytest.raises(RpcError) as caught:
        blocking(proxy.add)(1, 2)
    dying.join()

    assert caught.value.code == Code.UNAVAILABLE


def test_call_that_takes_too_long_is_answered(zbus: ZbusLab, topic: str) -> None:
    """504 comes when the caller's own limit has passed; an answer after that is dropped."""
    service, caller = zbus.client(GO), zbus.client(GO)
    service.ask("declare", topic=topic, topic_mask=2)
    taken = service.post("consume", topic=topic)
    service.ask("query", topic=topic)

    call = caller.post("rpc", b"{}", topic=topic, **{"timeout-ms": 50})
    request = service.wait(taken)
    assert caller.wait(call).status == 504
    service.post("route", b"late", id=call, recver=request.headers["sender"])
    service.ask("ping")

    assert caller.ask("ping").status == 200
    assert caller.unclaimed == []


def test_route_to_nobody_is_dropped(zbus: ZbusLab) -> None:
    """An answer for a session that is unknown, or for none, is not answered and does no harm."""
    client = zbus.client(GO)

    client.post("route", b"{}", recver="no-such-session")
    client.post("route", b"{}")

    assert client.ask("ping").status == 200
    assert client.unclaimed == []


def test_route_reaches_only_who_asked(zbus: ZbusLab, topic: str) -> None:
    """What a session has not asked this one for is not brought to it, whoever knows its name."""
    stranger, consumer, victim = zbus.client(GO), zbus.client(GO), zbus.client(GO)
    consumer.ask("declare", topic=topic)
    victim.ask("produce", "hello", topic=topic)
    sender = consumer.ask("consume", topic=topic).headers["sender"]

    stranger.post("route", b"gift", recver=sender, id="not-asked-for")
    stranger.ask("ping")

    assert victim.ask("ping").status == 200
    assert victim.unclaimed == []


def test_service_answers_with_its_own_status_and_headers(zbus: ZbusLab, topic: str) -> None:
    """origin_status becomes the status; other headers pass, those for the broker do not."""
    service, caller = zbus.client(GO), zbus.client(GO)
    service.ask("declare", topic=topic, topic_mask=2)
    taken = service.post("consume", topic=topic)
    service.ask("query", topic=topic)
    call = caller.post("rpc", b"{}", topic=topic)
    request = service.wait(taken)

    recver = request.headers["sender"]
    fields = {"content-type": "text/html", "x-trace": "7", "id": call, "recver": recver, "ack": False}
    service.post("route", b"<p>", origin_status=201, **fields)
    reply = caller.wait(call)

    assert (reply.status, reply.body, reply.headers["content-type"]) == (201, b"<p>", "text/html")
    assert reply.headers["x-trace"] == "7"
    assert reply.headers["sender"]
    assert not {"recver", "cmd", "ack", "origin_status"} & set(reply.headers)


def test_python_caller_of_a_name_that_only_a_queue_has(zbus: ZbusLab, zbus_site: Site, topic: str) -> None:
    """A declared topic for calls without a consumer is a service that is not there."""
    zbus.client(GO).ask("declare", topic=topic, topic_mask=2)
    proxy: Any = options(connect(topic, broker=zbus_site.address), timeout=5.0)

    with pytest.raises(RpcError) as caught:
        blocking(proxy.add)(1, 2)

    assert caught.value.code in {Code.UNAVAILABLE, Code.NOT_FOUND}


def test_refused_calls_are_told_from_failed_ones(zbus: ZbusLab, topic: str) -> None:
    """A JavaScript caller, which sends to topics that it does not know, gets the broker's 404."""
    invoker = RpcInvoker(zbus.broker(PROFILES["javascript"]), topic)

    with pytest.raises(Refused, match=f"^404: Topic.{topic}. not found$"):
        invoker.invoke("add", 1, 2)

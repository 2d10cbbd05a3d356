"""The zbus clients of the tests are as strict as the real ones: what those would fail on is not let pass."""

from typing import Any

import pytest

from tests.support.zbus_profiles import (
    PROFILES,
    ClientCrash,
    Decoder,
    Profile,
    ZbusMessage,
    error_text,
    restore,
    value_of,
)
from tests.support.zbus_topology import RouteTable, check_group, check_tracker

PYTHON, JAVASCRIPT, JAVA = PROFILES["python"], PROFILES["javascript"], PROFILES["java"]
PHP, CPP, DOTNET = PROFILES["php"], PROFILES["cpp"], PROFILES["dotnet"]


def decode(profile: Profile, *pieces: bytes) -> list[ZbusMessage]:
    """Return the messages that a client finds in a stream."""
    decoder = Decoder(profile)
    return [message for piece in pieces for message in decoder.feed(piece)]


# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_messages_are_read_from_pieces(profile: Profile) -> None:
    """Heads and whole messages may come in any pieces, several at once."""
    data = b"HTTP/1.1 200 OK\r\nid: 7\r\ncontent-length: 5\r\n\r\nhello"

    messages = decode(profile, data[:9], data[9:-7], data[-7:] + data)

    assert [(message.status, message.id, message.body) for message in messages] == [(200, "7", b"hello")] * 2


@pytest.mark.parametrize("profile", [PYTHON, CPP], ids=["python", "cpp"])
def test_upper_case_headers_are_not_found(profile: Profile) -> None:
    """With `Content-Length` these clients take the body for the next message."""
    with pytest.raises(ClientCrash, match="cannot read"):
        decode(profile, b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nno message at all!\r\n\r\n")


def test_message_in_two_sends_is_taken_too_early() -> None:
    """PHP's client counts four bytes too few."""
    with pytest.raises(ClientCrash, match="4 bytes short"):
        decode(PHP, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body")


def test_values_end_at_the_second_colon() -> None:
    """So for PHP a session id may have none."""
    (message,) = decode(PHP, b"HTTP/1.1 200 OK\r\nsender: a:b\r\n\r\n")

    assert message.headers == {"sender": "a"}


def test_head_is_split_where_python_ends_lines() -> None:
    """A value with a form feed breaks Python's client."""
    with pytest.raises(ClientCrash, match="no colon"):
        decode(PYTHON, b"HTTP/1.1 200 OK\r\ntag: a\x0cb\r\n\r\n")


@pytest.mark.parametrize("profile", [PYTHON, JAVASCRIPT], ids=["python", "javascript"])
def test_content_type_is_compared_whole(profile: Profile) -> None:
    """JSON with a charset is not JSON, and an error must have no type at all."""
    head = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\ncontent-type: application/json"
    (with_charset,) = decode(profile, f"{head}; charset=utf-8\r\n\r\n{{}}".encode())
    (plain,) = decode(profile, f"{head}\r\n\r\n{{}}".encode())

    assert value_of(plain, profile) == {}
    with pytest.raises(ClientCrash, match="no JSON"):
        value_of(with_charset, profile)
    with pytest.raises(ClientCrash, match="decoded already"):
        error_text(plain, profile)


def test_consumed_message_needs_its_origin() -> None:
    """Without origin_id there is no id to answer to; without origin_url some keep the status of the reply."""
    with pytest.raises(ClientCrash, match="origin_id"):
        restore(ZbusMessage({"id": "1"}, b"", 200), JAVA)

    without_url = ZbusMessage({"id": "1", "origin_id": "2"}, b"", 200)
    assert (restore(without_url, PYTHON).status, restore(without_url, JAVA).status) == (200, None)
    assert restore(without_url, JAVA).id == "2"


def test_wrong_types_break_typed_clients() -> None:
    """An error that is not null, a missing field, and a number with a fraction."""
    group: dict[str, Any] = {
        "topicName": "t",
        "groupName": "g",
        "mask": 0,
        "filter": None,
        "messageCount": 0,
        "consumerCount": 0,
    }
    times: dict[str, Any] = {"consumerList": [], "creator": None, "createdTime": 1, "lastUpdatedTime": 1}

    assert check_group({"error": None, **group, **times})
    wrongs: list[Any] = [{**group, **times, "error": "x"}, group, {**group, **times, "createdTime": 1.5}, []]
    for wrong in wrongs:
        with pytest.raises(ClientCrash):
            check_group(wrong)
    with pytest.raises(ClientCrash, match="has no serverVersion"):
        check_tracker(tracker_info("t", 1, "a"))


# -- choosing a server ---------------------------------------------------------------------------------------


def tracker_info(tracker: str, version: int, *servers: str) -> dict[str, Any]:
    """Return what a table needs of a TrackerInfo, with servers that have one topic."""

    def server(address: str) -> dict[str, Any]:
        topics = {"t": {"topicName": "t", "consumerCount": len(address)}}
        where = {"address": address, "sslEnabled": False}
        return {"serverAddress": where, "infoVersion": version, "topicTable": topics}

    where = {"address": tracker, "sslEnabled": False}
    return {"serverAddress": where, "infoVersion": version, "serverTable": {one: server(one) for one in servers}}


def test_route_table_goes_by_votes_and_versions() -> None:
    """A server stays while half of the trackers name it; older words are not heard; most consumers win."""
    table = RouteTable(PYTHON)

    table.update(tracker_info("t1", 5, "a", "bb"))
    table.update(tracker_info("t1", 4))
    table.update(tracker_info("t2", 1, "a"))
    assert set(table.servers) == {"a", "bb"}
    assert table.producers_of("T") == ["bb"]

    table.update(tracker_info("t3", 1, "a"))
    assert set(table.servers) == {"a"}
    assert table.producers_of("unknown") == []


@pytest.mark.parametrize(("profile", "left"), [(PYTHON, set()), (DOTNET, {"a"})], ids=["python", "dotnet"])
def test_route_table_without_its_trackers(profile: Profile, left: set[str]) -> None:
    """Where trackers that are gone still count, the loss of the only one drops all servers."""
    table = RouteTable(profile)
    table.update(tracker_info("t1", 1, "a"))

    table.remove_tracker("t1")

    assert set(table.servers) == left

"""docs/zbus.md says what the code does: its commands, its numbers and its links."""

import re
from pathlib import Path

import pytest

from zbusrpc import bounds
from zbusrpc.broker.dialects.http.connection import PIPELINE_MAX
from zbusrpc.broker.dialects.zbus.declaring import ACK_TIMEOUT_MS, ACK_WINDOW
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.dialects.zbus.session import CALL_TIMEOUT_MS, HEARD_MAX, LINGER_S
from zbusrpc.broker.dialects.zbus.stored import ID_BYTES_MAX, TAG_BYTES_MAX
from zbusrpc.broker.dialects.zbus.urls import COMMANDS, PAGES
from zbusrpc.broker.mq.filters import FILTER_BYTES_MAX
from zbusrpc.broker.mq.names import NAME_BYTES_MAX
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.config import CONNECTIONS_PER_ADDRESS_MAX, MESSAGE_BYTES_MAX
from zbusrpc.transport import http, native

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "zbus.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    """Return a section of the document."""
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_table_of_commands_is_complete() -> None:
    """Each command stands in the table, and nothing else does; pages stand beneath it."""
    assert set(re.findall(r"^\| `(\w+)` \|", section(3), re.MULTILINE)) == COMMANDS
    assert all(f"`{page}`" in section(3) for page in PAGES)


def test_table_of_masks_is_complete() -> None:
    """Each bit stands in the table with its number."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section(2), re.MULTILINE)

    assert {name: int(number) for number, name in rows} == {bit.name: bit.value for bit in Mask}


@pytest.mark.parametrize(
    ("number", "limit"),
    [
        (4, ID_BYTES_MAX),
        (5, ACK_TIMEOUT_MS),
        (5, ACK_WINDOW),
        (5, bounds.ACK_WINDOW.most),
        (5, GroupOptions().max_attempts),
        (6, CALL_TIMEOUT_MS // 1000),
        (6, HEARD_MAX),
        (7, bounds.POLL_S.most),
        (8, http.HEADERS_BYTES_MAX),
        (8, http.HEADERS_MAX),
        (8, http.TARGET_BYTES_MAX),
        (8, MESSAGE_BYTES_MAX),
        (8, ID_BYTES_MAX),
        (8, TAG_BYTES_MAX),
        (8, NAME_BYTES_MAX),
        (8, FILTER_BYTES_MAX),
        (8, native.HEADERS_BYTES_MAX),
        (8, bounds.MASK.most),
        (8, PIPELINE_MAX),
        (8, CONNECTIONS_PER_ADDRESS_MAX),
    ],
)
def test_limits_are_those_of_the_code(number: int, limit: int) -> None:
    """The numbers of a section are the constants."""
    plain = section(number).replace(",", "")

    assert re.search(rf"(?<!\d){limit}(?!\d)", plain)
    assert f"{LINGER_S:g} s after" in section(2)


def test_links_lead_somewhere() -> None:
    """Files that the document refers to exist."""
    for link in re.findall(r"\]\(([^)#:]+)", DOCUMENT):
        assert (ROOT / "docs" / link).exists(), link

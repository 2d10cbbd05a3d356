"""docs/guarantees.md names a test for each promise, and the tests are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+\.py::\w+)`", TEXT))))
def test_named_test_exists(name: str) -> None:
    """Each test that the document names exists where it says."""
    file, _, test = name.partition("::")

    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob(f"*/{file}")]

    assert any(
        re.search(rf"^(async def|def|class|Test\w+ =) ?{test}\b|^{test} = ", text, re.MULTILINE) for text in texts
    )


def test_every_promise_names_a_test() -> None:
    """No row of a table is without a test."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by" not in line]

    assert len(rows) > 20
    assert all("::" in row for row in rows)

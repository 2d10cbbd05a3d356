"""Errors: codes, declared errors, and the words that point at the nearest name."""

from dataclasses import dataclass

import pytest

from zbusrpc.errors import (
    NEAREST_MAX,
    Code,
    FrameTooLargeError,
    RpcError,
    did_you_mean,
    error_fields,
    nearest,
    one_of,
)
from zbusrpc.outcome import like, not_run, origin_of


@dataclass(eq=False)
class InsufficientFunds(RpcError):
    code = Code.FAILED_PRECONDITION
    message = "{missing} cents are missing"
    missing: int


class Locked(RpcError):
    code = Code.ABORTED

    def __init__(self, owner: str) -> None:
        super().__init__(Code.ABORTED, f"locked by {owner}")
        self.owner = owner


def test_error_shows_code_and_message() -> None:
    """The text of an error is its code and its message."""
    assert str(RpcError("NOT_FOUND", "no such order")) == "NOT_FOUND: no such order"
    assert str(RpcError(Code.NOT_FOUND)) == "NOT_FOUND"


def test_unknown_code_is_refused() -> None:
    """A code that does not exist is a mistake of the program."""
    with pytest.raises(ValueError, match="BROKEN"):
        RpcError("BROKEN")


def test_declared_dataclass_fills_its_template() -> None:
    """The message of a declared dataclass is its template with the fields."""
    error = InsufficientFunds(missing=250)

    assert str(error) == "FAILED_PRECONDITION: 250 cents are missing"
    assert error.declared
    assert not RpcError(Code.UNKNOWN).declared


def test_fields_of_declared_error_are_its_parameters() -> None:
    """What travels of a declared error are the parameters of its __init__."""
    assert error_fields(InsufficientFunds(missing=1)) == {"missing": 1}
    assert error_fields(Locked("ann")) == {"owner": "ann"}


@pytest.mark.parametrize(
    ("details", "seconds"),
    [({"retry_after_s": 2}, 2.0), ({"retry_after_s": "soon"}, None), (None, None), ([1], None)],
)
def test_retry_after_is_read_from_details(details: object, seconds: float | None) -> None:
    """The wait that a broker asks for is a number in the details, or unknown."""
    assert RpcError(Code.RESOURCE_EXHAUSTED, "", details).retry_after_s == seconds


@pytest.mark.parametrize("details", [{"may_have_run": False}, {"may_have_run": True}, None, []])
def test_call_may_have_run_whatever_its_details_say(details: object) -> None:
    """Anybody may write details: only whoever makes the error can say that nothing was begun."""
    assert RpcError(Code.UNAVAILABLE, "", details).may_have_run
    assert not not_run(Code.UNAVAILABLE, "").may_have_run


def test_like_error_is_another_one_that_says_the_same() -> None:
    """What is raised in several places is one error for each, and all of them know what the first one knows."""
    error = not_run(Code.UNAVAILABLE, "away", {"broker": "here"})

    other = like(error)

    assert other is not error
    assert (str(other), other.details, other.may_have_run) == (str(error), error.details, False)
    assert origin_of(other) == origin_of(error)


def test_nearest_name_ignores_case_and_catches_a_typo() -> None:
    """One or two wrong letters find the name; something else finds nothing."""
    assert nearest("ADD", ["add", "mul"]) == "add"
    assert did_you_mean("facotr", ["factor", "add"]) == "; did you mean factor?"
    assert did_you_mean("xyz", ["factor"]) == ""


def test_nearest_of_very_many_names_takes_no_time() -> None:
    """Of ten thousand names only the first are compared: a guess must not keep a broker busy."""
    names = [f"topic-{number}" for number in range(10 * NEAREST_MAX)]

    assert nearest("topc-7", names) == "topic-7"
    assert nearest(f"tpoic-{10 * NEAREST_MAX - 1}", names) in names[:NEAREST_MAX]


def test_long_lists_of_names_are_cut() -> None:
    """After eight names the rest is a number."""
    assert one_of(["b", "a"]) == "a, b"
    assert one_of([f"s{n:02}" for n in range(20)]).endswith("s07, ... (20 in all)")


def test_oversized_frame_names_size_and_limit() -> None:
    """The error says both numbers."""
    assert str(FrameTooLargeError(20, 10)) == "frame of 20 bytes exceeds the limit of 10 bytes"

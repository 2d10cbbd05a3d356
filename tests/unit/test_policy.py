"""The retry policy: what is tried again, how often, and what an error says of the tries before."""

import pytest

from zbusrpc.cluster.policy import as_begun, may_retry
from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import knowing, note_lost, was_lost


def error(
    code: Code = Code.UNAVAILABLE, *, may_have_run: bool, lost: bool = False, retry_after_s: float = 0.0
) -> RpcError:
    made = knowing(code, "text", {"retry_after_s": retry_after_s}, may_have_run=may_have_run)
    if lost:
        note_lost(made)
    return made


@pytest.mark.parametrize(
    ("failure", "is_idempotent", "tries", "expected"),
    [
        (error(may_have_run=True, lost=True), True, 1000, True),
        (error(may_have_run=True, lost=True), False, 0, False),
        (error(may_have_run=False, lost=True), False, 1000, True),
        (error(may_have_run=False), False, 0, False),
        (error(may_have_run=True), True, 0, False),
        (error(Code.INTERNAL, may_have_run=False, lost=True), True, 0, False),
    ],
)
def test_call_that_lost_its_broker_is_tried_until_its_deadline(
    failure: RpcError, is_idempotent: bool, tries: int, expected: bool
) -> None:
    """However often it was tried, where that cannot do its work twice; all else as often as its caller allows."""
    assert may_retry(failure, tries=tries, retries=0, is_idempotent=is_idempotent) is expected


def test_details_that_a_handler_wrote_are_no_reason_to_try_again() -> None:
    """Whether a call has run, and whether its connection was lost, is known by this side and not written by anybody."""
    told = RpcError(Code.UNAVAILABLE, "text", {"may_have_run": False, "lost": True})

    assert not may_retry(told, tries=0, retries=3, is_idempotent=False)
    assert not may_retry(told, tries=0, retries=0, is_idempotent=True)


def test_error_of_a_later_try_does_not_deny_an_earlier_one() -> None:
    """It keeps code and details, and says that the call may have run."""
    told = as_begun(error(Code.RESOURCE_EXHAUSTED, may_have_run=False, retry_after_s=2.0))

    assert (told.code, told.may_have_run, told.retry_after_s) == (Code.RESOURCE_EXHAUSTED, True, 2.0)
    assert "an earlier try of this call may have run" in told.message
    assert not was_lost(told)

import pytest

from services.common.claims import Rules
from services.common.image_states import Status
from services.image_processor.domain import (
    Backoff,
    Claim,
    Failed,
    Outcome,
    Processed,
    Rejected,
    Released,
    Transition,
    Unanswered,
    transition,
)

RULES = Rules(max_attempts=5)
BACKOFF = Backoff(first_ms=2_000, longest_ms=20_000)


def _transition(outcome: Outcome, attempt: int, rules: Rules = RULES) -> Transition:
    claim = Claim(1, "a.jpg", attempt, "token")
    return transition(claim, outcome, random=lambda: 0.5, rules=rules, backoff=BACKOFF)


def test_the_pause_doubles_with_jitter_and_a_cap() -> None:
    assert [BACKOFF.after(n, lambda: 0.5) for n in range(1, 6)] == [2000, 4000, 8000, 16000, 20000]
    assert [BACKOFF.after(n, lambda: 0.0) for n in range(1, 5)] == [1600, 3200, 6400, 12800]
    assert [BACKOFF.after(n, lambda: 1.0) for n in range(1, 5)] == [2400, 4800, 9600, 19200]
    others = Backoff(first_ms=100, longest_ms=300)
    assert [others.after(n, lambda: 0.5) for n in range(1, 5)] == [100, 200, 300, 300]


@pytest.mark.parametrize("attempt", range(1, RULES.max_attempts + 1))
def test_what_an_outcome_makes_of_the_row(attempt: int) -> None:
    last = attempt == RULES.max_attempts
    assert _transition(Processed((), 1, 1, "e"), attempt) == Transition(
        Status.PROCESSED, attempt, None, None
    )
    assert _transition(Rejected("why"), attempt) == Transition(
        Status.REJECTED, attempt, None, "why"
    )
    assert _transition(Released("away"), attempt) == Transition(
        Status.PENDING, attempt - 1, 10_000, None
    )
    failed = _transition(Failed("broken"), attempt)
    timed_out = _transition(Unanswered("slow"), attempt)
    if last:
        assert failed == Transition(Status.DEAD, attempt, None, "broken")
        assert timed_out == Transition(Status.DEAD, attempt, None, "slow")
    else:
        pause = BACKOFF.after(attempt, lambda: 0.5)
        assert failed == Transition(Status.FAILED, attempt, pause, "broken")
        assert timed_out == Transition(Status.PENDING, attempt, 10_000, "slow")


def test_the_last_attempt_is_the_one_that_the_rules_say() -> None:
    twice = Rules(max_attempts=2)
    assert _transition(Failed("broken"), 1, twice).status is Status.FAILED
    assert _transition(Failed("broken"), 2, twice).status is Status.DEAD


def test_an_error_fits_its_column() -> None:
    for outcome in (Failed("x" * 600), Rejected("x" * 600), Unanswered("x" * 600)):
        assert _transition(outcome, 1).error == "x" * 500

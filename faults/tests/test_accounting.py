"""Histories that must fail, each for its one reason, and those that must not."""

from dataclasses import replace

import pytest

from faults.accounting import (
    Answer,
    Ask,
    Attempt,
    Change,
    History,
    Loss,
    Row,
    Told,
    account,
)
from services.common.image_states import Status

PENDING, PROCESSING = Status.PENDING, Status.PROCESSING
PROCESSED, REJECTED, DEAD = Status.PROCESSED, Status.REJECTED, Status.DEAD
GRACE = "Grace Hopper"


def submitted(path: str, image_id: int | None, told: Told = Told.ACKNOWLEDGED) -> Attempt:
    return Attempt(Ask.SUBMIT, path, told, image_id)


def deleted(path: str, image_id: int, told: Told = Told.ACKNOWLEDGED) -> Attempt:
    return Attempt(Ask.DELETE, path, told, image_id)


def life(image_id: int, *statuses: Status | None) -> tuple[Change, ...]:
    """The changes of a row that goes through these statuses, from its insertion on."""
    return tuple(
        Change(image_id, before, after)
        for before, after in zip((None, *statuses), statuses, strict=False)
    )


GOOD = History(
    attempts=[
        submitted("a", None, Told.UNKNOWN),  # its answer was lost on the way
        submitted("a", 1),
        submitted("b", 2),
        submitted("b", 2),  # twice is once
        submitted("c", None, Told.UNKNOWN),  # it never arrived
        submitted("d", None, Told.REFUSED),
    ],
    changes=[
        *life(1, PENDING, PROCESSING, PROCESSING, PENDING, PROCESSING, PROCESSED),
        *life(2, PENDING, PROCESSING, Status.FAILED, PENDING, PROCESSING, REJECTED),
    ],
    rows=[Row(1, "a", PROCESSED, (GRACE, None)), Row(2, "b", REJECTED, error="no picture")],
    answers={"a": Answer(PROCESSED, (None, GRACE)), "b": Answer(REJECTED)},
)


def losses(history: History) -> set[Loss]:
    return {finding.loss for finding in account(history).findings}


def test_a_history_without_a_loss() -> None:
    result = account(GOOD)
    assert result.findings == ()
    assert result.pictures == 2
    assert result.told == {Told.ACKNOWLEDGED: 3, Told.UNKNOWN: 2, Told.REFUSED: 1}


def test_lost() -> None:
    history = replace(GOOD, rows=GOOD.rows[1:])
    (finding,) = account(history).findings
    assert finding.loss is Loss.LOST
    assert finding.path == "a"


def test_lost_under_the_id_that_was_acknowledged() -> None:
    # A row of this path is there, but the address that the client was given shows nothing.
    history = replace(GOOD, attempts=[submitted("a", 7), *GOOD.attempts[1:]])
    assert losses(history) == {Loss.LOST, Loss.DOUBLED}


@pytest.mark.parametrize("status", [PENDING, PROCESSING, Status.FAILED])
def test_stuck(status: Status) -> None:
    history = replace(GOOD, rows=[Row(1, "a", status), GOOD.rows[1]])
    assert losses(history) == {Loss.STUCK}


def test_stuck_though_nobody_knows_that_it_arrived() -> None:
    history = replace(GOOD, rows=[*GOOD.rows, Row(3, "c", PENDING)])
    assert losses(history) == {Loss.STUCK}


def test_an_answer_that_got_lost_may_have_been_a_yes() -> None:
    assert losses(replace(GOOD, rows=[*GOOD.rows, Row(3, "c", PROCESSED)])) == set()


def test_doubled_rows() -> None:
    history = replace(GOOD, rows=[*GOOD.rows, Row(3, "b", REJECTED)])
    assert losses(history) == {Loss.DOUBLED}


def test_doubled_ids() -> None:
    history = replace(GOOD, attempts=[*GOOD.attempts, submitted("b", 3)])
    assert losses(history) == {Loss.DOUBLED, Loss.LOST}


def test_a_second_result_by_a_late_worker() -> None:
    history = replace(GOOD, changes=[*GOOD.changes, Change(1, PROCESSED, PROCESSED)])
    assert losses(history) == {Loss.DOUBLED}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PROCESSED, PENDING),
        (PROCESSED, REJECTED),
        (PROCESSED, DEAD),
        (REJECTED, PROCESSED),
        (DEAD, PROCESSED),
        (PENDING, PROCESSED),  # a worker whose claim was taken away
        (Status.FAILED, PROCESSED),
        (None, PROCESSED),
        (PROCESSED, None),  # gone, and nobody asked for it
        (PENDING, None),
    ],
)
def test_a_change_that_nothing_may_make(before: Status | None, after: Status | None) -> None:
    history = replace(GOOD, changes=[*GOOD.changes, Change(1, before, after)])
    assert losses(history) == {Loss.CONTRADICTORY}


def test_what_is_submitted_again_is_looked_at_again_only_when_it_was_rejected_or_dead() -> None:
    again = replace(GOOD, changes=[*GOOD.changes, Change(2, REJECTED, PENDING)])
    assert losses(again) == set()
    once = replace(again, attempts=GOOD.attempts[:3])
    assert losses(once) == {Loss.CONTRADICTORY}


@pytest.mark.parametrize(
    "row",
    [
        Row(1, "a", PROCESSED, (GRACE,)),
        Row(1, "a", PROCESSED, (None, None)),
        Row(1, "a", PROCESSED, ()),
        Row(1, "a", PROCESSED, (GRACE, GRACE, None)),
        Row(1, "a", REJECTED),
        Row(1, "a", DEAD, error="attempts used up"),  # final, but a sound picture
    ],
)
def test_a_wrong_answer(row: Row) -> None:
    assert losses(replace(GOOD, rows=[row, GOOD.rows[1]])) == {Loss.CONTRADICTORY}


def test_invented() -> None:
    assert losses(replace(GOOD, rows=[*GOOD.rows, Row(9, "z", PROCESSED)])) == {Loss.INVENTED}


def test_what_was_refused_is_not_there() -> None:
    assert losses(replace(GOOD, rows=[*GOOD.rows, Row(9, "d", PROCESSED)])) == {Loss.INVENTED}


REMOVED = replace(
    GOOD,
    attempts=[*GOOD.attempts, deleted("a", 1)],
    changes=[*GOOD.changes, Change(1, PROCESSED, None)],
    rows=GOOD.rows[1:],
)


def test_deleted_is_not_lost() -> None:
    result = account(REMOVED)
    assert result.findings == ()
    assert result.deleted == 1


def test_deleted_and_there() -> None:
    assert losses(replace(REMOVED, rows=GOOD.rows)) == {Loss.CONTRADICTORY}


def test_a_deletion_without_an_answer_leaves_both_open() -> None:
    attempts = [*GOOD.attempts, deleted("a", 1, Told.UNKNOWN)]
    assert losses(replace(GOOD, attempts=attempts)) == set()
    assert losses(replace(REMOVED, attempts=attempts)) == set()


def test_a_deletion_that_was_refused_removes_nothing() -> None:
    attempts = [*GOOD.attempts, deleted("a", 1, Told.REFUSED)]
    assert losses(replace(REMOVED, attempts=attempts)) == {Loss.LOST, Loss.CONTRADICTORY}


def test_submitted_again_after_its_deletion_it_is_a_new_picture() -> None:
    again = replace(
        REMOVED,
        attempts=[*REMOVED.attempts, submitted("a", 3)],
        changes=[*REMOVED.changes, *life(3, PENDING, PROCESSING, PROCESSED)],
        rows=[*REMOVED.rows, Row(3, "a", PROCESSED, (GRACE, None))],
    )
    assert losses(again) == set()
    assert losses(replace(again, rows=REMOVED.rows)) == {Loss.LOST}

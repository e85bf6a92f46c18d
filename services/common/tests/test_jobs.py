import pytest

from services.common.jobs import NotYetError, persist


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Action:
    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs = 0

    def __call__(self) -> int:
        self.runs += 1
        if self.runs <= self.failures:
            raise NotYetError(f"failure {self.runs}")
        return self.runs


def _never(seconds: float) -> None:
    pytest.fail(f"slept {seconds} s")


def test_an_action_is_repeated_until_it_works() -> None:
    time = Time()
    assert persist(Action(6), seconds=60, clock=time.clock, sleep=time.sleep) == 7
    assert time.slept == [0.5, 1, 2, 4, 5, 5]


def test_the_time_is_used_up_to_its_end_and_then_the_last_reason_counts() -> None:
    time = Time()
    with pytest.raises(NotYetError, match="failure 4"):
        persist(Action(100), seconds=3, clock=time.clock, sleep=time.sleep)
    assert time.slept == [0.5, 1, 1.5]


def test_without_patience_it_is_tried_once() -> None:
    action = Action(100)
    with pytest.raises(NotYetError, match="failure 1"):
        persist(action, seconds=0, sleep=_never)
    assert action.runs == 1


def test_other_errors_are_not_waited_out() -> None:
    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        persist(broken, seconds=60, sleep=_never)

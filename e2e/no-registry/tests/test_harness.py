import subprocess

import pytest

from e2e.cluster import images_of
from e2e.waiting import wait_until


def test_waiting_ends_with_the_first_true_value() -> None:
    answers = iter([OSError("not yet"), None, 0, "there"])

    def condition() -> object:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert wait_until(condition, 60, "an answer") == "there"


def test_waiting_in_vain_says_for_what_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for tea; last seen: \[\]"):
        wait_until(list, 0, "tea")

    def condition() -> bool:
        raise subprocess.CalledProcessError(7, "kettle")

    with pytest.raises(AssertionError, match=r"for tea; CalledProcessError: .*kettle.* 7"):
        wait_until(condition, 0, "tea")


def test_a_bug_in_a_condition_is_not_waited_for() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, 0, "nothing")


def test_the_images_of_manifests_are_those_that_pods_run() -> None:
    rendered = """
kind: Deployment
spec: {template: {spec: {containers: [{image: "b:1"}, {image: "a:1"}]}}}
---
kind: Service
spec: {selector: {image: none}}
---
kind: Job
spec: {template: {spec: {containers: [{image: "a:1"}]}}}
"""
    assert images_of(rendered) == ["a:1", "b:1"]

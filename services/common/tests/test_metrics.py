import pytest
from prometheus_client import REGISTRY

from services.common import metrics


def read(name: str, operation: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"operation": operation})


def test_a_block_that_ends_well_is_a_request_without_error() -> None:
    with metrics.observe("test well"):
        pass
    assert read("facestack_requests_total", "test well") == 1
    assert read("facestack_request_errors_total", "test well") == 0
    assert read("facestack_request_duration_seconds_count", "test well") == 1


def test_a_block_that_raises_is_an_error_and_still_raises() -> None:
    with pytest.raises(ZeroDivisionError), metrics.observe("test badly"):
        _ = 1 / 0
    assert read("facestack_requests_total", "test badly") == 1
    assert read("facestack_request_errors_total", "test badly") == 1
    assert read("facestack_request_duration_seconds_count", "test badly") == 1


def test_the_duration_is_that_of_the_operation() -> None:
    metrics.record("test slowly", 0.3, error=False)
    assert read("facestack_request_duration_seconds_sum", "test slowly") == pytest.approx(0.3)
    buckets = {
        bound: REGISTRY.get_sample_value(
            "facestack_request_duration_seconds_bucket", {"operation": "test slowly", "le": bound}
        )
        for bound in ("0.25", "0.5")
    }
    assert buckets == {"0.25": 0, "0.5": 1}

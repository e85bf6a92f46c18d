import pytest
from pydantic import ValidationError

from services.face_recog.settings import FaceRecogSettings

STORE = "file:///nowhere"


def test_the_queue_grows_with_the_pool() -> None:
    small = FaceRecogSettings(object_store_url=STORE, pool_size=1)
    large = FaceRecogSettings(object_store_url=STORE, pool_size=8)
    assert (small.queue_size, large.queue_size) == (4, 32)
    # A picture of 2 s, behind a full queue, is done within the deadline of the client.
    assert (small.queue_size + 1) * 2 < 20
    assert FaceRecogSettings(object_store_url=STORE, pool_size=1, queue_size=9).queue_size == 9


def test_a_wrong_pool_size_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_SIZE", "none")
    with pytest.raises(ValidationError) as error:
        FaceRecogSettings(object_store_url=STORE)
    assert ("pool_size",) in [one["loc"] for one in error.value.errors()]

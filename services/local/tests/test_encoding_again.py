"""Stored faces get their encodings back from the real recogniser, unless somebody stops it."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from services.testing.pipeline import Pipeline, pipeline
from services.testing.samples import sample
from services.testing.waiting import eventually

__all__ = ["pipeline"]

ENCODINGS = "SELECT image_id, face_index, engine, encoding FROM face_encodings ORDER BY 1, 2"
FACES = "SELECT * FROM faces ORDER BY image_id, face_index"
FORGET = "DELETE FROM face_encodings"
LOOK_AGAIN = "UPDATE encoding_work SET next_look_at = 0"


@pytest.fixture
def receiver(pipeline: Pipeline) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pipeline.api_url, trust_env=False, timeout=60) as client:
        yield client


def run(pipeline: Pipeline, *statements: str) -> list[tuple[object, ...]]:
    """Run statements on the pipeline's database; return the last one's rows."""
    file = pipeline.store.parent / "facestack.db"
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        return [connection.execute(one).fetchall() for one in statements][-1]


def wait(condition: Callable[[], bool]) -> None:
    asyncio.run(eventually(condition, seconds=60))


def test_faces_that_lost_their_encodings_get_the_same_ones(
    pipeline: Pipeline, receiver: httpx.Client
) -> None:
    def upload(name: str, content: bytes, status: str) -> None:
        answer = receiver.post("/images", files={"files": (name, content)}).raise_for_status()
        location = answer.json()["images"][0]["location"]
        wait(lambda: receiver.get(location).json()["status"] == status)

    for name in ("astronaut.png", "grace_hopper.jpg"):
        upload(name, sample(name).read_bytes(), "processed")
    before, faces = run(pipeline, ENCODINGS), run(pipeline, FACES)
    assert len(before) == len(faces) >= 2

    assert receiver.post("/encoding/stop").json()["state"] == "stopped"
    run(pipeline, FORGET, LOOK_AGAIN)
    upload("new", b"no picture", "rejected")
    assert run(pipeline, ENCODINGS) == [], "new pictures are looked at, and nothing else"

    receiver.post("/encoding/start")
    wait(lambda: run(pipeline, ENCODINGS) == before)
    assert run(pipeline, FACES) == faces
    wait(lambda: receiver.get("/status").json()["encoding"]["state"] == "finished")
    assert "of older pictures" not in httpx.get(pipeline.page_url, trust_env=False).text

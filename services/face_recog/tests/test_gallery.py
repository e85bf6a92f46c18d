import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.common.images import MAX_PICTURE_BYTES
from services.common.objects import ObjectInfo, ObjectStore, ObjectStoreUnavailableError
from services.common.settings import ObjectStoreSettings
from services.face_recog import metrics
from services.face_recog.domain import (
    Box,
    DetectedFace,
    Encoding,
    Problem,
    RecogniserFaultError,
    Recognition,
    RejectedError,
)
from services.face_recog.service import Gallery, NotReadyError
from services.testing.fixtures import s3_settings
from services.testing.servers import VersityGw

ENGINE = "dlib-1+rules-1"


class FakeRecogniser:
    """Finds a face for every byte ``f``; ``bad`` is unreadable, ``die`` a fault."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.running = 0
        self.most = 0

    async def recognise(
        self, picture: bytes, *, max_faces: int = 0, urgent: bool = False
    ) -> Recognition:
        assert urgent
        self.seen.append(picture)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if picture == b"bad":
            raise RejectedError(Problem.UNREADABLE, "not a picture")
        if picture == b"die":
            raise RecogniserFaultError("the worker process died")
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, encoding_of(picture))
        return Recognition(1, 1, [face] * picture.count(b"f"))


def encoding_of(picture: bytes) -> Encoding:
    seed = int.from_bytes(hashlib.sha256(picture).digest()[:4])
    return np.random.default_rng(seed).normal(size=128) / 8


@pytest.fixture
def store(folder_store_settings: ObjectStoreSettings) -> ObjectStore:
    return ObjectStore(folder_store_settings)


@pytest.fixture
def recogniser() -> FakeRecogniser:
    return FakeRecogniser()


def new_gallery(store: Any, recogniser: FakeRecogniser) -> Gallery:
    return Gallery(store, recogniser, prefix="known_people/", engine=ENGINE, parallel=3)


def names(gallery: Gallery, picture: bytes) -> list[str]:
    """The known pictures that are this very one."""
    nearest = gallery.people.nearest(encoding_of(picture), 10)
    return [one.image_name for one in nearest if one.distance < 0.001]


async def test_pictures_added_replaced_and_removed_make_new_snapshots(
    any_store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    store = any_store
    for info in [info async for info in store.list("known_people/")]:
        await store.delete(info.key)
    gallery = new_gallery(store, recogniser)
    with pytest.raises(NotReadyError):
        await gallery.check()
    assert await gallery.refresh()
    await gallery.check()
    empty = gallery.people
    assert empty.pictures == 0

    await store.put("known_people/Ann/1.jpg", b"f ann")
    await store.put("known_people/Bo B./1.jpg", b"f bo")
    await gallery.refresh()
    assert names(gallery, b"f ann") == ["Ann/1.jpg"]
    assert names(gallery, b"f bo") == ["Bo B./1.jpg"]
    assert (gallery.people.people, gallery.people.pictures) == (2, 2)
    assert empty.pictures == 0

    unchanged = gallery.people
    await gallery.refresh()
    assert gallery.people is unchanged

    await store.put("known_people/Ann/1.jpg", b"f an2")  # as long as the one before
    await gallery.refresh()
    assert names(gallery, b"f ann") == []
    assert names(gallery, b"f an2") == ["Ann/1.jpg"]

    await store.delete("known_people/Bo B./1.jpg")
    await gallery.refresh()
    assert names(gallery, b"f bo") == []
    assert gallery.people.people == 1


async def test_every_picture_is_encoded_once_for_all_replicas(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    for number in range(5):
        await store.put(f"known_people/p{number}/x", b"f%d" % number)
    await store.put("known_people/p0/same content", b"f0")
    await store.put("known_people/none/x", b"nobody")
    first = new_gallery(store, recogniser)
    await first.refresh()
    await first.refresh()
    assert set(recogniser.seen) == {b"f0", b"f1", b"f2", b"f3", b"f4", b"nobody"}

    another = FakeRecogniser()
    second = new_gallery(store, another)
    await second.refresh()
    assert another.seen == []
    assert second.people.pictures == first.people.pictures == 6
    assert names(second, b"f3") == ["p3/x"]

    newer_engine = Gallery(
        store, another, prefix="known_people/", engine="dlib-2+rules-1", parallel=3
    )
    await newer_engine.refresh()
    assert b"f3" in another.seen


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "shape", "type", "nan", "pickle"])
async def test_a_damaged_kept_encoding_is_made_again(
    store: ObjectStore, recogniser: FakeRecogniser, damage: str
) -> None:
    await store.put("known_people/p/x", b"f")
    await new_gallery(store, recogniser).refresh()
    [kept] = [info.key async for info in store.list(f"encodings/{ENGINE}/")]
    assert kept.endswith(hashlib.sha256(b"f").hexdigest())
    good = await store.get(kept)

    def npy(array: Any, **options: Any) -> bytes:
        content = io.BytesIO()
        np.save(content, array, **options)
        return content.getvalue()

    await store.put(
        kept,
        {
            "cut": good[:-5],
            "empty": b"",
            "text": b"hello",
            "shape": npy(np.zeros((1, 127))),
            "type": npy(np.zeros((1, 128), dtype=np.int8)),
            "nan": npy(np.full((1, 128), np.nan)),
            "pickle": npy(np.array([[{}]], dtype=object), allow_pickle=True),
        }[damage],
    )
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    assert names(gallery, b"f") == ["p/x"]
    assert recogniser.seen == [b"f", b"f"]
    assert await store.get(kept) == good


async def test_what_cannot_be_used_is_reported_once_and_skipped(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    await store.put("known_people/good/x", b"f")
    await store.put("known_people/none/x", b"nobody")
    await store.put("known_people/many/x", b"fff")
    await store.put("known_people/bad/x", b"bad")
    await store.put("known_people/top", b"f top")
    await store.put("known_people/deep/er/x", b"f deep")
    await store.put("known_people/huge/x", bytes(MAX_PICTURE_BYTES + 1))
    gallery = new_gallery(store, recogniser)
    with capture_logs() as logs:
        await gallery.refresh()
        await gallery.refresh()
    reasons = {
        line["key"]: line["reason"] for line in logs if line["event"] == "known picture skipped"
    }
    assert reasons == {
        "known_people/none/x": "it shows no face; a known picture must show one",
        "known_people/many/x": "it shows 3 faces; a known picture must show one",
        "known_people/bad/x": "not a picture",
        "known_people/top": "its place is not known_people/PERSON/PICTURE",
        "known_people/deep/er/x": "its place is not known_people/PERSON/PICTURE",
        "known_people/huge/x": "picture has more than 20 MB",
    }
    assert len([line for line in logs if line["event"] == "known picture skipped"]) == 6
    assert gallery.people.pictures == 1
    assert metrics.GALLERY_SKIPPED._value.get() == 6
    assert sorted(recogniser.seen) == [b"bad", b"f", b"fff", b"nobody"]

    await store.put("known_people/none/x", b"f now")
    await gallery.refresh()
    assert names(gallery, b"f now") == ["none/x"]
    assert metrics.GALLERY_SKIPPED._value.get() == 5


async def test_a_picture_that_ends_workers_is_tried_three_times(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    await store.put("known_people/good/x", b"f")
    await store.put("known_people/poison/x", b"die")
    gallery = new_gallery(store, recogniser)
    for _ in range(6):
        await gallery.refresh()
    assert recogniser.seen.count(b"die") == 3
    assert gallery.people.pictures == 1
    assert metrics.GALLERY_SKIPPED._value.get() == 1


async def test_encoding_leaves_workers_to_requests_once_there_is_a_snapshot(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    for number in range(20):
        await store.put(f"known_people/p{number}/x", b"f%d" % number)
    gallery = new_gallery(store, recogniser)
    assert await gallery.refresh()
    assert recogniser.most == 3
    recogniser.most = 0
    for number in range(20, 60):
        await store.put(f"known_people/p{number}/x", b"f%d" % number)
    # A part at a time, so that a removal meanwhile shows soon.
    assert not await gallery.refresh()
    await store.delete("known_people/p0/x")
    assert not await gallery.refresh()
    assert names(gallery, b"f0") == []
    assert await gallery.refresh()
    assert gallery.people.people == 59
    assert recogniser.most == 1


class FakeStore:
    """One known picture; every call fails while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.lists = 0

    def _check(self) -> None:
        if self.away:
            raise ObjectStoreUnavailableError("object store: gone")

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._check()
        return b"f"

    async def put(self, key: str, content: bytes) -> None:
        self._check()

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.lists += 1
        self._check()
        yield ObjectInfo("known_people/p/x", 1, "tag")


async def test_while_the_store_is_away_the_last_snapshot_is_kept(
    recogniser: FakeRecogniser,
) -> None:
    store = FakeStore()
    gallery = new_gallery(store, recogniser)
    # The fake store answers b"f" for the kept encoding too, which is damaged and made again.
    with capture_logs() as logs:
        watching = asyncio.create_task(gallery.watch(0))

        async def look(times: int) -> None:
            enough = store.lists + times
            while store.lists < enough:  # noqa: ASYNC110, one turn of the loop is enough
                await asyncio.sleep(0)

        store.away = True
        await look(3)
        with pytest.raises(NotReadyError):
            await gallery.check()
        store.away = False
        await gallery.wait_ready()
        store.away = True
        await look(5)
        assert gallery.people.pictures == 1
        store.away = False
        await look(2)
        watching.cancel()
    away = [line for line in logs if "cannot be read" in line["event"]]
    back = [line for line in logs if "can be read again" in line["event"]]
    assert (len(away), len(back)) == (2, 2)


async def test_a_real_server_gone_and_back(tmp_path: Path, recogniser: FakeRecogniser) -> None:
    server = VersityGw(tmp_path).start()
    store = ObjectStore(s3_settings(server, tmp_path))
    await store.put("known_people/p/x", b"f")
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    server.kill()
    with pytest.raises(ObjectStoreUnavailableError):
        await gallery.refresh()
    assert gallery.people.pictures == 1
    server.start()
    await store.put("known_people/q/x", b"f q")
    await gallery.refresh()
    assert gallery.people.pictures == 2
    server.stop()

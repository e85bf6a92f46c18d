import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.common.images import MAX_PICTURE_BYTES
from services.common.objects import ObjectInfo, ObjectStore, ObjectStoreUnavailableError
from services.common.settings import ObjectStoreSettings
from services.face_recog import metrics, service
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


class ReadOnlyStore:
    """A store in which nothing can be changed while it is locked."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.locked = True
        self.get = store.get
        self.list = store.list

    async def put(self, key: str, content: bytes) -> None:
        self._check()
        await self._store.put(key, content)

    async def delete(self, key: str) -> None:
        self._check()
        await self._store.delete(key)

    def _check(self) -> None:
        if self.locked:
            raise ObjectStoreUnavailableError("permission denied")


def place_events(logs: Any) -> list[str]:
    return [line["event"] for line in logs if "place for encodings" in line["event"]]


async def test_encodings_that_cannot_be_kept_are_used_nevertheless(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    for number in range(3):
        await store.put(f"known_people/p{number}/x", b"f%d" % number)
    gallery = new_gallery(ReadOnlyStore(store), recogniser)
    with capture_logs() as logs:
        assert await gallery.refresh()
        assert await gallery.refresh()
    assert gallery.people.pictures == 3
    assert len(recogniser.seen) == 3, "once, not in every round"
    assert place_events(logs) == ["place for encodings is away"]


async def kept_for(store: ObjectStore, *pictures: bytes) -> bool:
    """Whether exactly these pictures' encodings are kept."""
    kept = {info.key async for info in store.list("encodings/")}
    wanted = {hashlib.sha256(picture).hexdigest() for picture in pictures}
    return kept == {f"encodings/{ENGINE}/{name}" for name in wanted}


async def test_encodings_go_with_the_last_picture_of_that_content(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    for key, content in {
        "Ann/1": b"f1",
        "Ann/2": b"f1",
        "Bo/1": b"f2",
        "Bo/group": b"fff",
        "Cy/1": b"f3",
        "Di/1": b"f4",
    }.items():
        await store.put(f"known_people/{key}", content)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    assert await kept_for(store, b"f1", b"f2", b"fff", b"f3", b"f4")

    await store.delete("known_people/Ann/1")  # the other one is the same
    await store.delete("known_people/Bo/group")  # was skipped, yet shows faces
    await store.put("known_people/Cy/1", b"f5")  # replaced
    await store.delete("known_people/Di/1")  # renamed
    await store.put("known_people/Diana/1", b"f4")
    await gallery.refresh()
    assert await kept_for(store, b"f1", b"f2", b"f4", b"f5")
    assert recogniser.seen.count(b"f4") == 1

    await store.delete("known_people/Ann/2")
    await gallery.refresh()
    assert await kept_for(store, b"f2", b"f4", b"f5")


async def test_encodings_of_a_picture_that_moves_in_a_crowd_are_kept(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    for number in range(40):
        await store.put(f"known_people/p/{number}", b"f%d" % number)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    for number in range(40):
        await store.delete(f"known_people/p/{number}")
        await store.put(f"known_people/q/{number}", b"f%d" % number)
    while not await gallery.refresh():
        pass
    assert gallery.people.pictures == 40
    assert len(recogniser.seen) == 40


async def test_encodings_that_cannot_be_removed_are_removed_later(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    await store.put("known_people/p/x", b"f")
    read_only = ReadOnlyStore(store)
    read_only.locked = False
    gallery = new_gallery(read_only, recogniser)
    await gallery.refresh()
    await store.delete("known_people/p/x")
    read_only.locked = True
    with capture_logs() as logs:
        await gallery.refresh()
        await gallery.refresh()
        assert gallery.people.pictures == 0
        assert await kept_for(store, b"f")
        read_only.locked = False
        await gallery.refresh()
    assert await kept_for(store)
    assert place_events(logs) == ["place for encodings is away", "place for encodings is back"]


@pytest.mark.parametrize(("listing", "pause"), [(0.1, 2.0), (2.5, 10.0)])
async def test_a_long_listing_is_repeated_less_often(
    recogniser: FakeRecogniser, monkeypatch: pytest.MonkeyPatch, listing: float, pause: float
) -> None:
    now = 0.0

    class SlowStore(FakeStore):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            nonlocal now
            now += listing
            async for info in super().list(prefix):
                yield info

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
            raise asyncio.CancelledError

    gallery = new_gallery(SlowStore(), recogniser)
    monkeypatch.setattr(service, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await gallery.watch(2.0)
    assert slept == [pause]


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

    async def delete(self, key: str) -> None:
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

"""Markers show a change of the known people before all of them are listed, and nothing else."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Container
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from services.common.changes import CHANGES, changed_person, mark_changed
from services.common.errors import ObjectStoreUnavailableError
from services.common.object_info import ObjectInfo
from services.common.object_keys import MAX_PART_BYTES
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.errors import NotReadyError
from services.face_recog.service import change_markers
from services.face_recog.service import gallery as gallery_module
from services.face_recog.tests.galleries import FakeRecogniser, names, new_gallery, showing
from services.testing.waiting import eventually


class PlainStore:
    """A store that cannot tell who is new; its clock may differ, and its markers be away."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.get, self.put, self.delete = store.get, store.put, store.delete
        self.lists: list[str] = []
        self.away = False
        self.ahead = 0.0

    async def new_folders(self, prefix: str, known: Container[str]) -> dict[str, int]:
        return {}

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.lists.append(prefix)
        if self.away and prefix == CHANGES:
            raise ObjectStoreUnavailableError("object store: changes/: permission denied")
        async for info in self._store.list(prefix):
            yield dataclasses.replace(info, modified=info.modified + self.ahead)

    async def enrol(self, name: str, content: bytes) -> None:
        key = f"known_people/{name}"
        await self.put(key, content)
        await mark_changed(self, key)

    async def remove(self, name: str) -> None:
        key = f"known_people/{name}"
        await self.delete(key)
        await mark_changed(self, key)

    async def markers(self) -> set[str]:
        return {info.key async for info in self._store.list(CHANGES)}


@pytest.fixture
async def plain_store(any_store: ObjectStore) -> PlainStore:
    """An empty one, in a folder and on a real S3 server."""
    for prefix in ("known_people/", CHANGES, "encodings/"):
        for info in [info async for info in any_store.list(prefix)]:
            await any_store.delete(info.key)
    return PlainStore(any_store)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one by which a replica tells how long ago it saw a marker."""
    clock = Clock()
    monkeypatch.setattr(change_markers, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


async def test_a_marked_change_is_seen_without_a_look_at_everybody(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    await plain_store.put("known_people/Ann/1", showing("ann"))
    await plain_store.put("known_people/Cy/1", showing("cy"))
    gallery = new_gallery(plain_store, recogniser)
    await gallery.refresh()
    plain_store.lists.clear()

    await plain_store.enrol("Bo/1", showing("bo"))
    await plain_store.enrol("Ann/2", showing("an2"))
    await plain_store.remove("Cy/1")
    await plain_store.put("known_people/By hand/1", showing("hand"))
    assert await gallery.glance()
    assert names(gallery, showing("bo")) == ["Bo/1"]
    assert names(gallery, showing("an2")) == ["Ann/2"]
    assert names(gallery, showing("cy")) == []
    assert names(gallery, showing("hand")) == [], "nothing says so"
    for _ in range(3):
        assert await gallery.glance()
    assert sorted(prefix for prefix in plain_store.lists if prefix != CHANGES) == [
        "known_people/Ann/",
        "known_people/Bo/",
        "known_people/Cy/",
    ], "once each"
    before = gallery.snapshot
    assert await new_gallery(plain_store, recogniser).refresh()
    assert recogniser.seen.count(showing("bo")) == 1, "another replica finds what is kept of it"

    await gallery.refresh()
    assert names(gallery, showing("hand")) == ["By hand/1"]
    assert gallery.snapshot is not before
    assert (gallery.people.people, gallery.people.pictures) == (3, 4)


async def test_a_picture_that_came_and_went_at_once_is_not_known(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    gallery = new_gallery(plain_store, recogniser)
    await gallery.refresh()
    await plain_store.enrol("Ann/1", showing("ann"))
    await plain_store.remove("Ann/1")
    assert await gallery.glance()
    assert gallery.people.pictures == 0
    await plain_store.enrol("Ann/2", showing("an2"))
    await gallery.glance()
    await plain_store.remove("Ann/2")
    await gallery.glance()
    assert gallery.people.pictures == 0


async def test_a_change_is_seen_while_all_are_listed(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    await plain_store.put("known_people/Ann/1", showing("ann"))
    await plain_store.put("known_people/Cy/1", showing("cy"))
    is_slow = False

    class Slow(PlainStore):
        """Its listing of everybody ends when the changes meanwhile are known."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/" and is_slow:
                await plain_store.enrol("Bo/1", showing("bo"))
                await plain_store.remove("Cy/1")
                while [*names(gallery, showing("bo")), *names(gallery, showing("cy"))] != ["Bo/1"]:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    gallery = new_gallery(Slow(plain_store._store), recogniser)
    await gallery.refresh()
    is_slow = True
    async with asyncio.timeout(20):
        await gallery.refresh(0.001)
    assert names(gallery, showing("bo")) == ["Bo/1"], "though it was not listed"
    assert names(gallery, showing("cy")) == [], "though it was"
    assert names(gallery, showing("ann")) == ["Ann/1"]


class Hiccup(PlainStore):
    """While it is full of trouble, it gives no known picture."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.get = self._get
        self.failing = False
        self.failures = 0

    async def _get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if self.failing and key.startswith("known_people/"):
            self.failures += 1
            raise ObjectStoreUnavailableError("object store: try again")
        return await self._store.get(key, max_bytes=max_bytes)


async def test_a_change_that_could_not_be_read_is_looked_at_again(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    store = Hiccup(plain_store._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    await plain_store.enrol("Ann/1", showing("ann"))
    store.failing = True
    for _ in range(5):
        with pytest.raises(ObjectStoreUnavailableError):
            await gallery.glance()
    store.failing = False
    assert await gallery.glance()
    assert names(gallery, showing("ann")) == ["Ann/1"]


async def test_somebody_new_without_a_marker_who_could_not_be_read_is_looked_at_again(
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = ObjectStore(folder_store_settings)
    store = Hiccup(folder)
    monkeypatch.setattr(store, "new_folders", folder.new_folders)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    await store.put("known_people/Ann/1", showing("ann"))
    store.failing = True
    with pytest.raises(ObjectStoreUnavailableError):
        await gallery.glance()
    store.failing = False
    assert await gallery.glance()
    assert names(gallery, showing("ann")) == ["Ann/1"]


async def test_a_hiccup_while_all_are_listed_does_not_end_the_listing(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    is_slow = False

    class Slow(Hiccup):
        """Its listing of everybody ends when a look meanwhile has failed, and info has not."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/" and is_slow:
                self.failing = True
                await plain_store.enrol("Bo/1", showing("bo"))
                while not self.failures:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                self.failing = False
                while names(gallery, showing("bo")) != ["Bo/1"]:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    store = Slow(plain_store._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    await plain_store.put("known_people/By hand/1", showing("hand"))
    is_slow = True
    async with asyncio.timeout(20):
        assert await gallery.refresh(0.001)
    assert store.lists.count("known_people/") == 2
    assert names(gallery, showing("hand")) == ["By hand/1"]


@pytest.mark.parametrize("fails", ["all", "some"])
async def test_after_a_hiccup_changes_are_seen_before_all_are_listed_again(
    plain_store: PlainStore, recogniser: FakeRecogniser, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Either of a look at everybody or of info at some of them."""
    store = Hiccup(plain_store._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    monkeypatch.setattr(gallery_module, "_pause", lambda _interval, _listing: 3600.0)
    store.lists.clear()
    store.failing = fails == "all"
    await plain_store.put("known_people/By hand/1", showing("hand"))
    with capture_logs() as logs:
        watching = asyncio.create_task(gallery.watch(0.001))
        await eventually(
            lambda: gallery._trouble.reason if fails == "all" else names(gallery, showing("hand"))
        )
        store.failing = True
        await plain_store.enrol("Ann/1", showing("ann"))
        await eventually(lambda: store.failures > 2)
        store.failing = False
        await eventually(lambda: names(gallery, showing("ann")) == ["Ann/1"])
        await eventually(lambda: bool(gallery._trouble.reason) == (fails == "all"))
        watching.cancel()
    assert store.lists.count("known_people/") == 1
    events = [line["event"] for line in logs if "can be read again" in line["event"]]
    assert len(events) == (fails == "some"), "a look at some does not end what info at all met"


async def test_a_marker_makes_nobody_ready_before_all_were_listed_once(
    plain_store: PlainStore, recogniser: FakeRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlisted(PlainStore):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/":
                raise ObjectStoreUnavailableError("object store: try again")

    await plain_store.enrol("Ann/1", showing("ann"))
    store = Unlisted(plain_store._store)
    gallery = new_gallery(store, recogniser)
    monkeypatch.setattr(gallery_module, "_pause", lambda _interval, _listing: 0.02)
    watching = asyncio.create_task(gallery.watch(0.001))
    await eventually(lambda: store.lists.count("known_people/") > 3)
    watching.cancel()
    with pytest.raises(NotReadyError, match="try again"):
        await gallery.check()


async def test_a_change_that_the_listing_of_all_just_missed_is_seen_by_its_marker(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    class Late(PlainStore):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/":
                await plain_store.enrol("Bo/1", showing("bo"))

    gallery = new_gallery(Late(plain_store._store), recogniser)
    await gallery.refresh()
    assert gallery.people.pictures == 0
    await gallery.glance()
    assert names(gallery, showing("bo")) == ["Bo/1"]


@pytest.mark.parametrize("ahead", [0.0, -7200.0, 7200.0])
async def test_a_marker_stays_until_all_replicas_had_time_for_it_whatever_the_clocks(
    plain_store: PlainStore, recogniser: FakeRecogniser, clock: Clock, ahead: float
) -> None:
    plain_store.ahead = ahead
    first, second = new_gallery(plain_store, recogniser), new_gallery(plain_store, recogniser)
    await first.refresh()
    await second.refresh()
    await plain_store.enrol("Ann/1", showing("ann"))
    await first.glance()
    clock.now += 59
    plain_store.ahead = -ahead
    await first.glance()
    assert len(await plain_store.markers()) == 1
    await second.glance()
    assert names(second, showing("ann")) == ["Ann/1"]
    clock.now += 2
    await first.glance()
    assert not await plain_store.markers()
    await plain_store.remove("Ann/1")
    for gallery in (first, second):
        await gallery.glance()
        assert gallery.people.pictures == 0


async def test_a_replica_that_was_away_lists_what_no_marker_says_any_more(
    plain_store: PlainStore, recogniser: FakeRecogniser, clock: Clock
) -> None:
    first, late = new_gallery(plain_store, recogniser), new_gallery(plain_store, recogniser)
    await first.refresh()
    await late.refresh()
    await plain_store.enrol("Ann/1", showing("ann"))
    await first.glance()
    clock.now += 61
    await first.glance()
    await late.glance()
    assert late.people.pictures == 0
    await late.refresh()
    assert names(late, showing("ann")) == ["Ann/1"]


async def test_what_all_were_listed_after_is_not_looked_at_again(
    plain_store: PlainStore, recogniser: FakeRecogniser, clock: Clock
) -> None:
    for number in range(40):
        await plain_store.enrol(f"p{number}/1", showing(number))
    gallery = new_gallery(plain_store, recogniser)
    await gallery.refresh()
    plain_store.lists.clear()
    assert await gallery.glance()
    assert plain_store.lists == [CHANGES]
    clock.now += 61
    await gallery.glance()
    assert not await plain_store.markers()


async def test_a_crowd_of_markers_is_taken_in_parts(
    plain_store: PlainStore,
    recogniser: FakeRecogniser,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_markers, "_LISTED", 30)
    monkeypatch.setattr(change_markers, "_REMOVALS", 20)
    gallery = new_gallery(plain_store, recogniser)
    await gallery.refresh()
    for number in range(40):
        await plain_store.enrol(f"p{number}/1", showing(number))
    assert not await gallery.glance()
    assert gallery.people.pictures == 16
    assert await gallery.glance()
    assert gallery.people.pictures == 30, "those that are listed in info look"
    for _ in range(3):
        clock.now += 61
        await gallery.glance()
    assert gallery.people.pictures == 40
    clock.now += 61
    await gallery.glance()
    assert not await plain_store.markers()


async def test_the_latest_change_is_looked_at_first(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    class Dated(PlainStore):
        """Whoever is enrolled last is called Zoe."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield dataclasses.replace(info, modified=float(info.key.endswith("Zoe.")))

    gallery = new_gallery(Dated(plain_store._store), recogniser)
    await gallery.refresh()
    for number in range(40):
        await plain_store.enrol(f"p{number}/1", showing(number))
    await plain_store.enrol("Zoe/1", showing("zoe"))
    assert not await gallery.glance()
    assert names(gallery, showing("zoe")) == ["Zoe/1"]


DAMAGED = [
    "01234567",
    "01234567.",
    "01234567..",
    "01234567...",
    "01234567Bo",
    "01234567Ann/1.",
    "01234567" + "x" * (MAX_PART_BYTES + 1) + ".",
    "0123ABCDAnn.",
    "Ann.",
    "encodings/00",
]


async def test_what_is_no_marker_does_no_harm_and_goes(
    plain_store: PlainStore, recogniser: FakeRecogniser, clock: Clock
) -> None:
    gallery = new_gallery(plain_store, recogniser)
    await gallery.refresh()
    for name in DAMAGED:
        await plain_store.put(CHANGES + name, b"something")
    await plain_store.put(f"{CHANGES}01234567Nobody at all.", b"something")
    await plain_store.enrol("Ann #1/1", showing("ann"))
    with capture_logs() as logs:
        for _ in range(3):
            assert await gallery.glance()
    assert names(gallery, showing("ann")) == ["Ann #1/1"]
    warned = [line["key"] for line in logs if line["event"].startswith("this is no marker")]
    found = await plain_store.markers()
    assert len(warned) == len(set(warned)) == len(found) - 2, "each once"
    clock.now += 61
    await gallery.glance()
    assert not await plain_store.markers()


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_marker_names_nobody(name: str) -> None:
    assert changed_person(CHANGES + name) is None


@pytest.mark.parametrize(
    "name", ["x" * (MAX_PART_BYTES - 9), "日" * 63, "a b#c%", "01234567", "Ann #1", "#1", "Jr."]
)
async def test_a_marker_names_anybody(plain_store: PlainStore, name: str) -> None:
    await mark_changed(plain_store, f"known_people/{name}/1.jpg")
    assert [changed_person(key) for key in await plain_store.markers()] == [name]


async def test_without_its_markers_the_store_is_followed_as_before(
    plain_store: PlainStore, recogniser: FakeRecogniser
) -> None:
    plain_store.away = True
    gallery = new_gallery(plain_store, recogniser)
    with capture_logs() as logs:
        assert await gallery.refresh()
        await plain_store.enrol("Ann/1", showing("ann"))
        assert await gallery.glance()
        assert gallery.people.pictures == 0
        assert await gallery.refresh()
        assert names(gallery, showing("ann")) == ["Ann/1"]
        plain_store.away = False
        await gallery.glance()
    assert [line["event"] for line in logs if "markers" in line["event"]] == [
        "place for markers of changes is away",
        "place for markers of changes is back",
    ]


async def test_a_change_that_cannot_be_marked_is_said(plain_store: PlainStore) -> None:
    class Full:
        async def put(self, key: str, content: bytes) -> None:
            raise ObjectStoreUnavailableError("no space")

    with capture_logs() as logs:
        await mark_changed(Full(), "known_people/Ann/1")
        await mark_changed(plain_store, f"known_people/{'x' * MAX_PART_BYTES}/1")
    assert [line["reason"] for line in logs] == [
        "no space",
        "path has a part of more than 200 bytes",
    ]
    assert not await plain_store.markers()

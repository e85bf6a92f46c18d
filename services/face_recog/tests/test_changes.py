"""Markers show a change of the known people before all of them are listed, and nothing else."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Container
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from services.common.changes import CHANGES, changed_person, mark_changed
from services.common.errors import ObjectStoreUnavailableError
from services.common.images import MAX_PART_BYTES
from services.common.object_info import ObjectInfo
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.errors import NotReadyError
from services.face_recog.service import change_markers
from services.face_recog.service import gallery as following
from services.face_recog.tests.conftest import FakeRecogniser, names, new_gallery
from services.testing.waiting import eventually


class Server:
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
        async for one in self._store.list(prefix):
            yield dataclasses.replace(one, modified=one.modified + self.ahead)

    async def enrol(self, name: str, content: bytes) -> None:
        key = f"known_people/{name}"
        await self.put(key, content)
        await mark_changed(self, key)

    async def remove(self, name: str) -> None:
        key = f"known_people/{name}"
        await self.delete(key)
        await mark_changed(self, key)

    async def markers(self) -> set[str]:
        return {one.key async for one in self._store.list(CHANGES)}


@pytest.fixture
async def server(any_store: ObjectStore) -> Server:
    """An empty one, in a folder and on a real S3 server."""
    for prefix in ("known_people/", CHANGES, "encodings/"):
        for one in [one async for one in any_store.list(prefix)]:
            await any_store.delete(one.key)
    return Server(any_store)


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
    server: Server, recogniser: FakeRecogniser
) -> None:
    await server.put("known_people/Ann/1", b"f ann")
    await server.put("known_people/Cy/1", b"f cy")
    gallery = new_gallery(server, recogniser)
    await gallery.refresh()
    server.lists.clear()

    await server.enrol("Bo/1", b"f bo")
    await server.enrol("Ann/2", b"f an2")
    await server.remove("Cy/1")
    await server.put("known_people/By hand/1", b"f hand")
    assert await gallery.glance()
    assert names(gallery, b"f bo") == ["Bo/1"]
    assert names(gallery, b"f an2") == ["Ann/2"]
    assert names(gallery, b"f cy") == []
    assert names(gallery, b"f hand") == [], "nothing says so"
    for _ in range(3):
        assert await gallery.glance()
    assert sorted(prefix for prefix in server.lists if prefix != CHANGES) == [
        "known_people/Ann/",
        "known_people/Bo/",
        "known_people/Cy/",
    ], "once each"
    before = gallery.snapshot
    assert await new_gallery(server, recogniser).refresh()
    assert recogniser.seen.count(b"f bo") == 1, "another replica finds what is kept of it"

    await gallery.refresh()
    assert names(gallery, b"f hand") == ["By hand/1"]
    assert gallery.snapshot is not before
    assert (gallery.people.people, gallery.people.pictures) == (3, 4)


async def test_a_picture_that_came_and_went_at_once_is_not_known(
    server: Server, recogniser: FakeRecogniser
) -> None:
    gallery = new_gallery(server, recogniser)
    await gallery.refresh()
    await server.enrol("Ann/1", b"f ann")
    await server.remove("Ann/1")
    assert await gallery.glance()
    assert gallery.people.pictures == 0
    await server.enrol("Ann/2", b"f an2")
    await gallery.glance()
    await server.remove("Ann/2")
    await gallery.glance()
    assert gallery.people.pictures == 0


async def test_a_change_is_seen_while_all_are_listed(
    server: Server, recogniser: FakeRecogniser
) -> None:
    await server.put("known_people/Ann/1", b"f ann")
    await server.put("known_people/Cy/1", b"f cy")
    is_slow = False

    class Slow(Server):
        """Its listing of everybody ends when the changes meanwhile are known."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/" and is_slow:
                await server.enrol("Bo/1", b"f bo")
                await server.remove("Cy/1")
                while (names(gallery, b"f bo"), names(gallery, b"f cy")) != (["Bo/1"], []):  # noqa: ASYNC110
                    await asyncio.sleep(0)

    gallery = new_gallery(Slow(server._store), recogniser)
    await gallery.refresh()
    is_slow = True
    async with asyncio.timeout(20):
        await gallery.refresh(0.001)
    assert names(gallery, b"f bo") == ["Bo/1"], "though it was not listed"
    assert names(gallery, b"f cy") == [], "though it was"
    assert names(gallery, b"f ann") == ["Ann/1"]


class Hiccup(Server):
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
    server: Server, recogniser: FakeRecogniser
) -> None:
    store = Hiccup(server._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    await server.enrol("Ann/1", b"f ann")
    store.failing = True
    for _ in range(5):
        with pytest.raises(ObjectStoreUnavailableError):
            await gallery.glance()
    store.failing = False
    assert await gallery.glance()
    assert names(gallery, b"f ann") == ["Ann/1"]


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
    await store.put("known_people/Ann/1", b"f ann")
    store.failing = True
    with pytest.raises(ObjectStoreUnavailableError):
        await gallery.glance()
    store.failing = False
    assert await gallery.glance()
    assert names(gallery, b"f ann") == ["Ann/1"]


async def test_a_hiccup_while_all_are_listed_does_not_end_the_listing(
    server: Server, recogniser: FakeRecogniser
) -> None:
    is_slow = False

    class Slow(Hiccup):
        """Its listing of everybody ends when a look meanwhile has failed, and one has not."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/" and is_slow:
                self.failing = True
                await server.enrol("Bo/1", b"f bo")
                while not self.failures:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                self.failing = False
                while names(gallery, b"f bo") != ["Bo/1"]:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    store = Slow(server._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    await server.put("known_people/By hand/1", b"f hand")
    is_slow = True
    async with asyncio.timeout(20):
        assert await gallery.refresh(0.001)
    assert store.lists.count("known_people/") == 2
    assert names(gallery, b"f hand") == ["By hand/1"]


@pytest.mark.parametrize("fails", ["all", "some"])
async def test_after_a_hiccup_changes_are_seen_before_all_are_listed_again(
    server: Server, recogniser: FakeRecogniser, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Either of a look at everybody or of one at some of them."""
    store = Hiccup(server._store)
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()
    monkeypatch.setattr(following, "_pause", lambda _interval, _listing: 3600.0)
    store.lists.clear()
    store.failing = fails == "all"
    await server.put("known_people/By hand/1", b"f hand")
    with capture_logs() as logs:
        watching = asyncio.create_task(gallery.watch(0.001))
        await eventually(lambda: gallery._trouble if fails == "all" else names(gallery, b"f hand"))
        store.failing = True
        await server.enrol("Ann/1", b"f ann")
        await eventually(lambda: store.failures > 2)
        store.failing = False
        await eventually(lambda: names(gallery, b"f ann") == ["Ann/1"])
        await eventually(lambda: bool(gallery._trouble) == (fails == "all"))
        watching.cancel()
    assert store.lists.count("known_people/") == 1
    events = [line["event"] for line in logs if "can be read again" in line["event"]]
    assert len(events) == (fails == "some"), "a look at some does not end what one at all met"


async def test_a_marker_makes_nobody_ready_before_all_were_listed_once(
    server: Server, recogniser: FakeRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlisted(Server):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/":
                raise ObjectStoreUnavailableError("object store: try again")

    await server.enrol("Ann/1", b"f ann")
    store = Unlisted(server._store)
    gallery = new_gallery(store, recogniser)
    monkeypatch.setattr(following, "_pause", lambda _interval, _listing: 0.02)
    watching = asyncio.create_task(gallery.watch(0.001))
    await eventually(lambda: store.lists.count("known_people/") > 3)
    watching.cancel()
    with pytest.raises(NotReadyError, match="try again"):
        await gallery.check()


async def test_a_change_that_the_listing_of_all_just_missed_is_seen_by_its_marker(
    server: Server, recogniser: FakeRecogniser
) -> None:
    class Late(Server):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            if prefix == "known_people/":
                await server.enrol("Bo/1", b"f bo")

    gallery = new_gallery(Late(server._store), recogniser)
    await gallery.refresh()
    assert gallery.people.pictures == 0
    await gallery.glance()
    assert names(gallery, b"f bo") == ["Bo/1"]


@pytest.mark.parametrize("ahead", [0.0, -7200.0, 7200.0])
async def test_a_marker_stays_until_all_replicas_had_time_for_it_whatever_the_clocks(
    server: Server, recogniser: FakeRecogniser, clock: Clock, ahead: float
) -> None:
    server.ahead = ahead
    first, second = new_gallery(server, recogniser), new_gallery(server, recogniser)
    await first.refresh()
    await second.refresh()
    await server.enrol("Ann/1", b"f ann")
    await first.glance()
    clock.now += 59
    server.ahead = -ahead
    await first.glance()
    assert len(await server.markers()) == 1
    await second.glance()
    assert names(second, b"f ann") == ["Ann/1"]
    clock.now += 2
    await first.glance()
    assert not await server.markers()
    await server.remove("Ann/1")
    for gallery in (first, second):
        await gallery.glance()
        assert gallery.people.pictures == 0


async def test_a_replica_that_was_away_lists_what_no_marker_says_any_more(
    server: Server, recogniser: FakeRecogniser, clock: Clock
) -> None:
    first, late = new_gallery(server, recogniser), new_gallery(server, recogniser)
    await first.refresh()
    await late.refresh()
    await server.enrol("Ann/1", b"f ann")
    await first.glance()
    clock.now += 61
    await first.glance()
    await late.glance()
    assert late.people.pictures == 0
    await late.refresh()
    assert names(late, b"f ann") == ["Ann/1"]


async def test_what_all_were_listed_after_is_not_looked_at_again(
    server: Server, recogniser: FakeRecogniser, clock: Clock
) -> None:
    for number in range(40):
        await server.enrol(f"p{number}/1", b"f%d" % number)
    gallery = new_gallery(server, recogniser)
    await gallery.refresh()
    server.lists.clear()
    assert await gallery.glance()
    assert server.lists == [CHANGES]
    clock.now += 61
    await gallery.glance()
    assert not await server.markers()


async def test_a_crowd_of_markers_is_taken_in_parts(
    server: Server, recogniser: FakeRecogniser, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_markers, "_LISTED", 30)
    monkeypatch.setattr(change_markers, "_REMOVALS", 20)
    gallery = new_gallery(server, recogniser)
    await gallery.refresh()
    for number in range(40):
        await server.enrol(f"p{number}/1", b"f%d" % number)
    assert not await gallery.glance()
    assert gallery.people.pictures == 16
    assert await gallery.glance()
    assert gallery.people.pictures == 30, "those that are listed in one look"
    for _ in range(3):
        clock.now += 61
        await gallery.glance()
    assert gallery.people.pictures == 40
    clock.now += 61
    await gallery.glance()
    assert not await server.markers()


async def test_the_latest_change_is_looked_at_first(
    server: Server, recogniser: FakeRecogniser
) -> None:
    class Dated(Server):
        """Whoever is enrolled last is called Zoe."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for one in super().list(prefix):
                yield dataclasses.replace(one, modified=float(one.key.endswith("Zoe.")))

    gallery = new_gallery(Dated(server._store), recogniser)
    await gallery.refresh()
    for number in range(40):
        await server.enrol(f"p{number}/1", b"f%d" % number)
    await server.enrol("Zoe/1", b"f zoe")
    assert not await gallery.glance()
    assert names(gallery, b"f zoe") == ["Zoe/1"]


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
    server: Server, recogniser: FakeRecogniser, clock: Clock
) -> None:
    gallery = new_gallery(server, recogniser)
    await gallery.refresh()
    for name in DAMAGED:
        await server.put(CHANGES + name, b"something")
    await server.put(f"{CHANGES}01234567Nobody at all.", b"something")
    await server.enrol("Ann #1/1", b"f ann")
    with capture_logs() as logs:
        for _ in range(3):
            assert await gallery.glance()
    assert names(gallery, b"f ann") == ["Ann #1/1"]
    warned = [line["key"] for line in logs if line["event"].startswith("this is no marker")]
    found = await server.markers()
    assert len(warned) == len(set(warned)) == len(found) - 2, "each once"
    clock.now += 61
    await gallery.glance()
    assert not await server.markers()


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_marker_names_nobody(name: str) -> None:
    assert changed_person(CHANGES + name) is None


@pytest.mark.parametrize(
    "name", ["x" * (MAX_PART_BYTES - 9), "日" * 63, "a b#c%", "01234567", "Ann #1", "#1", "Jr."]
)
async def test_a_marker_names_anybody(server: Server, name: str) -> None:
    await mark_changed(server, f"known_people/{name}/1.jpg")
    assert [changed_person(key) for key in await server.markers()] == [name]


async def test_without_its_markers_the_store_is_followed_as_before(
    server: Server, recogniser: FakeRecogniser
) -> None:
    server.away = True
    gallery = new_gallery(server, recogniser)
    with capture_logs() as logs:
        assert await gallery.refresh()
        await server.enrol("Ann/1", b"f ann")
        assert await gallery.glance()
        assert gallery.people.pictures == 0
        assert await gallery.refresh()
        assert names(gallery, b"f ann") == ["Ann/1"]
        server.away = False
        await gallery.glance()
    assert [line["event"] for line in logs if "markers" in line["event"]] == [
        "place for markers of changes is away",
        "place for markers of changes is back",
    ]


async def test_a_change_that_cannot_be_marked_is_said(server: Server) -> None:
    class Full:
        async def put(self, key: str, content: bytes) -> None:
            raise ObjectStoreUnavailableError("no space")

    with capture_logs() as logs:
        await mark_changed(Full(), "known_people/Ann/1")
        await mark_changed(server, f"known_people/{'x' * MAX_PART_BYTES}/1")
    assert [line["reason"] for line in logs] == [
        "no space",
        "path has a part of more than 200 bytes",
    ]
    assert not await server.markers()

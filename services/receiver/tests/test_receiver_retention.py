"""Pictures whose time is over: nothing is left of them, and all of the others."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.clock import database_now, now_ms
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError, ObjectStoreUnavailableError
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.common.tables import (
    audit,
    events,
    face_denials,
    face_groups,
    group_denials,
    group_faces,
    group_questions,
    images,
    person_images,
    persons,
)
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Processed
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Running, Start, collect
from services.receiver.tests.test_receiver_deletion import put_by_hand
from services.receiver.tests.test_receiver_erasing import Pipeline, face_of, picture
from services.receiver.tests.test_receiver_people import enrol
from services.receiver.tests.test_receiver_said_by_hand import id_of, name, run
from services.redeemer.adapters import retention as rows_module
from services.redeemer.adapters.retention import DatabaseOldAudit, DatabaseOldPictures
from services.redeemer.metrics import ERASED, OVERDUE
from services.redeemer.service.retention import AuditRetention, PictureRetention

ENCODINGS = [
    struct.pack("<128f", *(random.Random(number).uniform(-1, 1) for _ in range(128)))
    for number in range(2)
]
"""Of two faces that nobody else has."""

DAY = 86_400_000
KEPT = 30 * DAY


class Kept(Pipeline):
    """A receiver, and a redeemer that erases what is older than 30 days."""

    def __init__(self, settings: ReceiverSettings, running: Running) -> None:
        super().__init__(settings, running)
        self.objects = ObjectStore(settings)
        self.ahead_ms = 0

    def retention(self, database: Database | None = None) -> PictureRetention:
        rows = DatabaseOldPictures(
            database or self.database,
            database_now,
            lambda: now_ms() + self.ahead_ms,
            kept_ms=KEPT,
        )
        return PictureRetention(rows=rows, objects=self.objects, stops=lambda: False)

    async def age(self, image_id: int, days: float = 31) -> None:
        values = {"created_at": now_ms() - round(days * DAY), "submitted_at": None}
        await run(self.settings, sa.update(images).where(images.c.id == image_id).values(values))

    async def ids(self) -> list[int]:
        return [one for (one,) in await run(self.settings, sa.select(images.c.id))]

    async def submit(self, path: str) -> int:
        answer = await self.client.post("/image/post", json={"path": path})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["id"])


@pytest.fixture
async def kept(settings: ReceiverSettings, start: Start) -> AsyncIterator[Kept]:
    one = Kept(settings, start(settings))
    yield one
    await one.database.close()


@pytest.fixture
async def plain_kept(plain_settings: ReceiverSettings, start: Start) -> AsyncIterator[Kept]:
    """On SQLite alone."""
    one = Kept(plain_settings, start(plain_settings))
    yield one
    await one.database.close()


async def seed(kept: Kept) -> dict[str, Any]:
    """An old picture with Ada and somebody unknown, and a new one of Ada."""
    client, settings = kept.client, kept.settings
    assert (await enrol(client, "Grace", picture(90))).status_code == 201
    known, unknown = ENCODINGS
    old = await kept.show(face_of("Grace", encoding=known), face_of(encoding=unknown))
    named = await name(client, old, "Ada", insist="true")
    assert named.status_code == 200, named.text
    new = await kept.show(face_of("Ada", "Grace"))
    ada, grace = await id_of(client, "Ada"), await id_of(client, "Grace")
    its = {"image_id": old, "face_index": 1}
    now = {"created_at": 1}
    for table, values in (
        (face_denials, {**its, "person_id": grace, **now}),
        (face_groups, {"id": 1, "size": 1, **now}),
        (face_groups, {"id": 2, "size": 1, **now}),
        (group_faces, {**its, "group_id": 1}),
        (group_faces, {"image_id": new, "face_index": 0, "group_id": 2}),
        (group_denials, {**its, "group_id": 2, **now}),
        (group_questions, {"group_id": 1, "person_id": grace, "answer": "no", **now}),
        (group_questions, {"group_id": 1, "other_group_id": 2, **now}),
        (group_questions, {"group_id": 2, "person_id": ada, **now}),
    ):
        await run(settings, sa.insert(table).values(values))
    for address in ("thumbnail", "preview", "faces/1/thumbnail"):
        assert (await client.get(f"/images/{old}/{address}")).status_code == 200
    [(path, digest)] = await run(
        settings, sa.select(images.c.path, images.c.content_digest).where(images.c.id == old)
    )
    await run(settings, sa.update(images).where(images.c.id == old).values(name="holiday-q7x.png"))
    await kept.work_is_done()
    await run(settings, sa.delete(events))
    await kept.age(old)
    return {
        "old": old,
        "new": new,
        "ada": ada,
        "path": path,
        "digest": digest,
        "known": named.json()["image_name"],
    }


def content_of(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        yield path.relative_to(folder).as_posix().encode()
        if path.is_file():
            yield path.read_bytes()


async def test_nothing_is_left_of_an_old_picture_and_all_of_the_others(kept: Kept) -> None:
    client, settings = kept.client, kept.settings
    ids = await seed(kept)
    old, new = ids["old"], ids["new"]
    before = (await client.get(f"/images/{new}")).json()
    files = [kept.store() / "pictures" / ids["path"], kept.store() / "known_people" / ids["known"]]
    texts = ["holiday-q7x.png", ids["digest"], ids["known"].removeprefix("Ada/")]
    # A few bytes of each tell enough.
    pieces = [text.encode() for text in texts] + [path.read_bytes()[60:110] for path in files]
    pieces += [encoding[40:72] for encoding in ENCODINGS]
    # What the receiver and the redeemer wrote: the folder of the store, and SQLite's beside it.
    folders = [kept.store()]
    if kept.database.is_sqlite:
        folders.append(Path(settings.database_url.removeprefix("sqlite+aiosqlite:///")).parent)

    def found() -> set[int]:
        contents = [one for folder in folders for one in content_of(folder)]
        return {
            number
            for number, piece in enumerate(pieces)
            if any(piece in content for content in contents)
        }

    everything = await kept.everything()
    texts += [f"{old}-640", f"{old}-1600", f"{old}-10_10_50_50-256"]
    texts += [repr(encoding)[2:-1] for encoding in ENCODINGS]
    assert all(one in everything for one in texts)
    in_store = {1, 2, 3, 4}
    assert found() == (set(range(len(pieces))) if kept.database.is_sqlite else in_store)
    erased = ERASED._value.get()

    await kept.retention().erase_old()

    assert ERASED._value.get() == erased + 1
    assert OVERDUE._value.get() == 0
    assert await kept.ids() == [new]
    assert (await client.get(f"/images/{old}")).status_code == 404
    # As those who follow along are told of what a person deletes.
    noted = await run(settings, sa.select(events.c.kind, events.c.subject_id))
    assert sorted(noted) == [("image", old), ("person", ids["ada"])]
    assert await kept.work_is_done() == {ids["ada"]: ("Ada", True)}
    for later_ms in (0, 3_700_000):  # once more after an hour, in case a write came late
        await collect(settings, later_ms=later_ms)
    everything = await kept.everything()
    assert [one for one in texts if one in everything] == []
    await kept.database.empty_log()
    assert found() == set()

    assert (await client.get(f"/images/{new}")).json() == before
    people = (await client.get("/people")).json()["people"]
    assert [(one["name"], len(one["pictures"])) for one in people] == [("Ada", 0), ("Grace", 1)]
    sizes = await run(settings, sa.select(face_groups.c.id, face_groups.c.size))
    assert sorted(sizes) == [(1, 0), (2, 1)]
    asked = sa.select(group_questions.c.group_id, group_questions.c.person_id)
    assert await run(settings, asked) == [(2, ids["ada"])]
    # Sent again it is a new one.
    form = {"files": ("a.png", picture(1))}
    [again] = (await client.post("/images", files=form)).json()["images"]
    assert (again["id"] > new, again["duplicate"]) == (True, False)


async def test_it_goes_on_when_killed_before_any_commit(
    plain_kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, settings = plain_kept, plain_kept.settings
    monkeypatch.setattr("services.redeemer.service.retention.BATCH", 1)
    ids = await seed(kept)
    more = [await kept.show(face_of()) for _ in range(3)]
    for image_id in more:
        await kept.age(image_id)
    transaction = Database.transaction
    killed = 0

    @asynccontextmanager
    async def until_killed(self: Database) -> AsyncIterator[Any]:
        nonlocal killed
        async with transaction(self) as connection:
            yield connection
            killed += 1
            if killed % 2:  # before the commit, so it is lost; the next life does one
                raise DatabaseUnavailableError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", until_killed)
        for _ in range(20):
            with suppress(DatabaseUnavailableError):
                await kept.retention().erase_old()
    assert killed == 2 * (1 + len(more))
    assert await kept.ids() == [ids["new"]]
    await collect(settings)
    assert len(list((kept.store() / "pictures").rglob("*.*"))) == 1
    assert (await run(settings, sa.select(sa.func.count()).select_from(person_images))) == [(1,)]


async def test_replicas_erase_each_once_and_lose_nothing_that_is_submitted_again(
    kept: Kept,
) -> None:
    settings = kept.settings
    paths = [f"by-path-{number}.png" for number in range(12)]
    for path in paths:
        put_by_hand(settings, path, picture(5))
        await kept.age(await kept.submit(path))
    again, rest = paths[:6], paths[6:]
    databases = [Database(settings) for _ in range(2)]
    erased = ERASED._value.get()
    submitting = asyncio.gather(*map(kept.submit, again))
    await asyncio.gather(*(kept.retention(one).erase_old() for one in databases))
    ids = await submitting
    for database in databases:
        await database.close()
    # What others worked on just then is left for the next look.
    await kept.retention().erase_old()
    found = await run(settings, sa.select(images.c.id, images.c.path))
    assert sorted(found) == sorted(zip(ids, again, strict=True))
    gone = {path for path, image_id in zip(again, ids, strict=True) if image_id > len(paths)}
    assert ERASED._value.get() - erased == len(rest) + len(gone)
    await collect(settings)
    files = {path.name for path in (kept.store() / "pictures").iterdir()}
    assert files == set(again), "by path, the object goes with its row, and stays with a new one"


@pytest.mark.parametrize(
    ("days", "again", "ahead", "stays"),
    [
        (31, None, 0, False),
        (29, None, 0, True),
        # It may have been submitted again in the hour after without a note.
        (30.02, None, 0, True),
        (90, 31, 0, False),
        (90, 29, 0, True),
        # One clock alone says so: the database's, or this host's.
        (31, None, -5, True),
        (20, None, 20, True),
        # Before the clock was set back.
        (-1, None, 0, True),
    ],
)
async def test_the_last_submission_counts(
    plain_kept: Kept, days: float, again: float | None, ahead: float, stays: bool
) -> None:
    kept = plain_kept
    image_id = await kept.submit("a.png")
    await kept.age(image_id, days)
    if again is not None:
        values = {"submitted_at": now_ms() - round(again * DAY)}
        await run(kept.settings, sa.update(images).values(values))
    kept.ahead_ms = round(ahead * DAY)
    await kept.retention().erase_old()
    assert bool(await kept.ids()) == stays


@pytest.mark.parametrize("by_path", [True, False])
async def test_what_is_submitted_again_is_kept_from_then_on(
    plain_kept: Kept, by_path: bool
) -> None:
    kept = plain_kept

    async def submit() -> int:
        if by_path:
            return await kept.submit("a.png")
        form = {"files": ("a.png", picture(7))}
        return int((await kept.client.post("/images", files=form)).json()["images"][0]["id"])

    image_id = await submit()
    query = sa.select(images.c.submitted_at)
    assert await submit() == image_id
    assert await run(kept.settings, query) == [(None,)], "most that repeat one write nothing"
    await kept.age(image_id)
    assert await submit() == image_id
    [(at,)] = await run(kept.settings, query)
    assert abs(at - now_ms()) < DAY
    await kept.retention().erase_old()
    assert await kept.ids() == [image_id]


async def test_what_is_being_processed_goes_and_its_result_with_it(plain_kept: Kept) -> None:
    kept = plain_kept
    image_id = await kept.submit("a.png")
    await kept.age(image_id)
    rows = DatabaseClaims(kept.database, database_now)
    claim = await rows.claim(image_id)
    assert claim
    await kept.retention().erase_old()
    assert not await rows.renew(claim)
    assert not await rows.finish(claim, Processed((face_of(),), 9, 9, "test", "tag", calibration=1))
    assert "face" not in (await kept.everything()).replace("face_groups", "").split()


async def test_known_pictures_go_with_the_image_also_when_it_was_looked_at_again(
    plain_kept: Kept,
) -> None:
    kept, client = plain_kept, plain_kept.client
    put_by_hand(kept.settings, "a.png", picture(1))
    image_id = await kept.submit("a.png")
    await kept.recognise(image_id, face_of())
    tag = await kept.objects.tag("pictures/a.png")
    await run(kept.settings, sa.update(images).values(object_tag=tag))
    assert (await name(client, image_id, "Ada")).status_code == 200
    put_by_hand(kept.settings, "a.png", picture(2))
    assert await kept.submit("a.png") == image_id
    [(status,)] = await run(kept.settings, sa.select(images.c.status))
    assert status == "pending"
    about = (await client.get("/people/Ada/export")).json()
    assert [one["face"] for one in about["known_pictures"]] == [None]
    await kept.age(image_id)
    await kept.retention().erase_old()
    assert await run(kept.settings, sa.select(person_images.c.id)) == []
    assert await run(kept.settings, sa.select(persons.c.name)) == [("Ada",)]


async def test_a_store_that_is_away_keeps_back_only_what_it_is_asked_about(
    plain_kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = plain_kept
    monkeypatch.setattr(rows_module, "LOOKED_AT_ONCE", 2)
    by_path = await kept.submit("a.png")
    uploads = [await kept.show(face_of()) for _ in range(3)]
    for image_id in (by_path, *uploads):
        await kept.age(image_id, 40)
    new = await kept.submit("new.png")

    class Away(ObjectStore):
        async def tag(self, key: str) -> str | None:
            raise ObjectStoreUnavailableError(key)

    kept.objects = Away(ObjectStoreSettings(**kept.settings.model_dump()))
    await kept.retention().erase_old()
    assert await kept.ids() == [by_path, new]
    assert OVERDUE._value.get() == pytest.approx(10 * DAY / 1000, rel=0.01)
    kept.objects = ObjectStore(kept.settings)
    await kept.retention().erase_old()
    assert (await kept.ids(), OVERDUE._value.get()) == ([new], 0)


async def test_old_rows_of_the_audit_go(plain_kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = plain_kept
    monkeypatch.setattr(rows_module, "AUDIT_BATCH", 1)
    monkeypatch.setattr("services.redeemer.service.retention.AUDIT_BATCH", 1)
    row = dict.fromkeys(("kind", "who", "address", "action"), "x")
    await run(kept.settings, sa.delete(audit))
    for days in (31, 29, 40):
        values = {**row, "at": now_ms() - days * DAY}
        await run(kept.settings, sa.insert(audit).values(values))
    rows = DatabaseOldAudit(kept.database, database_now, now_ms, kept_ms=KEPT)
    await AuditRetention(rows=rows, stops=lambda: False).remove_old()
    [(at,)] = await run(kept.settings, sa.select(audit.c.at))
    assert now_ms() - at < KEPT

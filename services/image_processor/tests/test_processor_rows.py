import asyncio
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.clock import database_now
from services.common.database import Database
from services.common.faces import Box, Likely, SeenFace
from services.common.settings import DatabaseSettings
from services.common.tables import events, face_encodings, person_images, persons
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Claim, Failed, Outcome, Processed, Rejected, Released
from services.image_processor.tests.conftest import Images
from services.testing.recogniser import ENCODING, QUALITY, PictureContent

RESULT = Processed((SeenFace(Box(1, 2, 3, 4), 0.5, False, ()),), 10, 20, "test-1")


async def test_many_claims_at_once_have_one_winner(
    images: Images, database_settings: DatabaseSettings
) -> None:
    ids = await images.submit(*[PictureContent.TWO_FACES] * 10)
    pools = [Database(database_settings) for _ in range(3)]
    several = [DatabaseClaims(pool, images.clock.in_database) for pool in pools]
    claims = await asyncio.gather(
        *(rows.claim(image_id) for image_id in ids for rows in several for _ in range(4))
    )
    won = [claim for claim in claims if claim]
    assert sorted(claim.image_id for claim in won) == ids
    # All of them finish, each of them twice: one counts for each image.
    names = await asyncio.gather(
        *(rows.finish(claim, RESULT) for claim in won for rows in several[:2])
    )
    assert sorted(map(str, names)) == ["None"] * 10 + ["processed"] * 10
    for image_id in ids:
        assert len(await images.faces(image_id)) == 1
    for pool in pools:
        await pool.close()


def _claim_all(url: str, ids: list[int], start: Any) -> list[int]:
    async def claim_all() -> list[int]:
        database = Database(DatabaseSettings(database_url=url))
        rows = DatabaseClaims(database, database_now)
        won = []
        for image_id in ids:
            claim = await rows.claim(image_id)
            if claim and await rows.finish(claim, RESULT):
                won.append(image_id)
        await database.close()
        return won

    start.wait(60)
    return asyncio.run(claim_all())


async def test_two_processes_share_the_images_without_doing_one_twice(
    images: Images, database_settings: DatabaseSettings
) -> None:
    ids = await images.submit(*[PictureContent.TWO_FACES] * 40)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as processes:
        barrier = manager.Barrier(2)
        loop = asyncio.get_running_loop()
        url = database_settings.database_url
        shares = await asyncio.gather(
            *(loop.run_in_executor(processes, _claim_all, url, ids, barrier) for _ in range(2))
        )
    assert sorted(itertools.chain(*shares)) == ids
    assert set(await images.statuses()) == {"processed"}
    assert all([(await images.row(image_id)).attempt == 1 for image_id in ids])


async def test_an_expired_lease_is_taken_up_and_the_late_worker_changes_nothing(
    images: Images,
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    late = await images.claim(image_id)
    images.clock.advance(29.9)
    assert await images.rows.claim(image_id) is None
    images.clock.advance(0.2)
    second = await images.claim(image_id)
    assert second.attempt == 2
    before = await images.row(image_id)
    assert await images.rows.finish(late, RESULT) is None
    assert await images.rows.finish(late, Failed("late")) is None
    assert await images.rows.finish(late, Released("late")) is None
    assert not await images.rows.renew(late)
    assert await images.row(image_id) == before
    assert await images.faces(image_id) == []
    assert await images.rows.finish(second, RESULT) == "processed"
    after = await images.row(image_id)
    assert await images.rows.finish(late, Failed("late")) is None
    assert await images.row(image_id) == after


@pytest.mark.parametrize("seconds", [6, 3600, 10**8])
async def test_a_clock_that_was_set_back_holds_up_no_lease(images: Images, seconds: int) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    late = await images.claim(image_id)
    images.clock.advance(-4)  # what a nudge of the clock may do
    assert await images.rows.claim(image_id) is None
    images.clock.advance(4 - seconds)
    assert (await images.claim(image_id)).attempt == 2
    assert await images.rows.finish(late, RESULT) is None


async def test_a_renewed_lease_lasts(images: Images) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    claim = await images.claim(image_id)
    for _ in range(5):
        images.clock.advance(20)
        assert await images.rows.renew(claim)
        assert await images.rows.claim(image_id) is None


@pytest.mark.parametrize("status", ["processed", "rejected", "dead"])
async def test_what_is_final_is_not_claimed(images: Images, status: str) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    await images.update(image_id, status=status, due_at=None)
    assert await images.rows.claim(image_id) is None
    assert await images.rows.claim(image_id + 1000) is None


async def test_a_failed_image_is_claimed_when_it_is_due_and_has_an_attempt_left(
    images: Images,
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    claim = await images.claim(image_id)
    assert await images.rows.finish(claim, Failed("once")) == "failed"
    assert await images.rows.claim(image_id) is None
    images.clock.advance(2.5)
    again = await images.claim(image_id)
    assert (again.attempt, again.path) == (2, claim.path)
    await images.update(image_id, attempt=5)
    images.clock.advance(60)
    assert await images.rows.claim(image_id) is None, "the redeemer declares it dead"


async def encodings(database: Database) -> list[tuple[Any, ...]]:
    async with database.reading() as connection:
        return [tuple(row) for row in await connection.execute(sa.select(face_encodings))]


async def test_a_new_result_leaves_no_encoding_of_the_one_before(
    images: Images, database: Database
) -> None:
    """The picture was replaced: nothing may be left of who was in it."""
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    face = SeenFace(Box(1, 2, 30, 40), 0.5, False, ())
    before = replace(face, encoding=ENCODING[::-1])
    after = replace(face, encoding=ENCODING)
    for engine, found in (("test-1", (before, before)), ("test-2", (face, after))):
        claim = await images.claim(image_id)
        await images.rows.finish(claim, Processed(found, 100, 90, engine))
        await images.update(image_id, status="pending")
    assert await encodings(database) == [(image_id, 1, "test-2", ENCODING)]


async def test_a_name_comes_from_the_known_pictures_row_or_else_from_its_folder(
    images: Images, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.insert(persons).values(id=7, name="Ada L.", created_at=1))
        await connection.execute(
            sa.insert(person_images).values(person_id=7, image_name="Ada/1.jpg", created_at=1)
        )
    known = Likely("Ada/1.jpg", "Ada", 0.25, 4.5)
    by_hand = Likely("Bob/1.jpg", "Bob", 0.5)
    found = (
        SeenFace(
            Box(1, 2, 30, 40), 0.5, True, (known, by_hand), quality=QUALITY, encoding=ENCODING
        ),
        SeenFace(Box(5, 6, 70, 80), 0.75, False, (by_hand,)),
        SeenFace(Box(9, 9, 10, 10), 1.0, False, ()),
        SeenFace(Box(9, 9, 10, 10), 1.0, True, (known,), unsure=True),
    )
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    for _ in range(2):  # the second result replaces the first one
        claim = await images.claim(image_id)
        await images.rows.finish(claim, Processed(found, 100, 90, "test-1", calibration=3))
        stored = await images.faces(image_id)
        await images.update(image_id, status="pending")
    assert [(face.person, face.distance) for face in stored] == [
        ("Ada L.", 0.25),
        ("Bob", 0.5),
        (None, None),
        (None, None),  # a question, which candidates and ambiguous tell from nobody known
    ]
    assert (stored[0].left, stored[0].top, stored[0].right, stored[0].bottom) == (1, 2, 30, 40)
    assert [face.detection_score for face in stored] == [0.5, 0.75, 1.0, 1.0]
    assert [face.ambiguous for face in stored] == [True, False, False, True]
    assert [len(face.candidates) for face in stored] == [2, 1, 0, 1]
    assert stored[0].candidates == [
        {"person": "Ada L.", "image_name": "Ada/1.jpg", "distance": 0.25},
        {"person": "Bob", "image_name": "Bob/1.jpg", "distance": 0.5},
    ]
    assert [face.quality for face in stored] == [QUALITY, None, None, None]
    assert [(face.decided_by, face.likeness, face.calibration) for face in stored] == [
        ("machine", 4.5, 3),
        ("machine", None, 3),
        ("machine", None, 3),
        ("machine", 4.5, 3),
    ]
    assert await encodings(database) == [(image_id, 0, "test-1", ENCODING)]
    row = await images.row(image_id)
    assert (row.width, row.height, row.engine) == (100, 90, "test-1")


async def test_a_person_is_found_by_known_picture_and_folder_whatever_they_are_called(
    images: Images, database: Database
) -> None:
    people = [
        {"id": 7, "name": "Countess", "folder": "Ada", "created_at": 1},
        {"id": 8, "name": "Zo\u00eb", "folder": None, "created_at": 1},
        {"id": 9, "name": "Ada", "folder": "Ada~2", "created_at": 1},
    ]
    picture = {"person_id": 9, "image_name": "Ada~2/1.jpg", "created_at": 1}
    async with database.transaction() as connection:
        await connection.execute(sa.insert(persons), people)
        await connection.execute(sa.insert(person_images).values(picture))
    expected = {
        Likely("Ada/by hand.jpg", "Ada", 0.25): (7, "Countess"),
        Likely("Zoe\u0308/1.jpg", "Zoe\u0308", 0.25): (8, "Zo\u00eb"),
        Likely("Ada~2/1.jpg", "Ada~2", 0.25): (9, "Ada"),
        Likely("Countess/1.jpg", "Countess", 0.25): (None, "Countess"),
    }
    found = tuple(SeenFace(Box(1, 2, 30, 40), 0.5, False, (likely,)) for likely in expected)
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    claim = await images.claim(image_id)
    assert await images.rows.finish(claim, Processed(found, 100, 90, "test-1"))
    stored = await images.faces(image_id)
    assert [(face.person_id, face.person) for face in stored] == list(expected.values())
    assert [candidate["person"] for face in stored for candidate in face.candidates] == [
        name for _, name in expected.values()
    ]


@pytest.mark.parametrize(
    ("outcome", "attempt", "noted"),
    [
        (RESULT, 1, 1),
        (Rejected("no picture"), 1, 1),
        (Failed("broken"), 5, 1),
        (Failed("broken"), 1, 0),
        (Released("away"), 1, 0),
    ],
)
async def test_those_who_follow_along_are_told_what_has_become_final(
    images: Images, database: Database, outcome: Outcome, attempt: int, noted: int
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    claim = await images.claim(image_id)
    assert await images.rows.finish(replace(claim, attempt=attempt), outcome)
    assert await images.rows.finish(claim, RESULT) is None  # too late, so nothing has changed
    async with database.reading() as connection:
        rows = await connection.execute(sa.select(events.c.kind, events.c.subject_id))
        assert [tuple(row) for row in rows] == [("image", image_id)] * noted


async def test_pending_ids_come_oldest_first(images: Images) -> None:
    ids = await images.submit(*[PictureContent.TWO_FACES] * 5)
    await images.update(ids[1], status="dead")
    assert await images.rows.pending(3) == [ids[0], ids[2], ids[3]]


async def test_a_claim_that_nobody_else_holds_is_renewed_only_while_it_is_processing(
    images: Images,
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    claim = await images.claim(image_id)
    assert not await images.rows.renew(Claim(image_id, claim.path, 1, "0" * 32))
    await images.rows.finish(claim, RESULT)
    assert not await images.rows.renew(claim)

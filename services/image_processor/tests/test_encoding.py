"""Stored faces are given encodings of the engine in use, on both databases and over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import prometheus_client
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.events import EventKind
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box, SeenFace
from services.common.logs import Outage
from services.common.settings import DatabaseSettings
from services.common.tables import (
    encoding_work,
    events,
    face_encodings,
    faces,
    images,
    people_work,
    persons,
)
from services.image_processor import encoding as encoding_module
from services.image_processor.adapters import encoding_rows as encoding_rows_module
from services.image_processor.adapters.encoder import GrpcEncoder
from services.image_processor.adapters.encoding_rows import DatabaseEncodingRows
from services.image_processor.breaker import THRESHOLD, Breaker
from services.image_processor.domain import Processed
from services.image_processor.encoding import (
    ENGINE_SECONDS,
    SETTLE_SECONDS,
    Encoded,
    Encoder,
    LostError,
)
from services.image_processor.tests.conftest import Images, Processors
from services.image_processor.tests.virtual_time import VirtualTime
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.receiver.domain.encoding import EncodingReport, EncodingState
from services.testing.recogniser import ENCODING, Picture, RecogniserServer, encoding_of_box

HOUR = 3600.0
BOXES = ((1, 2, 30, 40), (50, 2, 80, 40))


def face(box: tuple[int, int, int, int], encoding: bytes | None = None) -> SeenFace:
    return SeenFace(Box(*box), 0.5, False, (), encoding=encoding)


def encodings_by(engine: str, *image_ids: int) -> dict[tuple[int, int, str], bytes]:
    """What the server makes of the stored faces of these images."""
    return {
        (image_id, index, engine): encoding_of_box(
            engine, face_pb2.Box(left=left, top=top, right=right, bottom=bottom)
        )
        for image_id in image_ids
        for index, (left, top, right, bottom) in enumerate(BOXES)
    }


class Archive:
    """Images with results of before, a server in face_recog's place, and whoever encodes."""

    def __init__(self, images: Images, server: RecogniserServer, client: RecogniserClient) -> None:
        self.images = images
        self.server = server
        self.client = client
        self.time = VirtualTime()
        self.report = DatabaseEncoding(images.database)
        self.breaker = Breaker(
            client.ping, on_change=lambda _: None, time=self.time, random=lambda: 0.5
        )

    async def store(
        self, *contents: bytes, engine: str = "test-1", encoding: bytes | None = None
    ) -> list[int]:
        """Store pictures with a result of two faces, as an older version did; return the ids."""
        ids: list[int] = await self.images.submit(*contents)
        for image_id, content in zip(ids, contents, strict=True):
            found = tuple(face(box, encoding) for box in BOXES)
            claim = await self.images.claim(image_id)
            done = Processed(found, 100, 90, engine, content.hex())
            assert await self.images.rows.finish(claim, done) == "processed"
        return ids

    def encoder(self, database: Any = None, *, concurrency: int = 1) -> Encoder:
        rows = DatabaseEncodingRows(database or self.images.database, self.images.clock.in_database)
        return Encoder(
            rows=rows,
            pictures=self.images.pictures,
            recogniser=GrpcEncoder(self.client),
            breaker=self.breaker,
            database=Outage("database"),
            time=self.time,
            concurrency=concurrency,
        )

    async def encodings(self) -> dict[tuple[int, int, str], bytes]:
        async with self.images.database.reading() as connection:
            rows = await connection.execute(sa.select(face_encodings))
            return {(row.image_id, row.face_index, row.engine): row.encoding for row in rows}

    async def faces(self) -> list[Any]:
        async with self.images.database.reading() as connection:
            order = (faces.c.image_id, faces.c.face_index)
            return list((await connection.execute(sa.select(faces).order_by(*order))).all())

    async def told(self) -> list[int]:
        """Images of whose new encodings others were told."""
        query = sa.select(events.c.subject_id).where(events.c.kind == EventKind.ENCODED)
        async with self.images.database.reading() as connection:
            return list(await connection.scalars(query.order_by(events.c.id)))

    async def work(self) -> Any:
        async with self.images.database.reading() as connection:
            return (await connection.execute(sa.select(encoding_work))).one()

    async def change(self, table: sa.Table, *which: Any, **values: Any) -> None:
        async with self.images.database.transaction() as connection:
            await connection.execute(sa.update(table).where(*which).values(values))

    async def advance(self, seconds: float) -> None:
        """Let time pass, that of the database as well."""
        self.images.clock.advance(seconds)
        self.time.now += seconds


async def drain(encoder: Encoder) -> float:
    """Let it work until it rests; return for how long."""
    for _ in range(200):
        if rest := await encoder.turn():
            return rest
    pytest.fail("it does not come to an end")


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110, nobody has an event for it
        await asyncio.sleep(0)


@pytest.fixture
async def archive(
    images: Images, recogniser_server: RecogniserServer, recogniser_client: RecogniserClient
) -> AsyncIterator[Archive]:
    made = Archive(images, recogniser_server, recogniser_client)
    yield made
    await made.breaker.close()


def skipped(reason: str) -> float:
    name = "facestack_encoding_skipped_total"
    return prometheus_client.REGISTRY.get_sample_value(name, {"reason": reason}) or 0


async def test_faces_of_before_are_encoded_and_nothing_else_changes(archive: Archive) -> None:
    first, third = await archive.store(b"a", b"c")
    [second] = await archive.store(b"b", encoding=ENCODING)
    before = await archive.faces()
    rows = [await archive.images.row(one) for one in (first, second, third)]
    encoder = archive.encoder()
    await drain(encoder)
    assert await archive.told() == [first, third]
    had = {(second, index, "test-1"): ENCODING for index in (0, 1)}
    assert await archive.encodings() == encodings_by("test-1", first, third) | had
    assert archive.server.encoded == [first, third]
    assert await archive.faces() == before
    assert [await archive.images.row(one) for one in (first, second, third)] == rows
    done = EncodingReport(EncodingState.FINISHED, "test-1", 0, 0, 4)
    assert await archive.report.report() == done
    await drain(encoder)
    await archive.advance(HOUR + 1)
    await drain(encoder)
    assert archive.server.encoded == [first, third], "there is nothing more to do"
    assert await archive.report.report() == done


async def add_people(archive: Archive, *ids: int) -> None:
    async with archive.images.database.transaction() as connection:
        its = [{"id": one, "name": f"P{one}", "folder": None, "created_at": 1} for one in ids]
        await connection.execute(sa.insert(persons), its)


async def decided_again(archive: Archive) -> list[tuple[int, ...]]:
    """Who is to be looked for, behind which image, and how often."""
    its = people_work.c
    query = sa.select(its.person_id, its.after_image_id, its.passes_left).order_by(its.person_id)
    async with archive.images.database.reading() as connection:
        return [tuple(row) for row in await connection.execute(query)]


async def test_everybody_is_looked_for_among_faces_that_were_encoded_some_at_a_time(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_rows_module, "PEOPLE_AT_ONCE", 2)
    await add_people(archive, 3, 4, 6, 7, 9)
    mine = {"person_id": 6, "folder": "P6", "removed": True, "after_image_id": 0, "passes_left": 2}
    async with archive.images.database.transaction() as connection:
        await connection.execute(sa.insert(people_work).values(mine | {"due_at": 0}))
    await archive.store(b"a")

    async def go_on(*done: int, **half: object) -> list[tuple[int, ...]]:
        """Let people end, be half done otherwise, and another encoder go on."""
        its = people_work.c
        async with archive.images.database.transaction() as connection:
            await connection.execute(sa.delete(people_work).where(its.person_id.in_(done)))
        await archive.advance(31)
        soon = archive.images.clock() + 10_000
        await archive.change(people_work, its.person_id == 6, due_at=soon)
        await archive.change(people_work, its.person_id == 4, **{"due_at": soon} | half)
        await drain(archive.encoder())
        return await decided_again(archive)

    await drain(archive.encoder())
    assert await decided_again(archive) == [(6, 0, 2)], "whose change is due is waited for"
    assert await go_on() == [(3, 0, 1), (4, 0, 1), (6, 0, 2)]
    assert await go_on(3, claim_token="other") == [(4, 0, 1), (6, 0, 2)]
    assert await go_on(claim_token=None, after_image_id=7) == [(4, 7, 1), (6, 0, 2)]
    assert await go_on(4) == [(6, 0, 2), (7, 0, 1)], "who has a change keeps it"
    assert await go_on(7) == [(6, 0, 2), (9, 0, 1)]
    assert await go_on(9) == [(6, 0, 2)]
    assert (await archive.work()).after_person_id is None


async def test_nobody_is_looked_for_where_nothing_was_encoded(archive: Archive) -> None:
    await add_people(archive, 3)
    await archive.store(b"a", encoding=ENCODING)
    await drain(archive.encoder())
    assert await decided_again(archive) == []


async def test_what_an_older_version_stores_meanwhile_is_found_within_an_hour(
    archive: Archive,
) -> None:
    encoder = archive.encoder()
    await drain(encoder)
    ids = await archive.store(b"a", b"b")
    await drain(encoder)
    assert not await archive.encodings()
    await archive.advance(HOUR + 1)
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", *ids)


async def test_it_walks_all_ids_in_ranges(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_module, "RANGE", 2)
    monkeypatch.setattr(encoding_module, "REMOVED", 2)
    ids = await archive.store(*(bytes([65 + number]) for number in range(7)))
    await archive.change(images, images.c.id == ids[3], status="dead")
    encoder = archive.encoder()
    await drain(encoder)
    expected = encodings_by("test-1", *ids[:3], *ids[4:])
    assert await archive.encodings() == expected
    archive.server.engine = "test-2"
    await archive.change(encoding_work, engine="test-2", remove_at=0)
    await archive.change(encoding_work, images_left=None, next_look_at=None)
    await archive.advance(31)
    await drain(archive.encoder())
    assert await archive.encodings() == encodings_by("test-2", *ids[:3], *ids[4:])


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_nothing_is_done_while_a_new_picture_waits(archive: Archive, status: str) -> None:
    [image_id] = await archive.store(b"a")
    [new] = await archive.images.submit(b"b")
    await archive.change(images, images.c.id == new, status=status)
    encoder = archive.encoder()
    await drain(encoder)
    assert (await archive.work()).engine is None
    await archive.change(images, images.c.id == new, status="failed")
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", image_id)


async def test_a_picture_that_comes_meanwhile_is_served_next(
    archive: Archive, processors: Processors
) -> None:
    first, second = await archive.store(Picture.UNFINISHED, b"b")
    encoder = archive.encoder()
    working = asyncio.create_task(drain(encoder))
    await until(lambda: archive.server.encoded == [first])
    [new] = await archive.images.submit(b"new")
    archive.server.release.set()
    await working
    assert await archive.encodings() == encodings_by("test-1", first), "the one at hand is finished"
    processors.start(client=archive.client)
    processors.queue.put(new)
    await until(lambda: new in processors.queue.finished)
    await drain(encoder)
    assert archive.server.image_ids[:3] == [str(first), str(new), str(second)]
    assert archive.server.encoded[:2] == [first, second]


async def test_as_many_are_encoded_at_once_as_of_new_pictures(archive: Archive) -> None:
    ids = await archive.store(
        Picture.UNFINISHED, b"b", Picture.UNFINISHED, Picture.UNFINISHED, b"e", b"f", b"g"
    )
    encoder = archive.encoder(concurrency=3)
    working = asyncio.create_task(drain(encoder))
    await until(lambda: len(archive.server.encoded) == 3)
    await archive.images.submit(b"new")
    archive.server.release.set()
    await working
    assert sorted(archive.server.encoded) == ids[:3]
    assert await archive.encodings() == encodings_by("test-1", *ids[:3]), "no more than is at hand"
    await archive.change(images, images.c.id > ids[-1], status="failed")
    await drain(encoder)
    assert sorted(archive.server.encoded) == ids
    assert await archive.encodings() == encodings_by("test-1", *ids)


async def test_what_is_for_later_keeps_its_turn_among_others(archive: Archive) -> None:
    ids = await archive.store(b"a", Picture.UNREADABLE, Picture.FOR_A_BUSY_ONE, b"d", Picture.FATAL)
    encoder = archive.encoder(concurrency=4)
    for _ in range(5):
        assert await drain(encoder) == encoding_module.POLL_SECONDS
    assert await archive.encodings() == encodings_by("test-1", ids[0])
    assert (await archive.work()).after_image_id == ids[1]
    path = (await archive.images.row(ids[2])).path
    archive.images.pictures.objects[f"pictures/{path}"] = b"now"
    await archive.change(images, images.c.id == ids[2], object_tag=b"now".hex())
    for _ in range(3):
        await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", ids[0], *ids[2:4])
    assert await archive.report.report() == EncodingReport(
        EncodingState.FINISHED, "test-1", 0, 2, 6
    )


async def test_one_that_finds_no_place_beside_others_gets_one_alone(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await archive.store(Picture.FOR_A_BUSY_ONE, b"b", b"c", b"d")
    at_once: list[int] = []
    find_next = DatabaseEncodingRows.next

    async def noted(
        self: DatabaseEncodingRows, engine: str, after: int, until: int, limit: int
    ) -> Sequence[int]:
        at_once.append(limit)
        return await find_next(self, engine, after, until, limit)

    monkeypatch.setattr(DatabaseEncodingRows, "next", noted)
    encoder = archive.encoder(concurrency=3)
    for _ in range(2):
        assert await drain(encoder) == encoding_module.POLL_SECONDS
    assert at_once == [3, 1]
    path = (await archive.images.row(ids[0])).path
    archive.images.pictures.objects[f"pictures/{path}"] = b"now"
    await archive.change(images, images.c.id == ids[0], object_tag=b"now".hex())
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", *ids)
    assert at_once[:4] == [3, 1, 1, 3]


async def test_nothing_is_done_while_the_breaker_is_open(archive: Archive) -> None:
    await archive.store(b"a")
    for _ in range(THRESHOLD):
        archive.breaker.fault()
    encoder = archive.encoder()
    await drain(encoder)
    assert not await archive.encodings()
    assert not archive.server.encoded


async def test_it_stops_and_goes_on_when_it_is_told_to(archive: Archive) -> None:
    first, second = await archive.store(b"a", b"b")
    encoder = archive.encoder()
    while not await archive.encodings():
        assert await encoder.turn() == 0
    stopped = await archive.report.stop(stopped=True)
    assert stopped == EncodingReport(EncodingState.STOPPED, "test-1", 1, 0, 2)
    for one in (encoder, archive.encoder()):  # a new process has not forgotten it
        await drain(one)
        await archive.advance(31)
    assert await archive.encodings() == encodings_by("test-1", first)
    running = await archive.report.stop(stopped=False)
    assert running == EncodingReport(EncodingState.RUNNING, "test-1", 1, 0, 2)
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", first, second)


async def lose(archive: Archive, image_id: int) -> None:
    archive.images.pictures.objects.pop(f"pictures/{(await archive.images.row(image_id)).path}")


async def replace(archive: Archive, image_id: int) -> None:
    path = (await archive.images.row(image_id)).path
    archive.images.pictures.objects[f"pictures/{path}"] = b"another one"


async def forget_tag(archive: Archive, image_id: int) -> None:
    await archive.change(images, images.c.id == image_id, object_tag=None)


async def damage(archive: Archive, image_id: int) -> None:
    archive.images.pictures.damaged.add(f"pictures/{(await archive.images.row(image_id)).path}")


async def refuse(archive: Archive, image_id: int) -> None:
    archive.images.pictures.refused.add(f"pictures/{(await archive.images.row(image_id)).path}")


async def leave(_: Archive, __: int) -> None:
    pass


@pytest.mark.parametrize(
    ("content", "harm", "reason"),
    [
        (b"x", lose, "gone"),
        (b"x", replace, "replaced"),
        (b"x", forget_tag, "replaced"),
        (b"x", damage, "unreadable"),
        (b"x", refuse, "unreadable"),
        (Picture.UNREADABLE, leave, "unreadable"),
        (Picture.FATAL, leave, "failed"),
        (Picture.UNANSWERED, leave, "failed"),
    ],
)
async def test_what_cannot_be_encoded_is_skipped_and_counted(
    archive: Archive,
    content: bytes,
    harm: Callable[[Archive, int], Awaitable[None]],
    reason: str,
) -> None:
    bad, good = await archive.store(content, b"good")
    await harm(archive, bad)
    rows = [await archive.images.row(bad), await archive.faces()]
    counted = skipped(reason)
    encoder = archive.encoder()
    for _ in range(3):  # what may pass is tried again
        await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", good)
    assert [await archive.images.row(bad), await archive.faces()] == rows
    assert skipped(reason) == counted + 1
    assert await archive.report.report() == EncodingReport(
        EncodingState.FINISHED, "test-1", 0, 1, 2
    )
    # Looked for once more after an hour, and then once a day.
    for hours, times in ((1.1, 2), (1.1, 2), (23, 3)):
        await archive.advance(hours * HOUR)
        for _ in range(3):
            await drain(encoder)
        assert skipped(reason) == counted + times
        assert (await archive.work()).images_skipped == 1
    assert await archive.encodings() == encodings_by("test-1", good)


@pytest.mark.parametrize("digest", ["d" * 64])
async def test_what_was_uploaded_is_the_same_under_any_tag(archive: Archive, digest: str) -> None:
    [image_id] = await archive.store(b"a")
    await archive.change(images, object_tag="of a lost one", content_digest=digest)
    await drain(archive.encoder())
    assert await archive.encodings() == encodings_by("test-1", image_id)


async def test_a_busy_recogniser_or_a_store_that_is_away_is_waited_for(archive: Archive) -> None:
    [image_id] = await archive.store(Picture.FOR_A_BUSY_ONE)
    encoder = archive.encoder()
    for _ in range(5):
        assert await drain(encoder) == encoding_module.POLL_SECONDS
    archive.images.pictures.up = False
    for _ in range(5):
        await drain(encoder)
    await archive.server.stop()
    archive.images.pictures.up = True
    for _ in range(5):
        await drain(encoder)
    assert await archive.report.report() == EncodingReport(EncodingState.RUNNING, "test-1", 1, 0, 0)
    path = (await archive.images.row(image_id)).path
    archive.images.pictures.objects[f"pictures/{path}"] = b"now"
    await archive.change(images, object_tag=b"now".hex())
    await archive.server.start()
    while not await archive.encodings():
        await drain(encoder)


async def test_a_result_that_changes_meanwhile_keeps_its_own(archive: Archive) -> None:
    [image_id] = await archive.store(Picture.UNFINISHED)
    encoder = archive.encoder()
    working = asyncio.create_task(drain(encoder))
    await until(lambda: archive.server.encoded)
    archive.images.clock.advance(1)
    async with archive.images.database.transaction() as connection:
        await connection.execute(sa.update(images).values(status="pending"))
    claim = await archive.images.claim(image_id)
    result = Processed(
        (face((7, 7, 70, 70), ENCODING),), 100, 90, "test-1", Picture.UNFINISHED.hex()
    )
    assert await archive.images.rows.finish(claim, result) == "processed"
    archive.server.release.set()
    await working
    await drain(encoder)
    assert await archive.encodings() == {(image_id, 0, "test-1"): ENCODING}
    assert (await archive.work()).images_skipped == 1


async def test_a_face_that_is_drawn_or_struck_out_meanwhile_is_respected(archive: Archive) -> None:
    [image_id] = await archive.store(Picture.UNFINISHED)
    encoder = archive.encoder()
    working = asyncio.create_task(drain(encoder))
    await until(lambda: archive.server.encoded)
    async with archive.images.database.transaction() as connection:
        await connection.execute(sa.delete(faces).where(faces.c.face_index == 0))
        await connection.execute(sa.update(faces).where(faces.c.face_index == 1).values(left=60))
    archive.server.release.set()
    await working
    assert await archive.encodings() == {}, "neither is the face that was asked for"
    await archive.advance(HOUR + 1)
    await drain(encoder)
    box = face_pb2.Box(left=60, top=2, right=80, bottom=40)
    assert await archive.encodings() == {(image_id, 1, "test-1"): encoding_of_box("test-1", box)}


# A change of the engine


async def test_another_engine_encodes_everything_once_it_answers_alone(archive: Archive) -> None:
    ids = await archive.store(b"a", b"b", encoding=ENCODING)
    encoder = archive.encoder()
    await drain(encoder)
    old = await archive.encodings()
    archive.server.engine = "test-2"
    await archive.advance(ENGINE_SECONDS)
    assert await drain(encoder) == ENGINE_SECONDS
    archive.server.engine = "test-1"  # the rollout is taken back
    await archive.advance(ENGINE_SECONDS)
    await drain(encoder)
    assert await archive.encodings() == old
    assert (await archive.work()).engine == "test-1"
    archive.server.engine = "test-2"
    await archive.advance(ENGINE_SECONDS)
    await drain(encoder)
    for _ in range(2):
        await archive.advance(SETTLE_SECONDS / 2)
        await drain(encoder)
    assert await archive.encodings() == old | encodings_by("test-2", *ids)
    assert await archive.report.report() == EncodingReport(
        EncodingState.FINISHED, "test-2", 0, 0, 4
    )


async def test_encodings_of_the_engine_before_go_a_day_after_it_answered_last(
    archive: Archive,
) -> None:
    ids = await archive.store(b"a", b"b", encoding=ENCODING)
    encoder = archive.encoder()
    await drain(encoder)
    archive.server.engine = "test-2"
    for _ in range(4):
        await archive.advance(ENGINE_SECONDS)
        await drain(encoder)
    both = await archive.encodings()
    assert both.items() > encodings_by("test-2", *ids).items()
    await archive.advance(20 * HOUR)
    archive.server.engine = "test-1"  # an old replica still answers
    await drain(encoder)
    archive.server.engine = "test-2"
    await archive.advance(ENGINE_SECONDS)
    await drain(encoder)
    await archive.advance(23 * HOUR)
    await drain(encoder)
    assert await archive.encodings() == both
    await archive.advance(HOUR)
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-2", *ids)
    assert (await archive.work()).remove_at is None


async def test_none_goes_while_faces_still_lack_the_new_one(archive: Archive) -> None:
    await archive.store(Picture.FOR_A_BUSY_ONE, encoding=ENCODING)
    encoder = archive.encoder()
    await drain(encoder)
    old = await archive.encodings()
    archive.server.engine = "test-2"
    for _ in range(100):
        await archive.advance(HOUR)
        await drain(encoder)
    assert await archive.encodings() == old


async def test_an_engine_that_changes_in_between_mixes_nothing(archive: Archive) -> None:
    first, second, third = await archive.store(b"a", Picture.UNFINISHED, b"c")
    encoder = archive.encoder()
    working = asyncio.create_task(drain(encoder))
    await until(lambda: archive.server.encoded == [first, second])
    archive.server.engine = "test-2"
    archive.server.release.set()
    await working
    assert await archive.encodings() == encodings_by("test-1", first)
    await archive.advance(SETTLE_SECONDS)
    await drain(encoder)
    assert await archive.encodings() == encodings_by("test-1", first) | encodings_by(
        "test-2", first, second, third
    )


# Ends, and several at once


class _KilledError(BaseException):
    """As if the process were no more."""


class Mortal:
    """A database whose user is killed around a call: before it, or before what follows it."""

    def __init__(self, database: Database, calls_left: int) -> None:
        self._database = database
        self._left = calls_left

    def _call(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _KilledError

    def _around(
        self, opened: AbstractAsyncContextManager[AsyncConnection]
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        @asynccontextmanager
        async def killed() -> AsyncIterator[AsyncConnection]:
            self._call()
            async with opened as connection:
                yield connection
                self._call()  # all statements are done, and nothing is committed
            self._call()

        return killed()

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._around(self._database.transaction())

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._around(self._database.reading())


async def test_whoever_is_killed_at_any_call_is_followed_by_the_same_result(
    archive: Archive,
) -> None:
    await add_people(archive, 1, 2, 3)
    ids = await archive.store(b"a", Picture.UNREADABLE, b"c")
    await drain(archive.encoder())
    expected = await archive.encodings()
    undisturbed = await archive.report.report()
    assert expected == encodings_by("test-1", ids[0], ids[2])
    calls = 0
    while True:
        async with archive.images.database.transaction() as connection:
            await connection.execute(sa.delete(face_encodings))
            await connection.execute(sa.delete(people_work))
            await connection.execute(
                sa.update(encoding_work).values(
                    engine=None, images_left=None, next_look_at=None, claim_token=None
                )
            )
        try:
            await drain(archive.encoder(Mortal(archive.images.database, calls), concurrency=3))
        except _KilledError:
            calls += 1
        else:
            break
        await archive.advance(31)
        await drain(archive.encoder(concurrency=3))
        assert await archive.encodings() == expected
        assert await archive.report.report() == undisturbed, f"after {calls - 1} calls"
        assert await decided_again(archive) == [(1, 0, 1), (2, 0, 1), (3, 0, 1)]
    assert calls > 40


async def test_of_two_only_one_works_and_the_other_goes_on_when_it_ends(
    archive: Archive, database_settings: DatabaseSettings
) -> None:
    ids = await archive.store(*(bytes([65 + number]) for number in range(8)))
    other = Database(database_settings)
    pair = [archive.encoder(one, concurrency=3) for one in (archive.images.database, other)]

    async def work(encoder: Encoder) -> None:
        while (await archive.report.report()).state is not EncodingState.FINISHED:
            await encoder.turn()

    await asyncio.gather(*map(work, pair))
    assert sorted(archive.server.encoded) == ids, "each once"
    assert await archive.encodings() == encodings_by("test-1", *ids)
    await other.close()


async def test_a_late_one_changes_nothing(archive: Archive) -> None:
    [image_id] = await archive.store(b"a")
    late, after = (
        DatabaseEncodingRows(archive.images.database, archive.images.clock.in_database)
        for _ in range(2)
    )
    assert await late.claim()
    await late.begin("test-1")
    await archive.advance(29)
    assert not await after.claim()
    assert await late.claim(), "the lease is prolonged"
    await archive.advance(31)
    stored = await late.faces(image_id, "test-1")
    assert stored
    assert await after.claim()
    before = await archive.work()
    for change in (
        late.store(stored, Encoded("test-1", (ENCODING, ENCODING))),
        late.skip(image_id),
        late.begin("test-0"),
        late.begin_walk(7),
        late.go_to(7),
        late.end_walk(),
        late.decide_again(),
        late.remove_others("test-0", 0, 7),
        late.end_removal(),
    ):
        with pytest.raises(LostError):
            await change
    await late.release()
    assert not await late.claim()
    assert await archive.work() == before
    assert await archive.encodings() == {}


async def test_whoever_stops_leaves_it_to_others_at_once(archive: Archive) -> None:
    first, second = await archive.store(b"a", Picture.UNFINISHED)
    leaving, staying = archive.encoder(), archive.encoder()
    told = asyncio.Event()
    running = asyncio.create_task(leaving.run(_told(told)))
    await until(lambda: archive.server.encoded == [first, second])
    await drain(staying)
    assert archive.server.encoded == [first, second], "it is somebody else's"
    told.set()
    await running
    archive.server.release.set()
    await drain(staying)
    assert await archive.encodings() == encodings_by("test-1", first, second)


async def _told(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_database_that_is_away_is_waited_for(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await archive.store(b"a")
    encoder = archive.encoder()
    away = True

    def transaction(database: Database) -> AbstractAsyncContextManager[AsyncConnection]:
        if away:
            raise DatabaseUnavailableError("no answer")
        return real(database)

    real = Database.transaction
    monkeypatch.setattr(Database, "transaction", transaction)
    told = asyncio.Event()
    running = asyncio.create_task(encoder.run(_told(told)))
    for _ in range(3):
        await archive.time.advance(encoding_module.POLL_SECONDS)
    away = False
    while not await archive.encodings():
        await archive.time.advance(encoding_module.POLL_SECONDS)
    told.set()
    await running
    assert await archive.encodings() == encodings_by("test-1", *ids)

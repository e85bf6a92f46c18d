"""Forgetting a person for good: nothing of them is left, and all of everybody else."""

import asyncio
import json
import re
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import structlog

from services.common.changes import CHANGES
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.events import Position
from services.common.faces import Box, Likely, SeenFace
from services.common.person_names import by_id
from services.common.tables import (
    erasures,
    face_denials,
    face_encodings,
    face_groups,
    faces,
    group_faces,
    images,
    metadata,
    people_work,
    person_images,
    person_merges,
    persons,
)
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Processed
from services.people.adapters.rows import DatabaseStoredFaces
from services.receiver.adapters.rows import erasures as erasing_rows
from services.receiver.adapters.rows import merges as merge_rows
from services.receiver.adapters.rows import people as people_rows
from services.receiver.adapters.rows.events import DatabaseEvents
from services.receiver.adapters.rows.faces import DatabaseFaces
from services.receiver.adapters.rows.groups import DatabaseGroups
from services.receiver.adapters.rows.search import DatabaseSearchableFaces
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.faces import EncodedFace, FaceKey, FaceOfResult
from services.receiver.domain.groups import Member
from services.receiver.service import erasing
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Running, Start, collect, draw, encode
from services.receiver.tests.test_receiver_people import ONE, enrol, known, put_by_hand
from services.receiver.tests.test_receiver_said_by_hand import id_of, name, run
from services.testing.recogniser import ENCODING

ZOE = 'Zoë 100% "O\'Shea" 日本'
GRACE = "Grace"
OTHER_ENCODING = ENCODING[4:] + ENCODING[:4]


def picture(number: int) -> bytes:
    return encode(draw(("green", (10, 10, 50, 50)), size=(60 + number, 60)))


def face_of(*folders: str, unsure: bool = False, encoding: bytes = OTHER_ENCODING) -> SeenFace:
    candidates = tuple(Likely(f"{one}/1.jpg", one, 0.25, 4.5) for one in folders)
    return SeenFace(Box(10, 10, 50, 50), 0.5, unsure, candidates, unsure=unsure, encoding=encoding)


class Pipeline:
    """A receiver, and the other services' adapters on its database."""

    def __init__(self, settings: ReceiverSettings, running: Running) -> None:
        self.settings = settings
        self.client = running.client
        self.erasing = running.receiver.erasing
        self.database = Database(settings)
        self._pictures = 0

    async def show(self, *its: SeenFace) -> int:
        """Have a new picture with these faces recognised, and return its id."""
        self._pictures += 1
        form = {"files": ("a.png", picture(self._pictures))}
        answer = await self.client.post("/images", files=form)
        image_id = int(answer.json()["images"][0]["id"])
        await self.recognise(image_id, *its)
        return image_id

    async def recognise(self, image_id: int, *its: SeenFace) -> None:
        rows = DatabaseClaims(self.database, database_now)
        claim = await rows.claim(image_id)
        assert claim
        assert await rows.finish(claim, Processed(its, 99, 99, "test", "tag", calibration=1))

    async def faces(self, image_id: int) -> list[tuple[Any, ...]]:
        columns = (faces.c.person, faces.c.ambiguous, faces.c.struck_out, faces.c.candidates)
        query = sa.select(*columns).where(faces.c.image_id == image_id)
        rows = await run(self.settings, query.order_by(faces.c.face_index))
        return [(*row[:3], [one["person"] for one in row[3]]) for row in rows]

    async def erase(self, who: str, *, pictures: bool = False) -> dict[str, int]:
        answer = await self.client.post(
            f"/people/{quote(who, safe='')}/erase", json={"pictures": pictures}
        )
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def end(self) -> None:
        """Go on until all is done, as if time passed."""
        while await run(self.settings, sa.select(erasures.c.person_id)):
            while await self.erasing.step():
                pass
            await collect(self.settings)
            await run(self.settings, sa.update(erasures).values(due_at=0))

    def store(self) -> Path:
        return Path(self.settings.object_store_url.removeprefix("file://"))

    async def everything(self) -> str:
        """Return all rows of all tables, and all that the store has by its names."""
        found = [str(path.relative_to(self.store())) for path in self.store().rglob("*")]
        found = [one for one in found if not one.startswith(CHANGES)]  # which face_recog removes
        for table in metadata.sorted_tables:
            # As they are stored: what a type makes of a value hides what it is.
            columns = [sa.type_coerce(column, sa.types.NullType) for column in table.c]
            rows = await run(self.settings, sa.select(*columns))
            found += [f"{table.name} {row!r}" for row in rows]
        return "\n".join(found)

    async def work_is_done(self) -> dict[int, tuple[str, bool]]:
        """Take the work away that the service people is left with, and return it."""
        columns = (people_work.c.person_id, people_work.c.folder, people_work.c.removed)
        rows = await run(self.settings, sa.select(*columns))
        await run(self.settings, sa.delete(people_work))
        return {person_id: (folder, bool(removed)) for person_id, folder, removed in rows}


@pytest.fixture
async def pipeline(settings: ReceiverSettings, start: Start) -> AsyncIterator[Pipeline]:
    one = Pipeline(settings, start(settings))
    yield one
    await one.database.close()


def forms_of(text: str) -> set[str]:
    """Return how a text may stand in what a database or a store says of itself."""
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD")}
    return {
        form
        for one in forms
        for form in (one, quote(one), repr(one)[1:-1], json.dumps(one)[1:-1])
        for form in (form, repr(form)[1:-1])
    }


def traces(text: str, *wanted: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if any(form in line for one in wanted for form in forms_of(one))
    ]


@asynccontextmanager
async def zoe_and_grace(pipeline: Pipeline) -> AsyncIterator[dict[str, int]]:
    """Two people in six pictures, known by hand and by files; the block forgets Zoë."""
    client, settings = pipeline.client, pipeline.settings
    put_by_hand(settings, f"{unicodedata.normalize('NFD', ZOE)}/1.jpg")
    assert (await enrol(client, GRACE, picture(90))).status_code == 201
    assert (await enrol(client, ZOE, picture(91))).status_code == 201
    zoe, grace = await id_of(client, ZOE), await id_of(client, GRACE)
    images = {
        "by hand": await pipeline.show(face_of(encoding=ENCODING)),
        "both": await pipeline.show(face_of(ZOE, GRACE, encoding=ENCODING), face_of(GRACE, ZOE)),
        "unsure": await pipeline.show(face_of(ZOE, GRACE, unsure=True)),
        "only maybe": await pipeline.show(face_of(ZOE, unsure=True)),
        "not": await pipeline.show(face_of(GRACE)),
        "nobody": await pipeline.show(face_of()),
    }
    assert (await name(client, images["by hand"], ZOE)).status_code == 200
    for image in ("by hand", "not"):
        who = GRACE if image == "by hand" else ZOE
        row = {"image_id": images[image], "face_index": 0, "created_at": 1}
        its = await id_of(client, who)
        await run(settings, sa.insert(face_denials).values(**row, person_id=its))
    moved = {"folder": "Zoë II", "pictures": [], "faces": [[images["both"], 0]], "denials": []}
    merge = {"person_id": zoe, "name": f"{ZOE} II", "moved": moved, "created_at": 1}
    await run(settings, sa.insert(person_merges).values(merge))
    await run(settings, sa.insert(face_groups).values(id=1, size=1, created_at=1))
    row = {"image_id": images["both"], "face_index": 0, "group_id": 1}
    await run(settings, sa.insert(group_faces).values(row))
    assert len(traces(await pipeline.everything(), ZOE)) > 10
    yield {**images, "zoe": zoe, "grace": grace}
    everything = await pipeline.everything()
    assert await pipeline.work_is_done() == {zoe: (ZOE, True), grace: (GRACE, False)}
    left = traces(everything, ZOE)
    assert [one.partition(" ")[0] for one in left] == ["people_work"]
    assert traces(everything, repr(ENCODING)[2:-1]) == []
    assert (await client.get(f"/people/{by_id(zoe)}")).status_code == 404
    [person] = (await client.get("/people")).json()["people"]
    assert (person["name"], len(person["pictures"])) == (GRACE, 1)


async def test_nothing_is_left_of_somebody_and_all_of_everybody_else(pipeline: Pipeline) -> None:
    async with zoe_and_grace(pipeline) as ids:
        assert await pipeline.erase(ZOE) == {"known_pictures": 3, "faces": 2, "pictures": 0}
        await pipeline.end()
    assert await pipeline.faces(ids["by hand"]) == [(None, False, True, [])]
    assert await pipeline.faces(ids["both"]) == [
        (None, False, True, []),
        (GRACE, False, False, [GRACE]),
    ]
    assert await pipeline.faces(ids["unsure"]) == [(None, True, False, [GRACE])]
    assert await pipeline.faces(ids["only maybe"]) == [(None, False, False, [])]
    encoded = await run(pipeline.settings, sa.select(face_encodings.c.image_id))
    others = ("both", "unsure", "only maybe", "not", "nobody")
    assert sorted(encoded) == sorted((ids[one],) for one in others)
    # The faces that asked are decided on again by a rule; the named one stays as it was decided.
    open_ = sa.select(faces.c.image_id).where(
        faces.c.calibration.is_(None), ~faces.c.struck_out, faces.c.decided_by == "machine"
    )
    again = await run(pipeline.settings, open_)
    assert sorted(again) == sorted((ids[one],) for one in ("unsure", "only maybe"))


async def test_a_forgotten_face_stays_forgotten(pipeline: Pipeline) -> None:
    client, settings = pipeline.client, pipeline.settings
    assert (await enrol(client, "Ada", picture(92))).status_code == 201
    image_id = await pipeline.show(face_of("Ada"))
    await run(settings, sa.update(images).values(object_tag=None))
    await pipeline.erase("Ada")
    await pipeline.end()
    shown = (await client.get(f"/images/{image_id}")).json()
    assert (shown["faces"], shown["struck_out"]) == ([], [])
    assert (await client.post(f"/images/{image_id}/faces/0/restore")).status_code == 404
    # Nor by whoever has looked before it was forgotten.
    [(processed_at,)] = await run(settings, sa.select(images.c.processed_at))
    face = FaceOfResult(image_id, 0, processed_at)
    nobody = SeenFace(Box(10, 10, 50, 50), 1.0, ambiguous=False, encoding=ENCODING)
    seen = EncodedFace(nobody, "test", 1)
    with pytest.raises(ConflictError, match="not struck out"):
        await DatabaseFaces(pipeline.database).restore(face, seen)
    again = await client.post(f"/images/{image_id}/recognise")
    assert "face 0 is to stay forgotten" in again.json()["detail"], again.text
    assert await run(settings, sa.select(face_encodings.c.face_index)) == []


async def test_for_all_others_somebody_is_gone_at_once(pipeline: Pipeline) -> None:
    """While traces are still to be removed, nobody is shown a name, nor the id in its place."""
    client = pipeline.client
    async with zoe_and_grace(pipeline) as ids:
        await pipeline.erase(ZOE)
        documents = [
            (await client.get(f"/images/{ids[image]}")).json()
            for image in ("by hand", "both", "unsure", "only maybe", "not", "nobody")
        ]
        listed = (await client.get("/images")).json()["images"]
        assert sorted(documents, key=lambda one: -one["id"]) == listed
        shown = json.dumps(documents)
        assert traces(shown, ZOE, by_id(ids["zoe"]), f'"person_id": {ids["zoe"]}') == []
        first = [document["faces"][0] for document in documents]
        columns = ("person", "person_id", "ambiguous", "decided_by", "denials", "distance")
        nobody = (None, None, False, "machine", [GRACE], None)
        assert tuple(first[0][one] for one in columns) == nobody
        assert [one["ambiguous"] for one in first] == [False, False, True, False, False, False]
        candidates = [[one["person"] for one in face["candidates"]] for face in first]
        assert candidates == [[], [], [GRACE], [], [GRACE], []]
        assert first[4]["denials"] == []
        rows = await DatabaseSearchableFaces(pipeline.database).faces([FaceKey(ids["both"], 0)])
        found = rows[FaceKey(ids["both"], 0)]
        assert (found.person, found.person_id) == (None, None)
        events = DatabaseEvents(pipeline.database)
        changes = (await events.after(Position(0, 0))).changes
        hers = [one.name for one in changes if (one.kind, one.id) == ("person", ids["zoe"])]
        assert set(hers) == {None}
        sidecar = await client.get(f"/images/{ids['both']}/sidecar")
        assert traces(sidecar.text, ZOE, by_id(ids["zoe"])) == []
        await pipeline.end()


async def test_pictures_go_too_when_that_is_wanted(pipeline: Pipeline) -> None:
    async with zoe_and_grace(pipeline) as ids:
        counts = await pipeline.erase(ZOE, pictures=True)
        assert counts == {"known_pictures": 3, "faces": 2, "pictures": 2}
        await pipeline.end()
    left = (await pipeline.client.get("/images")).json()["images"]
    others = ("unsure", "only maybe", "not", "nobody")
    assert sorted(one["id"] for one in left) == sorted(ids[one] for one in others)
    await collect(pipeline.settings, later_ms=3_700_000)
    files = [path for path in (pipeline.store() / "pictures").rglob("*") if path.is_file()]
    assert len(files) == len(others)


async def end_with_kills(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> int:
    """Go on until all is done, and return how often the work was killed before a commit."""
    transaction = Database.transaction
    allowed, broken = 0, 0

    @asynccontextmanager
    async def until_killed(self: Database) -> AsyncIterator[Any]:
        nonlocal allowed
        async with transaction(self) as connection:
            yield connection
            if not allowed:  # before the commit, so this one is lost
                raise DatabaseUnavailableError("killed")
            allowed -= 1

    for lives in range(1, 500):
        # As if the lease of the one before were over.
        await run(pipeline.settings, sa.update(erasures).values(due_at=0))
        allowed = lives // 2
        with monkeypatch.context() as patch:
            patch.setattr(Database, "transaction", until_killed)
            try:
                if not await pipeline.erasing.step():
                    break
            except DatabaseUnavailableError:
                broken += 1
        await collect(pipeline.settings)
    assert await run(pipeline.settings, sa.select(erasures.c.person_id)) == []
    return broken


async def test_it_goes_on_when_killed_at_any_point(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (erasing, erasing_rows):
        monkeypatch.setattr(module, "BATCH", 1)
    async with zoe_and_grace(pipeline):
        await pipeline.erase(ZOE)
        assert await end_with_kills(pipeline, monkeypatch) > 10


async def test_who_is_deleted_with_many_faces_is_gone_at_once_and_the_rest_follows(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, each of which others wait for only shortly, and which go on when killed."""
    monkeypatch.setattr(erasing_rows, "BATCH", 1)
    for module in (people_rows, erasing_rows):
        monkeypatch.setattr(module, "CHANGED", 1)
    client = pipeline.client
    assert (await enrol(client, GRACE, picture(90))).status_code == 201
    assert (await enrol(client, ZOE, picture(91))).status_code == 201
    zoe, grace = await id_of(client, ZOE), await id_of(client, GRACE)
    hers = [await pipeline.show(face_of(ZOE), face_of(GRACE)) for _ in range(4)]
    other = await pipeline.show(face_of(GRACE))
    assert (await name(client, hers[0], ZOE)).status_code == 200
    for image_id in (other, *hers[1:]):
        row = {"image_id": image_id, "face_index": image_id != other, "created_at": 1}
        await run(pipeline.settings, sa.insert(face_denials).values(**row, person_id=zoe))
    await pipeline.work_is_done()

    assert (await client.delete(f"/people/{quote(ZOE, safe='')}")).status_code == 204
    assert await run(pipeline.settings, sa.select(erasures.c.stage)) == [("names",)]
    for who in (quote(ZOE, safe=""), by_id(zoe)):
        assert (await client.get(f"/people/{who}")).status_code == 404
        assert (await client.delete(f"/people/{who}")).status_code == 404
    documents = (await client.get("/images")).json()["images"]
    assert traces(json.dumps(documents), by_id(zoe), f'"person_id": {zoe}') == []
    named = [[face["person"] for face in one["faces"]] for one in reversed(documents)]
    assert named == [[None, GRACE]] * 4 + [[GRACE]]
    # Somebody else who is called so meanwhile is not meant.
    assert (await enrol(client, ZOE, picture(92))).status_code == 201
    late = await pipeline.show(face_of(ZOE))
    assert await end_with_kills(pipeline, monkeypatch) > 5

    rows = await run(
        pipeline.settings,
        sa.select(faces.c.image_id, faces.c.face_index, faces.c.person, faces.c.person_id).where(
            ~faces.c.struck_out
        ),
    )
    assert sorted(rows) == sorted(
        [(one, 0, None, None) for one in (*hers, late)]
        + [(one, 1, GRACE, grace) for one in hers]
        + [(other, 0, GRACE, grace)]
    )
    encoded = await run(pipeline.settings, sa.select(face_encodings.c.image_id))
    assert len(encoded) == len(rows), "of somebody unknown by now"
    assert await run(pipeline.settings, sa.select(face_denials.c.image_id)) == []
    assert (await pipeline.work_is_done())[zoe] == (ZOE, True)
    assert [one["name"] for one in (await client.get("/people")).json()["people"]] == [GRACE, ZOE]


async def test_many_faces_of_who_is_merged_follow_in_parts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (merge_rows, erasing_rows):
        monkeypatch.setattr(module, "CHANGED", 1)
    client = pipeline.client
    assert (await enrol(client, GRACE, picture(90))).status_code == 201
    assert (await enrol(client, ZOE, picture(91))).status_code == 201
    zoe, grace = await id_of(client, ZOE), await id_of(client, GRACE)
    hers = [await pipeline.show(face_of(ZOE)) for _ in range(4)]
    denied = await pipeline.show(face_of(ZOE))
    row = {"image_id": denied, "face_index": 0, "created_at": 1, "person_id": grace}
    await run(pipeline.settings, sa.insert(face_denials).values(row))
    assert (await name(client, hers[3], ZOE, insist="true")).status_code == 200
    await pipeline.work_is_done()

    answer = await client.post(f"/people/{GRACE}/merge", json={"name": by_id(zoe)})
    assert answer.status_code == 200, answer.text
    [merge] = answer.json()["merges"]
    assert (await client.get(f"/people/{by_id(zoe)}")).status_code == 404
    documents = (await client.get("/images")).json()["images"]
    shown = [one["faces"][0] for one in reversed(documents)]
    assert [one["person"] for one in shown] == [GRACE] * 5
    assert [one["person_id"] for one in shown] == [grace, None, None, None, None]
    rows = await DatabaseSearchableFaces(pipeline.database).faces([FaceKey(hers[3], 0)])
    found = rows[FaceKey(hers[3], 0)]
    assert (found.person, found.person_id) == (GRACE, None)
    events = DatabaseEvents(pipeline.database)
    changes = (await events.after(Position(0, 0))).changes
    assert {one.name for one in changes if (one.kind, one.id) == ("person", zoe)} == {None}
    # Whatever would leave those who are still to come with nobody waits for them.
    undo = f"/people/{GRACE}/merges/{merge['id']}"
    erase = client.post(f"/people/{GRACE}/erase", json={"pictures": False})
    for early in (client.delete(f"/people/{GRACE}"), client.delete(undo), erase):
        refused = await early
        assert (refused.status_code, "try again in a moment" in refused.text) == (409, True)
    # But not who is one with somebody else by now.
    assert (await enrol(client, "Ada", picture(93))).status_code == 201
    ada = await id_of(client, "Ada")
    assert (await client.post("/people/Ada/merge", json={"name": GRACE})).status_code == 200
    for new in (GRACE, "Ada"):  # which only those who are still to come are called
        renamed = await client.patch(f"/people/{by_id(ada)}", json={"name": new})
        assert renamed.status_code == 200, renamed.text
    assert await end_with_kills(pipeline, monkeypatch) > 5

    documents = (await client.get("/images")).json()["images"]
    shown = [one["faces"][0] for one in reversed(documents)]
    assert [(one["person"], one["person_id"]) for one in shown] == [("Ada", ada)] * 4 + [
        (None, None)
    ]
    assert [one["decided_by"] for one in shown] == ["machine"] * 3 + ["hand", "machine"]
    assert await run(pipeline.settings, sa.select(persons.c.id)) == [(ada,)]
    work = await pipeline.work_is_done()
    assert work == {zoe: (ZOE, True), grace: (GRACE, True), ada: ("Ada", False)}
    merges = (await client.get("/people/Ada")).json()["merges"]
    assert sorted(one["name"] for one in merges) == [GRACE, ZOE]
    assert (await client.delete(f"/people/Ada/merges/{merge['id']}")).json()["id"] == zoe
    [face] = (await client.get(f"/images/{hers[3]}")).json()["faces"]
    assert (face["person"], face["person_id"]) == (ZOE, zoe)


async def test_a_hand_is_heard_of_faces_that_are_still_to_come(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a face that shows the name, but is in the next part."""
    client = pipeline.client
    assert (await enrol(client, GRACE, picture(90))).status_code == 201
    assert (await enrol(client, ZOE, picture(91))).status_code == 201
    zoe = await id_of(client, ZOE)
    hers = [await pipeline.show(face_of(ZOE)) for _ in range(5)]
    for image_id in hers[1:]:
        assert (await name(client, image_id, ZOE, insist="true")).status_code == 200
    for module in (merge_rows, erasing_rows):
        monkeypatch.setattr(module, "CHANGED", 1)
    answer = await client.post(f"/people/{GRACE}/merge", json={"name": by_id(zoe)})
    assert answer.status_code == 200, answer.text
    taken_back, denied = (f"/images/{one}/faces/0" for one in hers[1:3])

    assert (await client.delete(f"{taken_back}/person")).status_code == 204
    assert (await client.put(f"{denied}/denials/{GRACE}")).status_code == 409
    insisted = await client.put(f"{denied}/denials/{GRACE}", params={"insist": "true"})
    assert insisted.status_code == 204
    assert (await name(client, hers[3], "Ada", insist="true")).status_code == 200
    face = {"image_id": hers[4], "face_index": 0}
    assert (await client.patch(f"/people/{GRACE}", json={"face": face})).status_code == 200
    await pipeline.end()

    shown = [(await client.get(f"/images/{one}")).json()["faces"][0] for one in hers]
    assert [one["person"] for one in shown] == [GRACE, None, None, "Ada", GRACE]
    cut_out = await run(pipeline.settings, sa.select(person_images.c.image_id))
    assert {row[0] for row in cut_out} == {None, hers[3], hers[4]}
    assert (await client.get(f"/people/{GRACE}")).json()["face"] == face


async def test_two_replicas_share_the_work(
    pipeline: Pipeline, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (erasing, erasing_rows):
        monkeypatch.setattr(module, "BATCH", 1)
    other = start(pipeline.settings).receiver.erasing
    async with zoe_and_grace(pipeline):
        await pipeline.erase(ZOE)
        # Each takes the other's claim for one that is over, so both write at any time.
        while await run(pipeline.settings, sa.select(erasures.c.person_id)):
            await run(pipeline.settings, sa.update(erasures).values(due_at=0))
            await asyncio.gather(pipeline.erasing.step(), other.step())
            await collect(pipeline.settings)


async def test_what_a_recogniser_of_before_stores_meanwhile_goes_too(pipeline: Pipeline) -> None:
    async with zoe_and_grace(pipeline) as ids:
        await pipeline.erase(ZOE)
        await pipeline.erasing.step()
        late = await pipeline.show(face_of(ZOE, encoding=ENCODING), face_of(GRACE, ZOE))
        assert [one[0] for one in await pipeline.faces(late)] == [by_id(ids["zoe"]), GRACE]
        await pipeline.end()
    assert await pipeline.faces(late) == [(None, False, True, []), (GRACE, False, False, [GRACE])]


async def test_the_last_round_waits_for_known_pictures_to_be_gone(pipeline: Pipeline) -> None:
    async with zoe_and_grace(pipeline):
        await pipeline.erase(ZOE)
        for _ in range(5):
            await run(pipeline.settings, sa.update(erasures).values(due_at=0))
            await pipeline.erasing.step()
        assert len(traces("\n".join(known(pipeline.settings)), ZOE)) == 3
        assert await run(pipeline.settings, sa.select(erasures.c.stage)) == [("leaving",)]
        await collect(pipeline.settings)
        await run(pipeline.settings, sa.update(erasures).values(due_at=0))
        assert await pipeline.erasing.step()
        assert not await pipeline.erasing.step(), "everybody is given the time to see it"
        wait = sa.select(erasures.c.stage, erasures.c.due_at - database_now())
        [(stage, left)] = await run(pipeline.settings, wait)
        assert stage == "last"
        assert erasing.SETTLED_MS - 5_000 < left <= erasing.SETTLED_MS
        await pipeline.end()


async def test_nobody_else_can_do_anything_with_somebody_who_is_being_forgotten(
    pipeline: Pipeline,
) -> None:
    client = pipeline.client
    async with zoe_and_grace(pipeline) as ids:
        [(picture_id,)] = await run(
            pipeline.settings,
            sa.select(sa.func.max(person_images.c.id)).where(
                person_images.c.person_id == ids["zoe"]
            ),
        )
        await pipeline.erase(ZOE)
        zoe = by_id(ids["zoe"])
        for who in (ZOE, zoe):
            for method, rest, body in (
                ("GET", "", None),
                ("GET", "/export", None),
                ("GET", f"/pictures/{picture_id}", None),
                ("PATCH", "", {"name": "Zoe"}),
                ("DELETE", "", None),
                ("POST", "/erase", {"pictures": True}),
            ):
                address = f"/people/{quote(who, safe='')}{rest}"
                answer = await client.request(method, address, json=body)
                assert answer.status_code == 404, (method, address, answer.text)
        for hidden in ("true", "false"):
            found = (await client.get("/people", params={"hidden": hidden})).json()["people"]
            assert [one["name"] for one in found if one["id"] == ids["zoe"]] == []
        # Nor does the service people, who would take the names away.
        rows = DatabaseStoredFaces(pipeline.database, database_now)
        claimed = await rows.claim()
        assert claimed
        assert claimed.person_id == ids["grace"]
        assert await rows.claim() is None
        await rows.give_back(claimed, 0)
        await pipeline.end()


async def test_who_gets_the_name_meanwhile_is_somebody_else(pipeline: Pipeline) -> None:
    client = pipeline.client
    assert (await enrol(client, "Ada", picture(92))).status_code == 201
    image_id = await pipeline.show(face_of("Ada"))
    first = await id_of(client, "Ada")
    await pipeline.erase("Ada")
    again = await enrol(client, "Ada", picture(92))  # with the same picture
    assert again.status_code == 201, again.text
    assert again.json()["person_id"] != first
    other = await pipeline.show(face_of("Ada~2"), face_of("Ada", "Ada~2", unsure=True))
    await pipeline.end()
    assert await pipeline.faces(image_id) == [(None, False, True, [])]
    assert await pipeline.faces(other) == [
        ("Ada", False, False, ["Ada"]),
        (None, True, False, ["Ada"]),
    ]
    assert known(pipeline.settings) == [again.json()["image_name"]]


async def test_who_is_known_by_files_alone_can_be_forgotten(pipeline: Pipeline) -> None:
    put_by_hand(pipeline.settings, "Ada/1.jpg")
    put_by_hand(pipeline.settings, "Ada/more/2.jpg")
    assert (await pipeline.erase("Ada"))["known_pictures"] == 2
    await pipeline.end()
    await pipeline.work_is_done()
    assert traces(await pipeline.everything(), "Ada") == []
    for who in ("Ada", "Nobody", "~99"):
        answer = await pipeline.client.post(f"/people/{who}/erase", json={"pictures": False})
        assert answer.status_code == 404


async def test_who_was_said_to_be_somebody_is_forgotten_with_them(pipeline: Pipeline) -> None:
    client = pipeline.client
    for number, who in ((95, "Ada"), (96, "Bea"), (97, "Cleo")):
        assert (await enrol(client, who, picture(number))).status_code == 201
    for gone in ("Bea", "Cleo"):
        assert (await client.post("/people/Ada/merge", json={"name": gone})).status_code == 200
    # Somebody else is called so by now; and what was asked before the merge has not changed yet.
    assert (await enrol(client, "Cleo", ONE)).status_code == 201
    image_id = await pipeline.show(face_of("Bea", "Cleo", unsure=True))
    await pipeline.erase("Ada")
    await pipeline.end()
    assert await pipeline.faces(image_id) == [(None, True, False, ["Cleo"])]
    assert len(known(pipeline.settings)) == 1
    for _ in range(2):  # notes of what was copied have its name until it is looked for again
        await collect(pipeline.settings, later_ms=3_700_000)
    await pipeline.work_is_done()
    assert traces(await pipeline.everything(), "Ada", "Bea") == []


async def test_nobody_gets_the_faces_of_a_group_while_being_forgotten(pipeline: Pipeline) -> None:
    assert (await enrol(pipeline.client, "Ada", picture(98))).status_code == 201
    image_id = await pipeline.show(face_of())
    ada = await id_of(pipeline.client, "Ada")
    [(processed_at,)] = await run(pipeline.settings, sa.select(images.c.processed_at))
    await pipeline.erase("Ada")
    rows = DatabaseGroups(pipeline.database)
    with pytest.raises(ConflictError, match="has just gone"):
        await rows.name([Member(FaceKey(image_id, 0), processed_at, 1.0)], ada)
    await pipeline.end()
    assert await pipeline.faces(image_id) == [(None, False, False, [])]


async def test_no_line_of_the_log_says_who_it_was(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pipeline.client
    assert (await enrol(client, "Ada", picture(92))).status_code == 201
    assert (await enrol(client, "Bea", picture(93))).status_code == 201
    for one in known(pipeline.settings):
        (pipeline.store() / "known_people" / one).unlink()

    def away(_: Database) -> Any:
        raise DatabaseUnavailableError("away")

    with structlog.testing.capture_logs() as lines:
        merged = await client.post("/people/Ada/merge", json={"name": "Bea"})
        monkeypatch.setattr(Database, "reading", away)
        assert (merged.status_code, (await client.get("/people/Ada")).status_code) == (200, 503)
        monkeypatch.undo()
    said = {line["event"] for line in lines}
    assert {"known picture not copied", "dependency is away"} <= said
    # A key's folder is left out when the line is written.
    assert traces(re.sub("known_people/[^/]+", "", repr(lines)), "Ada", "Bea") == []


async def test_a_namesake_keeps_everything(pipeline: Pipeline) -> None:
    client = pipeline.client
    assert (await enrol(client, "Ada", picture(93))).status_code == 201
    assert (await enrol(client, "Ada", ONE, another="true")).status_code == 201
    refused = await client.post("/people/Ada/erase", json={"pictures": False})
    assert refused.status_code == 409
    image_id = await pipeline.show(face_of("Ada"), face_of("Ada~2", "Ada"))
    [first] = await run(pipeline.settings, sa.select(persons.c.id).where(persons.c.folder == "Ada"))
    await pipeline.erase(by_id(first[0]))
    await pipeline.end()
    assert await pipeline.faces(image_id) == [
        (None, False, True, []),
        ("Ada", False, False, ["Ada"]),
    ]


async def test_all_that_is_kept_is_told(pipeline: Pipeline) -> None:
    async with zoe_and_grace(pipeline) as ids:
        answer = await pipeline.client.get(f"/people/{quote(ZOE, safe='')}/export")
        assert answer.status_code == 200, answer.text
        account = answer.json()
        assert account["person"] | {"created_at": 0} == {
            "id": ids["zoe"],
            "name": ZOE,
            "hidden": False,
            "created_at": 0,
            "face": None,
        }
        by_hand, of_file, cut = sorted(
            account["known_pictures"], key=lambda one: (one["id"] or 0, one["image_name"])
        )
        assert (by_hand["id"], by_hand["address"]) == (None, None)
        assert of_file["face"] is None
        assert cut["face"] == {"image_id": ids["by hand"], "index": 0}
        for one in (of_file, cut):
            assert (await pipeline.client.get(one["address"])).is_success
        assert [one["id"] for one in account["pictures"]] == [ids["by hand"], ids["both"]]
        assert (await pipeline.client.get(account["pictures"][0]["address"])).is_success
        [[named], [found]] = [one["faces"] for one in account["pictures"]]
        assert (named["decided_by"], named["distance"]) == ("hand", None)
        assert (found["decided_by"], found["distance"]) == ("machine", 0.25)
        assert found["box"] == {"left": 10, "top": 10, "right": 50, "bottom": 50}
        assert named["encodings"] == found["encodings"] == ["test"]
        assert [one["image_id"] for one in account["denials"]] == [ids["not"]]
        assert [one["name"] for one in account["merges"]] == [f"{ZOE} II"]
        await pipeline.erase(ZOE)
        await pipeline.end()


async def test_very_much_is_told_in_parts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.receiver.adapters.rows.personal_data._PART", 2)
    assert (await enrol(pipeline.client, "Ada", picture(94))).status_code == 201
    shown = [await pipeline.show(face_of("Ada"), face_of(), face_of("Ada")) for _ in range(5)]
    other = [await pipeline.show(face_of()) for _ in range(5)]
    for image_id in other:
        answer = await pipeline.client.put(f"/images/{image_id}/faces/0/denials/Ada")
        assert answer.status_code == 204, answer.text
    # As a service of before writes it.
    alone = sa.update(faces).where(faces.c.image_id.in_(shown[1:3])).values(person_id=None)
    await run(pipeline.settings, alone)
    account = (await pipeline.client.get("/people/Ada/export")).json()
    assert [one["id"] for one in account["pictures"]] == shown
    assert [[face["index"] for face in one["faces"]] for one in account["pictures"]] == [[0, 2]] * 5
    assert [one["image_id"] for one in account["denials"]] == other

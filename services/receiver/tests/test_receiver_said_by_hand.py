"""What a person says of faces and people: this is Ada, this is not Ada, Ada is called Countess."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa

from services.common.clock import database_now
from services.common.database import Database
from services.common.faces import Box, Likely, SeenFace
from services.common.objects import ObjectStore
from services.common.tables import events, faces, images, people_work, person_images, persons
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Claim, Processed
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import FakeRecogniser, collect, draw, encode
from services.receiver.tests.test_receiver_people import (
    ONE,
    OTHER,
    enrol,
    known,
    put_by_hand,
    seed_faces,
    taken_for,
)

BOX = (10, 10, 50, 50)


async def run(settings: ReceiverSettings, statement: sa.Executable) -> list[tuple[Any, ...]]:
    database = Database(settings)
    async with database.transaction() as connection:
        result = await connection.execute(statement)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    await database.close()
    return rows


async def by_machine(settings: ReceiverSettings, image_id: int, *names: str, **more: Any) -> None:
    """Have the machine name face 0 as the first, who is one of several candidates."""
    candidates = [
        {"person": name, "image_name": f"{name}/1.png", "distance": 0.25} for name in names
    ]
    values = {"person": names[0], "distance": 0.25, "ambiguous": False, "candidates": candidates}
    await run(
        settings,
        sa.update(faces).where(faces.c.image_id == image_id).values({**values, **more}),
    )


async def name(
    client: httpx.AsyncClient, image_id: int, person: str, **params: str
) -> httpx.Response:
    address = f"/images/{image_id}/faces/0/person"
    return await client.put(address, json={"name": person}, params=params)


async def face_of(client: httpx.AsyncClient, image_id: int) -> dict[str, Any]:
    face: dict[str, Any] = (await client.get(f"/images/{image_id}")).json()["faces"][0]
    return face


async def id_of(client: httpx.AsyncClient, person: str) -> int:
    [found] = (await client.get("/people", params={"person": person})).json()["people"]
    return int(found["id"])


async def work(settings: ReceiverSettings) -> dict[int, tuple[str, bool]]:
    """Return who is to be decided again, and forget it."""
    columns = (people_work.c.person_id, people_work.c.folder, people_work.c.removed)
    rows = await run(settings, sa.select(*columns))
    await run(settings, sa.delete(people_work))
    return {person_id: (folder, bool(removed)) for person_id, folder, removed in rows}


async def noted(settings: ReceiverSettings) -> set[tuple[str, int]]:
    """Return what has changed, and forget it."""
    rows = await run(settings, sa.select(events.c.kind, events.c.subject_id))
    await run(settings, sa.delete(events))
    return {(kind, subject_id) for kind, subject_id in rows}


async def test_a_face_is_named_and_moves_to_somebody_else(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    first = await name(client, image_id, "Ada")
    assert first.status_code == 200, first.text
    ada = await id_of(client, "Ada")
    assert (first.json()["person"], first.json()["person_id"]) == ("Ada", ada)
    face = await face_of(client, image_id)
    assert (face["person"], face["person_id"], face["decided_by"]) == ("Ada", ada, "hand")
    assert (await name(client, image_id, "Ada")).json() == first.json()
    assert await work(settings) == {ada: ("Ada", False)}
    assert await noted(settings) == {("image", image_id), ("person", ada)}

    recogniser.face = taken_for("Ada")  # as whom it is known: no reason for a doubt
    moved = await name(client, image_id, "Grace")
    assert moved.status_code == 200, moved.text
    grace = await id_of(client, "Grace")
    face = await face_of(client, image_id)
    assert (face["person"], face["person_id"], face["decided_by"]) == ("Grace", grace, "hand")
    assert await work(settings) == {ada: ("Ada", True), grace: ("Grace", False)}
    assert await noted(settings) == {("image", image_id), ("person", ada), ("person", grace)}
    await collect(settings)
    assert known(settings) == [moved.json()["image_name"]]
    people = (await client.get("/people")).json()["people"]
    assert [(one["name"], len(one["pictures"])) for one in people] == [("Ada", 0), ("Grace", 1)]


async def test_a_face_that_was_named_before_it_was_noted_moves_too(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """A receiver of before writes the name alone, and not which picture was cut out of what."""
    image_id = await seed_faces(client, settings, ONE, BOX)
    for person in ("Grace", None):
        assert (await name(client, image_id, "Ada", insist="true")).status_code == 200
        await run(settings, sa.update(person_images).values(image_id=None, face_index=None))
        await run(settings, sa.update(faces).values(person_id=None, decided_by=None))
        if person:
            assert (await name(client, image_id, person)).status_code == 200
        else:
            address = f"/images/{image_id}/faces/0/person"
            assert (await client.delete(address)).status_code == 204
        assert (await face_of(client, image_id))["person"] == person
        await collect(settings)
        assert len(known(settings)) == (person is not None)


async def test_a_face_that_was_cut_out_otherwise_leaves_no_picture_of_before(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """Another engine may need other margins, which is another picture."""
    image_id = await seed_faces(client, settings, ONE, BOX)
    await name(client, image_id, "Ada")
    other = {"image_name": f"Ada/{'0' * 64}.1.jpg"}
    await run(settings, sa.update(person_images).values(other))
    assert (await name(client, image_id, "Grace")).status_code == 200
    [[left]] = await run(settings, sa.select(person_images.c.image_name))
    assert left.startswith("Grace/")


async def test_the_same_face_in_another_image_does_not_take_the_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    await name(client, image_id, "Ada")
    twin = await seed_twin(settings, image_id)
    refused = await name(client, twin, "Grace")
    assert refused.status_code == 409
    assert "known as 'Ada' already" in refused.json()["detail"]
    assert (await name(client, twin, "Ada")).status_code == 200
    # Taken back there, it stays here.
    assert (await client.delete(f"/images/{twin}/faces/0/person")).status_code == 204
    assert (await face_of(client, image_id))["person"] == "Ada"
    assert len((await client.get("/people")).json()["people"][0]["pictures"]) == 1


async def seed_twin(settings: ReceiverSettings, image_id: int) -> int:
    """Submit an uploaded picture by its path in another folder, too, with a face that is nobody."""
    store = ObjectStore(settings)
    [[path]] = await run(settings, sa.select(images.c.path).where(images.c.id == image_id))
    await store.put("pictures/twin.png", (await store.get_tagged(f"pictures/{path}"))[0])
    row = {"path": "twin.png", "name": "twin", "status": "processed", "attempt": 1}
    await run(settings, sa.insert(images).values({**row, "created_at": 1, "updated_at": 1}))
    [[twin]] = await run(settings, sa.select(images.c.id).where(images.c.path == "twin.png"))
    box = dict(zip(("left", "top", "right", "bottom"), BOX, strict=True))
    nobody = {**box, "detection_score": 1.0, "ambiguous": False, "candidates": []}
    await run(settings, sa.insert(faces).values(image_id=twin, face_index=0, **nobody))
    return int(twin)


@pytest.mark.parametrize("verb", ["take back", "delete the known picture", "forget"])
async def test_a_name_that_is_taken_back_leaves_the_face_to_be_decided(
    client: httpx.AsyncClient, settings: ReceiverSettings, verb: str
) -> None:
    """Who it may be is a question until then; the work says that something went."""
    image_id = await seed_faces(client, settings, ONE, BOX)
    assert (await enrol(client, "Grace", OTHER)).status_code == 201
    await by_machine(settings, image_id, "Grace")
    enrolled = (await name(client, image_id, "Ada")).json()
    ada = await id_of(client, "Ada")
    await work(settings)
    address = {
        "take back": f"/images/{image_id}/faces/0/person",
        "delete the known picture": f"/people/Ada/pictures/{enrolled['id']}",
        "forget": "/people/Ada",
    }
    assert (await client.delete(address[verb])).status_code == 204
    assert await work(settings) == {ada: ("Ada", True)}
    columns = (faces.c.person_id, faces.c.decided_by, faces.c.ambiguous, faces.c.calibration)
    assert await run(settings, sa.select(*columns)) == [(None, "machine", True, None)]


async def test_a_name_without_a_person_is_taken_back_and_the_face_decided(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    await by_machine(settings, image_id, "Ghost", distance=None)
    assert (await client.delete(f"/images/{image_id}/faces/0/person")).status_code == 204
    assert (await face_of(client, image_id))["person"] is None
    assert list((await work(settings)).values()) == [("Ghost", True)]


@pytest.mark.parametrize("verb", ["take back", "delete the known picture"])
async def test_what_a_hand_said_is_taken_back(
    client: httpx.AsyncClient, settings: ReceiverSettings, verb: str
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    enrolled = (await name(client, image_id, "Ada")).json()
    await work(settings)
    await noted(settings)
    back = f"/images/{image_id}/faces/0/person"
    picture = f"/people/Ada/pictures/{enrolled['id']}"
    assert (await client.delete(back if verb == "take back" else picture)).status_code == 204
    face = await face_of(client, image_id)
    assert (face["person"], face["person_id"], face["decided_by"]) == (None, None, "machine")
    ada = await id_of(client, "Ada")
    assert await work(settings) == {ada: ("Ada", True)}
    assert await noted(settings) == {("image", image_id), ("person", ada)}
    await collect(settings)
    assert known(settings) == []
    # Once more is once.
    assert (await client.delete(back)).status_code == 204
    assert await work(settings) == {}
    assert (await client.delete(f"/images/{image_id}/faces/1/person")).status_code == 404
    assert (await client.delete(f"/images/{image_id + 1}/faces/0/person")).status_code == 404


async def test_a_known_picture_of_its_own_takes_no_name(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    await name(client, image_id, "Ada")
    other = (await enrol(client, "Ada", OTHER)).json()
    assert (await client.delete(f"/people/Ada/pictures/{other['id']}")).status_code == 204
    assert (await face_of(client, image_id))["person"] == "Ada"


async def test_a_face_is_denied_and_allowed_again(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    assert (await enrol(client, "Ada", OTHER)).status_code == 201
    ada = await id_of(client, "Ada")
    await by_machine(settings, image_id, "Ada", "Grace", person_id=ada)
    await work(settings)
    await noted(settings)
    address = f"/images/{image_id}/faces/0/denials/Ada"
    for _ in range(2):
        assert (await client.put(address)).status_code == 204
    face = await face_of(client, image_id)
    assert (face["person"], face["person_id"], face["distance"]) == (None, None, None)
    assert [one["person"] for one in face["candidates"]] == ["Grace"]
    assert (face["denials"], face["ambiguous"]) == (["Ada"], True)
    assert (await client.get("/images")).json()["images"][0]["faces"] == [face]
    assert await work(settings) == {ada: ("Ada", False)}
    assert await noted(settings) == {("image", image_id), ("person", ada)}
    refused = await client.post(f"/images/{image_id}/recognise")
    assert refused.status_code == 409
    assert "not 'Ada' as face 0" in refused.json()["detail"]
    for _ in range(2):
        assert (await client.delete(address)).status_code == 204
    assert (await face_of(client, image_id))["denials"] == []
    assert await work(settings) == {ada: ("Ada", False)}
    assert (await client.post(f"/images/{image_id}/recognise")).status_code == 202


async def test_who_insists_denies_also_what_a_hand_has_said_but_only_of_whom_it_is(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    assert (await enrol(client, "Eve", OTHER)).status_code == 201
    assert (await name(client, image_id, "Ada")).status_code == 200
    ada, eve = await id_of(client, "Ada"), await id_of(client, "Eve")
    denials = f"/images/{image_id}/faces/0/denials"
    insist = {"insist": "true"}
    # Whoever looked at the page of somebody else, whose face it was before, changes no name.
    assert (await client.put(f"{denials}/~{eve}", params=insist)).status_code == 204
    face = await face_of(client, image_id)
    assert (face["person"], face["decided_by"], face["denials"]) == ("Ada", "hand", ["Eve"])
    assert len(known(settings)) == 2
    await work(settings)
    await noted(settings)

    assert (await client.put(f"{denials}/~{ada}")).status_code == 409
    assert (await client.put(f"{denials}/~{ada}", params=insist)).status_code == 204
    face = await face_of(client, image_id)
    assert (face["person"], face["decided_by"]) == (None, "machine")
    assert face["denials"] == ["Ada", "Eve"]
    assert await work(settings) == {ada: ("Ada", True)}
    assert ("image", image_id) in await noted(settings)
    await collect(settings)
    assert len(known(settings)) == 1, "the one that was cut out of it is gone"
    assert (await client.put(f"{denials}/~{ada}", params=insist)).status_code == 204


async def test_who_is_denied_or_not(client: httpx.AsyncClient, settings: ReceiverSettings) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    await name(client, image_id, "Ada")
    denials = f"/images/{image_id}/faces/0/denials"
    refused = await client.put(f"{denials}/Ada")
    assert refused.status_code == 409
    assert "take that name back first" in refused.json()["detail"]
    assert (await client.put(f"{denials}/Nobody")).status_code == 404
    assert (await client.delete(f"{denials}/Nobody")).status_code == 204
    assert (await client.put(f"{denials}/{quote('a/b', safe='')}")).status_code == 422
    assert (await client.put(f"/images/{image_id}/faces/7/denials/Ada")).status_code == 404
    # Somebody of whom only the store knows, and somebody of whom only the face does.
    put_by_hand(settings, "Zoe\u0308/1.png")
    assert (await client.put(f"{denials}/{quote('Zoë')}")).status_code == 204
    await by_machine(settings, image_id, "Ghost", decided_by="machine", person_id=None)
    assert (await client.put(f"{denials}/Ghost")).status_code == 204
    face = await face_of(client, image_id)
    assert (face["person"], face["denials"]) == (None, ["Ghost", "Zoë"])
    # Who is named after all is not denied any more.
    assert (await name(client, image_id, "Ghost", insist="true")).status_code == 200
    assert (await face_of(client, image_id))["denials"] == ["Zoë"]
    assert (await client.delete(f"/people/{quote('Zoë')}")).status_code == 204
    assert (await face_of(client, image_id))["denials"] == []


async def test_another_name_shows_everywhere_at_once_and_moves_nothing(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    by_hand, by_id, by_text = [
        await seed_faces(client, settings, encode(draw(("red", BOX), size=size)), BOX)
        for size in ((60, 60), (61, 60), (62, 60))
    ]
    enrolled = (await name(client, by_hand, "Ada")).json()
    ada = await id_of(client, "Ada")
    await by_machine(settings, by_id, "Ada", person_id=ada)
    await by_machine(settings, by_text, "Ada")
    await work(settings)
    await noted(settings)
    answer = await client.patch("/people/Ada", json={"name": " Countess Lovelace "})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], answer.json()["name"]) == (ada, "Countess Lovelace")
    assert answer.json()["pictures"][0]["image_name"] == enrolled["image_name"]
    for image_id in (by_hand, by_id, by_text):
        face = await face_of(client, image_id)
        assert (face["person"], face["person_id"]) == ("Countess Lovelace", ada)
    for person, found in (("Countess Lovelace", [by_text, by_id, by_hand]), ("Ada", [])):
        page = (await client.get("/images", params={"person": person})).json()["images"]
        assert [one["id"] for one in page] == found
        counts = (await client.get("/status", params={"person": person})).json()["images"]
        assert counts["processed"] == len(found)
    assert await work(settings) == {ada: ("Ada", False)}
    assert await noted(settings) == {("person", ada)}
    for person in ("Ada", "Countess%20Lovelace"):
        picture = await client.get(f"/people/{person}/pictures/{enrolled['id']}")
        assert picture.status_code == 200
    # face_recog knows folders.
    recogniser.face = taken_for("Ada")
    recogniser.persons.clear()
    more = await enrol(client, "Countess Lovelace", OTHER)
    assert more.json()["image_name"].startswith("Ada/")
    assert recogniser.persons == ["Ada"]
    blue = encode(draw(("blue", BOX), size=(60, 60)))
    doubted = await enrol(client, "Grace", blue)
    assert "looks like 'Countess Lovelace', who is known" in doubted.json()["detail"]
    # The name is free, the folder is not.
    recogniser.face = taken_for("Ada~2")
    another = (await enrol(client, "Ada", blue)).json()
    assert another["image_name"].startswith("Ada~2/")
    assert (await enrol(client, "Ada", blue)).json() == another
    assert (await client.delete("/people/Ada")).status_code == 204
    assert (await client.delete("/people/Ada")).status_code == 404
    await collect(settings)
    kept = sorted([enrolled["image_name"], more.json()["image_name"]])
    assert known(settings) == kept
    assert (await client.patch("/people/Countess%20Lovelace", json={"name": "Ada"})).is_success
    assert (await client.delete("/people/Ada")).status_code == 204
    await collect(settings)
    assert known(settings) == []


async def test_a_name_that_cannot_be_given_is_refused(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await enrol(client, "Ada", ONE)
    await enrol(client, "Grace", OTHER)
    put_by_hand(settings, "Eve/1.png")
    for new, status, reason in (
        ("Grace", 409, "'Grace' is the name of somebody else"),
        ("Eve", 409, "'Eve' is the name of somebody else"),
        ("a/b", 422, "must not contain /"),
        ("", 422, "must not be empty"),
        (7, 422, "valid string"),
    ):
        answer = await client.patch("/people/Ada", json={"name": new})
        assert answer.status_code == status
        assert reason in answer.text
    assert (await client.patch("/people/Ida", json={"name": "Uma"})).status_code == 404
    assert (await client.patch("/people/Ada", json={"name": "Ada"})).status_code == 200
    assert [one["name"] for one in (await client.get("/people")).json()["people"]] == [
        "Ada",
        "Grace",
    ]


async def test_who_is_forgotten_leaves_no_name(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    by_hand, by_id, by_text, of_other = [
        await seed_faces(client, settings, encode(draw(("red", BOX), size=size)), BOX)
        for size in ((60, 60), (61, 60), (62, 60), (63, 60))
    ]
    await name(client, by_hand, "Ada")
    ada = await id_of(client, "Ada")
    await by_machine(settings, by_id, "Ada", person_id=ada)
    await by_machine(settings, by_text, "Ada")
    await by_machine(settings, of_other, "Grace")
    await work(settings)
    await noted(settings)
    assert (await client.delete("/people/Ada")).status_code == 204
    for image_id in (by_hand, by_id, by_text):
        face = await face_of(client, image_id)
        assert (face["person"], face["person_id"], face["decided_by"]) == (None, None, "machine")
    assert (await face_of(client, of_other))["person"] == "Grace"
    assert await work(settings) == {ada: ("Ada", True)}
    images_noted = {("image", one) for one in (by_hand, by_id, by_text)}
    assert await noted(settings) == {("person", ada), *images_noted}
    # Others remember the id: nobody gets it again.
    assert (await enrol(client, "Ada", OTHER)).json()["person_id"] > ada


async def test_who_has_only_pictures_by_hand_is_forgotten_by_an_id_too(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    put_by_hand(settings, "Ada/1.png")
    image_id = await seed_faces(client, settings, ONE, BOX)
    await by_machine(settings, image_id, "Ada")
    assert (await client.delete("/people/Ada")).status_code == 204
    assert (await face_of(client, image_id))["person"] is None
    assert list((await work(settings)).values()) == [("Ada", True)]
    assert (await client.get("/people")).json()["people"] == []


async def test_many_at_once_leave_each_face_with_its_one_known_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    ids = [
        await seed_faces(client, settings, encode(draw(("red", BOX), size=(60 + n, 60))), BOX)
        for n in range(4)
    ]
    database = Database(settings)
    processor = DatabaseClaims(database, database_now)
    face = SeenFace(Box(1, 2, 3, 4), 0.5, False, (Likely("Ada/1.png", "Ada", 0.25),))

    async def store_result(number: int) -> None:
        row = {"path": f"p{number}", "name": "p", "status": "processing", "attempt": 1}
        row |= {"created_at": 1, "updated_at": 1, "claim_token": "token"}
        async with database.transaction() as connection:
            inserted = await connection.execute(sa.insert(images).values(row))
        claim = Claim(inserted.lastrowid, f"p{number}", 1, "token")
        assert await processor.finish(claim, Processed((face, face), 9, 9, "engine"))

    answers = await asyncio.gather(
        *(name(client, one, who, insist="true") for one in ids for who in ("Ada", "Grace", "Eve")),
        *(client.put(f"/images/{one}/faces/0/denials/Ada") for one in ids),
        *(client.delete(f"/images/{one}/faces/0/person") for one in ids[:2]),
        client.delete("/people/Eve"),
        client.patch("/people/Grace", json={"name": "Uma"}),
        client.patch("/people/Ada", json={"name": "Ida"}),
    )
    results = await asyncio.gather(
        *(store_result(number) for number in range(10)),
        client.delete("/people/Ida"),
        client.patch("/people/Ada", json={"name": "Ida"}),
        *(name(client, one, "Ada", insist="true") for one in ids),
    )
    statuses = {one.status_code for one in (*answers, *results) if one is not None}
    assert statuses <= {200, 204, 404, 409, 422}
    cut = await run(
        settings,
        sa.select(person_images.c.image_id, person_images.c.face_index, person_images.c.person_id),
    )
    hand = await run(
        settings,
        sa.select(faces.c.image_id, faces.c.face_index, faces.c.person_id).where(
            faces.c.decided_by == "hand"
        ),
    )
    assert sorted(cut) == sorted(hand)
    assert hand
    # Whose id a face has, their name it shows.
    wrong = sa.select(faces.c.image_id).where(
        faces.c.person_id.is_not(None), faces.c.person_id.not_in(sa.select(persons.c.id))
    )
    assert await run(settings, wrong) == []
    await database.close()


async def test_a_freed_name_takes_no_folder_of_somebody_else(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(client, settings, ONE, BOX)
    assert (await enrol(client, "Ada", OTHER)).status_code == 201
    assert (await client.patch("/people/Ada", json={"name": "Carl"})).status_code == 200
    put_by_hand(settings, "Ada~2/1.png")
    assert (await client.delete("/people/Ada")).status_code == 404
    assert (await client.put(f"/images/{image_id}/faces/0/denials/Ada")).status_code == 404
    await collect(settings)
    assert "Ada~2/1.png" in known(settings)
    blue = encode(draw(("blue", BOX), size=(60, 60)))
    assert (await enrol(client, "Ada", blue)).json()["image_name"].startswith("Ada~3/")
    assert (await client.delete("/people/Ada")).status_code == 204
    await collect(settings)
    assert "Ada~2/1.png" in known(settings)

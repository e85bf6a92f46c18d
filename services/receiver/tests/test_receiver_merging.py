"""Two people are one, and are not after all; the face that stands for somebody."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.common.claims import STORING_MS
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.faces import Box, SeenFace
from services.common.person_names import by_id
from services.common.quality import Quality
from services.common.tables import face_denials, faces, garbage, images
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Processed
from services.receiver.adapters.rows import merges as merge_rows
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.adapters.rows.merges import DatabaseMerges
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import collect, draw, encode
from services.receiver.tests.test_receiver_people import (
    ONE,
    OTHER,
    enrol,
    known,
    put_by_hand,
    seed_faces,
)
from services.receiver.tests.test_receiver_said_by_hand import (
    by_machine,
    face_of,
    name,
    run,
    work,
)

BOX = (10, 10, 50, 50)


def picture(number: int) -> bytes:
    return encode(draw(("red", BOX), size=(60 + number, 60)))


async def image_of(
    client: httpx.AsyncClient, settings: ReceiverSettings, number: int, **face: object
) -> int:
    """Return an image with a face that the machine has named Bob."""
    image_id = await seed_faces(client, settings, picture(number), BOX)
    await by_machine(settings, image_id, "Bob", **face)
    return image_id


async def person(client: httpx.AsyncClient, who: str) -> dict[str, Any]:
    answer = await client.get(f"/people/{who}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def merge(client: httpx.AsyncClient, kept: str, gone: str) -> httpx.Response:
    return await client.post(f"/people/{kept}/merge", json={"name": gone})


async def whose(client: httpx.AsyncClient, image_id: int) -> tuple[str | None, int | None, str]:
    face = await face_of(client, image_id)
    return face["person"], face["person_id"], face["decided_by"]


async def denied(settings: ReceiverSettings) -> set[tuple[int, int]]:
    return {
        (image_id, person_id)
        for image_id, person_id in await run(
            settings, sa.select(face_denials.c.image_id, face_denials.c.person_id)
        )
    }


def ids(entries: list[dict[str, Any]]) -> list[int]:
    return [one["id"] for one in entries]


async def test_one_persons_pictures_names_and_denials_become_anothers(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    ada = (await enrol(client, "Ada", ONE)).json()["person_id"]
    file = (await enrol(client, "Bob", OTHER)).json()
    bob = file["person_id"]
    by_hand, of_machine, other, nobody = [
        await image_of(client, settings, number) for number in (1, 2, 3, 4)
    ]
    await by_machine(settings, of_machine, "Bob", person_id=bob)
    cut = (await name(client, by_hand, "Bob")).json()
    await client.put(f"/images/{other}/faces/0/denials/Bob")
    await client.put(f"/images/{nobody}/faces/0/denials/Ada")
    put_by_hand(settings, "Bob/more/hand.png")
    await work(settings)

    answer = await merge(client, "Ada", "Bob")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document == await person(client, "Ada")
    assert document["id"] == ada
    assert [one["name"] for one in document["merges"]] == ["Bob"]
    assert {file["id"], cut["id"]} < set(ids(document["pictures"]))
    assert len(document["pictures"]) == 4
    assert {one["image_name"].partition("/")[0] for one in document["pictures"]} == {"Ada"}
    assert await whose(client, by_hand) == ("Ada", ada, "hand")
    assert await whose(client, of_machine) == ("Ada", ada, "machine")
    assert await denied(settings) == {(other, ada), (nobody, ada)}
    assert await work(settings) == {ada: ("Ada", False), bob: ("Bob", True)}
    assert (await client.get("/people/Bob")).status_code == 404
    assert (await client.get(f"/people/~{bob}")).status_code == 404
    await collect(settings)
    assert known(settings) == sorted(one["image_name"] for one in document["pictures"])
    address = f"/people/Ada/pictures/{file['id']}"
    assert (await client.get(address)).content == OTHER
    waiting = sa.select(garbage.c.object_key).where(garbage.c.removed_at.is_(None))
    assert await run(settings, waiting) == []

    answer = await client.delete(f"/people/Ada/merges/{document['merges'][0]['id']}")
    assert answer.status_code == 200, answer.text
    again = answer.json()
    assert (again["id"], again["name"], again["merges"]) == (bob, "Bob", [])
    assert {file["id"], cut["id"]} < set(ids(again["pictures"]))
    assert len(again["pictures"]) == 3
    assert {one["image_name"].partition("/")[0] for one in again["pictures"]} == {"Bob"}
    assert await whose(client, by_hand) == ("Bob", bob, "hand")
    assert await denied(settings) == {(other, bob), (nobody, ada)}
    assert await work(settings) == {ada: ("Ada", True), bob: ("Bob", False)}
    left = await person(client, "Ada")
    assert (left["merges"], len(left["pictures"])) == ([], 1)
    await collect(settings)
    every = [one["image_name"] for one in (*left["pictures"], *again["pictures"])]
    assert known(settings) == sorted(every)
    assert (await client.delete("/people/Ada/merges/1")).status_code == 404


async def test_what_was_said_since_stays_said(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await enrol(client, "Ada", ONE)
    eve = (await enrol(client, "Eve", OTHER)).json()["person_id"]
    moved, taken_back, deleted, allowed, said_again = [
        await image_of(client, settings, number) for number in (1, 2, 3, 4, 5)
    ]
    for image_id in (moved, taken_back, deleted, said_again):
        assert (await name(client, image_id, "Bob")).status_code == 200
    bob = (await person(client, "Bob"))["id"]
    await client.put(f"/images/{allowed}/faces/0/denials/Bob")
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    assert (await name(client, moved, "Eve")).status_code == 200
    await client.delete(f"/images/{taken_back}/faces/0/person")
    await client.delete(f"/images/{deleted}")
    await client.delete(f"/images/{allowed}/faces/0/denials/Ada")
    await client.delete(f"/images/{said_again}/faces/0/person")
    assert (await name(client, said_again, "Ada")).status_code == 200

    again = (await client.delete(f"/people/Ada/merges/{merged}")).json()
    assert again["id"] == bob
    assert await whose(client, moved) == ("Eve", eve, "hand")
    assert await whose(client, taken_back) == (None, None, "machine")
    assert (await whose(client, said_again))[0::2] == ("Ada", "hand")
    assert len((await person(client, "Ada"))["pictures"]) == 2
    assert len(again["pictures"]) == 1, "of the image that was deleted"
    assert await denied(settings) == set()


async def test_faces_that_are_others_by_now_do_not_go_back(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """Of a picture that was recognised again, whose faces bear the same numbers as those before."""
    ada = (await enrol(client, "Ada", ONE)).json()["person_id"]
    await enrol(client, "Bob", OTHER)
    same, again, by_machine_again, denied_again, deleted = [
        await image_of(client, settings, number) for number in range(1, 6)
    ]
    for image_id in (same, again, by_machine_again, deleted):
        assert (await name(client, image_id, "Bob")).status_code == 200
    bob = (await person(client, "Bob"))["id"]
    await client.put(f"/images/{denied_again}/faces/0/denials/Bob")
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    database = Database(settings)
    for image_id in (again, by_machine_again, denied_again):
        await run(settings, sa.update(images).where(images.c.id == image_id).values(object_tag="a"))
        assert await DatabaseImages(database).look_again(image_id, "a")
        claim = await DatabaseClaims(database, database_now).claim(image_id)
        assert claim
        face = SeenFace(Box(*BOX), 1.0, ambiguous=False)
        seen = Processed((face,), 99, 99, "test", "tag", calibration=1)
        assert await DatabaseClaims(database, database_now).finish(claim, seen)
        its = faces.c.image_id == image_id
        await by_machine(settings, image_id, "Ada", person_id=ada)
        if image_id == again:  # as whoever names a group
            values: dict[str, Any] = {"distance": None, "decided_by": "hand"}
            await run(settings, sa.update(faces).where(its).values(values))
    await database.close()
    await client.put(f"/images/{denied_again}/faces/0/denials/Ada")
    await client.delete(f"/images/{deleted}")

    assert (await client.delete(f"/people/Ada/merges/{merged}")).json()["id"] == bob
    assert await whose(client, same) == ("Bob", bob, "hand")
    assert await whose(client, again) == ("Ada", ada, "hand")
    assert await whose(client, by_machine_again) == ("Ada", ada, "machine")
    assert await denied(settings) == {(denied_again, ada)}


async def test_many_faces_go_back_in_parts_and_the_same_request_goes_on(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = (await enrol(client, "Ada", ONE)).json()["person_id"]
    bob = (await enrol(client, "Bob", OTHER)).json()["person_id"]
    made = [await image_of(client, settings, number) for number in range(1, 6)]
    hand = {"person_id": bob, "distance": None, "decided_by": "hand"}
    for image_id in made:
        await by_machine(settings, image_id, "Bob", **hand)
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    address = f"/people/Ada/merges/{merged}"
    monkeypatch.setattr(merge_rows, "CHANGED", 2)
    more = DatabaseMerges.undo_more

    async def killed(*_: object) -> bool:
        raise DatabaseUnavailableError("killed")

    async def once(self: DatabaseMerges, *arguments: Any) -> bool:
        monkeypatch.setattr(DatabaseMerges, "undo_more", killed)
        return await more(self, *arguments)

    for part, there in ((killed, 2), (once, 4)):
        monkeypatch.setattr(DatabaseMerges, "undo_more", part)
        assert (await client.delete(address)).status_code == 503
        names = [(await whose(client, image_id))[:2] for image_id in made]
        assert names == [("Bob", bob)] * there + [("Ada", ada)] * (5 - there)
        assert len((await person(client, "Bob"))["pictures"]) == 1
        assert ids((await person(client, "Ada"))["merges"]) == [merged]
    monkeypatch.setattr(DatabaseMerges, "undo_more", more)
    again = await client.delete(address)
    assert (again.status_code, again.json()["id"]) == (200, bob), again.text
    assert {await whose(client, image_id) for image_id in made} == {("Bob", bob, "hand")}
    assert (await client.delete(address)).status_code == 404
    assert [one["id"] for one in (await client.get("/people")).json()["people"]] == [ada, bob]
    await collect(settings, later_ms=STORING_MS + 1)
    assert len(known(settings)) == 2


async def test_who_is_not_whole_again_goes_nowhere_until_the_merge_is_taken_back(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what is left would stay with somebody else, or be forgotten with them."""
    await enrol(client, "Ada", ONE)
    bob = (await enrol(client, "Bob", OTHER)).json()["person_id"]
    hand = {"person_id": bob, "distance": None, "decided_by": "hand"}
    made = [await image_of(client, settings, number, **hand) for number in range(1, 5)]
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    monkeypatch.setattr(merge_rows, "CHANGED", 1)
    more = DatabaseMerges.undo_more

    async def killed(*_: object) -> bool:
        raise DatabaseUnavailableError("killed")

    monkeypatch.setattr(DatabaseMerges, "undo_more", killed)
    assert (await client.delete(f"/people/Ada/merges/{merged}")).status_code == 503
    await enrol(client, "Cleo", picture(9))
    for refused in (
        await merge(client, "Ada", "Bob"),
        await merge(client, "Cleo", "Ada"),
        await client.delete("/people/Bob"),
        await client.post("/people/Bob/erase", json={"pictures": False}),
        await client.delete("/people/Ada"),
        await client.post("/people/Ada/erase", json={"pictures": False}),
    ):
        assert (refused.status_code, "still being taken back" in refused.text) == (409, True)

    monkeypatch.setattr(DatabaseMerges, "undo_more", more)
    assert (await client.delete(f"/people/Ada/merges/{merged}")).status_code == 200
    assert {await whose(client, one) for one in made} == {("Bob", bob, "hand")}
    assert (await merge(client, "Ada", "Bob")).status_code == 200


async def test_a_merge_is_taken_back_once_by_two_who_do_it_at_the_same_time(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(client, "Ada", ONE)
    bob = (await enrol(client, "Bob", OTHER)).json()["person_id"]
    hand = {"person_id": bob, "distance": None, "decided_by": "hand"}
    made = [await image_of(client, settings, number, **hand) for number in range(1, 5)]
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    monkeypatch.setattr(merge_rows, "CHANGED", 1)
    find, more = DatabaseMerges.find, DatabaseMerges.undo_more

    async def killed(*_: object) -> bool:
        raise DatabaseUnavailableError("killed")

    async def found(self: DatabaseMerges, *arguments: Any) -> Any:
        monkeypatch.setattr(DatabaseMerges, "find", find)
        before = await find(self, *arguments)
        monkeypatch.setattr(DatabaseMerges, "undo_more", killed)
        assert (await client.delete(f"/people/Ada/merges/{merged}")).status_code == 503
        monkeypatch.setattr(DatabaseMerges, "undo_more", more)
        return before._replace(is_free=False) if before else None

    monkeypatch.setattr(DatabaseMerges, "find", found)
    answer = await client.delete(f"/people/Ada/merges/{merged}")
    assert (answer.status_code, answer.json().get("id")) == (200, bob), answer.text
    assert {await whose(client, one) for one in made} == {("Bob", bob, "hand")}
    await collect(settings, later_ms=STORING_MS + 1)
    assert len(known(settings)) == 2


async def test_a_hand_that_named_a_face_is_believed_over_one_that_denied_it(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """Who says that two are one says with it that a face of one is of the other."""
    ada = (await enrol(client, "Ada", ONE)).json()["person_id"]
    bob = (await enrol(client, "Bob", OTHER)).json()["person_id"]
    adas, bobs, both, machines = [
        await image_of(client, settings, number) for number in (1, 2, 3, 4)
    ]
    await name(client, adas, "Ada", insist="true")
    await name(client, bobs, "Bob", insist="true")
    await by_machine(settings, machines, "Bob", person_id=bob)
    before = set()
    for image_id, who in (
        (adas, bob),
        (bobs, ada),
        (both, ada),
        (both, bob),
        (machines, ada),
    ):
        assert (await client.put(f"/images/{image_id}/faces/0/denials/~{who}")).status_code == 204
        before.add((image_id, who))
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    assert await denied(settings) == {(both, ada), (machines, ada)}
    assert await whose(client, bobs) == ("Ada", ada, "hand")
    assert await whose(client, machines) == (None, None, "machine")
    await client.delete(f"/people/Ada/merges/{merged}")
    assert await denied(settings) == before
    assert await whose(client, adas) == ("Ada", ada, "hand")
    assert await whose(client, bobs) == ("Bob", bob, "hand")


async def test_merges_of_who_is_merged_go_along_and_come_back(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    for number, who in enumerate(("Ada", "Bob", "Eve")):
        assert (await enrol(client, who, picture(number))).status_code == 201
    bob, eve = [(await person(client, who))["id"] for who in ("Bob", "Eve")]
    await client.patch("/people/Eve", json={"hidden": True})
    inner = (await merge(client, "Bob", "Eve")).json()["merges"][0]["id"]
    merges = (await merge(client, "Ada", "Bob")).json()["merges"]
    assert [(one["id"] == inner, one["name"]) for one in merges] == [(True, "Eve"), (False, "Bob")]
    again = (await client.delete(f"/people/Ada/merges/{merges[1]['id']}")).json()
    assert (again["id"], [one["id"] for one in again["merges"]]) == (bob, [inner])
    assert len(again["pictures"]) == 2
    again = (await client.delete(f"/people/Bob/merges/{inner}")).json()
    assert (again["id"], again["hidden"], len(again["pictures"])) == (eve, True, 1)
    # Or the inner one alone, of whom all is now.
    inner = (await merge(client, "Bob", "Eve")).json()["merges"][0]["id"]
    await merge(client, "Ada", "Bob")
    again = (await client.delete(f"/people/Ada/merges/{inner}")).json()
    assert (again["id"], len(again["pictures"])) == (eve, 1)
    assert len((await person(client, "Ada"))["pictures"]) == 2


async def test_who_comes_back_finds_somebody_else_of_the_name(client: httpx.AsyncClient) -> None:
    await enrol(client, "Ada", picture(0))
    bob = (await enrol(client, "Bob", picture(1))).json()["person_id"]
    merged = (await merge(client, "Ada", "Bob")).json()["merges"][0]["id"]
    other = (await enrol(client, "Bob", picture(2))).json()
    assert other["image_name"].startswith("Bob/")
    again = (await client.delete(f"/people/Ada/merges/{merged}")).json()
    assert (again["id"], again["name"]) == (bob, "Bob")
    assert again["pictures"][0]["image_name"].startswith("Bob~2/")
    assert (await client.get("/people/Bob")).status_code == 409


async def test_people_of_one_name_are_merged_by_their_ids(client: httpx.AsyncClient) -> None:
    first = (await enrol(client, "Ada", ONE)).json()["person_id"]
    second = (await enrol(client, "Ada", OTHER, another="true")).json()["person_id"]
    assert (await merge(client, "Ada", by_id(first))).status_code == 409
    assert (await merge(client, by_id(second), "Ada")).status_code == 409
    answer = await merge(client, by_id(second), by_id(first))
    assert (answer.json()["id"], len(answer.json()["pictures"])) == (second, 2)
    assert (await person(client, "Ada"))["id"] == second


@pytest.mark.parametrize(
    ("kept", "gone", "status", "reason"),
    [
        ("Ada", "Ada", 409, "'Ada' and 'Ada' are one person already"),
        ("Ada", "~1", 409, "are one person already"),
        ("Ada", "Bob", 404, "there is nobody called 'Bob'"),
        ("Bob", "Ada", 404, "there is nobody called 'Bob'"),
        ("~9", "Ada", 404, "there is nobody with the id 9"),
        ("Ada", "a/b", 422, "must not contain /"),
    ],
)
async def test_what_cannot_be_merged_is_refused_with_the_reason(
    plain: httpx.AsyncClient, kept: str, gone: str, status: int, reason: str
) -> None:
    await enrol(plain, "Ada", ONE)
    answer = await merge(plain, kept, gone)
    assert answer.status_code == status
    problem = answer.json()
    assert reason in problem["detail"] + str(problem.get("errors"))


async def test_a_merge_that_was_cut_off_leaves_nothing_and_can_be_repeated(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailableError("gone")

    await enrol(client, "Ada", ONE)
    await enrol(client, "Bob", OTHER)
    put_by_hand(settings, "Bob/hand.png")
    before = known(settings)
    for method in ("merge", "undo"):
        with monkeypatch.context() as patch:
            patch.setattr(DatabaseMerges, method, away)
            if method == "merge":
                assert (await merge(client, "Ada", "Bob")).status_code == 503
            else:
                assert (await client.delete("/people/Ada/merges/1")).status_code == 503
        assert len(known(settings)) > len(before), "copies are there, and nobody names them"
        await collect(settings, later_ms=STORING_MS + 1)
        assert known(settings) == before
        if method == "merge":
            assert (await merge(client, "Ada", "Bob")).status_code == 200
        else:
            assert (await client.delete("/people/Ada/merges/1")).status_code == 200
        await collect(settings, later_ms=STORING_MS + 1)
        before = known(settings)
        assert len(before) == 3


async def test_a_picture_that_comes_while_people_are_merged_goes_along(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(client, "Ada", ONE)
    await enrol(client, "Bob", OTHER)
    merging = DatabaseMerges.merge
    came: list[dict[str, Any]] = []

    async def late(self: DatabaseMerges, *arguments: Any) -> Any:
        if not came:
            came.append((await enrol(client, "Bob", picture(9))).json())
        return await merging(self, *arguments)

    monkeypatch.setattr(DatabaseMerges, "merge", late)
    document = (await merge(client, "Ada", "Bob")).json()
    assert len(document["pictures"]) == 3
    assert came[0]["id"] in ids(document["pictures"])
    await collect(settings)
    assert known(settings) == sorted(one["image_name"] for one in document["pictures"])


async def test_a_known_picture_that_is_lost_goes_along_as_lost(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    await enrol(plain, "Ada", ONE)
    lost = (await enrol(plain, "Bob", OTHER)).json()
    folder = Path(plain_settings.object_store_url.removeprefix("file://"), "known_people")
    (folder / lost["image_name"]).unlink()
    (folder / "Bob" / "notes.txt").write_bytes(b"no picture")
    document = (await merge(plain, "Ada", "Bob")).json()
    assert lost["id"] in ids(document["pictures"])
    await collect(plain_settings)
    assert "Bob/notes.txt" in known(plain_settings)
    # Given again, it is there again.
    assert (await enrol(plain, "Ada", OTHER)).status_code == 201
    assert (await plain.get(f"/people/Ada/pictures/{lost['id']}")).content == OTHER


def key(image_id: int) -> dict[str, int]:
    return {"image_id": image_id, "face_index": 0}


async def test_the_face_that_stands_for_somebody_is_the_chosen_one_while_it_is_theirs(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    bob = (await enrol(client, "Bob", ONE)).json()["person_id"]

    async def shown() -> dict[str, int] | None:
        [listed] = (await client.get("/people", params={"person": "Bob"})).json()["people"]
        face: dict[str, int] | None = (await person(client, "Bob"))["face"]
        assert listed["face"] == face
        return face

    assert await shown() is None, "a file alone has no face"
    first, second, poor, good, eves = [
        await image_of(client, settings, number, person_id=bob) for number in range(1, 6)
    ]
    assert await shown() == key(first)
    for image_id, score in ((poor, 0.25), (good, 0.75)):
        await name(client, image_id, "Bob")
        quality = Quality(score, None, 1.0, 1.0, 1.0, 1.0)
        its = faces.c.image_id == image_id
        await run(settings, sa.update(faces).where(its).values(quality=quality))
    assert await shown() == key(good), "the best of those that a hand has named"
    answer = await client.put("/people/Bob/face", json=key(second))
    assert (answer.status_code, answer.json()["face"]) == (200, key(second))
    assert await shown() == key(second)
    await by_machine(settings, second, "Eve", person_id=None)
    assert await shown() == key(good)
    await by_machine(settings, second, "Bob", person_id=bob)
    assert await shown() == key(second)
    await client.delete(f"/images/{second}")
    assert await shown() == key(good)
    await client.put("/people/Bob/face", json=key(poor))
    assert await shown() == key(poor)
    for _ in range(2):
        assert (await client.delete("/people/Bob/face")).status_code == 204
    assert await shown() == key(good)
    await name(client, eves, "Eve")
    for image_id, status, reason in (
        (eves, 409, f"face 0 of image {eves} is not a face of this person: name it first"),
        (second, 404, f"image {second} has no face 0"),
    ):
        answer = await client.put("/people/Bob/face", json=key(image_id))
        assert (answer.status_code, answer.json()["detail"]) == (status, reason)
    assert (await client.put("/people/Ida/face", json=key(good))).status_code == 404
    assert (await client.delete("/people/Ida/face")).status_code == 404

"""People of one name are told apart, by their ids, wherever somebody is meant."""

import asyncio

import httpx
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.person_names import by_id
from services.common.tables import faces, persons
from services.receiver.adapters.rows.garbage import DatabaseGarbage
from services.receiver.adapters.rows.known_pictures import DatabaseKnownPictures
from services.receiver.adapters.rows.people import DatabasePeople
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.people import KnownPicture, NewKnownPicture
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import draw, encode
from services.receiver.tests.test_receiver_people import (
    ONE,
    OTHER,
    enrol,
    put_by_hand,
    seed_faces,
)
from services.receiver.tests.test_receiver_said_by_hand import by_machine, face_of, run

THIRD = encode(draw(("blue", (10, 10, 50, 50)), size=(60, 60)))


async def two_adas(client: httpx.AsyncClient) -> tuple[int, int]:
    first = (await enrol(client, "Ada", ONE)).json()
    answer = await enrol(client, "Ada", OTHER, another="true")
    assert answer.status_code == 201
    second = answer.json()
    assert (second["person"], second["image_name"].partition("/")[0]) == ("Ada", "Ada~2")
    return first["person_id"], second["person_id"]


async def image_of(
    client: httpx.AsyncClient, settings: ReceiverSettings, number: int, **face: object
) -> int:
    """Return an image with a face that the machine has named Ada."""
    content = encode(draw(("red", (10, 10, 50, 50)), size=(60 + number, 60)))
    image_id = await seed_faces(client, settings, content, (10, 10, 50, 50))
    await by_machine(settings, image_id, "Ada", **face)
    return image_id


async def page(client: httpx.AsyncClient, **params: str | int | bool) -> list[tuple[int, str]]:
    answer = await client.get("/people", params=params)
    assert answer.status_code == 200
    return [(one["id"], one["name"]) for one in answer.json()["people"]]


async def test_a_name_alone_is_refused_and_says_whom_it_may_mean(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first, second = await two_adas(client)
    image = await image_of(client, settings, 1)
    said = f"2 people are called 'Ada': say which one, ~{first} or ~{second}"
    face = f"/images/{image}/faces/0"
    for method, path, body in (
        ("GET", "/people/Ada", None),
        ("PATCH", "/people/Ada", {"name": "Ida"}),
        ("DELETE", "/people/Ada", None),
        ("PUT", f"{face}/person", {"name": "Ada"}),
        ("PUT", f"{face}/denials/Ada", None),
        ("DELETE", f"{face}/denials/Ada", None),
        ("POST", "/people/Ada/pictures", {"image_id": image, "face_index": 0}),
        ("GET", "/images?person=Ada", None),
        ("GET", "/status?person=Ada", None),
    ):
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["detail"]) == (409, said), path
    assert await page(client, person="Ada") == [(first, "Ada"), (second, "Ada")]
    assert await page(client, person=by_id(second)) == [(second, "Ada")]
    for person_id in (first, second):
        one = (await client.get(f"/people/~{person_id}")).json()
        assert (one["id"], one["name"], len(one["pictures"])) == (person_id, "Ada", 1)
    answer = await client.get(f"/people/~{second + 1}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"there is nobody with the id {second + 1}"


async def test_what_is_done_to_one_does_nothing_to_the_other(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first, second = await two_adas(client)
    its = await image_of(client, settings, 1, person_id=second)
    other = await image_of(client, settings, 2, person_id=first)
    # Written by an older service: whose folder is that name.
    alone = await image_of(client, settings, 3)

    async def found(who: str) -> list[int]:
        answer = (await client.get("/images", params={"person": who})).json()
        counts = (await client.get("/status", params={"person": who})).json()["images"]
        assert counts["processed"] == len(answer["images"])
        return [one["id"] for one in answer["images"]]

    assert await found(by_id(second)) == [its]
    assert await found(by_id(first)) == [alone, other]
    answer = await client.put(f"/images/{its}/faces/0/denials/~{first}")
    assert answer.status_code == 204
    assert (await face_of(client, its))["person_id"] == second
    denied = await face_of(client, its)
    assert (denied["denials"], denied["denial_ids"]) == (["Ada"], [first])
    assert (await client.put(f"/images/{its}/faces/0/denials/~{second}")).status_code == 204
    assert (await face_of(client, its))["person"] is None
    assert (await client.delete(f"/images/{its}/faces/0/denials/~{first}")).status_code == 204
    assert (await face_of(client, its))["denial_ids"] == [second]
    assert (await client.delete(f"/people/~{second}")).status_code == 204
    assert await found("Ada") == [alone, other]
    assert await page(client) == [(first, "Ada")]
    assert (await client.get("/people/Ada")).json()["id"] == first


async def test_candidates_say_which_one_they_are(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first, second = await two_adas(client)
    image = await image_of(client, settings, 1)
    candidates = [
        {"person": name, "image_name": f"{folder}/1.png", "distance": 0.5}
        for name, folder in (("Ada", "Ada~2"), ("Ada", "Ada"), ("Eve", "Eve"))
    ]
    await run(settings, sa.update(faces).values(candidates=candidates, person=None, distance=None))
    face = await face_of(client, image)
    assert [one["person_id"] for one in face["candidates"]] == [second, first, None]
    assert (await client.put(f"/images/{image}/faces/0/denials/~{second}")).status_code == 204
    left = (await face_of(client, image))["candidates"]
    assert [one["image_name"] for one in left] == ["Ada/1.png", "Eve/1.png"]


async def test_a_face_is_named_as_another_of_the_name(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = (await enrol(client, "Ada", ONE)).json()["person_id"]
    images = [await image_of(client, settings, number) for number in (1, 2)]
    address = f"/images/{images[0]}/faces/0/person"
    body = {"name": "Ada", "another": True}
    named = (await client.put(address, json=body)).json()
    assert named["person_id"] != first
    assert (await face_of(client, images[0]))["person_id"] == named["person_id"]
    # Said again by id it is the same one; by a name that is free it need not be another.
    again = await client.put(address, json={"name": f"~{named['person_id']}"})
    assert again.json() == named
    refused = await client.put(address, json={"name": f"~{first}", "another": True})
    assert refused.status_code == 422
    assert "another person needs a name" in refused.json()["detail"]
    moved = (await client.put(address, json={"name": f"~{first}"})).json()
    assert moved["person_id"] == first
    assert (await client.get(f"/people/~{named['person_id']}")).json()["pictures"] == []
    answer = await client.post(
        "/people/Eve/pictures", json={"image_id": images[1], "face_index": 0, "another": True}
    )
    assert answer.json()["image_name"].startswith("Eve/")


async def test_a_known_picture_is_one_persons(client: httpx.AsyncClient) -> None:
    first, second = await two_adas(client)
    answer = await enrol(client, by_id(second), ONE)
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"this picture is known as 'Ada' (~{first}) already"
    added = (await enrol(client, by_id(second), THIRD)).json()
    assert added["image_name"].startswith("Ada~2/")
    assert (await client.get(f"/people/~{second}/pictures/{added['id']}")).content == THIRD
    assert (await client.get(f"/people/~{first}/pictures/{added['id']}")).status_code == 404
    assert (await client.delete(f"/people/~{second}/pictures/{added['id']}")).status_code == 204


async def test_a_taken_name_is_given_only_if_another_is_meant(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    ada = (await enrol(client, "Ada", ONE)).json()["person_id"]
    ida = (await enrol(client, "Ida", OTHER)).json()["person_id"]
    image = await image_of(client, settings, 1)
    answer = await client.patch("/people/Ida", json={"name": "Ada"})
    assert answer.status_code == 409
    said = f"'Ada' is the name of somebody else, ~{ada}: if both are to have it, say"
    assert answer.json()["detail"].startswith(said)
    answer = await client.patch(f"/people/~{ida}", json={"name": "Ada", "another": True})
    assert (answer.json()["id"], answer.json()["name"]) == (ida, "Ada")
    # What had the name alone was given to who bore it before there were two.
    assert (await face_of(client, image))["person_id"] == ada
    assert await page(client, person="Ada") == [(ada, "Ada"), (ida, "Ada")]
    for _ in range(2):
        assert (await client.patch(f"/people/~{ada}", json={"name": "Eve"})).status_code == 200
    assert (await face_of(client, image))["person"] == "Eve"


async def test_nobody_gets_the_pictures_of_who_is_known_by_a_folder_alone(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    put_by_hand(settings, "Ada/hand.png")
    ida = (await enrol(client, "Ida", ONE)).json()["person_id"]
    answer = await client.patch("/people/Ida", json={"name": "Ada"})
    assert answer.status_code == 409
    answer = await client.patch("/people/Ida", json={"name": "Ada", "another": True})
    assert answer.status_code == 200
    other = (await enrol(client, "Ada", OTHER, another="true")).json()
    assert other["image_name"].startswith("Ada~2/")
    by_folder = await run(settings, sa.select(persons.c.id, persons.c.name, persons.c.folder))
    assert sorted(folder for _, name, folder in by_folder if name == "Ada") == [
        "Ada",
        "Ada~2",
        "Ida",
    ]
    assert len(await page(client, person="Ada")) == 3
    assert ida in [one for one, _ in await page(client)]


async def test_pages_tell_people_of_one_name_apart(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    names = ["Ada", "Ada", "Ada", "Ada", "Eve", "Eve", "Ida"]
    values = [{"name": name, "folder": f"{n}", "created_at": 0} for n, name in enumerate(names)]
    await run(settings, sa.insert(persons).values(values))
    everybody = await page(client)
    assert [name for _, name in everybody] == names
    for limit in range(1, 8):
        found: list[tuple[int, str]] = []
        params: dict[str, str | int] = {"limit": limit}
        while True:
            answer = (await client.get("/people", params=params)).json()
            found += [(one["id"], one["name"]) for one in answer["people"]]
            if answer["next_cursor"] is None:
                break
            params["cursor"] = answer["next_cursor"]
        assert found == everybody
    # A cursor of an older receiver is a name alone.
    assert [name for _, name in await page(client, cursor="Ada")] == names[4:]


async def test_who_is_hidden_is_left_out_of_the_list(client: httpx.AsyncClient) -> None:
    first, second = await two_adas(client)
    answer = await client.patch(f"/people/~{first}", json={"hidden": True})
    assert (answer.json()["id"], answer.json()["hidden"]) == (first, True)
    every: list[dict[str, str | int]] = [{}, {"limit": 5}, {"name": "ada"}, {"person": "Ada"}]
    for params in every:
        assert await page(client, **params) == [(second, "Ada")]
        assert await page(client, **params, hidden=True) == [(first, "Ada")]
    assert (await client.get(f"/people/~{first}")).json()["hidden"] is True
    body = {"hidden": False, "name": "Ida"}
    assert (await client.patch(f"/people/~{first}", json=body)).json()["name"] == "Ida"
    assert await page(client) == [(second, "Ada"), (first, "Ida")]
    assert (await client.patch("/people/Ida", json={})).json()["hidden"] is False


@pytest.mark.parametrize("another", [False, True])
async def test_who_makes_somebody_new_at_once_with_others_makes_one(
    settings: ReceiverSettings, *, another: bool
) -> None:
    """Of those who mean another each one makes one, or is told to try again."""
    databases = [Database(settings) for _ in range(4)]
    if another:
        await run(settings, sa.insert(persons).values(name="Ada", folder="Ada", created_at=0))

    async def picture(number: int) -> NewKnownPicture:
        person = await DatabasePeople(databases[number]).who("Ada", another=another)
        one = NewKnownPicture(person, f"{person.folder}/{number}.png", f"{number}")
        await DatabaseGarbage(databases[number]).expect(f"known_people/{one.image_name}")
        return one

    pictures = [await picture(number) for number in range(4)]
    adding = [
        DatabaseKnownPictures(database).add(one, None)
        for database, one in zip(databases, pictures, strict=True)
    ]
    found = await asyncio.gather(*adding, return_exceptions=True)
    added = [one.person_id for one in found if isinstance(one, KnownPicture)]
    assert len(set(added)) == 1
    assert len(added) == (1 if another else 4)
    assert all(isinstance(one, KnownPicture | ConflictError) for one in found)
    people = await run(settings, sa.select(persons.c.id).where(persons.c.name == "Ada"))
    assert len(people) == 1 + another
    for one in databases:
        await one.close()

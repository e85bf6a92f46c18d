"""Groups of unknown faces: named as a whole, without what does not belong, and asked about."""

import itertools
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.common.tables import (
    face_denials,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    person_images,
    persons,
    same_face,
)
from services.receiver.adapters.rows.groups import DatabaseGroups
from services.receiver.service import groups as module
from services.receiver.service.people import Enrolment
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Start, draw, encode
from services.receiver.tests.test_receiver_people import seed_faces
from services.receiver.tests.test_receiver_said_by_hand import (
    BOX,
    face_of,
    id_of,
    noted,
    run,
    work,
)


class Groups:
    """Pictures with an unknown face each, and groups of them as the service people makes them."""

    def __init__(self, client: httpx.AsyncClient, settings: ReceiverSettings) -> None:
        self.client = client
        self.settings = settings
        self._sizes = itertools.count(50)

    async def run(self, statement: sa.Executable) -> list[tuple[Any, ...]]:
        return await run(self.settings, statement)

    async def picture(self, *boxes: tuple[int, int, int, int]) -> int:
        size = next(self._sizes)
        content = encode(draw(("red", (10, 10, size, 50)), size=(size + 10, 60)))
        image = await seed_faces(self.client, self.settings, content, *(boxes or (BOX,)))
        await self.run(sa.update(faces).values(ambiguous=False))
        return image

    async def group(self, *keys: tuple[int, int], merged_into: int | None = None) -> int:
        values = {"size": len(keys), "merged_into": merged_into, "created_at": 0}
        await self.run(sa.insert(face_groups).values(values))
        [(group,)] = await self.run(sa.select(sa.func.max(face_groups.c.id)))
        for image, index in keys:
            row = {"image_id": image, "face_index": index, "group_id": group}
            await self.run(sa.insert(group_faces).values(row))
        return int(group)

    async def of(self, number: int) -> tuple[int, list[int]]:
        """Make a group of so many pictures."""
        made = [await self.picture() for _ in range(number)]
        return await self.group(*((one, 0) for one in made)), made

    async def ask(self, group: int, **values: Any) -> int:
        row = {"group_id": group, "likeness": 7.5, "created_at": 0, **values}
        await self.run(sa.insert(group_questions).values(row))
        [(question,)] = await self.run(sa.select(sa.func.max(group_questions.c.id)))
        return int(question)

    async def named(self) -> dict[int, str | None]:
        """Return whose face the first of each image is, by hand."""
        query = sa.select(faces.c.image_id, faces.c.person).where(faces.c.face_index == 0)
        return dict(await self.run(query))

    async def name(self, group: int, **body: Any) -> httpx.Response:
        return await self.client.put(f"/groups/{group}/person", json=body)


@pytest.fixture
def world(client: httpx.AsyncClient, settings: ReceiverSettings) -> Groups:
    return Groups(client, settings)


async def test_groups_are_listed_largest_first_page_by_page(world: Groups) -> None:
    made = [await world.picture(*[BOX] * 12) for _ in range(3)]
    large = await world.group(*((made[0], index) for index in range(12)))
    small = [await world.group((made[1], index)) for index in range(3)]
    await world.group()  # all of its faces have a name
    answer = (await world.client.get("/groups", params={"limit": 2})).json()
    assert [(one["id"], one["size"]) for one in answer["groups"]] == [(large, 12), (small[2], 1)]
    assert answer["groups"][0]["faces"] == [
        {"image_id": made[0], "face_index": index} for index in range(8)
    ]
    cursor = {"cursor": answer["next_cursor"], "limit": 2}
    answer = (await world.client.get("/groups", params=cursor)).json()
    assert [one["id"] for one in answer["groups"]] == [small[1], small[0]]
    assert answer["next_cursor"] is None


async def test_a_group_is_looked_at_page_by_page_also_at_its_old_address(world: Groups) -> None:
    image = await world.picture(*[BOX] * 5)
    other = await world.picture()
    its = await world.group(*((image, index) for index in range(5)), (other, 0))
    between = await world.group(merged_into=its)
    old = await world.group(merged_into=between)
    found = []
    params: dict[str, Any] = {"limit": 4}
    while True:
        answer = (await world.client.get(f"/groups/{old}", params=params)).json()
        assert (answer["id"], answer["size"]) == (its, 6)
        found += [(one["image_id"], one["face_index"]) for one in answer["faces"]]
        if answer["next_cursor"] is None:
            break
        params["cursor"] = answer["next_cursor"]
    assert found == [*((image, index) for index in range(5)), (other, 0)]
    assert (await world.client.get("/groups/99")).status_code == 404


async def test_who_has_a_name_by_now_is_not_shown(world: Groups) -> None:
    group, made = await world.of(3)
    await world.run(sa.update(faces).where(faces.c.image_id == made[0]).values(person="Ada"))
    await world.run(sa.update(faces).where(faces.c.image_id == made[1]).values(struck_out=True))
    [shown] = (await world.client.get("/groups")).json()["groups"]
    assert shown["faces"] == [{"image_id": made[2], "face_index": 0}]
    # Nor what somebody has deleted in the database, of which no event tells.
    await world.run(sa.delete(faces).where(faces.c.image_id == made[2]))
    assert (await world.client.get("/groups")).json()["groups"] == []
    assert (await world.client.get(f"/groups/{group}")).status_code == 404


async def test_a_group_is_named_but_for_what_does_not_belong_in_it(
    world: Groups, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    group, made = await world.of(6)
    await world.run(
        sa.update(faces).where(faces.c.image_id == made[4]).values(person="Eve", distance=0.2)
    )
    await noted(settings)
    without = [{"image_id": made[5], "face_index": 0}]
    answer = await world.name(group, **{"name": "Ada", "except": without})
    assert answer.status_code == 200, answer.text
    ada = await id_of(world.client, "Ada")
    assert answer.json() == {"person": "Ada", "person_id": ada, "faces": 4}
    named = [await face_of(world.client, one) for one in made]
    assert [one["person"] for one in named] == ["Ada"] * 4 + ["Eve", None]
    assert {one["decided_by"] for one in named[:4]} == {"hand"}
    assert [one["distance"] for one in named] == [None] * 4 + [0.2, 0.3]
    assert len(await world.run(sa.select(person_images))) == 2
    assert await world.run(sa.select(group_denials.c.image_id, group_denials.c.group_id)) == [
        (made[5], group)
    ]
    [(kept,)] = await world.run(
        sa.select(group_faces.c.image_id).where(group_faces.c.image_id.in_(made[2:4] + made[4:]))
    )
    assert kept == made[4]
    assert await work(settings) == {ada: ("Ada", False)}
    assert {("image", one) for one in [*made[:4], made[5]]} | {("person", ada)} == await noted(
        settings
    )
    assert (await world.name(group, name="Ada")).status_code == 404


async def test_the_best_face_of_each_picture_becomes_known(
    world: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    two = await world.picture(BOX, (12, 12, 48, 48))
    others = [await world.picture() for _ in range(2)]
    group = await world.group((two, 0), (two, 1), *((one, 0) for one in others))
    part = {"size": 1.0, "sharpness": 1.0, "pose": 1.0, "light": 1.0, "flaw": None}
    for (image, index), score in {
        (two, 0): 0.8,
        (two, 1): 0.9,
        (others[0], 0): 0.1,
        (others[1], 0): 0.5,
    }.items():
        its = sa.and_(faces.c.image_id == image, faces.c.face_index == index)
        quality = sa.type_coerce({"score": score, **part}, sa.JSON)
        await world.run(sa.update(faces).where(its).values(quality=quality))
    answer = await world.name(group, name="Ada")
    assert answer.json()["faces"] == 4, answer.text
    known = await world.run(sa.select(person_images.c.image_id, person_images.c.face_index))
    assert known == [(two, 1), (others[1], 0)]


async def test_who_is_not_somebody_does_not_become_them_with_the_group(world: Groups) -> None:
    group, made = await world.of(2)
    first = await world.name(group, name="Ada")
    ada = first.json()["person_id"]
    group, more = await world.of(2)
    row = {"image_id": more[0], "face_index": 0, "person_id": ada, "created_at": 0}
    await world.run(sa.insert(face_denials).values(row))
    assert (await world.name(group, name="Ada")).json()["faces"] == 1
    assert await world.named() == {
        made[0]: "Ada",
        made[1]: "Ada",
        more[0]: None,
        more[1]: "Ada",
    }


async def test_of_people_of_one_name_it_must_be_said_who(world: Groups) -> None:
    group, _ = await world.of(2)
    ada = (await world.name(group, name="Ada")).json()["person_id"]
    group, made = await world.of(2)
    other = (await world.name(group, name="Ada", another=True)).json()["person_id"]
    assert other != ada
    group, _ = await world.of(1)
    assert (await world.name(group, name="Ada")).status_code == 409
    assert (await world.name(group, name="~99")).status_code == 404
    assert (await world.name(group, name=f"~{other}")).json()["person_id"] == other
    assert (await face_of(world.client, made[0]))["person_id"] == other


async def test_a_face_that_cannot_be_cut_out_is_named_nevertheless(
    world: Groups,
) -> None:
    group, made = await world.of(1)
    await world.run(sa.update(faces).values(left=51, top=51, right=55, bottom=55))
    refused = await world.name(group, name="Ada")
    assert refused.status_code == 422
    assert "cannot be cut out" in refused.json()["detail"]
    assert await world.named() == {made[0]: None}
    sound = await world.picture()
    await world.run(sa.insert(group_faces).values(image_id=sound, face_index=0, group_id=group))
    assert (await world.name(group, name="Ada")).json()["faces"] == 2
    assert set((await world.named()).values()) == {"Ada"}


async def test_who_is_killed_in_the_middle_goes_on_the_next_time(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call of what changes something: what was done stays, the rest comes then."""
    monkeypatch.setattr(module, "_KNOWN", 2)
    running = start(plain_settings)
    world = Groups(running.client, plain_settings)
    for kill in range(1, 20):
        name = f"Ada {kill}"
        group, made = await world.of(4)
        without = [{"image_id": made[3], "face_index": 0}]
        body = {"name": name, "except": without}
        with monkeypatch.context() as patch:
            die_at(patch, kill)
            killed = (await world.name(group, **body)).status_code == 500
        answer = await world.name(group, **body)
        assert answer.status_code == (200 if killed else 404), answer.text
        named = await world.named()
        assert [named[one] for one in made] == [name, name, name, None]
        its = sa.select(group_denials.c.image_id).where(group_denials.c.group_id == group)
        assert await world.run(its) == [(made[3],)]
        if not killed:
            assert kill > 5
            return
        # Else the next ones, which are drawn alike, would be known.
        await world.run(sa.delete(person_images))
    raise AssertionError


async def test_another_of_a_name_is_made_once_also_by_who_is_killed_in_the_middle(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    running = start(plain_settings)
    world = Groups(running.client, plain_settings)
    group, _ = await world.of(1)
    assert (await world.name(group, name="Ada")).status_code == 200
    people = sa.select(persons.c.id).where(persons.c.name == "Ada").order_by(persons.c.id)
    for kill in range(1, 20):
        before = await world.run(people)
        group, made = await world.of(4)
        with monkeypatch.context() as patch:
            die_at(patch, kill)
            killed = (await world.name(group, name="Ada", another=True)).status_code == 500
        # The service people takes out of the group who has a name.
        its = sa.exists().where(same_face(faces, group_faces), faces.c.person_id.is_not(None))
        await world.run(sa.delete(group_faces).where(its))
        answer = await world.name(group, name="Ada", another=True)
        left = any(one is None for one in (await world.named()).values())
        assert (answer.status_code, left) in ((200, False), (404, False)), answer.text
        [(new,)] = (await world.run(people))[len(before) :]
        faces_of = sa.select(faces.c.image_id).where(faces.c.person_id == new)
        assert sorted(await world.run(faces_of)) == [(one,) for one in made]
        assert await world.run(sa.select(group_questions.c.id)) == []
        if not killed:
            assert kill > 6
            return
        assert answer.status_code == 200 or kill > 5
        await world.run(sa.delete(person_images))
    raise AssertionError


async def test_nobody_is_made_for_a_group_that_gets_no_name(world: Groups) -> None:
    group, made = await world.of(1)
    without = [{"image_id": made[0], "face_index": 0}]
    answer = await world.name(group, name="Ada", another=True, **{"except": without})
    assert answer.status_code == 404
    assert (await world.name(group, name="Ada", another=True)).status_code == 404
    assert await world.run(sa.select(persons.c.id)) == []


async def test_a_group_does_not_bring_back_who_is_forgotten_meanwhile(
    world: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KNOWN", 1)
    group, made = await world.of(3)
    name = DatabaseGroups.name

    async def forgotten_before(self: DatabaseGroups, members: Any, person_id: int) -> int:
        erasing = await world.client.post(f"/people/~{person_id}/erase", json={"pictures": False})
        assert erasing.status_code == 202, erasing.text
        return await name(self, members, person_id)

    monkeypatch.setattr(DatabaseGroups, "name", forgotten_before)
    answer = await world.name(group, name="Ada")
    assert answer.status_code == 409, answer.text
    assert [(await world.named())[one] for one in made[1:]] == [None, None]


def die_at(patch: pytest.MonkeyPatch, kill: int) -> None:
    """Let the nth call, and all after it, fail, in place of SIGKILL."""
    calls = 0

    def fragile(action: Any) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= kill:
                raise RuntimeError("killed")
            return await action(*arguments, **named)

        return call

    of_rows = "strike", "allow", "is_unknown", "make_another", "_name", "end_another"
    for owner, names in (
        (DatabaseGroups, (*of_rows, "answer", "settle")),
        (Enrolment, ("enrol_face",)),
    ):
        for one in names:
            patch.setattr(owner, one, fragile(getattr(owner, one)))


async def test_a_face_that_does_not_belong_is_struck_out_of_its_group(
    world: Groups, settings: ReceiverSettings
) -> None:
    group, made = await world.of(3)
    old = await world.group(merged_into=group)
    await noted(settings)
    address = f"/groups/{old}/faces/{made[0]}/0"
    assert (await world.client.delete(address)).status_code == 204
    assert (await world.client.delete(address)).status_code == 404
    assert (await world.client.delete(f"/groups/{old}/faces/{made[0]}/7")).status_code == 404
    left = (await world.client.get(f"/groups/{group}")).json()["faces"]
    assert [one["image_id"] for one in left] == made[1:]
    assert await noted(settings) == {("image", made[0])}
    assert await world.run(sa.select(group_denials.c.image_id, group_denials.c.group_id)) == [
        (made[0], group)
    ]


async def test_questions_are_listed_and_answered(world: Groups) -> None:
    group, made = await world.of(2)
    other, _ = await world.of(1)
    known, _ = await world.of(1)
    ada = (await world.name(known, name="Ada")).json()["person_id"]
    about_group = await world.ask(group, other_group_id=other)
    about_ada = await world.ask(group, person_id=ada, likeness=9.5)
    await world.ask(other, person_id=ada, answer="no")
    found = (await world.client.get("/questions")).json()["questions"]
    assert [one["id"] for one in found] == [about_ada, about_group]
    assert (found[0]["likeness"], found[0]["other"]) == (9.5, None)
    assert (found[0]["person"]["id"], found[0]["person"]["name"]) == (ada, "Ada")
    assert (found[1]["group"]["id"], found[1]["other"]["id"]) == (group, other)
    assert found[1]["person"] is None
    limited = (await world.client.get("/questions", params={"limit": 1})).json()["questions"]
    assert [one["id"] for one in limited] == [about_ada]

    for answer, status, kept in (
        ("later", 204, "later"),
        ("no", 204, "no"),
        ("later", 204, "later"),
        ("no", 204, "no"),
        ("yes", 204, "yes"),
        ("no", 404, "yes"),
    ):
        said = await world.client.put(f"/questions/{about_group}", json={"answer": answer})
        assert said.status_code == status, said.text
        its = sa.select(group_questions.c.answer).where(group_questions.c.id == about_group)
        assert await world.run(its) == [(kept,)]
    said = await world.client.put(f"/questions/{about_ada}", json={"answer": "yes"})
    assert said.status_code == 204, said.text
    named = await world.named()
    assert [named[one] for one in made] == ["Ada", "Ada"]
    gone = await world.client.put(f"/questions/{about_ada}", json={"answer": "yes"})
    assert gone.status_code == 404
    assert (await world.client.get("/questions")).json()["questions"] == []


async def test_an_answer_that_comes_after_its_question_has_gone_is_not_said_to_be_kept(
    world: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = await world.of(1)
    other, _ = await world.of(1)
    question = await world.ask(group, other_group_id=other)
    answer = DatabaseGroups.answer

    async def gone_before(self: DatabaseGroups, question_id: int, said: Any) -> None:
        await world.run(sa.delete(group_questions))  # as the service people does
        await answer(self, question_id, said)

    monkeypatch.setattr(DatabaseGroups, "answer", gone_before)
    said = await world.client.put(f"/questions/{question}", json={"answer": "no"})
    assert said.status_code == 404, said.text


async def test_nobody_is_asked_about_groups_that_are_one_or_gone(world: Groups) -> None:
    group, _ = await world.of(1)
    other, made = await world.of(1)
    question = await world.ask(group, other_group_id=other)
    await world.run(sa.update(faces).where(faces.c.image_id == made[0]).values(person="Eve"))
    assert (await world.client.get("/questions")).json()["questions"] == []
    answer = await world.client.put(f"/questions/{question}", json={"answer": "no"})
    assert answer.status_code == 404
    merged = sa.update(face_groups).where(face_groups.c.id == other)
    await world.run(merged.values(merged_into=group, size=0))
    assert (await world.client.get("/questions")).json()["questions"] == []


@pytest.mark.parametrize(
    ("method", "address", "body"),
    [
        ("PUT", "/groups/1/person", {}),
        ("PUT", "/groups/1/person", {"name": ""}),
        ("PUT", "/groups/1/person", {"name": "Ada", "except": [1]}),
        ("PUT", "/groups/1/person", {"name": "Ada", "except": [{"image_id": 0, "face_index": 0}]}),
        ("PUT", "/groups/1/person", {"name": "~1", "another": True}),
        ("PUT", "/groups/0/person", {"name": "Ada"}),
        ("PUT", "/questions/1", {"answer": "maybe"}),
        ("PUT", "/questions/1", []),
        ("GET", "/groups?cursor=1", None),
        ("GET", "/groups?limit=0", None),
        ("GET", "/groups/1?cursor=8000000000000000-0000000000000000", None),
        ("GET", "/questions?limit=101", None),
        ("DELETE", "/groups/1/faces/1/10001", None),
    ],
)
async def test_what_is_wrong_is_refused_and_changes_nothing(
    world: Groups, method: str, address: str, body: Any
) -> None:
    await world.of(1)
    answer = await world.client.request(method, address, json=body)
    assert answer.status_code == 422, answer.text
    assert await world.run(sa.select(persons)) == []
    assert len(await world.run(sa.select(group_faces))) == 1


async def test_the_size_is_right_as_soon_as_a_picture_is_deleted(world: Groups) -> None:
    two = await world.picture(BOX, (12, 12, 48, 48))
    other = await world.picture()
    group = await world.group((two, 0), (two, 1), (other, 0))
    # One of another engine, of which nobody has looked at the faces yet.
    image = await world.picture()
    before = await world.group((image, 0))
    await world.run(sa.update(face_groups).where(face_groups.c.id == before).values(size=0))
    for deleted in (two, image):
        assert (await world.client.delete(f"/images/{deleted}")).status_code == 204
    [shown] = (await world.client.get("/groups")).json()["groups"]
    assert (shown["id"], shown["size"], len(shown["faces"])) == (group, 1, 1)
    assert (await world.client.delete(f"/images/{other}")).status_code == 204
    assert {size for (size,) in await world.run(sa.select(face_groups.c.size))} == {0}

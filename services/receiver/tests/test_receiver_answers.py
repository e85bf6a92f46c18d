"""What a person answers about a group holds for its faces, until it is taken back."""

import random
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.person_rows import BY_HAND
from services.common.tables import (
    erasures,
    face_denials,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    person_images,
    persons,
)
from services.receiver.adapters.rows.groups import DatabaseGroups
from services.receiver.service import groups as module
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Start, draw, encode
from services.receiver.tests.test_receiver_groups import Groups, die_at
from services.receiver.tests.test_receiver_people import enrol
from services.receiver.tests.test_receiver_said_by_hand import name, noted, work


@pytest.fixture
def world(client: httpx.AsyncClient, settings: ReceiverSettings) -> Groups:
    return Groups(client, settings)


async def somebody(world: Groups, who: str) -> int:
    """Make a known person."""
    content = encode(draw(("blue", (10, 10, 40 + len(who), 50)), size=(90 + ord(who[0]), 60)))
    answer = await enrol(world.client, who, content)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["person_id"])


async def say(world: Groups, question: int, answer: str, status: int = 204) -> None:
    said = await world.client.put(f"/questions/{question}", json={"answer": answer})
    assert said.status_code == status, said.text


async def denied(world: Groups) -> set[tuple[int, int]]:
    """Return images, and who their first faces are not."""
    query = sa.select(face_denials.c.image_id, face_denials.c.person_id)
    return {(image, person) for image, person in await world.run(query)}


async def asked(world: Groups) -> list[Any]:
    """Return what was asked, and answered."""
    its = group_questions.c
    return await world.run(sa.select(its.group_id, its.person_id, its.answer).order_by(its.id))


async def join(world: Groups, group: int, kept: int) -> None:
    """Make one of two groups, as the service people does."""
    its = sa.update(group_faces).where(group_faces.c.group_id == group)
    await world.run(its.values(group_id=kept))
    gone = sa.update(face_groups).where(face_groups.c.id == group)
    await world.run(gone.values(merged_into=kept, size=0))


async def test_no_is_said_of_every_face_that_is_in_the_group_then(
    world: Groups, settings: ReceiverSettings
) -> None:
    ada = await somebody(world, "Ada")
    group, made = await world.of(4)
    by_hand, of_machine, *_ = made
    assert (await name(world.client, by_hand, "Eve")).status_code == 200
    its = sa.update(faces).where(faces.c.image_id == of_machine)
    await world.run(its.values(person="Ada", person_id=ada, distance=0.2))
    await work(settings)
    await noted(settings)
    await say(world, await world.ask(group, person_id=ada), "no")
    assert await denied(world) == {(one, ada) for one in made[1:]}
    assert set((await world.named()).values()) == {"Eve", None}
    assert await work(settings) == {ada: ("Ada", False)}
    assert await noted(settings) == {("person", ada), *(("image", one) for one in made[1:])}
    # Of who comes later nobody has said anything.
    later = await world.picture()
    await world.run(sa.insert(group_faces).values(image_id=later, face_index=0, group_id=group))
    assert await denied(world) == {(one, ada) for one in made[1:]}
    # They are still members, whoever else they are.
    assert (await world.name(group, name="Bob")).json()["faces"] == 4


async def test_no_that_comes_while_a_yes_is_carried_out_stays(
    world: Groups, database: Database
) -> None:
    ada = await somebody(world, "Ada")
    group, _ = await world.of(1)
    question = await world.ask(group, person_id=ada)
    rows = DatabaseGroups(database)
    await rows.answer(question, None)  # a yes
    await say(world, question, "no")
    await rows.settle(question)
    assert await asked(world) == [(group, ada, "no")]
    await say(world, question, "later")
    assert await denied(world) == set()


@pytest.mark.parametrize("how", ["later", "yes", "by hand"])
async def test_no_is_taken_back_but_what_was_said_of_a_face_alone(world: Groups, how: str) -> None:
    ada = await somebody(world, "Ada")
    group, made = await world.of(4)
    before, since, moved, left = made
    await world.client.put(f"/images/{before}/faces/0/denials/Ada")
    question = await world.ask(group, person_id=ada)
    await say(world, question, "no")
    await world.client.put(f"/images/{since}/faces/0/denials/Ada")
    assert await denied(world) == {(one, ada) for one in made}
    await say(world, question, "no")
    kept = await world.group()
    await join(world, group, kept)
    if how == "by hand":
        assert (await world.name(kept, name="Ada")).json()["faces"] == 2
    else:
        await say(world, question, how)
    assert await denied(world) == {(before, ada), (since, ada)}
    is_ada = None if how == "later" else "Ada"
    assert await world.named() == {before: None, since: None, moved: is_ada, left: is_ada}
    assert await asked(world) == ([(group, ada, "later")] if how == "later" else [])


async def test_who_is_excepted_when_the_group_is_named_stays_denied(world: Groups) -> None:
    ada = await somebody(world, "Ada")
    group, (one, other) = await world.of(2)
    await say(world, await world.ask(group, person_id=ada), "no")
    but = [{"image_id": one, "face_index": 0}]
    assert (await world.name(group, **{"name": "Ada", "except": but})).json()["faces"] == 1
    assert await denied(world) == {(one, ada)}
    assert await world.named() == {one: None, other: "Ada"}


async def test_yes_does_not_name_whom_an_answer_about_another_group_has_denied(
    world: Groups,
) -> None:
    ada = await somebody(world, "Ada")
    group, (one,) = await world.of(1)
    other, (two,) = await world.of(1)
    questions = [await world.ask(its, person_id=ada) for its in (group, other)]
    await say(world, questions[0], "no")
    await join(world, group, other)
    await say(world, questions[1], "yes")
    assert await world.named() == {one: None, two: "Ada"}
    assert await denied(world) == {(one, ada)}


@pytest.mark.parametrize("how", ["yes", "by hand"])
async def test_whoever_is_killed_while_a_no_is_taken_back_goes_on(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "_KNOWN", 1)
    world = Groups(start(plain_settings).client, plain_settings)
    ada = await somebody(world, "Ada")
    for kill in range(1, 20):
        group, made = await world.of(2)
        question = await world.ask(group, person_id=ada)
        await say(world, question, "no")
        address, body = {
            "yes": (f"/questions/{question}", {"answer": "yes"}),
            "by hand": (f"/groups/{group}/person", {"name": "Ada"}),
        }[how]
        with monkeypatch.context() as patch:
            die_at(patch, kill)
            killed = (await world.client.put(address, json=body)).status_code == 500
        assert (await world.client.put(address, json=body)).status_code in {200, 204, 404}
        named = await world.named()
        assert [named[one] for one in made] == ["Ada", "Ada"]
        assert await denied(world) == set()
        if not killed:
            assert kill > 3
            return
        await world.run(sa.delete(person_images))  # else the next one, drawn alike, would be known
    raise AssertionError


async def test_who_is_denied_while_a_group_is_named_is_not_named(
    world: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await somebody(world, "Ada")
    group, (one, other) = await world.of(2)
    members = DatabaseGroups.members

    async def denied_after(self: DatabaseGroups, *arguments: Any) -> Any:
        found = await members(self, *arguments)
        await world.client.put(f"/images/{one}/faces/0/denials/Ada")
        return found

    monkeypatch.setattr(DatabaseGroups, "members", denied_after)
    assert (await world.name(group, name="Ada")).json()["faces"] == 1
    assert await world.named() == {one: None, other: "Ada"}
    assert await denied(world) == {(one, ada)}


async def test_of_two_answers_about_a_face_the_last_counts(world: Groups) -> None:
    ada = await somebody(world, "Ada")
    first, (one,) = await world.of(1)
    second, (two,) = await world.of(1)
    third, (three,) = await world.of(1)
    about = [await world.ask(its, person_id=ada) for its in (first, second, third)]
    await say(world, about[0], "no")
    await say(world, about[2], "no")
    await join(world, first, second)
    await say(world, about[1], "no")
    await say(world, about[0], "later")
    assert await denied(world) == {(one, ada), (two, ada), (three, ada)}
    await say(world, about[1], "later")
    assert await denied(world) == {(three, ada)}


async def test_no_about_two_groups_is_said_of_the_faces_of_both(world: Groups) -> None:
    group, (one,) = await world.of(1)
    other, (two,) = await world.of(1)
    third, (three,) = await world.of(1)
    question = await world.ask(group, other_group_id=other)
    elsewhere = await world.ask(group, other_group_id=third)
    await join(world, other, kept := await world.group())
    for at in (question, elsewhere):
        await say(world, at, "no")
    query = sa.select(group_denials.c.image_id, group_denials.c.group_id)
    kept_apart = {(one, third), (three, group)}
    assert set(await world.run(query)) == {(one, kept), (two, group)} | kept_apart
    await say(world, question, "later")
    assert set(await world.run(query)) == kept_apart
    await join(world, kept, group)
    await say(world, question, "no", 404)
    assert set(await world.run(query)) == kept_apart


async def test_as_many_are_listed_as_there_are_to_ask(world: Groups) -> None:
    ada, eve = await somebody(world, "Ada"), await somebody(world, "Eve")
    group, _ = await world.of(1)
    named, (image,) = await world.of(1)
    await world.run(sa.update(faces).where(faces.c.image_id == image).values(person="Bob"))
    await world.ask(named, person_id=ada, likeness=9.0)
    await world.ask(named, other_group_id=group, likeness=8.5)
    await world.ask(group, person_id=eve, likeness=8.0)
    last = await world.ask(group, person_id=ada)
    forgotten = {"person_id": eve, "name": "", "folders": [], "pictures": False, "stage": "faces"}
    await world.run(sa.insert(erasures).values(**forgotten, after_image_id=0, due_at=0))
    found = (await world.client.get("/questions", params={"limit": 1})).json()["questions"]
    assert [one["id"] for one in found] == [last]


async def test_what_was_answered_about_who_is_merged_counts_and_comes_back(world: Groups) -> None:
    ada, eve = await somebody(world, "Ada"), await somebody(world, "Eve")
    made = [await world.of(1) for _ in range(5)]
    alone, both, against_later, over_later, open_one = [group for group, _ in made]
    for group, of_ada, of_eve in (
        (alone, "no", None),
        (both, "no", "no"),
        (against_later, "no", "later"),
        (over_later, "later", "no"),
        (open_one, "later", ""),
    ):
        for person, answer in ((ada, of_ada), (eve, of_eve)):
            if answer is not None:
                question = await world.ask(group, person_id=person)
                if answer:
                    await say(world, question, answer)
    before, said = await denied(world), await asked(world)
    merged = await world.client.post("/people/Eve/merge", json={"name": "Ada"})
    assert merged.status_code == 200, merged.text
    answers = {group: "no" for group, _ in made[:4]} | {open_one: "later"}
    assert sorted(await asked(world)) == [(one, eve, its) for one, its in answers.items()]
    images = [image for _, (image,) in made]
    assert await denied(world) == {(image, eve) for image in images[:4]}
    undone = await world.client.delete(f"/people/Eve/merges/{merged.json()['merges'][0]['id']}")
    assert undone.status_code == 200, undone.text
    assert await denied(world) == before
    assert sorted(await asked(world)) == sorted(one for one in said if one[2])
    # Each is still taken back with its own faces, and no others.
    for group in (alone, both, against_later):
        await world.client.put(f"/groups/{group}/person", json={"name": "Ada"})
    left = {(image, person) for image, person in before if person == eve}
    assert await denied(world) == left


async def test_what_was_answered_comes_back_from_whom_the_other_was_merged_into(
    world: Groups,
) -> None:
    """Where each who was merged into somebody stays merged, but the first."""
    ada, eve, zoe = [await somebody(world, one) for one in ("Ada", "Eve", "Zoe")]
    (later, (first,)), (both, (second,)) = [await world.of(1) for _ in range(2)]
    for group, person, answer in (
        (later, ada, "no"),
        (later, eve, "later"),
        (both, ada, "no"),
        (both, zoe, "no"),
    ):
        await say(world, await world.ask(group, person_id=person), answer)
    before = await denied(world)
    assert before == {(first, ada), (second, ada), (second, zoe)}
    merged = await world.client.post("/people/Eve/merge", json={"name": "Ada"})
    again = await world.client.post("/people/Zoe/merge", json={"name": "Eve"})
    assert again.status_code == 200, again.text
    assert await denied(world) == {(first, zoe), (second, zoe)}
    undone = await world.client.delete(f"/people/Zoe/merges/{merged.json()['merges'][0]['id']}")
    assert undone.status_code == 200, undone.text
    assert await denied(world) == before
    said = [(later, ada, "no"), (later, zoe, "later"), (both, zoe, "no")]
    assert set(await asked(world)) >= set(said)


async def test_an_answer_that_is_taken_back_while_two_are_one_does_not_come_back(
    world: Groups,
) -> None:
    ada, eve = await somebody(world, "Ada"), await somebody(world, "Eve")
    group, _ = await world.of(2)
    for person in (ada, eve):
        await say(world, await world.ask(group, person_id=person), "no")
    merged = await world.client.post("/people/Eve/merge", json={"name": "Ada"})
    [(question,)] = await world.run(sa.select(group_questions.c.id))
    await say(world, question, "later")
    assert await denied(world) == set()
    await world.client.delete(f"/people/Eve/merges/{merged.json()['merges'][0]['id']}")
    assert await denied(world) == set()
    assert await asked(world) == [(group, eve, "later")]


class Hands:
    """What hands have said, as it is to be in the rows: of which faces, by which answer."""

    def __init__(self, world: Groups, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.said: dict[tuple[int, int], int | None] = {}
        self.people: dict[int, str] = {}
        self.images: list[int] = []

    async def start(self) -> None:
        self.people = {await somebody(self.world, who): who for who in ("Ada", "Bob", "Eve")}
        for number in (1, 2, 3):
            self.images += (await self.world.of(number))[1]

    async def groups(self) -> dict[int, list[int]]:
        rows = await self.world.run(sa.select(group_faces.c.group_id, group_faces.c.image_id))
        return {group: [image for its, image in rows if its == group] for group, _ in rows}

    async def end(self, group: int) -> int:
        its = sa.select(face_groups.c.merged_into).where(face_groups.c.id == group)
        [(into,)] = await self.world.run(its)
        return group if into is None else await self.end(into)

    async def by_hand(self) -> dict[int, int]:
        return await self.named(BY_HAND)

    async def named(self, *conditions: sa.ColumnElement[bool]) -> dict[int, int]:
        """Return whose face is whose, as far as the rows say."""
        query = sa.select(faces.c.image_id, faces.c.person_id)
        return dict(await self.world.run(query.where(faces.c.person_id.is_not(None), *conditions)))

    async def turn(self) -> None:
        deeds = [self.answer, self.answer, self.name, self.deny, self.allow, self.machine]
        await self.chance.choice([*deeds, self.regroup, self.join, self.merge_and_back])()

    async def answer(self) -> None:
        groups = await self.groups()
        if not groups:
            return
        group, person = self.chance.choice(sorted(groups)), self.chance.choice(list(self.people))
        its = sa.and_(group_questions.c.group_id == group, group_questions.c.person_id == person)
        found = await self.world.run(sa.select(group_questions.c.id).where(its))
        question = found[0][0] if found else await self.world.ask(group, person_id=person)
        answer = self.chance.choice(["no", "no", "later", "yes"])
        named, by_hand = await self.named(), await self.by_hand()
        said = await self.world.client.put(f"/questions/{question}", json={"answer": answer})
        if not set(groups[group]) - named.keys():
            assert said.status_code == 404, said.text
            return
        if answer == "no":
            for one in groups[group]:
                if self.said.get((one, person), question) is not None and one not in by_hand:
                    self.said[one, person] = question
        else:
            self.said = {key: its for key, its in self.said.items() if its != question}
        free = {one for one in groups[group] if one not in named and (one, person) not in self.said}
        assert said.status_code == (404 if answer == "yes" and not free else 204), said.text
        if answer == "yes":
            await self.are_named(free, person)

    async def name(self) -> None:
        groups = await self.groups()
        if not groups:
            return
        group, person = self.chance.choice(sorted(groups)), self.chance.choice(list(self.people))
        for one in groups[group]:
            question = self.said.get((one, person))
            if question is not None:
                its = sa.select(group_questions.c.group_id)
                [(about,)] = await self.world.run(its.where(group_questions.c.id == question))
                if await self.end(about) == group:
                    del self.said[one, person]
        named = await self.named()
        free = {one for one in groups[group] if one not in named and (one, person) not in self.said}
        answer = await self.world.name(group, name=f"~{person}")
        assert answer.status_code == (200 if free else 404), answer.text
        await self.are_named(free, person)
        # What other faces were denied by an answer that is taken back is theirs alone.
        left = {one for (one,) in await self.world.run(sa.select(group_questions.c.id))}
        self.said = {key: its if its in left else None for key, its in self.said.items()}

    async def are_named(self, images: set[int], person: int) -> None:
        by_hand = await self.by_hand()
        assert {by_hand.get(one) for one in images} <= {person}

    async def deny(self) -> None:
        image, person = self.chance.choice(self.images), self.chance.choice(list(self.people))
        address = f"/images/{image}/faces/0/denials/~{person}"
        if (await self.world.client.put(address)).status_code == 204:
            self.said[image, person] = None

    async def allow(self) -> None:
        image, person = self.chance.choice(self.images), self.chance.choice(list(self.people))
        await self.world.client.delete(f"/images/{image}/faces/0/denials/~{person}")
        self.said.pop((image, person), None)

    async def machine(self) -> None:
        """Name whoever is not denied, as the service people does, or take such names back."""
        person = self.chance.choice([*self.people, None])
        denials = sa.select(face_denials.c.image_id).where(face_denials.c.person_id == person)
        its = sa.and_(~BY_HAND, faces.c.image_id.not_in(denials))
        if person is not None:
            its = sa.and_(its, faces.c.image_id == self.chance.choice(self.images))
        says = {"person": self.people.get(person or 0), "person_id": person}
        await self.world.run(sa.update(faces).where(its).values(says | {"distance": 0.2}))

    async def regroup(self) -> None:
        """Put a face without a name into another group, or a new one."""
        groups = await self.groups()
        image = self.chance.choice(self.images)
        its = sa.select(faces.c.person).where(faces.c.image_id == image)
        if (await self.world.run(its)) == [(None,)]:
            group = self.chance.choice([*sorted(groups), await self.world.group()])
            await self.world.run(sa.delete(group_faces).where(group_faces.c.image_id == image))
            row = {"image_id": image, "face_index": 0, "group_id": group}
            await self.world.run(sa.insert(group_faces).values(row))

    async def join(self) -> None:
        groups = sorted(await self.groups())
        if len(groups) > 1:
            await join(self.world, *self.chance.sample(groups, 2))

    async def merge_and_back(self) -> None:
        kept, gone = self.chance.sample(list(self.people), 2)
        before = await denied(self.world), await asked(self.world)
        merged = await self.world.client.post(f"/people/~{kept}/merge", json={"name": f"~{gone}"})
        assert merged.status_code == 200, merged.text
        by_hand = await self.by_hand()
        there = await denied(self.world)
        for image, person in before[0]:
            if person in (kept, gone) and by_hand.get(image) != kept:
                assert (image, kept) in there
        number = merged.json()["merges"][-1]["id"]
        undone = await self.world.client.delete(f"/people/~{kept}/merges/{number}")
        assert undone.status_code == 200, undone.text
        assert await denied(self.world) == before[0]
        assert sorted(map(str, await asked(self.world))) == sorted(
            str(one) for one in before[1] if one[2] or one[1] not in (kept, gone)
        )

    async def check(self) -> None:
        assert await denied(self.world) == set(self.said)
        assert not set((await self.named()).items()) & set(self.said)


@pytest.mark.parametrize("seed", range(4))
async def test_no_face_gets_a_name_that_a_hand_has_denied(world: Groups, seed: int) -> None:
    hands = Hands(world, seed)
    await hands.start()
    for _ in range(25):
        await hands.turn()
        await hands.check()
    assert len(await world.run(sa.select(persons))) == 3

"""Deciding again: real rows, a real gRPC server of face_recog."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.claims import LEASE_MS
from services.common.errors import ClaimLostError, DatabaseConflictError
from services.common.facerecog import face_pb2
from services.common.faces import MAX_NUMBERS, Says
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.tables import face_denials, faces, images, people_work, person_images, persons
from services.people.adapters.recogniser import GrpcPeopleView
from services.people.domain.deciding import (
    AGAIN_MS,
    LATER_MS,
    NEXT_PASS_MS,
    RecordedFace,
    RecordedPicture,
)
from services.people.ports import RowsChangedError
from services.people.tests.world import ELSE, ENGINE, SURE, UNSURE, World, encoding

HAND = {"decided_by": "hand", "distance": None}


async def test_naming_one_names_all_earlier_pictures(world: World) -> None:
    ada = [await world.picture(encoding("Ada", SURE, nth)) for nth in range(5)]
    maybe = await world.picture(encoding("Ada", UNSURE))
    other = await world.picture(encoding("Ada", ELSE), encoding("Bob"))
    person_id = await world.enrol("Ada")
    before = await world.events()
    assert await world.worker().step()
    assert [await world.names(one) for one in ada] == [["Ada"]] * 5
    assert await world.names(maybe) == ["(Ada)"]
    assert await world.names(other) == ["", ""]
    face = (await world.faces())[ada[0], 0]
    assert (face.person_id, face.decided_by, face.calibration) == (person_id, "machine", 1)
    assert face.distance == pytest.approx(face.candidates[0]["distance"], abs=1e-5)
    assert 0.04 < face.distance < 0.1
    assert face.likeness > 0.99
    assert [one["image_name"] for one in face.candidates] == ["Ada/0.jpg"]
    assert (await world.events())[len(before) :] == [*ada, maybe]
    assert not await world.left()
    assert not await world.worker().step()


async def test_a_second_pass_finds_what_was_stored_after_the_first(world: World) -> None:
    worker = world.worker()
    first = await world.picture(encoding("Ada"))
    await world.enrol("Ada", passes=2)
    assert await worker.step()
    assert await world.names(first) == ["Ada"]
    [row] = await world.left()
    assert (row.passes_left, row.after_image_id, row.claim_token) == (1, 0, None)
    assert not await worker.step(), "not before it is due"
    late = await world.picture(encoding("Ada", nth=1))
    world.offset += NEXT_PASS_MS
    events = len(await world.events())
    assert await worker.step()
    assert await world.names(late) == ["Ada"]
    assert (await world.events())[events:] == [late], "what is as it was is not written"
    assert not await world.left()


async def test_removing_a_known_picture_takes_names_and_questions_back(world: World) -> None:
    await world.enrol("Ada")
    sure = await world.picture(encoding("Ada"))
    maybe = await world.picture(encoding("Ada", UNSURE))
    worker = world.worker()
    await worker.step()
    assert (await world.names(sure), await world.names(maybe)) == (["Ada"], ["(Ada)"])
    await world.remove("Ada")
    assert await worker.step()
    assert (await world.names(sure), await world.names(maybe)) == ([""], [""])
    found = await world.faces()
    assert all(
        (row.person_id, row.distance, row.candidates, row.likeness) == (None, None, [], None)
        for row in found.values()
    )


@pytest.mark.parametrize("name", ["Zoë", 'O"Neill \\ 100%_', "李", "Ada"])
async def test_questions_are_taken_back_whatever_the_name(world: World, name: str) -> None:
    await world.enrol(name)
    maybe = await world.picture(encoding(name, UNSURE))
    other = await world.picture(encoding("Ada Lovelace", UNSURE))
    await world.enrol("Ada Lovelace")
    worker = world.worker()
    while await worker.step():
        pass
    assert (await world.names(maybe), await world.names(other)) == (
        [f"({name})"],
        ["(Ada Lovelace)"],
    )
    await world.remove(name)
    await worker.step()
    assert (await world.names(maybe), await world.names(other)) == ([""], ["(Ada Lovelace)"])


async def test_a_folder_in_decomposed_form_is_taken_back_too(world: World) -> None:
    zoe = "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}"
    image_name = "Zoe\N{COMBINING DIAERESIS}/0.jpg"
    asked = {
        "ambiguous": True,
        "candidates": [{"person": zoe, "image_name": image_name, "distance": 0.4}],
    }
    one = await world.picture(encoding(zoe), None, faces_are=[asked, asked])
    await world.work(zoe, removed=True)
    await world.worker().step()
    assert await world.names(one) == ["", ""]


async def test_a_face_whose_name_was_taken_back_is_decided_on_once(world: World) -> None:
    await world.enrol("Ada")
    await world.enrol("Bob")
    await world.gallery.refresh()
    one = await world.picture(encoding("Ada"))
    nobody = await world.picture(encoding("Eve"))
    await world.run(sa.delete(people_work))
    rows = world.rows()
    await world.remove("Bob")
    assert await world.worker(rows).step()
    assert (await world.names(one), await world.names(nobody)) == (["Ada"], [""])
    await world.work("Bob", removed=True)
    work = await rows.claim()
    assert work
    assert not await rows.touched(work)


async def test_an_encoding_of_another_length_holds_nothing_up(world: World) -> None:
    """It is taken as missing."""
    both = await world.picture(encoding("Ada")[:64], encoding("Ada"), encoding("Bob"))
    await world.enrol("Ada")
    worker = world.worker()
    await worker.step()
    assert await world.names(both) == ["", "Ada", ""]
    await world.remove("Ada")
    await worker.step()
    assert await world.names(both) == ["", "", ""]
    assert not await world.left()


async def test_somebody_who_is_gone_is_forgotten(world: World) -> None:
    await world.enrol("Ada")
    one = await world.picture(encoding("Ada"))
    worker = world.worker()
    await worker.step()
    await world.remove("Ada")
    await world.run(sa.delete(persons))
    assert await worker.step()
    assert await world.names(one) == [""]
    assert not await world.left()


async def test_who_it_is_not_is_never_said_again(world: World) -> None:
    await world.enrol("Ada")
    both = await world.picture(encoding("Ada", SURE), encoding("Ada", 2 * SURE))
    worker = world.worker()
    await worker.step()
    assert await world.names(both) == ["Ada", ""]
    await world.deny(both, 0, "Ada")
    assert await worker.step()
    assert await world.names(both) == ["", "Ada"], "then it is the other one"


async def test_what_a_hand_said_stays_and_holds_its_person(world: World) -> None:
    person_id = await world.enrol("Ada")
    said: list[dict[str, Any]] = [
        {"person": "Ada", "person_id": person_id, **HAND},
        {"person": "Ada", **HAND, "decided_by": None},  # a row of before
        {"person": "Ada", **HAND, "decided_by": "machine"},  # a receiver of before has named it
    ]
    for by_hand in said:
        one = await world.picture(encoding("Bob"), encoding("Ada"), faces_are=[by_hand, {}])
        before = await world.faces()
        await world.work("Ada")
        await world.worker().step()
        after = await world.faces()
        assert await world.names(one) == ["Ada", ""], "she is in the picture once"
        before[one, 0].person_id = person_id
        before[one, 0].decided_by = "hand"
        assert after[one, 0] == before[one, 0]
    nobody = await world.picture(encoding("Ada"), faces_are=[HAND])
    await world.work("Ada")
    await world.worker().step()
    assert await world.names(nobody) == [""], "a hand may say that it is nobody"


async def test_a_name_comes_from_the_row_of_the_picture_then_from_the_folder(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    other = await world.picture(encoding("Bob"))
    person_id = await world.enrol("Ada")
    await world.run(sa.update(persons).values(name="Ada Lovelace"))
    await world.store.put("known_people/Bob/by hand.jpg", b"Bob")
    await world.work("Bob")
    worker = world.worker()
    while await worker.step():
        pass
    assert (await world.names(one), await world.names(other)) == (["Ada Lovelace"], ["Bob"])
    found = await world.faces()
    assert found[one, 0].person_id == person_id
    assert found[other, 0].person_id == await world.person("Bob")


async def test_who_is_renamed_is_called_so_everywhere(world: World) -> None:
    person_id = await world.enrol("Ada")
    named = [await world.picture(encoding("Ada", nth=nth)) for nth in range(3)]
    by_hand = await world.picture(
        encoding("Bob"), faces_are=[{"person": "Ada", "person_id": person_id, **HAND}]
    )
    worker = world.worker()
    await worker.step()
    await world.run(sa.update(persons).values(name="Ada Lovelace"))
    await world.run(
        sa.insert(people_work).values(
            person_id=person_id,
            folder="Ada",
            removed=False,
            due_at=world.clock(),
            after_image_id=0,
            passes_left=1,
        )
    )
    assert await worker.step()
    for one in [*named, by_hand]:
        assert await world.names(one) == ["Ada Lovelace"]
    found = await world.faces()
    assert found[named[0], 0].candidates[0]["person"] == "Ada Lovelace"
    assert found[by_hand, 0].decided_by == "hand"


async def test_a_face_of_another_engine_keeps_its_name_while_somebody_is_known(
    world: World,
) -> None:
    person_id = await world.enrol("Ada")
    candidates = [
        {"person": name, "image_name": f"{name}/0.jpg", "distance": 0.25} for name in ("Ada", "Bob")
    ]
    named = {"person": "Ada", "person_id": person_id, "distance": 0.25, "candidates": candidates}
    old = await world.picture(None, encoding("Ada"), faces_are=[named, {}])
    worker = world.worker()
    await worker.step()
    assert await world.names(old) == ["Ada", ""]
    await world.remove("Ada")
    await worker.step()
    assert await world.names(old) == ["(Bob)", ""]


async def test_rows_of_before_get_their_person(world: World) -> None:
    ada = await world.person("Ada")
    bob = await world.person("Robert", "Bob")
    said = [{"person": name, "distance": 0.25} for name in ("Ada", "Bob", "Eve")]
    one = await world.picture(None, None, None, faces_are=said)
    worker = world.worker()
    await worker._faces.follow()
    found = await world.faces()
    eve = await world.all(sa.select(persons).where(persons.c.name == "Eve"))
    assert [found[one, nth].person_id for nth in range(3)] == [ada, bob, eve[0].id]
    assert eve[0].folder == "Eve"
    later = await world.picture(None, faces_are=[{"person": "Eve", "distance": 0.25}])
    await worker._faces.follow()
    assert (await world.faces())[later, 0].person_id == eve[0].id


async def test_whom_a_receiver_of_before_has_named_is_who_is_written_there(world: World) -> None:
    ada, bob = await world.person("Ada", "Ada"), await world.person("Bob", "Bob")
    said = {"person": "Bob", "person_id": ada, "distance": None, "decided_by": "machine"}
    one = await world.picture(None, faces_are=[said])
    await world.work("Ada")
    rows = world.rows()
    work = await rows.claim()
    assert work
    assert not await rows.rename(work), "she is not who is written there"
    assert await world.names(one) == ["Bob"]
    await rows.adopt([one])
    face = (await world.faces())[one, 0]
    assert (face.person, face.person_id, face.decided_by) == ("Bob", bob, "hand")


async def test_who_was_removed_does_not_come_back_with_a_late_picture(world: World) -> None:
    await world.work("Bob", removed=True)
    await world.run(sa.delete(persons))
    said = [{"person": name, "distance": 0.25} for name in ("Bob", "Eve")]
    one = await world.picture(None, None, faces_are=said)
    rows = world.rows()
    await rows.adopt([one])
    assert [row.name for row in await world.all(sa.select(persons))] == ["Eve"]
    await world.run(sa.delete(people_work))
    await rows.adopt([one])
    assert len(await world.all(sa.select(persons))) == 2, "in the end whoever is left gets one"


async def test_nothing_is_decided_while_a_removed_picture_is_still_known(world: World) -> None:
    await world.enrol("Ada")
    one = await world.picture(encoding("Ada"))
    worker = world.worker()
    await worker.step()
    await world.remove("Ada", collected=False)
    assert await worker.step()
    assert await world.names(one) == ["Ada"]
    assert 6 <= sum(world.slept) <= 7, "no busy loop"
    [row] = await world.left()
    assert row.claim_token is None
    assert not await worker.step(), "not before it is due"
    world.offset += LATER_MS
    await world.collect("Ada")
    assert await worker.step()
    assert await world.names(one) == [""]


async def test_a_known_picture_that_is_lost_holds_nothing_up_for_ever(world: World) -> None:
    await world.enrol("Ada")
    await world.enrol("Ada", nth=1)
    await world.store.delete("known_people/Ada/1.jpg")
    one = await world.picture(encoding("Ada"))
    assert await world.worker().step()
    assert await world.names(one) == ["Ada"]
    assert sum(world.slept) >= 6


async def test_what_is_being_enrolled_holds_nothing_up(world: World) -> None:
    await world.enrol("Ada")
    await world.store.put("known_people/Ada/1.jpg", b"Ada")
    await world.run(
        sa.text("INSERT INTO garbage (object_key, due_at) VALUES ('known_people/Ada/1.jpg', 9e15)")
    )
    assert await world.worker().step()
    assert not world.slept
    assert not await world.left()


async def test_a_face_recog_that_is_away_costs_nothing(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada")
    client = world.client
    world.client = type(client)("127.0.0.1:1", timeout=1)
    assert await world.worker().step()
    await world.client.close()
    world.client = client
    assert len(await world.left()) == 1
    world.offset += 5_000
    assert await world.worker().step()
    assert await world.names(one) == ["Ada"]


@pytest.mark.parametrize("fault", [DatabaseConflictError("deadlock"), RowsChangedError()])
async def test_a_passing_fault_of_the_database_costs_no_lease(
    world: World, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada")
    rows = world.rows()

    async def fail(*_: Any) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(rows, "write", fail)
        with pytest.raises(type(fault)):
            await world.worker(rows).step()
    world.offset += AGAIN_MS
    assert await world.worker(rows).step()
    assert await world.names(one) == ["Ada"]


async def test_long_encodings_are_sent_in_more_requests() -> None:
    asked: list[int] = []

    class Decisions:
        known = face_pb2.PersonKnown()

        async def sift(self, encodings: Sequence[bytes]) -> list[bool]:
            asked.append(sum(map(len, encodings)))
            return [True] * len(encodings)

        async def decide(
            self, pictures: Sequence[face_pb2.PictureToDecide]
        ) -> list[face_pb2.DecidedPicture]:
            asked.append(sum(one.ByteSize() for one in pictures))
            return [face_pb2.DecidedPicture() for _ in pictures]

    view = GrpcPeopleView(Decisions())  # type: ignore[arg-type]
    long = bytes(4 * MAX_NUMBERS)
    assert len(await view.sift([long] * 4096)) == 4096
    face = RecordedFace(0, Says(None, None, None, ambiguous=False, candidates=[]), False, long)
    assert len(await view.decide([RecordedPicture(1, 1, [face])] * 4096, None)) == 4096
    assert max(asked) < MAX_PICTURE_BYTES + 2**16


async def test_who_stops_gives_the_rest_back(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada")
    assert await world.worker(stops=lambda: True).step()
    assert await world.names(one) == [""]
    assert await world.worker().step()
    assert await world.names(one) == ["Ada"]


async def test_a_person_who_changes_meanwhile_is_done_again(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada")
    rows = world.rows()
    work = await rows.claim()
    assert work
    await world.work("Ada")
    [picture] = await rows.pictures([one], ENGINE.name)
    with pytest.raises(ClaimLostError):
        await rows.write(work, [(picture, picture.faces[0], picture.faces[0].says)], one)
    with pytest.raises(ClaimLostError):
        await rows.renew(work)
    await rows.end_pass(work)
    await rows.give_back(work, LEASE_MS)
    [row] = await world.left()
    assert (row.claim_token, row.after_image_id) == (None, 0)
    assert await world.worker().step()
    assert await world.names(one) == ["Ada"]


@pytest.mark.parametrize("what", ["hand", "nobody", "denied", "recognised", "deleted", "gone"])
async def test_what_happens_between_reading_and_writing_counts(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two faces the one to which nothing happens is named nevertheless."""
    person_id = await world.enrol("Ada")
    one = await world.picture(encoding("Ada"))
    other = await world.picture(encoding("Ada", nth=1))
    its = sa.update(faces).where(faces.c.image_id == one)
    happens = {
        "hand": its.values(person="Bob", person_id=None, **HAND),
        "nobody": its.values(**HAND),
        "denied": sa.insert(face_denials).values(
            image_id=one, face_index=0, person_id=person_id, created_at=0
        ),
        "recognised": sa.update(images).where(images.c.id == one).values(processed_at=5),
        "deleted": sa.delete(images).where(images.c.id == one),
        "gone": sa.delete(persons),
    }[what]
    rows = world.rows()
    write = rows.write
    written = 0

    async def write_late(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written == 1:
            await world.run(happens)
        await write(*arguments)

    monkeypatch.setattr(rows, "write", write_late)
    await world.worker(rows).step()
    expected = {"hand": ["Bob"], "deleted": [], "gone": ["Ada"]}
    assert await world.names(one) == expected.get(what, [""])
    assert await world.names(other) == ["Ada"]


async def test_two_workers_do_not_fight(world: World) -> None:
    pictures = [await world.picture(encoding("Ada", nth=nth)) for nth in range(250)]
    await world.enrol("Ada")
    others = ["Bob", "Eve", "Zoe"]
    for name in others:
        await world.picture(encoding(name))
        await world.enrol(name)
    workers = [world.worker() for _ in range(3)]
    before = len(await world.events())

    async def work(index: int) -> None:
        while await workers[index].step():
            pass

    await asyncio.gather(*(work(index) for index in range(3)))
    assert {(await world.names(one))[0] for one in pictures} == {"Ada"}
    assert not await world.left()
    changed = (await world.events())[before:]
    assert len(changed) == len(set(changed)) == 253, "each is written once"


async def test_a_slow_worker_whose_lease_is_over_writes_nothing_more(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada")
    slow = world.rows()
    work = await slow.claim()
    assert work
    assert not await world.worker().step(), "it is somebody's"
    world.offset += LEASE_MS + 1
    quick = world.rows()
    again = await quick.claim()
    assert again
    assert again.token != work.token
    [picture] = await slow.pictures([one], ENGINE.name)
    with pytest.raises(ClaimLostError):
        await slow.write(work, [], one)
    await quick.write(again, [], one)
    [row] = await world.left()
    assert row.after_image_id == one
    assert picture.faces


async def test_a_damaged_list_of_candidates_is_decided_on_all_the_same(world: World) -> None:
    one = await world.picture(encoding("Ada"))
    await world.run(sa.update(faces).values(candidates=sa.literal_column(f"'{json.dumps(['?'])}'")))
    await world.enrol("Ada")
    await world.worker().step()
    assert await world.names(one) == ["Ada"]


async def test_a_picture_of_another_folder_is_its_person(world: World) -> None:
    """As after a merge: rows decide whose a known picture is."""
    await world.store.put("known_people/Augusta/0.jpg", b"Ada")
    person_id = await world.person("Ada", "Ada")
    await world.run(
        sa.insert(person_images).values(
            person_id=person_id, image_name="Augusta/0.jpg", created_at=0
        )
    )
    one = await world.picture(encoding("Ada"), encoding("Ada", 2 * SURE))
    await world.deny(one, 0, "Ada")
    await world.run(sa.update(people_work).values(folder="Augusta"))
    assert await world.worker().step()
    assert await world.names(one) == ["", "Ada"], "who it is not, by whatever folder"

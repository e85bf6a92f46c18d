"""Deciding again on stored faces: a real gRPC server and client, known people in a real store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import RecogniserFailedError, RecogniserUnavailableError
from services.common.facerecog import face_pb2
from services.common.facerecog.client import Decisions, RecogniserClient
from services.common.faces import MAX_FACES
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.adapters.server import FaceRecogServer
from services.face_recog.domain.calibration import Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.matching import Constraints, Outcome, decide, decide_all
from services.face_recog.domain.strangers import DLIB, FITTED, Model, Strangers
from services.face_recog.service.deciding import Decider
from services.face_recog.service.gallery import Gallery
from services.face_recog.tests.galleries import (
    ENGINE,
    FakeRecogniser,
    encoding_of,
    new_gallery,
    showing,
)
from services.testing.recogniser import PictureContent

ADA, BOB, EVE = showing("ada"), showing("bob"), showing("eve")


@pytest.fixture
def store(folder_store_settings: ObjectStoreSettings) -> ObjectStore:
    return ObjectStore(folder_store_settings)


class Replica:
    """A server in this process, whose watch does not run."""

    def __init__(
        self, store: ObjectStore, gallery: Gallery, server: FaceRecogServer, port: int
    ) -> None:
        self.store = store
        self.gallery = gallery
        self.server = server
        self.client = RecogniserClient(f"127.0.0.1:{port}", timeout=60)


@asynccontextmanager
async def serving(store: ObjectStore, recogniser: FakeRecogniser) -> AsyncIterator[Replica]:
    gallery = new_gallery(store, recogniser)
    identifier: Any = None
    decider = Decider(gallery, ENGINE)
    server = FaceRecogServer(identifier, decider, connection_age=60, grace=0)
    replica = Replica(store, gallery, server, await server.start("127.0.0.1", 0))
    await server.set_serving(serving=True)
    yield replica
    await replica.client.close()
    await server.stop()


@pytest.fixture
async def replica(store: ObjectStore, recogniser: FakeRecogniser) -> AsyncIterator[Replica]:
    await store.put("known_people/Ada/1.jpg", ADA)
    await store.put("known_people/Bob/1.jpg", BOB)
    async with serving(store, recogniser) as replica:
        await replica.gallery.refresh()
        yield replica


def content(encoding: Encoding) -> bytes:
    return encoding.astype("<f4").tobytes()


def near(picture: bytes, by: float = 0.05) -> bytes:
    """Another face of the same person."""
    other = encoding_of(picture + b" else")
    return content(encoding_of(picture) + by * other)


def picture(
    *faces: bytes, given: Sequence[str] = (), denied: Sequence[Sequence[str]] = ()
) -> face_pb2.PictureToDecide:
    denials = denied or [()] * len(faces)
    return face_pb2.PictureToDecide(
        faces=[
            face_pb2.FaceToDecide(encoding=one, denied=folders)
            for one, folders in zip(faces, denials, strict=True)
        ],
        given=given,
    )


async def names(view: Decisions, *pictures: face_pb2.PictureToDecide) -> list[list[str]]:
    """Who each face is named after; empty when it is nobody, in brackets when asked about."""

    def name(face: face_pb2.DecidedFace) -> str:
        first = face.candidates[0].person if face.candidates else ""
        return f"({first})" if face.outcome == face_pb2.OUTCOME_UNSURE else first

    return [[name(face) for face in decided.faces] for decided in await view.decide(pictures)]


async def test_a_picture_enrolled_a_moment_ago_is_known_at_once(replica: Replica) -> None:
    await replica.store.put("known_people/Eve/1.jpg", EVE)
    async with replica.client.decide("Eve") as view:
        assert [(known.image_name, known.skipped) for known in view.known.pictures] == [
            ("Eve/1.jpg", False)
        ]
        assert view.known.engine == ENGINE.name
        assert view.known.calibration == 1
        assert await view.sift([near(EVE), near(ADA)]) == [True, False]
        assert await names(view, picture(near(EVE), near(ADA))) == [["Eve", "Ada"]]


async def test_a_folder_in_decomposed_form_is_the_person_s(replica: Replica) -> None:
    decomposed = "Zoe\N{COMBINING DIAERESIS}/1.jpg"
    await replica.store.put(f"known_people/{decomposed}", EVE)
    async with replica.client.decide("Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}") as view:
        assert [known.image_name for known in view.known.pictures] == [decomposed]
        assert await view.sift([near(EVE)]) == [True]


async def test_one_that_was_removed_is_known_no_longer(replica: Replica) -> None:
    await replica.store.delete("known_people/Ada/1.jpg")
    async with replica.client.decide("Ada") as view:
        assert not view.known.pictures
        assert not view.known.portrait
        assert await view.sift([near(ADA)]) == [False]
        assert await names(view, picture(near(ADA), near(BOB))) == [["", "Bob"]]


async def test_what_is_no_known_picture_is_told_to_be_skipped(replica: Replica) -> None:
    await replica.store.put("known_people/Ada/2.jpg", PictureContent.UNREADABLE)
    async with replica.client.decide("Ada") as view:
        found = {known.image_name: known.skipped for known in view.known.pictures}
    assert found == {"Ada/1.jpg": False, "Ada/2.jpg": True}


async def test_more_pictures_than_a_glance_takes_are_all_known(replica: Replica) -> None:
    for number in range(40):
        await replica.store.put(f"known_people/Eve/{number}.jpg", showing(f"eve {number}"))
    async with replica.client.decide("Eve") as view:
        assert sum(not known.skipped for known in view.known.pictures) == 40


async def test_a_view_stays_as_it_was(replica: Replica) -> None:
    async with replica.client.decide("Ada") as before:
        await replica.store.delete("known_people/Ada/1.jpg")
        async with replica.client.decide("Ada") as after:
            assert await names(after, picture(near(ADA))) == [[""]]
        assert await names(before, picture(near(ADA))) == [["Ada"]]


async def test_what_hands_said_holds(replica: Replica) -> None:
    async with replica.client.decide("Ada") as view:
        faces = near(ADA), near(BOB)
        assert await names(view, picture(*faces)) == [["Ada", "Bob"]]
        assert await names(view, picture(*faces, given=["Ada"])) == [["", "Bob"]]
        assert await names(view, picture(*faces, denied=[["Ada"], []])) == [["", "Bob"]]
        # Two faces of one person: the other is asked about nobody, unless the first is not her.
        twice = near(ADA, 0.02), near(ADA, 0.04)
        assert await names(view, picture(*twice)) == [["Ada", ""]]
        assert await names(view, picture(*twice, denied=[["Ada"], []])) == [["", "Ada"]]
        # Nobody whom face_recog does not know is in the way.
        assert await names(view, picture(near(ADA), given=["Zoe"], denied=[["Yin"]])) == [["Ada"]]


async def test_pictures_are_decided_on_apart(replica: Replica) -> None:
    async with replica.client.decide("Ada") as view:
        pictures = [
            picture(near(ADA), near(BOB)),
            picture(),
            picture(near(EVE)),
            picture(near(ADA)),
        ]
        assert await names(view, *pictures * 20) == [["Ada", "Bob"], [], [""], ["Ada"]] * 20


async def failure(ask: Callable[[Decisions], Any], view: Decisions) -> str:
    with pytest.raises(RecogniserFailedError) as caught:
        await ask(view)
    return str(caught.value)


async def test_encodings_of_another_engine_are_refused(replica: Replica) -> None:
    async with replica.client.decide("Ada") as view:
        view.known.engine = "other"
        said = await failure(lambda view: view.sift([near(ADA)]), view)
    assert "FAILED_PRECONDITION" in said
    assert "'other', those here of 'dlib-1+rules-1'" in said


@pytest.mark.parametrize(
    ("encodings", "words"),
    [
        ([b"1234"], "an encoding has 4 bytes instead of 512"),
        ([b""], "an encoding has 0 bytes instead of 512"),
        ([content(np.full(128, np.nan))], "not finite"),
        ([content(np.zeros(128))], "only with 0"),
        ([near(ADA)] * (MAX_FACES + 1), f"{MAX_FACES + 1} faces: at most {MAX_FACES}"),
    ],
)
async def test_what_cannot_be_compared_is_refused(
    replica: Replica, encodings: list[bytes], words: str
) -> None:
    for ask in (
        lambda view: view.sift(encodings),
        lambda view: view.decide([picture(*encodings)]),
    ):
        async with replica.client.decide("Ada") as view:
            said = await failure(ask, view)
        assert "INVALID_ARGUMENT" in said
        assert words in said
    async with replica.client.decide("Ada") as view:
        assert await view.sift([near(ADA)]) == [True]


@pytest.mark.parametrize("person", ["", " Ada", "a/b", "..", "x" * 300])
async def test_what_is_no_name_is_refused(replica: Replica, person: str) -> None:
    with pytest.raises(RecogniserFailedError, match="INVALID_ARGUMENT"):
        async with replica.client.decide(person):
            pass


async def test_who_starts_or_stops_sends_elsewhere(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    async with serving(store, recogniser) as replica:
        with pytest.raises(RecogniserUnavailableError, match="still being loaded"):
            async with replica.client.decide("Ada"):
                pass
        await replica.gallery.refresh()
        async with replica.client.decide("Ada") as view:
            await replica.server.drain()
            with pytest.raises(RecogniserUnavailableError, match="it stops"):
                await view.sift([near(ADA)])


async def test_a_request_without_a_question_is_refused(replica: Replica) -> None:
    async with grpc.aio.insecure_channel(replica.client.target) as channel:
        call: Any = channel.stream_stream(
            "/facerecog.People/Decide",
            request_serializer=face_pb2.DecideRequest.SerializeToString,
            response_deserializer=face_pb2.DecideResponse.FromString,
        )()
        await call.write(face_pb2.DecideRequest(person="Ada"))
        assert (await call.read()).known.pictures
        await call.write(face_pb2.DecideRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="neither"):
            await call.read()


async def test_looks_and_the_watch_change_what_is_known_in_turns(
    store: ObjectStore, recogniser: FakeRecogniser
) -> None:
    """Whatever they are in the middle of: in the end all is known, and each view fits the store."""
    gallery = new_gallery(store, recogniser)
    await gallery.refresh()

    async def enrol(number: int) -> None:
        name = f"p{number}"
        for turn in range(3):
            key = f"known_people/{name}/{turn}.jpg"
            await store.put(key, showing(f"{number} {turn}"))
            snapshot, pictures = await gallery.look_for(name)
            assert pictures[f"{name}/{turn}.jpg"]
            nearest = snapshot.portraits.people.nearest(encoding_of(showing(f"{number} {turn}")), 1)
            assert nearest[0].image_name == f"{name}/{turn}.jpg"
            if turn < 2:
                await store.delete(key)
                _, pictures = await gallery.look_for(name)
                assert not pictures

    watch = asyncio.create_task(gallery.watch(0.001))
    await asyncio.gather(*(enrol(number) for number in range(12)))
    watch.cancel()
    await gallery.refresh()
    assert gallery.people.pictures == gallery.people.people == 12


def test_deciding_on_many_is_deciding_on_each() -> None:
    drawing = np.random.default_rng(7)
    people = {f"p{number}/1": drawing.normal(size=128) / 8 for number in range(40)}
    portraits = Portraits(KnownPeople(people), Strangers(DLIB))
    rule = Rule(named=0.8, unsure=0.3, margin=0.05)
    pictures = [
        [
            people[f"p{drawing.integers(40)}/1"]
            + drawing.normal(size=128) / drawing.choice([9, 40])
            for _ in range(drawing.integers(0, 7))
        ]
        for _ in range(60)
    ]
    together = decide_all(portraits, [(faces, Constraints()) for faces in pictures], rule)
    alone = [decide(portraits, faces, rule) for faces in pictures]
    assert [[match.outcome for match in matches] for matches in together] == [
        [match.outcome for match in matches] for matches in alone
    ]
    assert {match.outcome for matches in alone for match in matches} == set(Outcome)


@given(st.data())
def test_no_hand_is_contradicted(data: st.DataObject) -> None:
    drawing = np.random.default_rng(data.draw(st.integers(0, 1000)))
    people = {f"p{number}/1": drawing.normal(size=128) / 8 for number in range(5)}
    portraits = Portraits(KnownPeople(people), Strangers(DLIB))
    folders = st.sets(st.sampled_from(["p0", "p1", "p2", "p3", "p4", "nobody"]))
    count = data.draw(st.integers(1, 4))
    faces = [
        people[f"p{drawing.integers(5)}/1"] + drawing.normal(size=128) / 20 for _ in range(count)
    ]
    held = Constraints(data.draw(folders), [data.draw(folders) for _ in faces])
    [matches] = decide_all(portraits, [(faces, held)], Rule(0.7, 0.1, 0.05))
    for match, denied in zip(matches, held.denied, strict=True):
        assert {likely.folder for likely in match.candidates}.isdisjoint({*held.given, *denied})
    named = [match.candidates[0].folder for match in matches if match.outcome is Outcome.NAMED]
    assert len(named) == len(set(named))


def test_who_may_be_a_person_is_hardly_ever_under_the_least_product() -> None:
    """Nor are many others above it, or sifting would be in vain."""
    drawing = np.random.default_rng(3)

    def face(kind: int) -> Encoding:
        centre = np.random.default_rng(kind).normal(size=128) * 0.35
        return np.ones(128) + centre + drawing.normal(size=128) * 0.5

    strangers = np.array([face(number) for number in range(FITTED[0], 4 * FITTED[0])])
    units = (strangers / np.linalg.norm(strangers, axis=1, keepdims=True)).astype(np.float32)
    model = Model.of(units[: FITTED[-1]], seen=FITTED[-1])
    centres = {number: drawing.normal(size=128) * 0.9 + 1 for number in range(40)}

    def of(number: int) -> Encoding:
        return centres[number] + drawing.normal(size=128) * 0.3

    people = {f"p{number:02}/{nth}": of(number) for number in centres for nth in range(2)}
    portraits = Portraits(KnownPeople(people), Strangers(DLIB, model))
    tail = portraits.strangers.tail
    rule = Rule(tail.likeness_of(0.01, 40), tail.likeness_of(0.2, 40), tail.decade)
    faces = [*(of(number) for number in centres for _ in range(5)), *strangers]
    may_be = below = above = 0
    for name in portraits.people.names:
        portrait = portraits.portrait(name, rule)
        assert portrait
        found = np.array(portraits.may_be(portrait, faces, rule))
        unit = np.array([face / np.linalg.norm(face) for face in faces])
        near_enough = unit @ portrait.mean >= portrait.least_product
        may_be += found.sum()
        below += (found & ~near_enough).sum()
        above += near_enough.sum()
        # A face that stands as any of nobody's, and is so alike, is asked about no more.
        mean, spread = portraits.strangers.standing(model.draw())
        of_person = [float(value[0]) for value in portrait.standing]
        alike = (portrait.least_product - mean) / spread
        alike += (portrait.least_product - of_person[0]) / of_person[1]
        assert (alike / 2 < rule.unsure).all()
    assert may_be >= 190
    assert below == 0
    assert above < 0.3 * 40 * len(faces)

"""Looking for a face, by a picture of it or by a stored one."""

import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from services.common.clock import database_now
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.facerecog import face_pb2
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import face_encodings, faces, images, persons
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.colours import COLOURS, FakeRecogniser, draw, encode
from services.receiver.tests.conftest import Start, StoredFacesServer, make_settings

RED, GREEN = (("red", (10, 10, 60, 60)), ("green", (70, 10, 100, 40)))
BOTH: Final = encode(draw(RED, GREEN, size=(110, 70)))
NOBODY: Final = encode(draw(size=(20, 20)))

SIZE: Final = 16


def encoding(colour: str, far: float = 0.0) -> bytes:
    """Return that of a face of this colour, so far from that of the colour itself."""
    made: NDArray[np.float64] = np.zeros(SIZE)
    made[[*COLOURS].index(colour)], made[-1] = 1, far
    return (3 * made).astype("<f4").tobytes()


class ColourRecogniser(FakeRecogniser):
    """Each colour of which there is much is a face in its place, the largest first."""

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        self.asked += 1
        try:
            pixels = np.array(Image.open(io.BytesIO(request.image_data)).convert("RGB"))
        except UnidentifiedImageError:
            return await super().Identify(request, context)
        found = []
        for name, colour in COLOURS.items():
            rows, columns = np.nonzero((pixels == colour).all(axis=2))
            if len(rows):
                box = face_pb2.Box(
                    left=columns.min(),
                    top=rows.min(),
                    right=columns.max() + 1,
                    bottom=rows.max() + 1,
                )
                found.append((len(rows), face_pb2.Face(box=box, encoding=encoding(name))))
        found.sort(key=lambda one: -one[0])
        return face_pb2.IdentifyResponse(
            status=face_pb2.STATUS_OK, faces=[face for _, face in found], engine=self.engine
        )


@pytest.fixture
async def recogniser() -> AsyncIterator[FakeRecogniser]:
    fake = ColourRecogniser()
    await fake.start()
    yield fake
    await fake.stop()


class Bench:
    """What is stored, who finds it, and who asks."""

    def __init__(
        self, client: httpx.AsyncClient, database: Database, people: StoredFacesServer
    ) -> None:
        self.client = client
        self.people = people
        self._database = database
        self._stored = 0

    async def run(self, *statements: Any) -> None:
        async with self._database.transaction() as connection:
            for one in statements:
                await connection.execute(one)

    async def store(self, *encodings: bytes | None, **said: Any) -> int:
        """Store a result with these faces, of each of which this is said, and have it followed."""
        self._stored += 1
        async with self._database.transaction() as connection:
            made: sa.CursorResult[tuple[()]] = await connection.execute(
                sa.insert(images).values(
                    path=f"{self._stored}.jpg",
                    name="a.jpg",
                    status="processed",
                    attempt=1,
                    created_at=0,
                    updated_at=0,
                    processed_at=1,
                    engine="fake",
                )
            )
            image_id = int(made.lastrowid)
            for index, content in enumerate(encodings):
                key = {"image_id": image_id, "face_index": index}
                box = {"left": index, "top": 0, "right": 9, "bottom": 8, "detection_score": 1.0}
                nobody = {"ambiguous": False, "candidates": [], "decided_by": "machine"}
                await connection.execute(sa.insert(faces).values(key | box | nobody | said))
                if content is not None:
                    row = key | {"engine": "fake", "encoding": content}
                    await connection.execute(sa.insert(face_encodings).values(row))
            await note_events(connection, database_now(), EventKind.IMAGE, [image_id])
        await self.people.follow()
        return image_id

    async def look_for(self, picture: bytes, **query: int) -> dict[str, Any]:
        answer = await self.client.post("/search", files={"file": picture}, params=query)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def look_for_face(self, image_id: int, index: int, **query: int) -> httpx.Response:
        body = {"image_id": image_id, "face_index": index}
        return await self.client.post("/search", json=body, params=query)


def found(document: dict[str, Any]) -> Sequence[tuple[int, int]]:
    return [(one["image_id"], one["face_index"]) for one in document["found"]]


def files_in(folder: str) -> Sequence[Path]:
    return [*Path(folder).rglob("*")]


@pytest.fixture
async def bench(
    start: Start,
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
) -> AsyncIterator[Bench]:
    people = StoredFacesServer(database_settings)
    await people.start()
    settings = make_settings(
        database_settings, folder_store_settings, recogniser.target, people_target=people.target
    )
    database = Database(database_settings)
    yield Bench(start(settings).client, database, people)
    await database.close()
    await people.stop()


async def test_an_uploaded_face_is_found_nearest_first_and_nothing_of_it_is_kept(
    bench: Bench, folder_store_settings: ObjectStoreSettings
) -> None:
    await bench.run(sa.insert(persons).values(id=7, name="Ada", folder="Eda", created_at=0))
    near = await bench.store(encoding("red", 0.3), encoding("green"), person="Eda", person_id=7)
    same = await bench.store(encoding("red"))
    store = folder_store_settings.object_store_url.removeprefix("file://")
    before = files_in(store)
    document = await bench.look_for(BOTH)
    assert document["faces"] == [
        {"index": 0, "box": {"left": 10, "top": 10, "right": 60, "bottom": 60}},
        {"index": 1, "box": {"left": 70, "top": 10, "right": 100, "bottom": 40}},
    ]
    assert document["searched"] == 0, "the largest"
    assert found(document) == [(same, 0), (near, 0), (near, 1)]
    first, second, _ = document["found"]
    assert (first["distance"], first["person"], first["person_id"]) == (0, None, None)
    assert (second["person"], second["person_id"]) == ("Ada", 7), "by the name of now"
    assert second["box"] == {"left": 0, "top": 0, "right": 9, "bottom": 8}
    assert second["distance"] == pytest.approx(np.sqrt(2 - 2 / np.hypot(1, 0.3)), abs=1e-3)
    strangers = [one["strangers"] for one in document["found"]]
    assert strangers[0] < strangers[1] < strangers[2] == 1e6
    assert files_in(store) == before
    assert len((await bench.client.get("/images")).json()["images"]) == 2


async def test_another_face_of_the_picture_may_be_chosen(bench: Bench) -> None:
    await bench.store(encoding("red"))
    green = await bench.store(encoding("green"))
    document = await bench.look_for(BOTH, face=1, limit=1)
    assert (document["searched"], found(document)) == (1, [(green, 0)])


async def test_a_stored_face_is_looked_for_among_the_others(bench: Bench) -> None:
    image_id = await bench.store(encoding("red"), encoding("red", 0.1))
    other = await bench.store(encoding("red", 0.2))
    document = (await bench.look_for_face(image_id, 1)).json()
    assert (document["faces"], document["searched"]) == ([], None)
    assert sorted(found(document)) == [(image_id, 0), (other, 0)]


async def test_what_is_gone_or_struck_out_meanwhile_is_left_out(bench: Bench) -> None:
    gone = await bench.store(encoding("red"))
    struck = await bench.store(encoding("red", 0.01))
    left = await bench.store(encoding("red", 0.02))
    await bench.run(
        sa.delete(images).where(images.c.id == gone),
        sa.update(faces).where(faces.c.image_id == struck).values(struck_out=True),
    )
    assert found(await bench.look_for(BOTH, limit=1)) == [(left, 0)]
    assert (await bench.look_for_face(struck, 0)).status_code == 404
    assert (await bench.look_for_face(gone, 0)).status_code == 404


async def test_what_cannot_be_looked_for_is_told(bench: Bench) -> None:
    image_id = await bench.store(encoding("red"), None)
    assert (await bench.look_for_face(image_id, 2)).status_code == 404
    answer = await bench.look_for_face(image_id, 1)
    assert (answer.status_code, "no encoding" in answer.json()["detail"]) == (409, True)
    for picture, query, status, detail in (
        (NOBODY, {}, 422, "no face was found"),
        (BOTH, {"face": 2}, 422, "they are 0 to 1"),
        (b"text", {}, 422, "this picture cannot be used"),
        (b"", {}, 422, "is empty"),
        (bytes(20 * 1024 * 1024 + 1), {}, 413, "has 20971521 bytes"),
        (BOTH, {"limit": 201}, 422, "wrong"),
    ):
        answer = await bench.client.post("/search", files={"file": picture}, params=query)
        assert answer.status_code == status
        assert detail in answer.json()["detail"]


async def test_a_face_whose_stored_encoding_is_damaged_cannot_be_looked_for(bench: Bench) -> None:
    await bench.store(encoding("red"), encoding("green"))
    damaged = await bench.store(encoding("red")[:-4])
    answer = await bench.look_for_face(damaged, 0)
    assert (answer.status_code, answer.json()["title"]) == (409, "Conflict")
    assert "where stored ones have" in answer.json()["detail"]


async def test_after_a_change_of_the_engine_it_says_what_to_do(
    bench: Bench, recogniser: FakeRecogniser
) -> None:
    await bench.store(encoding("red"))
    recogniser.engine = "another"
    answer = await bench.client.post("/search", files={"file": BOTH})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "are being loaded: try again in a minute" in answer.json()["detail"]


async def test_without_people_all_but_search_works(
    start: Start, plain_settings: ReceiverSettings
) -> None:
    settings = plain_settings.model_copy(update={"people_target": "127.0.0.1:1"})
    client = start(settings).client
    answer = await client.post("/search", files={"file": BOTH})
    assert answer.status_code == 503
    assert "All else works" in answer.json()["detail"]
    assert (await client.post("/images", files={"files": BOTH})).status_code == 202
    assert (await client.get("/readyz")).is_success

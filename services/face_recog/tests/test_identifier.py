"""What a request is answered by, and which faces are remembered to calibrate by."""

import json
from typing import Any

import numpy as np
import pytest

from services.common.faces import Box
from services.common.objects import ObjectStore
from services.common.quality import Quality
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import DetectedFace, Encoding, Recognition
from services.face_recog.domain.matching import Outcome
from services.face_recog.domain.strangers import DLIB
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.identifying import IdentificationRequest, Identifier

ENGINE = Engine("an engine", 128)
GOOD = Quality(1, None, 1, 1, 1, 1)


def person(number: int, distance: float = 0.0) -> Encoding:
    """A face of that person, at that distance from the one at 0, of about dlib's length."""
    drawing = np.random.default_rng(number)
    direction, step = drawing.normal(size=(2, 128))
    length = np.linalg.norm(direction)
    return np.asarray(1.4 * direction / length + distance * step / np.linalg.norm(step))


def showing(*faces: tuple[int, float]) -> bytes:
    """The content of a picture that shows these persons, each at a distance from their picture."""
    return json.dumps(faces).encode()


class FakeRecogniser:
    """Finds whom a picture is :func:`showing`."""

    async def recognise(self, picture: bytes, **options: Any) -> Recognition:
        return Recognition(
            1,
            1,
            [
                DetectedFace(Box(0, 0, 1, 1), 1.0, person(number, distance), quality=GOOD)
                for number, distance in json.loads(picture)
            ],
        )


class RememberingGallery(Gallery):
    """Says what it was told to remember."""

    remembered = 0

    def note_stranger(self, encoding: Encoding) -> None:
        self.remembered += 1
        super().note_stranger(encoding)


@pytest.fixture
async def gallery(folder_store_settings: ObjectStoreSettings) -> RememberingGallery:
    store = ObjectStore(folder_store_settings)
    for number in range(3):
        await store.put(f"known_people/p{number}/x", showing((number, 0)))
    gallery = RememberingGallery(
        store,
        FakeRecogniser(),
        engine=ENGINE,
        parallel=1,
        tails=DLIB,
        false_names=0.01,
    )
    await gallery.refresh()
    return gallery


async def ask(gallery: Gallery, picture: bytes, tolerance: float | None = None) -> Any:
    store: Any = None
    identifier = Identifier(store, FakeRecogniser(), gallery)
    return await identifier.identify(IdentificationRequest(picture=picture, tolerance=tolerance))


async def test_only_faces_without_a_name_are_remembered(gallery: RememberingGallery) -> None:
    answer = await ask(gallery, showing((1, 0.2), (7, 0), (8, 0)))
    assert [face.match.outcome for face in answer.faces] == [
        Outcome.NAMED,
        Outcome.UNKNOWN,
        Outcome.UNKNOWN,
    ]
    assert answer.calibration == 1
    assert gallery.remembered == 2


async def test_a_tolerance_asks_for_the_nearest_picture_and_nothing_else(
    gallery: RememberingGallery,
) -> None:
    """Whatever is calibrated: 0.6 is too far for a name by the rule, and within 0.7."""
    picture = showing((1, 0.6))
    [by_rule] = (await ask(gallery, picture)).faces
    assert by_rule.match.outcome is not Outcome.NAMED
    assert gallery.remembered == 1
    answer = await ask(gallery, picture, 0.7)
    [face] = answer.faces
    assert face.match.outcome is Outcome.NAMED
    assert face.match.ambiguous
    [likely] = face.match.candidates
    assert (likely.folder, round(likely.distance, 2)) == ("p1", 0.6)
    assert answer.calibration == 0
    [beyond] = (await ask(gallery, picture, 0.5)).faces
    assert beyond.match.outcome is Outcome.UNKNOWN
    assert gallery.remembered == 1

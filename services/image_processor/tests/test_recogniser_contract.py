"""The fake recogniser and face_recog's real protocol give the same answers."""

import math
import struct
from typing import Any

import pytest

from services.common.errors import (
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box, Likely, SeenFace
from services.image_processor.adapters.face_finder import GrpcFaceFinder
from services.image_processor.domain import Processed, Rejected
from services.image_processor.ports import FaceFinder
from services.image_processor.tests.fakes import FakeRecogniser
from services.testing.recogniser import ENCODING, QUALITY, PictureContent, RecogniserServer


@pytest.fixture(params=["fake", "grpc"])
def recogniser(request: pytest.FixtureRequest, recogniser_client: RecogniserClient) -> FaceFinder:
    return FakeRecogniser() if request.param == "fake" else GrpcFaceFinder(recogniser_client)


async def test_faces_with_their_people(recogniser: FaceFinder) -> None:
    assert await recogniser.identify(PictureContent.TWO_FACES, 1, lambda: None) == Processed(
        (
            SeenFace(
                Box(1, 2, 30, 40),
                0.5,
                False,
                (Likely("Ada/1.jpg", "Ada", 0.25, 4.5),),
                quality=QUALITY,
                encoding=ENCODING,
            ),
            # As an older face_recog answers.
            SeenFace(Box(50, 2, 80, 40), 0.75, True),
        ),
        100,
        90,
        "test-1",
        calibration=3,
    )


@pytest.mark.parametrize(
    ("outcome", "unsure"),
    [
        (face_pb2.OUTCOME_UNSPECIFIED, False),  # of a recogniser that does not know them
        (face_pb2.OUTCOME_NAMED, False),
        (face_pb2.OUTCOME_UNSURE, True),
        (face_pb2.OUTCOME_UNKNOWN, False),
    ],
)
async def test_what_a_recogniser_is_unsure_of_is_no_name(
    outcome: face_pb2.Outcome.ValueType, unsure: bool
) -> None:
    class Client:
        async def identify(self, *args: Any, **options: Any) -> face_pb2.IdentifyResponse:
            return face_pb2.IdentifyResponse(
                status=face_pb2.STATUS_OK, faces=[face_pb2.Face(outcome=outcome)]
            )

    client: Any = Client()
    answer = await GrpcFaceFinder(client).identify(PictureContent.TWO_FACES, 1, lambda: None)
    assert isinstance(answer, Processed)
    assert [face.unsure for face in answer.faces] == [unsure]


async def test_a_face_whose_encoding_cannot_be_compared_is_a_face_all_the_same() -> None:
    unsound = struct.pack("<2f", 1, math.nan)

    class Client:
        async def identify(self, *args: Any, **options: Any) -> face_pb2.IdentifyResponse:
            return face_pb2.IdentifyResponse(
                status=face_pb2.STATUS_OK,
                faces=[face_pb2.Face(encoding=unsound), face_pb2.Face(encoding=ENCODING)],
            )

    client: Any = Client()
    answer = await GrpcFaceFinder(client).identify(PictureContent.TWO_FACES, 1, lambda: None)
    assert isinstance(answer, Processed)
    assert [face.encoding for face in answer.faces] == [None, ENCODING]


async def test_no_face_is_an_answer(recogniser: FaceFinder) -> None:
    assert await recogniser.identify(PictureContent.NO_FACE, 1, lambda: None) == Processed(
        (), 100, 90, "test-1"
    )


async def test_a_file_that_is_no_picture(recogniser: FaceFinder) -> None:
    assert await recogniser.identify(PictureContent.UNREADABLE, 1, lambda: None) == Rejected(
        "it is no picture"
    )


@pytest.mark.parametrize(
    ("picture", "error"),
    [
        (PictureContent.UNANSWERED, RecogniserTimeoutError),
        (PictureContent.FOR_A_BUSY_ONE, RecogniserBusyError),
        (PictureContent.FATAL, RecogniserFailedError),
    ],
)
async def test_faults(recogniser: FaceFinder, picture: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await recogniser.identify(picture, 1, lambda: None)


async def test_nobody_there(
    recogniser_server: RecogniserServer, recogniser_client: RecogniserClient
) -> None:
    await recogniser_server.stop()
    with pytest.raises(RecogniserUnavailableError):
        await GrpcFaceFinder(recogniser_client).identify(PictureContent.TWO_FACES, 1, lambda: None)


async def test_the_deadline_is_the_clients(recogniser_server: RecogniserServer) -> None:
    client = RecogniserClient(recogniser_server.target, timeout=0.05)
    with pytest.raises(RecogniserTimeoutError):
        await GrpcFaceFinder(client).identify(PictureContent.UNFINISHED, 1, lambda: None)
    await client.close()


async def test_the_image_id_goes_along(
    recogniser_server: RecogniserServer, recogniser_client: RecogniserClient
) -> None:
    await GrpcFaceFinder(recogniser_client).identify(PictureContent.TWO_FACES, 42, lambda: None)
    assert recogniser_server.image_ids == ["42"]

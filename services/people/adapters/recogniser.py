"""Asking face_recog to decide."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from services.common.facerecog import face_pb2
from services.common.facerecog.client import Decisions, RecogniserClient
from services.common.faces import MAX_FACES, Likely
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.people.domain.deciding import Decision, RecordedPicture


class GrpcPeopleView:
    """The known people at one time, as one replica of face_recog sees them."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        known = decisions.known
        self.engine = known.engine
        self.calibration = known.calibration
        self.pictures: Mapping[str, bool] = {
            picture.image_name: not picture.skipped for picture in known.pictures
        }
        self.mean: NDArray[np.float32] | None = (
            np.frombuffer(known.portrait, "<f4") if known.portrait else None
        )
        self.least_product = known.least_product

    async def sift(self, encodings: Sequence[bytes]) -> Sequence[bool]:
        may_be: list[bool] = []
        most = _most(encodings)
        for start in range(0, len(encodings), most):
            may_be += await self._decisions.sift(encodings[start : start + most])
        return may_be

    async def decide(
        self, pictures: Sequence[RecordedPicture], unknown: str | None
    ) -> Sequence[Sequence[Decision]]:
        answers: list[Sequence[Decision]] = []
        asked: list[face_pb2.PictureToDecide] = []
        faces = 0
        most = _most(face.encoding or b"" for picture in pictures for face in picture.open)
        for picture in pictures:
            if faces + len(picture.open) > most:
                answers += await self._ask(asked)
                asked, faces = [], 0
            asked.append(_asked(picture, unknown))
            faces += len(picture.open)
        return answers + await self._ask(asked)

    async def _ask(self, asked: Sequence[face_pb2.PictureToDecide]) -> list[Sequence[Decision]]:
        decided = await self._decisions.decide(asked)
        return [[_answer(face) for face in picture.faces] for picture in decided]


def _most(encodings: Iterable[bytes]) -> int:
    """Return how many faces a request may have: a long encoding's would be too large a message."""
    longest = max(map(len, encodings), default=0)
    return min(MAX_FACES, MAX_PICTURE_BYTES // longest) if longest else MAX_FACES


def _asked(picture: RecordedPicture, unknown: str | None) -> face_pb2.PictureToDecide:
    return face_pb2.PictureToDecide(
        faces=[
            face_pb2.FaceToDecide(encoding=face.encoding or b"", denied=sorted(face.denied))
            for face in picture.open
        ],
        given=sorted(picture.given(unknown)),
    )


def _answer(face: face_pb2.DecidedFace) -> Decision:
    candidates = [
        Likely(candidate.image_name, candidate.person, candidate.distance, candidate.likeness)
        for candidate in face.candidates
    ]
    return Decision(candidates, face.outcome == face_pb2.OUTCOME_NAMED)


@asynccontextmanager
async def open_view(client: RecogniserClient, folder: str) -> AsyncIterator[GrpcPeopleView]:
    """Open a view for one person's sake; raises ``RecogniserError``, also within."""
    async with client.decide(folder) as decisions:
        yield GrpcPeopleView(decisions)

"""The use case: naming the faces of a picture."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.errors import ObjectNotFoundError
from services.common.faces import Box
from services.common.object_keys import PICTURES, InvalidPathError, check_path
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.face_recog import metrics
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import DetectedFace, Encoding, check_boxes
from services.face_recog.domain.matching import DEFAULT_CANDIDATES, Match, Outcome, decide, match
from services.face_recog.ports import KeptStore, PictureRecogniser
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.reading import get_picture, too_many_bytes

_QUICK_PICTURES: Final = 2000
"""Known pictures that are compared with a face in less than a millisecond."""


@dataclass(frozen=True)
class IdentificationRequest:
    """Who is in this picture; 0 stands for the defaults.

    ``path`` is a key below ``pictures/`` and is used when ``picture``, the file itself, is empty.
    With a tolerance the nearest picture decides, not the calibrated rule.
    Whether each face is like ``person`` is answered, too, whoever else it may be.
    With boxes these are answered and no other face, whether anybody would find one there or not.
    """

    path: str = ""
    picture: bytes = b""
    tolerance: float | None = None
    max_faces: int = 0
    max_candidates: int = 0
    person: str = ""
    boxes: Sequence[Box] = ()


@dataclass(frozen=True)
class NamedFace:
    """A face, who it may be, and whether it is like the person who was asked about.

    ``like_person`` is None when nobody was, or somebody without known pictures.
    """

    face: DetectedFace
    match: Match
    like_person: bool | None = None


@dataclass(frozen=True)
class Identification:
    """The upright picture's size in pixels and its faces, as :class:`Recognition` has them."""

    width: int
    height: int
    faces: Sequence[NamedFace]
    calibration: int = 0
    """The version that decided; 0 where a tolerance did."""


class Identifier:
    """Finds the faces of a picture and names them."""

    def __init__(self, store: KeptStore, recogniser: PictureRecogniser, gallery: Gallery) -> None:
        self._store = store
        self._recogniser = recogniser
        self._gallery = gallery

    async def identify(
        self,
        request: IdentificationRequest,
        *,
        on_long: Callable[[], Awaitable[None]] | None = None,
    ) -> Identification:
        """Answer a request; ``on_long`` is called when its picture needs longer than others.

        Raises ``RejectedError`` when the request is at fault; :class:`NotReadyError`,
        ``ObjectStoreUnavailableError`` and whatever the recogniser raises are faults.
        """
        _ = self._gallery.people
        tolerance = request.tolerance
        if tolerance is not None and not 0 < tolerance <= 1:
            raise RejectedError(f"tolerance must be over 0 and at most 1, got {tolerance}")
        check_boxes(request.boxes)
        picture = request.picture or await self._fetch(request.path)
        if len(picture) > MAX_PICTURE_BYTES:
            raise too_many_bytes()
        found = await self._recogniser.recognise(
            picture, max_faces=request.max_faces, boxes=request.boxes, on_long=on_long
        )
        snapshot = self._gallery.snapshot
        people = snapshot.portraits.people
        encodings = [face.encoding for face in found.faces]
        count = request.max_candidates or DEFAULT_CANDIDATES
        if tolerance is None:
            find_matches = functools.partial(
                decide, snapshot.portraits, encodings, snapshot.rule, max_candidates=count
            )
        else:
            find_matches = functools.partial(
                match, people, encodings, tolerance=tolerance, max_candidates=count
            )
        if people.pictures * len(encodings) > _QUICK_PICTURES:
            matches = await asyncio.to_thread(find_matches)
        else:
            matches = find_matches()
        if not request.boxes:  # those are no news, and what somebody drew may be no face
            self._note(encodings, matches, strangers=tolerance is None)
        return Identification(
            found.width,
            found.height,
            [
                NamedFace(face, who, people.is_like(request.person, face.encoding))
                for face, who in zip(found.faces, matches, strict=True)
            ],
            snapshot.calibration.version if tolerance is None else 0,
        )

    def _note(
        self, encodings: Sequence[Encoding], matches: Sequence[Match], *, strangers: bool
    ) -> None:
        for encoding, who in zip(encodings, matches, strict=True):
            result = "unknown" if not who.candidates else "ambiguous" if who.ambiguous else "known"
            metrics.FACES.labels(result).inc()
            if strangers and who.outcome is not Outcome.NAMED:
                self._gallery.note_stranger(encoding)

    async def _fetch(self, path: str) -> bytes:
        try:
            key = PICTURES + check_path(path)
            return await get_picture(self._store, key)
        except InvalidPathError as error:
            raise RejectedError(str(error)) from error
        except ObjectNotFoundError as error:
            raise RejectedError(f"no picture at {path}", Rejection.NOT_FOUND) from error

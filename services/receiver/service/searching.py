"""The use case: look for a face among all that are stored."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from services.common.errors import OtherEngineError, RefusedError
from services.common.strangers import PairsOfStrangers
from services.receiver.domain.acts import SubjectKind, acting
from services.receiver.domain.errors import ConflictError, Fault, InvalidError
from services.receiver.domain.faces import FaceKey, no_face
from services.receiver.domain.search import FoundFace, PictureFace, SearchResult
from services.receiver.ports import FaceDetector, NearestFaces, SearchableFaces

_PICTURES_IN_MEMORY: Final = 2
"""Of up to 20 MiB each; further ones wait on disk."""

_MORE: Final = 20
"""Asked for beyond the limit, because some may be gone by now, and one is what is looked for."""

_DIGITS: Final = 4
"""What is stored has about so many of a distance."""


class Search:
    """Looks for faces; nothing of a picture is kept."""

    def __init__(self, detector: FaceDetector, stored: NearestFaces, rows: SearchableFaces) -> None:
        self._detector = detector
        self._stored = stored
        self._rows = rows
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def of_file(
        self, read: Callable[[], Awaitable[bytes]], *, face: int | None, limit: int
    ) -> SearchResult:
        """Look for a face of a picture file, the largest one unless told which.

        Raises :class:`InvalidError` when it shows no such face, and as the ports do.
        """
        async with self._memory:
            detected = await self._detector.detect(await read())
        searched = face or 0
        if not detected.faces:
            raise InvalidError("no face was found in this picture: choose one that shows it larger")
        if searched >= len(detected.faces):
            reason = f"the picture has no face {searched}: they are 0 to {len(detected.faces) - 1}"
            raise InvalidError(reason, [Fault("/query/face", reason)])
        encoding = detected.faces[searched].encoding
        if encoding is None:
            raise InvalidError(f"face {searched} of this picture cannot be compared")
        engine, pairs = await self._detector.strangers()
        if engine != detected.engine:
            raise OtherEngineError(f"looked at by {detected.engine!r}, where {engine!r} answers")
        found = await self._find(engine, pairs, encoding, limit)
        boxes = [PictureFace(index, seen.box) for index, seen in enumerate(detected.faces)]
        return SearchResult(tuple(boxes), searched, tuple(found[:limit]))

    async def of_face(self, image_id: int, face_index: int, *, limit: int) -> SearchResult:
        """Look for a stored face among the others.

        Raises :class:`NotFoundError`, :class:`ConflictError` when it has no encoding of the engine
        in use, and as the ports do.
        """
        key = FaceKey(image_id, face_index)
        if act := acting.get():
            act.about(SubjectKind.IMAGE, image_id)
        engine, pairs = await self._detector.strangers()
        is_there, encoding = await self._rows.encoding(key, engine)
        if not is_there:
            raise no_face(image_id, face_index)
        if encoding is None:
            raise ConflictError(
                f"face {face_index} of image {image_id} cannot be looked for: it has no encoding"
                " of the engine in use. Stored faces get one in the background, as encoding in"
                " /status says; those whose picture is gone get none"
            )
        try:
            found = await self._find(engine, pairs, encoding, limit)
        except RefusedError as error:  # a damaged row
            raise ConflictError(
                f"face {face_index} of image {image_id} cannot be looked for: {error}"
            ) from error
        others = [face for face in found if FaceKey(face.image_id, face.face_index) != key]
        return SearchResult((), None, tuple(others[:limit]))

    async def _find(
        self, engine: str, pairs: PairsOfStrangers, encoding: bytes, limit: int
    ) -> list[FoundFace]:
        nearest = await self._stored.find(engine, encoding, limit + _MORE)
        rows = await self._rows.faces([key for key, _ in nearest])
        return [
            FoundFace(
                key.image_id,
                key.index,
                row.box,
                row.person,
                row.person_id,
                round(distance, _DIGITS),
                float(f"{pairs.in_a_million(distance):.2g}"),
            )
            for key, distance in nearest
            if (row := rows.get(key))
        ]

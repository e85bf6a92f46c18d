"""The use case: look for a face among all that are stored."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.common.errors import OtherEngineError
from services.common.faces import Box, SeenFace
from services.common.strangers import PairsOfStrangers
from services.receiver.domain import (
    ConflictError,
    FaceKey,
    Fault,
    FoundFace,
    InvalidError,
    NotFoundError,
    PictureFace,
    SearchResult,
)

_PICTURES_IN_MEMORY: Final = 2
"""Of up to 20 MiB each; further ones wait on disk."""

_MORE: Final = 20
"""Asked for beyond the limit, because some may be gone by now, and one is what is looked for."""

_DIGITS: Final = 4
"""What is stored has about so many of a distance."""


@dataclass(frozen=True)
class Looked:
    """A picture's faces, largest first, as an engine sees them."""

    engine: str
    faces: Sequence[SeenFace]


@dataclass(frozen=True)
class FaceRow:
    """What a stored face's row says now; ``person`` is null for somebody unknown."""

    box: Box
    person: str | None
    person_id: int | None


class Looker(Protocol):
    """face_recog; raises ``RecogniserError``."""

    async def look(self, content: bytes) -> Looked:
        """Return a picture's faces, or raise ``InvalidError`` when it cannot be read."""

    async def strangers(self) -> tuple[str, PairsOfStrangers]:
        """Return the engine in use, and how alike strangers are to it."""


class StoredFaces(Protocol):
    """All stored faces; raises ``StoredFacesError``."""

    async def find(
        self, engine: str, encoding: bytes, limit: int
    ) -> Sequence[tuple[FaceKey, float]]:
        """Return so many faces at most, those nearest to an encoding, with their distances."""


class FaceRows(Protocol):
    """Faces in the database; raises ``DatabaseUnavailableError``."""

    async def encoding(self, key: FaceKey, engine: str) -> tuple[bool, bytes | None]:
        """Tell whether there is such a face, and return its encoding by an engine."""

    async def faces(self, keys: Sequence[FaceKey]) -> Mapping[FaceKey, FaceRow]:
        """Return those that are there, and that nobody has struck out."""


class Search:
    """Looks for faces; nothing of a picture is kept."""

    def __init__(self, looker: Looker, stored: StoredFaces, rows: FaceRows) -> None:
        self._looker = looker
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
            looked = await self._looker.look(await read())
        searched = face or 0
        if not looked.faces:
            raise InvalidError("no face was found in this picture: choose one that shows it larger")
        if searched >= len(looked.faces):
            reason = f"the picture has no face {searched}: they are 0 to {len(looked.faces) - 1}"
            raise InvalidError(reason, [Fault("/query/face", reason)])
        encoding = looked.faces[searched].encoding
        if encoding is None:
            raise InvalidError(f"face {searched} of this picture cannot be compared")
        engine, pairs = await self._looker.strangers()
        if engine != looked.engine:
            raise OtherEngineError(f"looked at by {looked.engine!r}, where {engine!r} answers")
        found = await self._find(engine, pairs, encoding, limit)
        boxes = [PictureFace(index, one.box) for index, one in enumerate(looked.faces)]
        return SearchResult(tuple(boxes), searched, tuple(found[:limit]))

    async def of_face(self, image_id: int, face_index: int, *, limit: int) -> SearchResult:
        """Look for a stored face among the others.

        Raises :class:`NotFoundError`, :class:`ConflictError` when it has no encoding of the engine
        in use, and as the ports do.
        """
        key = FaceKey(image_id, face_index)
        engine, pairs = await self._looker.strangers()
        is_there, encoding = await self._rows.encoding(key, engine)
        if not is_there:
            raise NotFoundError(f"image {image_id} has no face {face_index}")
        if encoding is None:
            raise ConflictError(
                f"face {face_index} of image {image_id} cannot be looked for: it has no encoding"
                " of the engine in use. Stored faces get one in the background, as encoding in"
                " /status says; those whose picture is gone get none"
            )
        found = await self._find(engine, pairs, encoding, limit)
        others = [one for one in found if FaceKey(one.image_id, one.face_index) != key]
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

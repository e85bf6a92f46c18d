"""The use case: decide again on stored faces, by their encodings."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.common.faces import MAX_FACES
from services.common.person_names import InvalidNameError, check_name
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import RejectedError, WrongEngineError
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import Portrait
from services.face_recog.domain.matching import Constraints, Match, decide_all
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.snapshots import Snapshot


@dataclass(frozen=True)
class View:
    """The known people at one time, for one person's sake.

    ``pictures`` says of each known picture of that person in the store whether it is known; else it
    is skipped. ``portrait`` is None when none is known.
    """

    snapshot: Snapshot
    pictures: Mapping[str, bool]
    portrait: Portrait | None


class Decider:
    """Decides on faces in a view, one request at a time: requests for pictures go on beside it."""

    def __init__(self, gallery: Gallery, engine: Engine) -> None:
        self.engine = engine
        self.strangers = gallery.strangers
        self._gallery = gallery
        self._turn = asyncio.Semaphore(1)

    async def view(self, person: str) -> View:
        """Return the known people with this one as the store has them now.

        Raises :class:`RejectedError`, and as ``Gallery.look_for``.
        """
        try:
            if check_name(person) != person:
                raise RejectedError("spaces around a person's name, or another form than NFC")
        except InvalidNameError as error:
            raise RejectedError(str(error)) from None
        snapshot, pictures = await self._gallery.look_for(person)
        portraits = snapshot.portraits
        portrait = await asyncio.to_thread(portraits.portrait, person, snapshot.rule)
        return View(snapshot, pictures, portrait)

    async def sift(self, view: View, encodings: Sequence[Encoding]) -> Sequence[bool]:
        """Tell of each face whether it may be the view's person."""
        if view.portrait is None or not encodings:
            return [False] * len(encodings)
        portraits, rule = view.snapshot.portraits, view.snapshot.rule
        async with self._turn:
            return await asyncio.to_thread(portraits.may_be, view.portrait, encodings, rule)

    async def decide(
        self, view: View, pictures: Sequence[tuple[Sequence[Encoding], Constraints]]
    ) -> Sequence[Sequence[Match]]:
        """Say who the faces of each picture are."""
        async with self._turn:
            return await asyncio.to_thread(
                decide_all, view.snapshot.portraits, pictures, view.snapshot.rule
            )

    def read(self, engine: str, encodings: Sequence[bytes]) -> Sequence[Encoding]:
        """Return the encodings of a request.

        Raises :class:`WrongEngineError` and :class:`RejectedError`.
        """
        if engine != self.engine.name:
            raise WrongEngineError(
                f"the encodings are of engine {engine!r}, those here of {self.engine.name!r}"
            )
        if len(encodings) > MAX_FACES:
            raise RejectedError(f"{len(encodings)} faces: at most {MAX_FACES} in a request")
        size = 4 * self.engine.size
        if wrong := {len(numbers) for numbers in encodings} - {size}:
            raise RejectedError(f"an encoding has {min(wrong)} bytes instead of {size}")
        found = np.frombuffer(b"".join(encodings), "<f4").reshape(-1, self.engine.size)
        if not (np.isfinite(found).all() and found.any(axis=1).all()):
            raise RejectedError("an encoding with numbers that are not finite, or only with 0")
        return list(found.astype(np.float64))

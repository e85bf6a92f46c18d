"""Reading pictures from the store, and encoding the faces of the known ones."""

import asyncio
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog

from services.common.errors import (
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectTooLargeError,
    RecogniserFailedError,
)
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, folder_of
from services.common.person_names import InvalidNameError, check_name
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.face_recog.domain.errors import RejectedError, Rejection, describe
from services.face_recog.domain.parts import GalleryPicture, PictureFaces
from services.face_recog.ports import KeptStore, PictureRecogniser

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""A known picture that failed this often, by whatever fault, is skipped."""

_PARALLEL_READS: Final = 16


class PictureReader:
    """Reads ``known_people/<person>/<picture>`` from the store and encodes the only face of each.

    ``parallel`` pictures at a time are encoded, until :meth:`leave_workers`.
    """

    def __init__(self, store: KeptStore, recogniser: PictureRecogniser, *, parallel: int) -> None:
        self._store = store
        self._recogniser = recogniser
        self._reading = asyncio.Semaphore(_PARALLEL_READS)
        self._encoding = asyncio.Semaphore(parallel)
        self._found: dict[bytes, PictureFaces] = {}
        self._faults: Counter[tuple[str, str]] = Counter()

    def leave_workers(self) -> None:
        """Encode one picture at a time from now on, because requests need the workers too."""
        self._encoding = asyncio.Semaphore(1)

    def remember(self, pictures: Iterable[GalleryPicture]) -> None:
        """Remember what these show, by content, for those that move and may be gone by then."""
        self._found |= {picture.digest: picture.faces for picture in pictures if picture.faces}

    def forget(self) -> None:
        """Forget what was remembered, and what was encoded."""
        self._found.clear()

    def faults(self, info: ObjectInfo) -> int:
        """Return how often a picture failed, as it is listed now."""
        return self._faults[info.key, info.tag]

    async def read(
        self, batch: Sequence[ObjectInfo], known: Mapping[str, GalleryPicture]
    ) -> tuple[dict[str, GalleryPicture], list[Exception]]:
        """Return what was read, by key, and the faults that are not of one picture alone.

        One that is gone, or is to be tried again, is not in it. ``known`` are those that were read
        before.
        """
        results = await asyncio.gather(
            *(self._read(info) for info in batch), return_exceptions=True
        )
        pairs = list(zip(batch, results, strict=True))
        read = {info.key: result for info, result in pairs if isinstance(result, GalleryPicture)}
        failed = [(info, result) for info, result in pairs if isinstance(result, Exception)]
        # People are not taken for unknown because the store is away: then all are waited for.
        if not failed or not (read or await self._can_read(known)):
            return read, [error for _, error in failed]
        problems = []
        for info, error in failed:
            if skipped := self._count_fault(info, error):
                # Without its tag it is tried again at every look.
                read[info.key] = dataclasses.replace(skipped, tag="")
            else:
                problems.append(error)
        return read, problems

    async def _can_read(self, known: Mapping[str, GalleryPicture]) -> bool:
        """Tell whether a picture that was read before can be read now."""
        read = next((key for key, picture in known.items() if picture.digest), None)
        try:
            return read is not None and bool(await get_picture(self._store, read))
        except Exception:  # noqa: BLE001, whatever it is, it is no fault of the other pictures
            return False

    async def _read(self, info: ObjectInfo) -> GalleryPicture | None:
        """Encode one known picture; None when it is gone or to be tried again."""
        digest = b""
        try:
            async with self._reading:
                self._check_place(info.key)
                picture = await get_picture(self._store, info.key)
                digest = hashlib.sha256(picture).digest()
                faces = await self._encode(info.key, picture, digest)
        except ObjectNotFoundError:
            return None
        except RejectedError as error:
            log.warning("known picture skipped", key=info.key, reason=str(error))
            return GalleryPicture(info.tag, digest)
        except RecogniserFailedError as error:
            log.warning("known picture failed", key=info.key, reason=str(error))
            return self._count_fault(info, error)
        if faces.encoding is None:
            log.warning("known picture skipped", key=info.key, reason=not_one(faces))
        return GalleryPicture(info.tag, digest, faces)

    def _count_fault(self, info: ObjectInfo, error: Exception) -> GalleryPicture | None:
        """Return that a picture is skipped when this is one fault too many."""
        self._faults[info.key, info.tag] += 1
        if self.faults(info) == _TRIES:
            log.warning("known picture skipped", key=info.key, reason=describe(error))
        return GalleryPicture(info.tag) if self.faults(info) >= _TRIES else None

    def _check_place(self, key: str) -> None:
        place = key.removeprefix(KNOWN_PEOPLE)
        if place.count("/") != 1:
            raise RejectedError(f"its place is not {KNOWN_PEOPLE}PERSON/PICTURE")
        folder = folder_of(place)
        try:
            name = check_name(folder)
        except InvalidNameError as error:
            raise RejectedError(f"its folder: {error}") from None
        if name != folder:
            raise RejectedError("its folder has spaces around a person's name")

    async def _encode(self, key: str, picture: bytes, digest: bytes) -> PictureFaces:
        faces = self._found.get(digest)
        if faces is None:
            async with self._encoding:
                found = await self._recogniser.recognise(picture, urgent=True)
            only = found.faces[0].encoding if len(found.faces) == 1 else None
            if only is not None and (quality := found.faces[0].quality) and quality.flaw:
                log.warning("known picture is of low quality", key=key, flaw=quality.flaw)
            faces = PictureFaces(
                len(found.faces), None if only is None else only.astype(np.float32)
            )
            self._found[digest] = faces
        return faces


def not_one(faces: PictureFaces) -> str:
    """Return why a picture without exactly one face is skipped, for people."""
    shown = f"{faces.count} faces" if faces.count else "no face"
    return f"it shows {shown}; a known picture must show one"


async def get_picture(store: KeptStore, key: str) -> bytes:
    """Return a picture file.

    Raises :class:`RejectedError` for a key that the store does not take, or too large a file, and
    ``ObjectNotFoundError`` and ``ObjectStoreUnavailableError``.
    """
    try:
        return await store.get(key, max_bytes=MAX_PICTURE_BYTES)
    except ObjectRefusedError as error:
        raise RejectedError(str(error)) from error
    except ObjectTooLargeError as error:
        raise too_many_bytes() from error


def too_many_bytes() -> RejectedError:
    """Return the refusal of a picture file with more than ``MAX_PICTURE_BYTES``."""
    return RejectedError(
        f"picture has more than {MAX_PICTURE_BYTES // 1024 // 1024} MB", Rejection.TOO_LARGE
    )

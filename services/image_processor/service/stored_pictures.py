"""One stored picture's way: read it, if it is still the same, and have its faces encoded."""

from collections import Counter
from typing import Final

import structlog

from services.common.errors import (
    AwayError,
    ObjectNotFoundError,
    RecogniserBusyError,
    RecogniserError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
    RefusedError,
)
from services.common.images import MAX_PICTURE_BYTES, PICTURES, check_path
from services.image_processor.domain import Encoded, FacesToEncode, Postponed, Rejected, Skipped
from services.image_processor.ports import PictureSource, StoredFaceEncoder
from services.image_processor.service.breaker import Breaker

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""How often a picture alone is tried that cannot be read, or that a working recogniser fails on."""


class StoredPictures:
    """Pictures whose results lack an encoding, and how often each was tried."""

    def __init__(
        self, *, pictures: PictureSource, recogniser: StoredFaceEncoder, breaker: Breaker
    ) -> None:
        self._pictures = pictures
        self._recogniser = recogniser
        self._breaker = breaker
        self._tried = Counter[int]()

    async def encode(self, faces: FacesToEncode) -> Encoded | Skipped | Postponed:
        """Return what became of an image's faces; an encoding may be another engine's."""
        answer = await self._encode(faces)
        if not isinstance(answer, Postponed):
            self._tried.pop(faces.image_id, None)
        return answer

    async def _encode(  # noqa: PLR0911, one for each way to end
        self, faces: FacesToEncode
    ) -> Encoded | Skipped | Postponed:
        if faces.tag is None and not faces.uploaded:
            return Skipped("replaced", "an older version did not note which picture it was")
        try:
            key = PICTURES + check_path(faces.path)
            picture, tag = await self._pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
            if tag != faces.tag and not faces.uploaded:
                return Skipped("replaced", "another picture is at its path by now")
            answer = await self._recogniser.encode(picture, faces.image_id, faces.boxes)
        except RecogniserError as error:
            return await self._unanswered(faces.image_id, error)
        except ObjectNotFoundError:
            return Skipped("gone", f"there is no picture {faces.path}")
        except RefusedError as error:
            return Skipped("unreadable", str(error))
        except AwayError as error:
            return await self._unread(faces.image_id, error)
        except Exception as error:
            log.exception("unexpected error")
            return Skipped("failed", type(error).__name__)
        if isinstance(answer, Rejected):
            return Skipped("unreadable", answer.reason)
        if not any(answer.encodings):
            return Skipped("failed", "the engine made no encoding of any of its faces")
        return answer

    async def _unread(self, image_id: int, error: AwayError) -> Skipped | Postponed:
        try:
            await self._pictures.check()
        except AwayError:
            return Postponed()
        return self._again(image_id, "unreadable", error)

    async def _unanswered(self, image_id: int, error: RecogniserError) -> Skipped | Postponed:
        match error:
            case RecogniserBusyError():
                return Postponed()
            case RecogniserUnavailableError() | RecogniserTimeoutError():
                if not await self._breaker.answers():
                    return Postponed()
        return self._again(image_id, "failed", error)

    def _again(self, image_id: int, reason: str, error: AwayError) -> Skipped | Postponed:
        """Have it tried again, or after some times skipped."""
        self._tried[image_id] += 1
        if self._tried[image_id] < _TRIES:
            return Postponed()
        return Skipped(reason, str(error))

"""One picture's way: read it, have its faces found or encoded, and say what that means."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import (
    AwayError,
    ObjectNotFoundError,
    RecogniserBusyError,
    RecogniserError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
    RefusedError,
)
from services.common.object_keys import PICTURES, check_path
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.image_processor.domain import (
    Claim,
    Encoded,
    FacesToEncode,
    Failed,
    Outcome,
    Postponed,
    Processed,
    Rejected,
    Released,
    Skipped,
    Unanswered,
)
from services.image_processor.ports import FaceFinder, PictureSource, StoredFaceEncoder
from services.image_processor.service.breaker import Breaker

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""So often stored faces are tried whose picture cannot be read or fails a recogniser that works."""


class PictureRecognition:
    """Recognises pictures; ``store`` says when theirs is away."""

    def __init__(
        self,
        *,
        pictures: PictureSource,
        faces: FaceFinder,
        breaker: Breaker,
        store: AvailabilityLog,
    ) -> None:
        self._pictures = pictures
        self._faces = faces
        self._breaker = breaker
        self._store = store

    async def attempt(self, claim: Claim, on_long: Callable[[], None]) -> Outcome:
        """Return what the attempt ends in; ``on_long`` is called when the picture needs long."""
        try:
            picture, tag = await _read(self._pictures, claim.path)
            self._store.passed()
            if not picture:
                return Rejected("the picture is empty")
            result: Outcome = await self._faces.identify(picture, claim.image_id, on_long)
            if await self._pictures.tag(_key(claim.path)) != tag:
                # Whoever replaced it and submitted it again was told that it is being looked at.
                result = Unanswered("the picture was replaced while it was looked at")
            elif isinstance(result, Processed):
                result = replace(result, object_tag=tag)
        except ObjectNotFoundError:
            return Rejected(f"there is no picture {claim.path}")
        except RefusedError as error:
            return Rejected(str(error))
        except AwayError as error:
            outage = await _is_outage(error, self._pictures, self._breaker)
            return self._unanswered(error, outage=outage)
        except Exception as error:
            log.exception("unexpected error")
            return Failed(f"unexpected error: {type(error).__name__}; the log says more")
        self._breaker.success()
        return result

    def _unanswered(self, error: AwayError, *, outage: bool) -> Outcome:
        """Return what an error makes of the attempt: an outage uses up none."""
        match error:
            case RecogniserUnavailableError() | RecogniserTimeoutError():
                if outage or isinstance(error, RecogniserUnavailableError):
                    self._breaker.fault()  # who answers pings is busy with it, not away
                if not outage:
                    # It works, so it may be this picture that is too slow or took it down for a
                    # moment.
                    return Unanswered(str(error))
            case RecogniserBusyError():
                pass
            case RecogniserError():
                self._breaker.success()  # it answered, if only with an error
            case _ if outage:
                self._store.failed(error)
        return Released(str(error)) if outage else Failed(str(error))


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
            picture, tag = await _read(self._pictures, faces.path)
            if tag != faces.tag and not faces.uploaded:
                return Skipped("replaced", "another picture is at its path by now")
            answer = await self._recogniser.encode(
                picture, faces.image_id, list(faces.boxes.values())
            )
        except ObjectNotFoundError:
            return Skipped("gone", f"there is no picture {faces.path}")
        except RefusedError as error:
            return Skipped("unreadable", str(error))
        except AwayError as error:
            outage = await _is_outage(error, self._pictures, self._breaker)
            return self._later(faces.image_id, error, outage=outage)
        except Exception as error:
            log.exception("unexpected error")
            return Skipped("failed", type(error).__name__)
        if isinstance(answer, Rejected):
            return Skipped("unreadable", answer.reason)
        if not any(answer.encodings):
            return Skipped("failed", "the engine made no encoding of any of its faces")
        return answer

    def _later(self, image_id: int, error: AwayError, *, outage: bool) -> Skipped | Postponed:
        """Have it tried again, or after some times that were no outage skipped."""
        if not outage:
            self._tried[image_id] += 1
        if self._tried[image_id] < _TRIES:
            return Postponed()
        return Skipped("failed" if isinstance(error, RecogniserError) else "unreadable", str(error))


def _key(path: str) -> str:
    return PICTURES + check_path(path)


async def _read(pictures: PictureSource, path: str) -> tuple[bytes, str]:
    return await pictures.get_tagged(_key(path), max_bytes=MAX_PICTURE_BYTES)


async def _is_outage(error: AwayError, pictures: PictureSource, breaker: Breaker) -> bool:
    """Tell whether it would be so with every picture now, and not only with this one."""
    match error:
        case RecogniserBusyError():
            return True
        case RecogniserUnavailableError() | RecogniserTimeoutError():
            return not await breaker.answers()
        case RecogniserError():
            return False
    try:
        await pictures.check()
    except AwayError:
        return True
    return False

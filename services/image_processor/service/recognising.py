"""One picture's way: read it, have its faces found, and say what that means for the attempt."""

from collections.abc import Callable
from dataclasses import replace

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
from services.common.logs import Outage
from services.image_processor.domain import (
    Claim,
    Failed,
    Outcome,
    Processed,
    Rejected,
    Released,
    Unanswered,
)
from services.image_processor.ports import FaceFinder, PictureSource
from services.image_processor.service.breaker import Breaker

log = structlog.get_logger(__name__)


class PictureRecognition:
    """Recognises pictures; ``store`` says when theirs is away."""

    def __init__(
        self, *, pictures: PictureSource, faces: FaceFinder, breaker: Breaker, store: Outage
    ) -> None:
        self._pictures = pictures
        self._faces = faces
        self._breaker = breaker
        self._store = store

    async def attempt(  # noqa: PLR0911, one for each way to end
        self, claim: Claim, on_long: Callable[[], None]
    ) -> Outcome:
        """Return what the attempt ends in; ``on_long`` is called when the picture needs long."""
        try:
            key = PICTURES + check_path(claim.path)
            picture, tag = await self._pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
            self._store.passed()
            if not picture:
                return Rejected("the picture is empty")
            result: Outcome = await self._faces.identify(picture, claim.image_id, on_long)
            if await self._pictures.tag(key) != tag:
                # Whoever replaced it and submitted it again was told that it is being looked at.
                result = Unanswered("the picture was replaced while it was looked at")
            elif isinstance(result, Processed):
                result = replace(result, object_tag=tag)
        except RecogniserError as error:
            return await self._unanswered(error)
        except ObjectNotFoundError:
            return Rejected(f"there is no picture {claim.path}")
        except RefusedError as error:
            return Rejected(str(error))
        except AwayError as error:
            return await self._unread(error)
        except Exception as error:
            log.exception("unexpected error")
            return Failed(f"unexpected error: {type(error).__name__}; the log says more")
        self._breaker.success()
        return result

    async def _unread(self, error: AwayError) -> Outcome:
        try:
            await self._pictures.check()
        except AwayError:
            # An outage of the whole store uses up no attempt.
            self._store.failed(error)
            return Released(str(error))
        return Failed(str(error))

    async def _unanswered(self, error: RecogniserError) -> Outcome:
        match error:
            case RecogniserUnavailableError() | RecogniserTimeoutError():
                there = await self._breaker.answers()
                if not (there and isinstance(error, RecogniserTimeoutError)):
                    self._breaker.fault()  # who answers pings is busy with it, not away
                if not there:
                    # An outage of the recogniser uses up no attempt.
                    return Released(str(error))
                # It works, so it may be this picture that is too slow or took it down for a moment.
                return Unanswered(str(error))
            case RecogniserBusyError():
                return Released(str(error))
            case _:
                self._breaker.success()  # it answered, if only with an error
                return Failed(str(error))

"""Pictures from the store, in the size that is taken."""

from services.common.errors import ObjectRefusedError, ObjectTooLargeError
from services.common.images import MAX_PICTURE_BYTES
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.ports import KeptStore


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

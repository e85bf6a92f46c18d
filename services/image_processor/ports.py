"""What the use cases need."""

from collections.abc import Callable, Sequence
from typing import Protocol

from services.common.faces import Box
from services.image_processor.domain import (
    Claim,
    Encoded,
    EncodingProgress,
    FacesToEncode,
    Outcome,
    Processed,
    Rejected,
)


class Time(Protocol):
    """A monotonic clock in seconds, and a way to wait on it."""

    def monotonic(self) -> float:
        """Return the time since an arbitrary moment."""

    async def sleep(self, seconds: float, /) -> None:
        """Return when that many seconds have passed."""


class Ring(Protocol):
    """One ring of the doorbell; answer it once, with finish or requeue."""

    @property
    def image_id(self) -> int:
        """Which image to look at."""

    def touch(self) -> None:
        """Say that it is still being worked on."""

    def finish(self) -> None:
        """Say that it is done with."""

    def requeue(self, delay: float) -> None:
        """Ask for it again, after ``delay`` seconds at the earliest."""


class Queue(Protocol):
    """Where rings come from."""

    async def take(self) -> Ring | None:
        """Wait for the next ring; ``None`` after :meth:`stop`."""

    def pause(self) -> None:
        """Hand out nothing, and ask the other side for nothing, until :meth:`resume`."""

    def resume(self) -> None:
        """Go on."""

    def resize(self, in_flight: int) -> None:
        """Expect so many rings to be taken at once."""

    def stop(self) -> None:
        """Hand out nothing any more; rings that were taken can still be answered."""

    async def close(self) -> None:
        """Release connections; rings that were not answered are offered to somebody else."""


class ClaimRows(Protocol):
    """The images. Every call raises ``DatabaseUnavailableError`` when the database is away."""

    async def claim(self, image_id: int) -> Claim | None:
        """Claim the image; ``None`` when it is not to be had."""

    async def renew(self, claim: Claim) -> bool:
        """Prolong the lease; ``False`` when the claim is lost."""

    async def finish(self, claim: Claim, outcome: Outcome) -> str | None:
        """Store the outcome and return the name that metrics give it.

        ``None``, and nothing is changed, when the claim is lost.
        """


class PictureSource(Protocol):
    """The object store."""

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        """Return an object and its tag, or raise the errors of ``services.common.objects``."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag, which changes with it; None when there is none."""

    async def check(self) -> None:
        """Raise ``ObjectStoreUnavailableError`` when the store does not answer."""


class FaceFinder(Protocol):
    """face_recog, as far as it finds faces and names them."""

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        """Recognise a picture file, or raise a ``RecogniserError``; say when it needs long."""


class EncodingRows(Protocol):
    """The progress in the database; each call raises ``DatabaseUnavailableError`` when it is away.

    What changes it raises ``ClaimLostError`` unless it is claimed, but for ``keep_others``, which
    needs no claim.
    """

    async def read(self) -> EncodingProgress:
        """Return how far it is."""

    async def claim(self) -> bool:
        """Claim it, or prolong the lease; False when it is somebody else's."""

    async def release(self) -> None:
        """Leave it to others, if it is claimed."""

    async def begin(self, engine: str) -> None:
        """Begin anew with an engine; encodings of others go after a day."""

    async def keep_others(self) -> None:
        """Put off the removal of other engines' encodings: one of them has answered."""

    async def count(self, engine: str, after: int, until: int) -> int:
        """Count the images with ids in this range that have a face without an encoding.

        Those of faces that were struck out go: a version of before makes them.
        """

    async def begin_walk(self, images: int) -> None:
        """Note how many images there are to do, from the first on; 0: it is done."""

    async def next(self, engine: str, after: int, until: int, most: int) -> Sequence[int]:
        """Return the first such images in the range, in order."""

    async def faces(self, image_id: int, engine: str) -> FacesToEncode | None:
        """Return the faces without an encoding; None when the image has none any more."""

    async def store(self, faces: FacesToEncode, encoded: Encoded) -> int | None:
        """Store the encodings and go on behind the image; return how many were stored.

        None, and nothing is changed, when its result is another one by now.
        """

    async def skip(self, image_id: int) -> None:
        """Go on behind an image."""

    async def go_to(self, image_id: int) -> None:
        """Go on behind this id; up to there nothing is to be done."""

    async def end_walk(self) -> None:
        """Note that it is done, until it is looked at again; have what was encoded decided on."""

    async def decide_again(self) -> bool:
        """Have the next people looked for; False, and nothing is changed, while others are."""

    async def remove_others(self, engine: str, after: int, until: int) -> int:
        """Remove other engines' encodings of a range of images; return how many."""

    async def end_removal(self) -> None:
        """Note that they are all gone."""


class StoredFaceEncoder(Protocol):
    """face_recog, as far as it encodes faces that are stored."""

    async def encode(
        self, picture: bytes, image_id: int, boxes: Sequence[Box]
    ) -> Encoded | Rejected:
        """Encode the faces in these boxes, or raise a ``RecogniserError``."""

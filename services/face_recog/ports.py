"""What the use cases need of the outside."""

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from typing import Protocol

from services.common.faces import Box
from services.common.object_info import ObjectInfo
from services.face_recog.domain.faces import Recognition


class KeptStore(Protocol):
    """Pictures, markers of changes and what is kept, in the object store; raises its errors."""

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return an object's content."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix."""


class PeopleStore(KeptStore, Protocol):
    """The same, to follow the known people."""

    async def new_folders(self, prefix: str, known: Container[str]) -> dict[str, int]:
        """Return folders right below the prefix but the known, where that is quickly told."""


class PictureRecogniser(Protocol):
    """What finds and encodes faces."""

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,
        boxes: Sequence[Box] = (),
        urgent: bool = False,
        on_long: Callable[[], Awaitable[None]] | None = None,
    ) -> Recognition:
        """Find and encode the largest faces (0: all) of a picture file, or exactly those of boxes.

        An ``urgent`` request goes first and is never refused as one too many. ``on_long`` is
        called, once, when the picture needs longer than others. Raises ``RejectedError`` when the
        content is at fault, ``RecogniserFailedError`` when the worker is, and
        ``RecogniserBusyError``.
        """

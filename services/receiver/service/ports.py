"""What the use cases need from the outside."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from services.common.objects import ObjectInfo
from services.receiver.domain import (
    Accepted,
    Box,
    Image,
    KnownPicture,
    Page,
    Person,
    StatusReport,
    Submission,
)


class Rows(Protocol):
    """Images in the database; every call raises ``DatabaseUnavailableError`` when it is away."""

    async def add(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        """Insert the paths that are not there yet, in one transaction; return all by path.

        The paths are distinct. Nothing is stored when it raises.
        """

    async def get(self, image_id: int) -> Image | None:
        """Return an image with its faces."""

    async def path(self, image_id: int) -> str | None:
        """Return an image's path."""

    async def page(
        self, *, status: str | None, person: str | None, before: int | None, limit: int
    ) -> Page:
        """Return the newest images with an id below ``before``."""

    async def retry(self, image_id: int) -> bool:
        """Set a rejected or dead image back to pending; False when it is neither."""

    async def delete(self, image_id: int) -> None:
        """Remove an image and its faces."""

    async def status(self, person: str | None = None) -> StatusReport:
        """Count rows by status, of a person only those with a face of this person."""


class People(Protocol):
    """People and their known pictures in the database; raises as :class:`Rows` does."""

    async def all(self) -> tuple[Person, ...]:
        """Return everybody, by name."""

    async def get(self, name: str) -> Person | None:
        """Return one person."""

    async def find(self, content_digest: str) -> KnownPicture | None:
        """Return the known picture with this content, whose ever it is."""

    async def add(
        self, name: str, content_digest: str, extension: str, face: tuple[int, int] | None
    ) -> KnownPicture:
        """Make content a known picture of a person, who is created when missing.

        ``face``, an image's id and a face's index, gets the person's name in the same transaction.
        Content that is known already changes nothing: its picture is returned, which may be
        somebody else's.
        """

    async def delete_picture(self, picture_id: int) -> None:
        """Remove a known picture."""

    async def delete(self, name: str) -> None:
        """Remove a person and all known pictures."""


class Pictures(Protocol):
    """The object store; raises as :class:`services.common.objects.ObjectStore` does."""

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return an object's content."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""

    async def exists(self, key: str) -> bool:
        """Tell whether an object has this key."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``."""


class Recogniser(Protocol):
    """Finds faces in a picture."""

    async def count_faces(self, content: bytes, *, image_id: int | None) -> int:
        """Return how many faces the picture shows.

        Raises ``InvalidError`` when it cannot be read, ``RecogniserError`` when there is no answer.
        """


class Cropper(Protocol):
    """Cuts a face out of a picture."""

    async def crop(self, content: bytes, box: Box, margins: Sequence[float]) -> Sequence[bytes]:
        """Return JPEGs of the box of the upright picture and each margin of its size around it.

        Raises ``InvalidError`` when the picture cannot be read.
        """

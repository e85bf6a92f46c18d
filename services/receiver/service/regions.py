"""The faces that picture files say they show, beside those that were found."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.common.faces import Box
from services.receiver.domain.faces import Face, ImageRegion
from services.receiver.ports import RegionFiles
from services.receiver.service.images import Images


class Regions:
    """Reads the regions of pictures, and writes those of named faces; one picture at a time."""

    def __init__(self, images: Images, files: RegionFiles) -> None:
        self._images = images
        self._files = files
        self._turn = asyncio.Semaphore(1)

    async def of(
        self, image_id: int, sidecar: Callable[[], Awaitable[bytes]] | None = None
    ) -> list[ImageRegion]:
        """Return the faces in an image's file, or in what ``sidecar`` reads, each with its match.

        Raises a ``RefusedError``.
        """
        image = await self._images.get(image_id)
        async with self._turn:
            content = await self._images.picture_of_result(image)
            found = await self._files.read(content, await sidecar() if sidecar else None)
        return await asyncio.to_thread(match, found, image.faces)

    async def sidecar(self, image_id: int) -> bytes:
        """Return an XMP file with the named faces of an image, or raise a ``RefusedError``."""
        image = await self._images.get(image_id)
        named = [(face.person, face.box) for face in image.faces if face.person is not None]
        async with self._turn:
            content = await self._images.picture_of_result(image)
            return await self._files.write(content, named)


def match(regions: Sequence[ImageRegion], faces: Sequence[Face]) -> list[ImageRegion]:
    """Return the regions, each with the index of the face that it is about.

    The centre of each lies in the other. How large programs draw a face differs, with the hair or
    without, so that boxes of one face may share less than half of what they cover; where its middle
    is does not. Of several the pair comes first that shares most, and none is taken twice.
    """
    pairs = sorted(
        (
            (region.box.share(face.box), number, face.index)
            for number, region in enumerate(regions)
            if region.box
            for face in faces
            if _holds_centre(region.box, face.box) and _holds_centre(face.box, region.box)
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    face_of: dict[int, int] = {}
    for _, number, index in pairs:
        if number not in face_of and index not in face_of.values():
            face_of[number] = index
    return [replace(region, face=face_of.get(number)) for number, region in enumerate(regions)]


def _holds_centre(box: Box, other: Box) -> bool:
    across, down = (other.left + other.right) / 2, (other.top + other.bottom) / 2
    return box.left <= across <= box.right and box.top <= down <= box.bottom

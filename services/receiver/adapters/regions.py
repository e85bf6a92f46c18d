"""Reads and writes the regions of picture files."""

import asyncio
from collections.abc import Sequence

from services.common import regions
from services.common.faces import Box
from services.receiver.domain.errors import ConflictError, InvalidError
from services.receiver.domain.faces import ImageRegion


class XmpRegions:
    """The port ``RegionFiles``, in threads."""

    async def read(self, content: bytes, sidecar: bytes | None) -> list[ImageRegion]:
        """Return the faces that a picture file, or a sidecar of it, says it shows."""
        try:
            found = await asyncio.to_thread(regions.read_regions, content, sidecar)
        except regions.XmpError as error:
            # Of the picture, nothing is wrong with the request.
            kind = ConflictError if sidecar is None else InvalidError
            raise kind(f"the regions cannot be read: {error}") from None
        return [ImageRegion(region.name, region.box, None, region.problem) for region in found]

    async def write(self, content: bytes, faces: Sequence[tuple[str, Box]]) -> bytes:
        try:
            return await asyncio.to_thread(regions.write_sidecar, content, faces)
        except regions.XmpError as error:
            raise ConflictError(f"the picture cannot be read: {error}") from None

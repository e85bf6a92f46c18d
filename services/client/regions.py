"""The names that other programs wrote into pictures or beside them, and giving them to faces."""

import asyncio
from pathlib import Path
from typing import Any, Final

from services.client import files
from services.client.api import FacestackApi, Image
from services.client.errors import ItemRefusedError
from services.client.report import Report

_BY_HAND: Final = "hand"

Region = dict[str, Any]
"""A face of a picture's file as the server's ``ImageRegion`` says it."""


class RegionReader:
    """Reads the regions of pictures that are at the server; with ``name``, names their faces."""

    def __init__(self, api: FacestackApi, report: Report, *, name: bool, insist: bool) -> None:
        self._api = api
        self._report = report
        self._name = name
        self._insist = insist

    async def of(self, path: Path, image: Image) -> None:
        """Say what a file says of the faces of its image, or name them by it.

        What a person's hand has named otherwise stays so. Raises :class:`ItemRefusedError` when the
        regions cannot be read; what is wrong with one of them is reported.
        """
        regions = await self._read(path, image["id"])
        # Of the same result as the faces that the regions are about, or of a later one.
        image = await self._api.image("GET", f"/images/{image['id']}")
        if not regions:
            document = {"file": str(path), "image_id": image["id"]}
            self._report.result(f"{path}: no face is marked in it", document)
        for region in regions:
            about = {"file": str(path), "image_id": image["id"], **region}
            about["face_index"] = about.pop("face")
            if self._name:
                with self._report.trying(str(path), about):
                    await self._name_face(path, image, region, about)
            else:
                self._report.result(f"{path}: {_words(region, image['id'])}", about)

    async def _read(self, path: Path, image_id: int) -> list[Region]:
        """Return the regions of the sidecar beside a file, else its own."""
        address = f"/images/{image_id}/regions"
        for sidecar in await asyncio.to_thread(files.sidecars, path):
            try:
                form = {"file": ("sidecar.xmp", await asyncio.to_thread(files.read, sidecar))}
                answer = await self._api.get("POST", address, "regions", files=form)
            except ItemRefusedError as error:
                raise ItemRefusedError(f"{sidecar.name}: {error}") from None
            if answer["regions"]:
                return list(answer["regions"])
        return list((await self._api.get("GET", address, "regions"))["regions"])

    async def _name_face(
        self, path: Path, image: Image, region: Region, about: dict[str, Any]
    ) -> None:
        name, index = region["name"], region["face"]
        if name is None and region["problem"] is None:
            return
        if name is None or index is None:
            raise ItemRefusedError(_words(region, image["id"]))
        face = next((face for face in image["faces"] if face["index"] == index), None)
        if face is None:  # the regions are of a newer result
            raise ItemRefusedError(f"image {image['id']} has another result by now: try it again")
        done = f"face {index} of image {image['id']} is {name}"
        if face.get("decided_by") == _BY_HAND and face["person"] is not None:
            if face["person"] != name:
                raise ItemRefusedError(
                    f"face {index} of image {image['id']} stays {face['person']}, as somebody said"
                    f" by hand; the file says {name}"
                )
            self._report.result(f"{path}: {done} already", about)
            return
        body = {"image_id": image["id"], "face_index": index}
        try:
            await self._api.enrol(name, insist=self._insist, json=body)
        except ItemRefusedError as error:
            raise ItemRefusedError(f"face {index} is not named {name}: {error}") from None
        self._report.result(f"{path}: {done}", about)


def _words(region: Region, image_id: int) -> str:
    name = region["name"] or "somebody without a name"
    if region["problem"] is not None:
        problem = str(region["problem"])
        return f"{name}: {problem}" if region["name"] else problem
    if region["face"] is None:
        box = "{left},{top} to {right},{bottom}".format(**region["box"])
        return f"{name} is at {box}, where no face was found"
    return f"face {region['face']} of image {image_id} is {name}"

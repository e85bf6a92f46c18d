"""The routes of regions: the faces that picture files say they show, read and written."""

from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import Response

from services.common.bodies import MULTIPART_OVERHEAD
from services.common.picture_files.xmp import MAX_XMP
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import ImageId
from services.receiver.adapters.http.views import json_response
from services.receiver.domain.access import AccessScope
from services.receiver.service.regions import Regions

_XMP: Final = "application/rdf+xml"
"""What XMP is registered as."""

_MATCHED: Final = (
    " Of programs such as Lightroom and digiKam. Each has its box in pixels of the upright picture"
    " and the index of the face of the result that it is about: the centre of each box lies in the"
    " other."
)


def add_regions(app: FastAPI, regions: Regions, spools: Spools) -> None:
    """Add the routes."""

    @app.get(
        "/images/{image_id:id}/regions",
        summary="Read the faces that the picture file names",
        description="The regions in the XMP of the file." + _MATCHED,
        response_model=documents.RegionsDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.READ, audited=True)
    async def get_regions(image_id: ImageId) -> Response:
        return json_response({"regions": await regions.of(image_id)})

    @app.post(
        "/images/{image_id:id}/regions",
        summary="Read the faces that a sidecar names",
        description="The regions in an XMP file beside the picture, which is not kept." + _MATCHED,
        response_model=documents.RegionsDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.one_file(MAX_XMP)),
    )
    @needs(AccessScope.NAME)
    async def read_sidecar(image_id: ImageId, request: Request) -> Response:
        async with bodies.multipart(
            request, spools, max_files=1, max_bytes=MAX_XMP + MULTIPART_OVERHEAD
        ) as form:
            file = bodies.check_file(form.get("file"), "/file")
            found = await regions.of(image_id, file.read)
        return json_response({"regions": found})

    @app.get(
        "/images/{image_id:id}/sidecar",
        summary="Get the named faces as an XMP sidecar",
        description="A file to lie beside the picture, as digiKam and Immich read it: the faces"
        " with a name as regions of the Metadata Working Group.",
        response_class=Response,
        responses={
            200: {
                "description": "The sidecar.",
                "content": {_XMP: {"schema": {"type": "string"}}},
            },
            **openapi.errors(404, 409, 422),
        },
    )
    @needs(AccessScope.READ, audited=True)
    async def get_sidecar(image_id: ImageId) -> Response:
        return Response(await regions.sidecar(image_id), media_type=_XMP)

"""The route of search: a face, among all that are stored."""

from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from services.common.bodies import MULTIPART, MULTIPART_OVERHEAD
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import ON_A_PAGE
from services.receiver.adapters.http.views import json_response
from services.receiver.domain.access import AccessScope
from services.receiver.domain.faces import LAST_INDEX
from services.receiver.service.searching import Search


def add_search(app: FastAPI, search: Search, spools: Spools) -> None:
    """Add the route."""

    @app.post(
        "/search",
        summary="Look for a face",
        description="Upload a picture, which is not kept, or name a face of a submitted one. The"
        " stored faces that are nearest, nearest first, whoever they are. strangers says how sure"
        " that is: of a million pairs of two people, so many are as near.",
        response_model=documents.SearchDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(
            {
                **openapi.one_file(MAX_PICTURE_BYTES),
                **openapi.json_body(documents.FaceReferenceDocument),
            }
        ),
    )
    @needs(AccessScope.READ)
    async def find_faces(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200, description="Faces at most.")] = ON_A_PAGE,
        face: Annotated[
            int | None,
            Query(
                ge=0,
                le=LAST_INDEX,
                description="Which face of the uploaded picture; the largest if not given.",
            ),
        ] = None,
    ) -> Response:
        if bodies.media_type(request) == MULTIPART:
            async with bodies.multipart(
                request, spools, max_files=1, max_bytes=MAX_PICTURE_BYTES + MULTIPART_OVERHEAD
            ) as form:
                file = bodies.check_file(form.get("file"), "/file")
                result = await search.of_file(bodies.reader(file), face=face, limit=limit)
        else:
            key = await bodies.read_json(
                request,
                documents.FaceReferenceDocument,
                spools,
                max_bytes=bodies.MAX_SMALL_JSON,
            )
            result = await search.of_face(key.image_id, key.face_index, limit=limit)
        return json_response(result)

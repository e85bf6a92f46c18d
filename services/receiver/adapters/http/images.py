"""The routes of submitted images, their results and their picture files."""

from functools import partial
from typing import Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.common.image_states import Status
from services.receiver.adapters.http import documents, openapi
from services.receiver.adapters.http.files import FileResponses, unchanged
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import (
    ON_A_PAGE,
    Cursor,
    IfNoneMatch,
    ImageId,
    OfPerson,
)
from services.receiver.adapters.http.views import image_view, json_response, location, page_view
from services.receiver.domain.access import AccessScope
from services.receiver.domain.cursors import decode_cursor
from services.receiver.ports import ImageRows
from services.receiver.service.images import Images
from services.receiver.service.people import Enrolment


def add_images(
    app: FastAPI, images: Images, rows: ImageRows, enrolment: Enrolment, files: FileResponses
) -> None:
    """Add the routes."""

    @app.get(
        "/images",
        summary="List images",
        description="Newest first.",
        response_model=documents.ImagePageDocument,
        responses=openapi.linked(
            200, "A page.", openapi.image_links("/images/0/id"), openapi.errors(404, 409, 422)
        ),
    )
    @needs(AccessScope.READ)
    async def list_images(
        status: Annotated[Status | None, Query(description="Only with this status.")] = None,
        person: OfPerson = None,
        cursor: Annotated[
            Cursor | None, Query(description="next_cursor of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Images on a page.")] = ON_A_PAGE,
    ) -> Response:
        before = decode_cursor(cursor) if cursor is not None else None
        whose = None if person is None else await enrolment.who(person)
        page = await rows.page(status=status, person=whose, before=before, limit=limit)
        return json_response(page_view(page))

    @app.get(
        "/images/{image_id:id}",
        summary="Get an image and its faces",
        response_model=documents.ImageDocument,
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.READ)
    async def get_image(image_id: ImageId) -> Response:
        return json_response(image_view(await images.get(image_id)))

    @app.get(
        "/images/{image_id:id}/picture",
        summary="Get the picture file",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422)),
    )
    @needs(AccessScope.READ)
    async def get_picture(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        same = await unchanged(if_none_match, partial(images.picture_tag, image_id))
        return same or files.response(partial(images.picture, image_id))

    @app.post(
        "/images/{image_id:id}/retry",
        status_code=202,
        summary="Try a rejected or dead image again",
        response_model=documents.ImageDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.SUBMIT)
    async def retry(image_id: ImageId) -> Response:
        return json_response(image_view(await images.retry(image_id)), 202)

    @app.post(
        "/images/{image_id:id}/recognise",
        status_code=202,
        summary="Look at an image again with the people known now",
        description="Its result is given up for a new one. Refused while it is on its way anyway,"
        " and when somebody has said by hand who one of its faces is, or is not, which a new result"
        " would forget.",
        response_model=documents.ImageDocument,
        responses=openapi.located(openapi.errors(404, 409, 422)),
    )
    @needs(AccessScope.SUBMIT)
    async def recognise(image_id: ImageId) -> Response:
        image = await images.recognise(image_id)
        return json_response(image_view(image), 202, location(image_id))

    @app.delete(
        "/images/{image_id:id}",
        status_code=204,
        summary="Delete an image, its faces and its picture",
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.NAME)
    async def delete_image(image_id: ImageId) -> Response:
        await images.delete(image_id)
        return Response(status_code=204)

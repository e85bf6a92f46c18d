"""The routes of small versions of pictures."""

from functools import partial
from typing import Final

from fastapi import FastAPI
from starlette.responses import Response

from services.common.thumbnails import (
    FACE_SIDE,
    PREVIEW_SIDE,
    THUMBNAIL_SIDE,
    Thumbnail,
    face_thumbnails,
    image_thumbnails,
    known_thumbnail,
)
from services.receiver.adapters.http import openapi
from services.receiver.adapters.http.files import FileResponses, unchanged
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import (
    FaceIndex,
    IfNoneMatch,
    ImageId,
    Name,
    PictureId,
)
from services.receiver.domain.access import AccessScope
from services.receiver.service.images import Images
from services.receiver.service.people import Enrolment
from services.receiver.service.thumbnails import Find, Thumbnails

_LOADED_AT_ONCE: Final = 64
"""A thumbnail has 60 KB, a preview 300."""

THUMBNAIL_BYTES: Final = 32 * 1024 * 1024
"""Of thumbnails that are being sent."""


def add_thumbnails(
    app: FastAPI, thumbnails: Thumbnails, images: Images, enrolment: Enrolment
) -> None:
    """Add the routes."""
    files = FileResponses(loaded_at_once=_LOADED_AT_ONCE, sending_bytes=THUMBNAIL_BYTES)

    async def answer(if_none_match: str | None, thumbnail: Thumbnail, find: Find) -> Response:
        if same := await unchanged(if_none_match, partial(thumbnails.tag, thumbnail, find)):
            return same
        await thumbnails.prepare(thumbnail, find)
        return files.response(partial(thumbnails.get, thumbnail, find))

    @app.get(
        "/images/{image_id:id}/thumbnail",
        summary=f"Get the picture as a JPEG of at most {THUMBNAIL_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    @needs(AccessScope.READ)
    async def get_thumbnail(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        small, _ = image_thumbnails(image_id)
        return await answer(if_none_match, small, partial(images.picture_key, image_id))

    @app.get(
        "/images/{image_id:id}/preview",
        summary=f"Get the picture as a JPEG of at most {PREVIEW_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    @needs(AccessScope.READ)
    async def get_preview(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        _, large = image_thumbnails(image_id)
        return await answer(if_none_match, large, partial(images.picture_key, image_id))

    @app.get(
        "/images/{image_id:id}/faces/{face_index:id}/thumbnail",
        summary=f"Get a face as a square JPEG of at most {FACE_SIDE} pixels a side",
        description="Its box with a quarter of its size around it, upright, without metadata.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    @needs(AccessScope.READ)
    async def get_face_thumbnail(
        image_id: ImageId, face_index: FaceIndex, if_none_match: IfNoneMatch = None
    ) -> Response:
        box = await images.face_box(image_id, face_index)
        (thumbnail,) = face_thumbnails(image_id, [box])
        find = partial(images.face_picture_key, image_id, face_index, box)
        return await answer(if_none_match, thumbnail, find)

    @app.get(
        "/people/{name}/pictures/{picture_id:id}/thumbnail",
        summary=f"Get a known picture as a JPEG of at most {THUMBNAIL_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    @needs(AccessScope.READ)
    async def get_known_thumbnail(
        name: Name, picture_id: PictureId, if_none_match: IfNoneMatch = None
    ) -> Response:
        find = partial(enrolment.picture_key, name, picture_id)
        return await answer(if_none_match, known_thumbnail(picture_id), find)

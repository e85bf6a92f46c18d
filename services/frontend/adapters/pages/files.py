"""What pages refer to: small pictures, which the receiver makes, and static files."""

from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.frontend.adapters.pages.answers import Answers
from services.frontend.adapters.pages.forms import Filter
from services.frontend.adapters.pages.rendering import StaticFile
from services.frontend.adapters.receiver.api import PicturesApi
from services.frontend.domain.errors import ReceiverAwayError, RequestRefusedError

_FOREVER: Final = "private, max-age=31536000, immutable"


class FilePages:
    """Routes of small pictures and static files."""

    def __init__(
        self, pictures: PicturesApi, answers: Answers, files: dict[str, StaticFile]
    ) -> None:
        self._pictures = pictures
        self._answers = answers
        self._files = files

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get = router.get
        get("/images/{picture_id}/thumbnail")(self.thumbnail)
        get("/images/{picture_id}/preview")(self.preview)
        get("/images/{picture_id}/faces/{index}/thumbnail")(self.face_thumbnail)
        get("/people/{who}/pictures/{picture_id}/thumbnail")(self.known_thumbnail)
        get("/static/{name}")(self.static)
        return router

    async def thumbnail(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for a card."""
        return await self._small(request, v, "GET /images/{id}/thumbnail", picture_id)

    async def preview(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for its own page."""
        return await self._small(request, v, "GET /images/{id}/preview", picture_id)

    async def face_thumbnail(self, request: Request, picture_id: int, index: int) -> Response:
        """Return a face of a picture for a list."""
        return await self._small(
            request, None, "GET /images/{id}/faces/{index}/thumbnail", picture_id, index
        )

    async def known_thumbnail(
        self, request: Request, who: str, picture_id: int, v: Filter = None
    ) -> Response:
        """Return a known picture for a card."""
        return await self._small(
            request, v, "GET /people/{name}/pictures/{id}/thumbnail", who, picture_id
        )

    async def static(self, name: str, v: Filter = None) -> Response:
        """Return the style sheet, a script or a drawing."""
        file = self._files.get(name)
        if file is None:
            return self._answers.message(HTTPStatus.NOT_FOUND, "There is no such file.")
        return _file(file, _FOREVER if v == file.version else "no-cache")

    async def _small(
        self, request: Request, version: str | None, operation: str, *parts: str | int
    ) -> Response:
        """Return a small picture.

        With a version in its own address it may be kept, for another picture has another one.
        """
        try:
            content, tag = await self._pictures.small(
                operation, *parts, if_none_match=request.headers.get("if-none-match")
            )
        except ReceiverAwayError as error:
            return Response(status_code=error.status)
        except RequestRefusedError:  # it is no picture, or lost, or an older receiver makes none
            return _file(self._files["placeholder.svg"], "private, max-age=60")
        headers = {"Cache-Control": _FOREVER if version else "no-cache", "ETag": tag}
        if content is None:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _file(file: StaticFile, cache_control: str) -> Response:
    return Response(
        file.content, media_type=file.media_type, headers={"Cache-Control": cache_control}
    )

"""The page of search: who looks like a face of a picture, or like a stored one."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.common import bodies
from services.common.images import MAX_PICTURE_BYTES
from services.frontend.adapters.answers import Answers, explain, or_error
from services.frontend.adapters.receiver import Receiver
from services.frontend.domain import ReceiverAwayError, RefusedError
from services.frontend.search import SearchResult


class SearchPages:
    """Routes of search."""

    def __init__(self, receiver: Receiver, answers: Answers, spools: bodies.Spools) -> None:
        self._receiver = receiver
        self._answers = answers
        self._spools = spools

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.get("/search")(self.search_page)
        router.post("/search")(self.search_by_picture)
        return router

    async def search_page(self, image: int | None = None, face: int = 0) -> Response:
        """Ask for a picture; of a face of a submitted one, show what is near."""
        if image is None:
            return self._page(None)
        result = await or_error(self._receiver.search_face(image, face))
        return self._page(result, of=(image, face))

    async def search_by_picture(self, request: Request) -> Response:
        """Show what is near to a face of the picture in the form, which is not kept."""
        try:
            async with bodies.multipart(
                request,
                self._spools,
                max_files=1,
                max_bytes=MAX_PICTURE_BYTES + bodies.MULTIPART_OVERHEAD,
            ) as form:
                return self._page(await or_error(self._search(form)))
        except HTTPException as error:
            if error.status_code != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise
            message = f"The picture is larger than {MAX_PICTURE_BYTES // 2**20} MB."
            return self._page(RefusedError(error.status_code, message))

    async def _search(self, form: FormData) -> SearchResult:
        file, face = form.get("file"), str(form.get("face", ""))
        if not isinstance(file, bodies.Part) or not file.size:
            raise RefusedError(422, "Choose a picture.")
        if not face.isascii() or not (face.isdecimal() or not face):
            raise RefusedError(422, "There is no such face.")
        return await self._receiver.search_picture(
            file.pieces(), file.size, face=int(face[:9]) if face else None
        )

    def _page(
        self,
        result: SearchResult | RefusedError | ReceiverAwayError | None,
        of: tuple[int, int] | None = None,
    ) -> Response:
        message, status = "", int(HTTPStatus.OK)
        if isinstance(result, RefusedError | ReceiverAwayError):
            message, status = explain(result)
            result = None
        return self._answers.page(
            "search.html",
            {"available": True},
            status,
            result=result,
            message=message,
            of=of,
        )

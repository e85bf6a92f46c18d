"""The page of search: who looks like a face of a picture, or like a stored one."""

from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import FormData
from starlette.responses import Response

from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import picture_form, picture_of, text_of
from services.frontend.adapters.receiver.connection import or_error
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.search import SearchResult


class SearchPages(Pages):
    """Routes of search."""

    def _add_routes(self) -> None:
        self.router.get("/search")(self.search_page)
        self.router.post("/search")(self.search_by_picture)  # a form with files

    async def search_page(self, image: int | None = None, face: int = 0) -> Response:
        """Ask for a picture; of a face of a submitted one, show what is near."""
        if image is None:
            return await self._page(None)
        return await self._page(
            await or_error(self._receiver.search_face(image, face)), (image, face)
        )

    async def search_by_picture(self, request: Request) -> Response:
        """Show what is near to a face of the picture in the form, which is not kept."""
        return await self._page(await or_error(self._search(request)))

    async def _search(self, request: Request) -> SearchResult:
        async with picture_form(request, self._spools) as form:
            return await self._receiver.search_picture(*picture_of(form), face=_face_of(form))

    async def _page(
        self, result: SearchResult | NotDoneError | None, of: tuple[int, int] | None = None
    ) -> Response:
        error = result if isinstance(result, NotDoneError) else None
        view = {
            "available": True,
            "result": None if error else result,
            "message": error.message if error else "",
            "of": of,
        }
        return await self._answers.page(
            "search.html", view, status=error.status if error else HTTPStatus.OK
        )


def _face_of(form: FormData) -> int | None:
    """Return which face of the picture is looked for; None for the largest."""
    face = text_of(form, "face")
    if not face:
        return None
    if not (face.isascii() and face.isdecimal()):
        raise RequestRefusedError("There is no such face.")
    return int(face[:9])

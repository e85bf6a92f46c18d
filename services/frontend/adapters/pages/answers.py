"""How every page answers: whole, as the fragment that keeps it live, or with what is wrong."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.frontend.adapters.browser import is_small_picture
from services.frontend.adapters.pages.naming import Refusal
from services.frontend.adapters.pages.rendering import Renderer, query
from services.frontend.adapters.receiver.connection import explain_problem
from services.frontend.adapters.receiver.visitor import visitor
from services.frontend.domain.errors import LOGGED_OUT, NotDoneError
from services.frontend.domain.people import Person
from services.frontend.domain.words import fingerprint


class Answers:
    """Makes answers out of views and errors."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    async def page(
        self,
        template: str,
        view: dict[str, Any],
        refusal: Refusal | None = None,
        status: int = HTTPStatus.OK,
    ) -> Response:
        """Return a page, which says why a form on it was refused.

        503 when what it shows is not available.
        """
        await visitor().know()
        if not view["available"]:
            status = HTTPStatus.SERVICE_UNAVAILABLE
        elif refusal:
            status = refusal.status
        html = self._renderer.render(template, **{"busy": False, **view, "refusal": refusal})
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})

    async def fragment(self, request: Request, template: str, view: dict[str, Any]) -> Response:
        """Return what changes on a page, unless the browser has it."""
        if view.get("missing"):
            return Response(status_code=HTTPStatus.NOT_FOUND)
        await visitor().know()
        html = self._renderer.render(
            "fragment.html", content=template, **{"busy": False, "refusal": None, **view}
        )
        tag = f'"{fingerprint(html)}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if not view["available"]:
            # Not 503: the fragment is the answer, and browsers report each failed poll.
            headers["Facestack-Available"] = "no"
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return HTMLResponse(html, headers=headers)

    def refused(self, request: Request, refusal: Refusal) -> Response:
        """Say why a form was refused, and what one may do about it; none of it without script."""
        if not wants_json(request):
            return self.message(refusal.status, refusal.message, refusal.people)
        answer: dict[str, Any] = {"message": refusal.message}
        if refusal.insist:
            answer |= {"can_insist": True, "insist": refusal.insist}
        if refusal.people or refusal.another:
            answer["choices"] = self._renderer.render("choices.html", refusal=refusal)
        return JSONResponse(answer, refusal.status)

    async def failure(self, request: Request, error: NotDoneError) -> Response:
        """Say why something was not done."""
        return self.refused(request, Refusal(error.message, error.status))

    def not_served(self, request: Request, error: HTTPException) -> Response:
        """Say why a request was refused before its action was tried."""
        message = explain_problem(error.detail, error.headers)
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            return self.logged_out(request)
        response = self.refused(request, Refusal(message, error.status_code))
        response.headers.update(error.headers or {})
        return response

    def logged_out(self, request: Request) -> Response:
        """Lead a page to the log-in, and back to it afterwards; say anything else why not."""
        path = request.url.path
        is_page = not path.startswith("/fragments/") and not is_small_picture(path)
        if request.method in ("GET", "HEAD") and is_page and not wants_json(request):
            then = f"{path}?{request.url.query}" if request.url.query else path
            return RedirectResponse(query("/log-in", then=then), HTTPStatus.SEE_OTHER)
        return self.refused(request, Refusal(LOGGED_OUT, HTTPStatus.UNAUTHORIZED))

    def not_found(self) -> Response:
        """Return the page for an address that does not exist."""
        return self.message(HTTPStatus.NOT_FOUND, "There is no such page.")

    def message(
        self,
        status: int,
        message: str,
        people: tuple[Person, ...] = (),
        title: str = "That did not work",
    ) -> Response:
        """Return a page with nothing but a message, and people to go to."""
        if status == HTTPStatus.NOT_FOUND:
            title = "Not found"
        html = self._renderer.render("message.html", title=title, message=message, people=people)
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


def wants_json(request: Request) -> bool:
    """Tell whether a script asks."""
    return "application/json" in request.headers.get("accept", "")


def done(request: Request, then: str, said: str = "") -> Response:
    """Answer an action that was done; ``said`` is what has come of it, for people."""
    if wants_json(request):
        return JSONResponse({"then": then, "said": said} if said else {"then": then})
    return RedirectResponse(then, HTTPStatus.SEE_OTHER)

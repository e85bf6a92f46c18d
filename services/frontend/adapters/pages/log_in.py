"""The pages that begin and end a session."""

import re
from http import HTTPStatus
from typing import Final

import structlog
from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from services.frontend.adapters import oidc
from services.frontend.adapters.browser import (
    BEFORE_LOG_IN,
    SESSION,
    cookie_of,
    csrf_token,
    drop_cookie,
    new_secret,
    set_cookie,
)
from services.frontend.adapters.oidc import OpenIdConnect
from services.frontend.adapters.pages.answers import Answers
from services.frontend.adapters.pages.forms import form_of, text_of
from services.frontend.adapters.pages.naming import Refusal
from services.frontend.adapters.receiver.api import AccessApi
from services.frontend.adapters.receiver.connection import or_none
from services.frontend.adapters.receiver.visitor import visitor
from services.frontend.domain.access import OpenedSession
from services.frontend.domain.errors import (
    LoggedOutError,
    LogInRefusedError,
    NotDoneError,
    ProviderAwayError,
    ReceiverAwayError,
)

_log = structlog.get_logger()

# Browsers read a backslash as a slash, and drop tabs and line ends, so that these would lead to
# another host as two slashes do.
_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")

_MAX_THEN: Final = 1000
"""Characters that fit into a cookie, encrypted, beside the rest."""

_PROVIDER_AWAY: Final = "The provider does not answer as it should. Try again in a moment."
_NOT_IDENTIFIED: Final = (
    "The provider has not said who you are, or this was begun in another browser or too long ago."
    " Try again."
)


class LogInPages:
    """Routes of logging in and out; with a ``provider``, also through that."""

    def __init__(self, access: AccessApi, answers: Answers, provider: OpenIdConnect | None) -> None:
        self._access = access
        self._answers = answers
        self._provider = provider

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.get("/log-in")(self.log_in_page)
        router.post("/log-in", dependencies=[Depends(form_of)])(self.log_in)
        router.post("/log-out", dependencies=[Depends(form_of)])(self.log_out)
        router.get("/log-in/oidc")(self.depart)
        router.get(oidc.CALLBACK)(self.come_back)
        return router

    async def log_in_page(self, request: Request, then: str = "/") -> Response:
        """Ask who it is."""
        return await self._page(request, then)

    async def log_in(self, request: Request) -> Response:
        """Log somebody in by name and password."""
        form = await form_of(request)
        name, then = text_of(form, "name"), text_of(form, "then")
        try:
            opened = await self._access.log_in(name, str(form.get("password", "")))
        except NotDoneError as error:
            return await self._page(request, then, _refusal(error, name))
        return await self._opened(request, opened, then)

    async def log_out(self, request: Request) -> Response:
        """End the session, and have the browser forget what it has kept of the pages."""
        await self._end(cookie_of(request, SESSION))
        response = RedirectResponse("/log-in", HTTPStatus.SEE_OTHER)
        response.headers["Clear-Site-Data"] = '"cache"'
        drop_cookie(response, SESSION)
        return response

    async def depart(self, request: Request, then: str = "/") -> Response:
        """Send the browser to the provider."""
        if self._provider is None:
            return self._answers.not_found()
        try:
            url, cookie = await self._provider.depart(_local(then))
        except ProviderAwayError as error:
            return await self._failed(request, then, error)
        response = RedirectResponse(url, HTTPStatus.SEE_OTHER)
        set_cookie(response, oidc.COOKIE, cookie, oidc.SECONDS)
        return response

    async def come_back(self, request: Request, state: str = "", code: str = "") -> Response:
        """Log in whom the provider sends back."""
        if self._provider is None:
            return self._answers.not_found()
        then = "/"
        try:
            departure = self._provider.returned(cookie_of(request, oidc.COOKIE), state)
            then = departure.then
            who = await self._provider.identify(departure, code)
            opened = await self._access.log_in_as(who.issuer, who.subject, who.name, who.groups)
        except (ProviderAwayError, LogInRefusedError) as error:
            response = await self._failed(request, then, error)
        except NotDoneError as error:
            response = await self._page(request, then, _refusal(error))
        else:
            response = await self._opened(request, opened, then)
        drop_cookie(response, oidc.COOKIE)
        return response

    async def _failed(
        self, request: Request, then: str, error: ProviderAwayError | LogInRefusedError
    ) -> Response:
        is_away = isinstance(error, ProviderAwayError)
        _log.warning("log-in with the provider failed", error=str(error))
        refusal = (
            Refusal(_PROVIDER_AWAY, HTTPStatus.SERVICE_UNAVAILABLE)
            if is_away
            else Refusal(_NOT_IDENTIFIED, HTTPStatus.UNAUTHORIZED)
        )
        return await self._page(request, then, refusal)

    async def _page(self, request: Request, then: str, refusal: Refusal | None = None) -> Response:
        secret = cookie_of(request, BEFORE_LOG_IN) or new_secret()
        visitor().csrf = csrf_token(secret)
        view = {
            "available": True,
            "then": _local(then),
            "provider": self._provider.name if self._provider else None,
        }
        response = await self._answers.page("log_in.html", view, refusal)
        set_cookie(response, BEFORE_LOG_IN, secret)
        return response

    async def _opened(self, request: Request, opened: OpenedSession, then: str) -> Response:
        """Hand a session over: a new one, whatever the browser came with, which ends."""
        await self._end(cookie_of(request, SESSION))
        response = RedirectResponse(_local(then), HTTPStatus.SEE_OTHER)
        set_cookie(response, SESSION, opened.token)
        drop_cookie(response, BEFORE_LOG_IN)
        return response

    async def _end(self, session: str | None) -> None:
        if session:
            visitor().session = session
            try:
                await or_none(self._access.log_out())
            except LoggedOutError:
                return  # it is over already


def _refusal(error: NotDoneError, name: str = "") -> Refusal:
    has_to_wait = isinstance(error, ReceiverAwayError) and error.wait_seconds
    status = HTTPStatus.TOO_MANY_REQUESTS if has_to_wait else error.status
    return Refusal(error.message, status, name=name)


def _local(then: str) -> str:
    """Return a path of these pages; the first page for what would lead elsewhere."""
    return then if len(then) <= _MAX_THEN and _LOCAL_PATH.fullmatch(then) else "/"

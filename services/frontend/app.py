"""Wires the frontend together and runs it."""

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

from services.common import logs
from services.common.door import Door
from services.common.head import HeadApp
from services.common.health import at_start
from services.common.http_server import serve_http, serve_probes
from services.common.lifecycle import Lifecycle
from services.common.probes import probe_routes
from services.common.settings import load, read_passwords, read_secret
from services.common.sockets import listen
from services.common.spools import Spools
from services.frontend.adapters import rooms
from services.frontend.adapters.browser import BrowserGuard
from services.frontend.adapters.oidc import OpenIdConnect
from services.frontend.adapters.pages.access import AccessPages
from services.frontend.adapters.pages.answers import Answers
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.files import FilePages
from services.frontend.adapters.pages.groups import GroupPages
from services.frontend.adapters.pages.log_in import LogInPages
from services.frontend.adapters.pages.people import PeoplePages
from services.frontend.adapters.pages.pictures import PicturesPages
from services.frontend.adapters.pages.rendering import Renderer, static_files
from services.frontend.adapters.pages.search import SearchPages
from services.frontend.adapters.receiver.api import ReceiverApi
from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.adapters.security import GuardedApp
from services.frontend.domain.errors import LoggedOutError, NotDoneError
from services.frontend.domain.people import SUGGESTED
from services.frontend.service import Names
from services.frontend.settings import FrontendSettings

_ATTEMPTS: Final = 3
_CONNECTIONS: Final = 8
"""Each leads to any of the receiver's replicas, so few of these are missed."""


def connect(url: str) -> httpx.AsyncClient:
    """Return a client of the receiver there.

    A connection that was not made has carried nothing, so another is tried: it may lead to another
    replica, where the first one's is gone or the network does not know it yet.
    """
    transport = httpx.AsyncHTTPTransport(retries=_ATTEMPTS - 1)
    return httpx.AsyncClient(base_url=url, transport=transport, trust_env=False)


async def make_contact(url: str) -> None:
    """Raise unless the receiver answers on each of several new connections."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        await asyncio.gather(*(client.get("/livez") for _ in range(_CONNECTIONS)))


def create_app(
    client: httpx.AsyncClient, lifecycle: Lifecycle, settings: FrontendSettings
) -> ASGIApp:
    """Return the application on an HTTP client whose base URL is the receiver's."""
    key_file = settings.receiver_key_file
    receiver = ReceiverApi(
        ReceiverConnection(
            client,
            seconds=settings.receiver_timeout_seconds,
            upload_seconds=settings.upload_timeout_seconds,
            keys=None if key_file is None else partial(read_passwords, key_file),
        )
    )
    files = static_files()
    answers = Answers(Renderer(files))
    names = Names(partial(receiver.people.page, limit=SUGGESTED))
    spools = Spools(settings.max_spool_bytes)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for kind in (PicturesPages, PeoplePages, GroupPages, SearchPages):
        pages: Pages = kind(receiver, answers, names, spools, settings.max_upload_bytes)
        app.include_router(pages.router)
    app.include_router(FilePages(receiver.pictures, answers, files).router())
    if key_file:
        provider = _provider(settings, partial(read_secret, key_file))
        app.include_router(LogInPages(receiver.access, answers, provider).router())
        app.include_router(AccessPages(receiver.access, answers).router())
    app.router.routes.extend(probe_routes(lifecycle, for_everybody=True))

    # An id that is no number is an address that does not exist.
    @app.exception_handler(RequestValidationError)
    async def no_such_page(_: Request, __: RequestValidationError) -> Response:
        return answers.not_found()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return answers.not_found()
        return answers.not_served(request, error)

    app.exception_handler(NotDoneError)(answers.failure)

    @app.exception_handler(LoggedOutError)
    async def logged_out(request: Request, _: LoggedOutError) -> Response:
        return answers.logged_out(request)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    guard = BrowserGuard(
        receiver.access.account, logs_in=key_file is not None, trusted=settings.trusted
    )
    return GuardedApp(
        Door(
            HeadApp(app),
            room=rooms.by_kind(),
            admit=guard.admit,
            refuse=lambda scope, error: answers.not_served(Request(scope), error),
            settings=settings,
            lifecycle=lifecycle,
        )
    )


def _secret(file: Path | None) -> Callable[[], str] | None:
    return None if file is None else partial(read_secret, file)


def _provider(settings: FrontendSettings, key: Callable[[], str]) -> OpenIdConnect | None:
    if not (settings.oidc_issuer and settings.oidc_client_id and settings.public_url):
        return None
    return OpenIdConnect(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=_secret(settings.oidc_client_secret_file),
        groups_claim=settings.oidc_groups_claim,
        public_url=settings.public_url,
        key=key,
    )


async def run(settings: FrontendSettings) -> None:
    """Serve until told to stop."""
    listener = listen(settings.host, settings.port)
    probes = listen(settings.host, settings.probe_port)
    # Without a receiver its pages say that it is away.
    lifecycle = Lifecycle(
        {"receiver": at_start(partial(make_contact, settings.receiver_url))},
        drain_seconds=settings.drain_seconds,
    )
    lifecycle.install_signal_handlers()
    async with connect(settings.receiver_url) as client:
        await asyncio.gather(
            serve_http(create_app(client, lifecycle, settings), listener, lifecycle, settings),
            serve_probes(probes, lifecycle),
        )


def main() -> None:
    """Run the process."""
    settings = load(FrontendSettings)
    logs.configure("frontend", settings.log_level)
    uvloop.run(run(settings))

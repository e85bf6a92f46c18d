"""The HTTP interface as a whole: what its routes are added to, and what leads to them."""

from collections.abc import Collection

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common.door import Door
from services.common.head import HeadApp
from services.common.lifecycle import Lifecycle
from services.common.settings import HttpSettings
from services.receiver.adapters.http import problems, rooms
from services.receiver.adapters.http.guard import Guard
from services.receiver.adapters.http.rates import Rates
from services.receiver.adapters.http.recording import Recording
from services.receiver.adapters.http.slashes import SlashInName
from services.receiver.service.access import Access
from services.receiver.service.auditing import Auditing


def new_app() -> FastAPI:
    """Return the application to which modules add their routes."""
    app = FastAPI(
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app)
    return app


def behind_door(
    app: FastAPI,
    places: rooms.Rooms,
    access: Access,
    auditing: Auditing,
    *,
    rates: Rates,
    settings: HttpSettings,
    lifecycle: Lifecycle,
) -> ASGIApp:
    """Return what a server is to serve of an application that has all its routes."""
    guard = Guard(app.routes, access, rates, trusted=settings.trusted)
    door = Door(
        _with_short_way(app, rooms.SUBMISSIONS),
        room=places.of,
        admit=guard.admit,
        refuse=rooms.refuse,
        settings=settings,
        lifecycle=lifecycle,
    )
    return Recording(door, guard, auditing)


def _with_short_way(app: FastAPI, paths: Collection[str]) -> ASGIApp:
    """Return the application with plain Starlette routes to ``paths``, which FastAPI describes.

    Their endpoints read the request themselves, so FastAPI's handling of parameters would only cost
    time, and so would a look for slashes in addresses that hold no name.
    """
    routes = [
        Route(route.path, route.endpoint, methods=route.methods)
        for route in app.routes
        if isinstance(route, APIRoute) and route.path in paths
    ]
    short = Starlette(routes=routes)
    problems.install(short)
    short.router.redirect_slashes = False
    short.router.default = HeadApp(SlashInName(app))
    return short

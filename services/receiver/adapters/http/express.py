"""A short way to the endpoints that are called most."""

from collections.abc import Collection
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

log = structlog.get_logger(__name__)


class Express:
    """ASGI application: POST requests to ``paths`` go straight to their endpoints.

    The endpoints read the request themselves, so the router, its middleware and its handling of
    parameters only cost time: more than everything else in a submission. All other requests take
    the usual way through ``app``, which also describes these routes.
    """

    def __init__(self, app: FastAPI, paths: Collection[str]) -> None:
        self._app: ASGIApp = app
        self._handlers = app.exception_handlers
        self._routes = {
            route.path: route
            for route in app.routes
            if isinstance(route, APIRoute) and route.path in paths
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        route = self._routes.get(scope.get("path", ""))
        if route is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # names the operation in metrics
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            kind = next(kind for kind in type(error).__mro__ if kind in self._handlers)
            if kind is Exception:
                log.exception("unexpected error")
            answer: Any = self._handlers[kind]
            response = await answer(request, error)
        await response(scope, receive, send)

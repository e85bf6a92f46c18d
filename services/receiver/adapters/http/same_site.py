"""Refuses what another site's page would have a browser do."""

from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.cross_site import is_cross_site
from services.receiver.adapters.http.problems import problem


class SameSite:
    """ASGI middleware: requests that change something on another site's behalf get 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "http" and is_cross_site(scope):
            refusal = problem(403, "this request came from another site's page")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

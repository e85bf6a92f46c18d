"""Refuses requests above a number that the process can serve at once."""

from starlette.types import ASGIApp, Receive, Scope, Send

from services.receiver.adapters.http.problems import RETRY_AFTER, problem

_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


class InFlightLimit:
    """ASGI middleware: more than ``limit`` requests at once are answered with 429.

    Probes are exempt, or a busy process would look like a dead one.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._limit:
            refusal = problem(
                429, f"{self._limit} requests are being served, try again", headers=RETRY_AFTER
            )
            await refusal(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1

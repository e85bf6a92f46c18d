"""What protects the pages from content and from other sites."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class GuardedApp:
    """ASGI middleware: security headers everywhere, and no action on another site's behalf."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["method"] not in {"GET", "HEAD"} and is_cross_site(Headers(scope=scope)):
            refusal = PlainTextResponse("This request came from another site.\n", 403)
            await refusal(scope, receive, guarded_send)
            return
        await self._app(scope, receive, guarded_send)


def is_cross_site(headers: Headers) -> bool:
    """Tell whether a browser says that another site's page sent the request.

    Browsers send Sec-Fetch-Site to HTTPS and localhost, and Origin to any address. Other clients
    send neither and act on nobody's behalf.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin")
    # Only the host: a proxy in front may have ended TLS, so the scheme can differ.
    return origin is not None and urlsplit(origin).netloc != headers.get("host")

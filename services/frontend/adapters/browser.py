"""What a browser shows of who it is: cookies, and the tokens that its forms have from us."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from services.common.addresses import client_address
from services.common.cross_site import SAFE_METHODS
from services.frontend.adapters.receiver.connection import or_none
from services.frontend.adapters.receiver.visitor import Visitor, note, visitor
from services.frontend.domain.access import Account
from services.frontend.domain.errors import LOGGED_OUT, RequestRefusedError

# Browsers take a name with this prefix only with Secure, Path=/ and no Domain, over HTTPS or from
# this machine: so no other host, and no page without TLS, can have put it there.
SESSION: Final = "__Host-session"
BEFORE_LOG_IN: Final = "__Host-log-in"
"""A random value that binds the form for logging in to the browser."""

CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf"

LOG_IN_PATHS: Final = frozenset({"/log-in", "/log-in/oidc", "/log-in/oidc/callback"})

_VALUE: Final = re.compile(r"[A-Za-z0-9_.-]{16,4000}")
_STALE: Final = "This page is from before you logged in, or from elsewhere. Load it again."
_NO_COOKIE: Final = (
    "Your browser has kept no cookie of these pages. Open them over HTTPS, or as http://localhost"
    " on this machine, and allow cookies."
)


def cookie_of(request: Request, name: str) -> str | None:
    """Return a cookie's value; of two with one name, of which another host set one, none counts."""
    pairs = (
        pair.strip().partition("=")
        for header in request.headers.getlist("cookie")
        for pair in header.split(";")
    )
    values = [value for one, _, value in pairs if one == name]
    return values[0] if len(values) == 1 and _VALUE.fullmatch(values[0]) else None


def set_cookie(response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """Have the browser keep a value; until it is closed, unless for some seconds."""
    response.set_cookie(name, value, max_age=seconds, secure=True, httponly=True, samesite="lax")


def drop_cookie(response: Response, name: str) -> None:
    """Have the browser forget a value."""
    response.delete_cookie(name, secure=True, httponly=True, samesite="lax")


def new_secret() -> str:
    """Return 256 random bits as a text that a cookie can hold."""
    return secrets.token_urlsafe(32)


def csrf_token(secret: str) -> str:
    """Return what the forms of whose cookie holds a secret must show; it does not tell the secret.

    Another site can have a browser send the cookie, but reads neither it nor this.
    """
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(shown: str) -> None:
    """Let the receiver be asked for this request, if what it shows is its own token.

    Raises :class:`RequestRefusedError` with 403.
    """
    who = visitor()
    if who.proven:
        return
    if who.csrf == "":
        raise RequestRefusedError(_NO_COOKIE, HTTPStatus.FORBIDDEN)
    if not who.csrf or not hmac.compare_digest(who.csrf.encode(), shown.encode()):
        raise RequestRefusedError(_STALE, HTTPStatus.FORBIDDEN)
    who.proven = True


def is_small_picture(path: str) -> bool:
    """Tell whether an address is of a picture that pages show."""
    return path.endswith(("/thumbnail", "/preview"))


class BrowserGuard:
    """Lets in who shows a session, and everybody where nobody logs in.

    Whether the session holds is the receiver's to say: ``account`` asks it who that is, while the
    page asks for the rest.
    """

    def __init__(
        self,
        account: Callable[[], Awaitable[Account]],
        *,
        logs_in: bool,
        trusted: Collection[IPv4Network | IPv6Network],
    ) -> None:
        self._account = account
        self._logs_in = logs_in
        self._trusted = trusted

    async def admit(self, scope: Scope) -> None:
        """Note who asks as :func:`visitor`; raises ``HTTPException`` with 401 for nobody."""
        who = Visitor(client_address(scope, self._trusted))
        note(who)
        if not self._logs_in:
            who.proven = True
            return
        request = Request(scope)
        path: str = scope["path"]
        who.proven = is_safe = scope["method"] in SAFE_METHODS
        if path.startswith("/static/"):
            return
        if path in LOG_IN_PATHS:
            secret = cookie_of(request, BEFORE_LOG_IN)
            who.csrf = csrf_token(secret) if secret else ""
            return
        who.session = cookie_of(request, SESSION)
        who.csrf = csrf_token(who.session) if who.session else ""
        if not who.session:
            raise HTTPException(HTTPStatus.UNAUTHORIZED, LOGGED_OUT)
        who.by_itself = path.startswith("/fragments/") or is_small_picture(path)
        who.ask = self._ask
        if is_safe and not is_small_picture(path):
            who.begin_asking()

    async def _ask(self) -> Account | None:
        return await or_none(self._account())

"""Tells which requests a browser sends for a page of another site."""

from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Scope

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN: Final = frozenset({b"same-origin", b"none"})  # none: the address bar, or an extension


def is_cross_site(scope: Scope) -> bool:
    """Tell whether an HTTP request would act for another site's page.

    Browsers send Sec-Fetch-Site to HTTPS and localhost, and Origin to any address. Other clients
    send neither and act on nobody's behalf. Reading changes nothing and is never refused.
    """
    if scope["method"] in SAFE_METHODS:
        return False
    headers = dict(scope["headers"])  # names are in lower case
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site not in _OWN
    origin = headers.get(b"origin")
    # Only the host: a proxy in front may have ended TLS, so the scheme can differ.
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def refuse_cross_site(scope: Scope) -> None:
    """Raise ``HTTPException`` with 403 for what another site's page would have a browser change."""
    if is_cross_site(scope):
        raise HTTPException(HTTPStatus.FORBIDDEN, "this request came from another site's page")

"""The one place that decides whether a request may go where it wants to."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from services.common.addresses import Network, client_address, read_address
from services.common.errors import AwayError
from services.common.probes import PROBES
from services.receiver.adapters.http.problems import unavailable
from services.receiver.adapters.http.rates import Rates
from services.receiver.domain.access import (
    AccessScope,
    ActorKind,
    Caller,
    Credentials,
    Principal,
)
from services.receiver.domain.acts import SUBJECTS, Act, acting
from services.receiver.domain.errors import UnknownCallerError, UnknownSessionError
from services.receiver.service.access import Access

F = TypeVar("F", bound=Callable[..., Any])

_NEEDS: Final = "needs_scope"
_AUDITED: Final = "audited"


def needs(scope: AccessScope | Caller | None, *, audited: bool = False) -> Callable[[F], F]:
    """Declare which scope an endpoint needs, or whom it is for; ``None``: it is open.

    ``audited``: the audit says who has used it though it changes nothing, as it says of all that
    change something.
    """

    def declare(endpoint: F) -> F:
        setattr(endpoint, _NEEDS, scope)
        setattr(endpoint, _AUDITED, audited)
        return endpoint

    return declare


def needed(route: Route) -> AccessScope | Caller | None:
    """Return what a route needs, or raise ``TypeError`` when it does not say."""
    try:
        scope: AccessScope | Caller | None = getattr(route.endpoint, _NEEDS)
    except AttributeError:
        raise TypeError(f"{route.path} does not say which scope it needs") from None
    return scope


def _plain(route: BaseRoute) -> Route:
    """Return a route of which it is known who may, or raise ``TypeError``."""
    if not isinstance(route, Route):
        raise TypeError(f"{route} is no plain route")
    return route


class Guard:
    """Lets requests to ``routes`` go on whose caller has the scope that the route needs.

    What matches no route does not pass either: the router has no answer to it but 404 or 405.
    Raises ``TypeError`` for a route that declares no scope. Probes are not for it to decide.
    """

    def __init__(
        self,
        routes: Iterable[BaseRoute],
        access: Access,
        rates: Rates,
        *,
        trusted: Collection[Network],
    ) -> None:
        self._access = access
        self._rates = rates
        self._trusted = trusted
        self._routes = [
            (route, needed(route)) for route in map(_plain, routes) if route.path not in PROBES
        ]
        self._short = {
            (method, route.path): (route, scope)
            for route, scope in self._routes
            for method in route.methods or ()
            if "{" not in route.path
        }

    async def admit(self, scope: Scope) -> None:
        """Note who calls as ``scope["principal"]``, and what they do as ``scope["act"]``.

        ``scope["admit_again"]`` looks once more, for an answer that goes on for long. Raises
        ``HTTPException``: 401 for credentials that are missing or wrong in whatever way, in the
        same words, 403 for a caller without the scope, 429 for one who comes too often, 503 when
        nobody can tell.
        """
        act, scope_needed = self._matched(scope)
        if act is None:
            return
        scope["act"] = act
        principal = await self._admitted(scope, scope_needed)
        if act.audited:
            acting.set(act)  # not before: that a key or a session is in use is noted on the way
        scope["principal"] = principal
        scope["address"] = act.address
        scope["admit_again"] = partial(self._admitted, scope, scope_needed, by_hand=False)
        if principal:
            self._rates.check(scope)

    def act(self, scope: Scope) -> Act:
        """Return what a request does, or would do."""
        noted: Act | None = scope.get("act")
        act = noted or self._matched(scope)[0]
        return act or Act("unmatched", client_address(scope, self._trusted), audited=True)

    def _matched(self, scope: Scope) -> tuple[Act | None, AccessScope | Caller | None]:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        parameters: Mapping[str, object] = {}
        try:
            route, scope_needed = self._short[method, scope["path"]]
        except KeyError:
            as_routed = {**scope, "method": method}
            for route, scope_needed in self._routes:  # noqa: B007
                match, found = route.matches(as_routed)
                if match is Match.FULL:
                    parameters = found["path_params"]
                    break
            else:
                return None, None
        audited = method != "GET" or getattr(route.endpoint, _AUDITED)
        act = Act(route.name, client_address(scope, self._trusted), audited=audited)
        for name, value in parameters.items():
            if name in SUBJECTS:
                act.about(SUBJECTS[name], value)  # the first: /groups/1/faces/2/0 is about a group
        return act, scope_needed

    async def _admitted(
        self, scope: Scope, scope_needed: AccessScope | Caller | None, *, by_hand: bool = True
    ) -> Principal | None:
        if scope_needed is None:
            return None
        try:
            principal = await self._access.principal(_credentials(scope, by_hand=by_hand))
        except UnknownCallerError as error:
            if isinstance(error, UnknownSessionError):
                self._believe_address(scope)
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED, str(error), headers={"WWW-Authenticate": "Bearer"}
            ) from None
        except AwayError as error:
            raise unavailable(error.service) from error
        act: Act = scope["act"]
        act.principal = principal
        if principal.session or principal.kind is ActorKind.FRONTEND:
            self._believe_address(scope)
        if scope_needed is Caller.KNOWN:
            return principal
        if scope_needed is Caller.FRONTEND:
            if principal.kind is not ActorKind.FRONTEND:
                raise HTTPException(HTTPStatus.FORBIDDEN, "this is for the frontend alone")
            return principal
        if scope_needed not in principal.scopes:
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                f"this needs the scope {scope_needed}, which this caller does not have",
            )
        return principal

    @staticmethod
    def _believe_address(scope: Scope) -> None:
        """Note where the frontend says that the request came to it from."""
        act: Act = scope["act"]
        act.address = _told_address(scope) or act.address


def _told_address(scope: Scope) -> str | None:
    """Return the address that the frontend says a request came to it from."""
    told = [value for name, value in scope["headers"] if name == b"facestack-address"]
    address = read_address(told[0].decode("latin-1")) if len(told) == 1 else None
    return None if address is None else str(address)


def _credentials(scope: Scope, *, by_hand: bool) -> Credentials | None:
    """Return what a request shows, if it is one thing and of the form that it must have."""
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    sessions = [value for name, value in scope["headers"] if name == b"facestack-session"]
    if len(shown) != 1 or len(sessions) > 1:
        return None
    scheme, _, key = shown[0].partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key or not key.isascii():
        return None
    session = sessions[0].decode("latin-1") if sessions else None
    by_hand = by_hand and (b"facestack-by-itself", b"yes") not in scope["headers"]
    return Credentials(key.decode(), session, by_hand)

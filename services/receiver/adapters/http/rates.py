"""How much a caller may hand in and search in a minute."""

from collections.abc import Iterator
from http import HTTPStatus
from math import ceil
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Scope

from services.common.addresses import origin
from services.receiver.domain.access import ActorKind
from services.receiver.service.rates import Rate
from services.receiver.settings import RateSettings

_SUBMISSIONS: Final = ("/image/post", "/images/post", "/images")
_SEARCH: Final = "/search"


class Rates:
    """Counts pictures that are handed in, and searches, by key or user and by address.

    Each replica counts for itself and from nothing: with n of them, behind a load balancer that
    spreads requests, somebody gets up to n times as much, and a minute's more from one that was
    started anew. That is enough for what it is for: that nobody takes the pipeline from the others
    by a mistake or on purpose, which is about magnitudes. Exact counts would cost each submission a
    write, and fail with their store.

    Where everybody may do everything, nobody is counted.
    """

    def __init__(self, settings: RateSettings) -> None:
        submissions = Rate(settings.submissions_per_minute)
        searches = Rate(settings.searches_per_minute)
        self._rates = {
            **dict.fromkeys(_SUBMISSIONS, (submissions, "pictures")),
            _SEARCH: (searches, "searches"),
        }

    def check(self, scope: Scope) -> None:
        """Count an admitted request as one; raises ``HTTPException`` with 429 for one too many."""
        counted = self._rates.get(scope["path"]) if scope["method"] == "POST" else None
        if counted is None:
            return
        rate, what = counted
        if wait := max((rate.wait_seconds(caller) for caller in _callers(scope)), default=0.0):
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {rate.per_minute} {what} a minute from this key, user or address:"
                f" come again in {ceil(wait)} s",
                headers={"Retry-After": str(ceil(wait))},
            )
        self.spend(scope, 1)

    def spend(self, scope: Scope, count: int) -> None:
        """Count so many more for a request that has more in it than :meth:`check` could know.

        They are taken all the same, and its caller waits for longer afterwards: nobody has to split
        what fits into one request.
        """
        rate, _ = self._rates[scope["path"]]
        for caller in _callers(scope):
            rate.spend(caller, count)


def _callers(scope: Scope) -> Iterator[str]:
    principal, address = scope["principal"], scope["address"]
    if principal.kind is ActorKind.ANYBODY:
        return
    yield f"{principal.kind} {principal.id or principal.name}"
    yield origin(address)

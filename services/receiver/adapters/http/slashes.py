"""Says what is wrong with an address that has a slash in a person's name."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.person_names import NO_SLASH
from services.receiver.adapters.http.problems import problem
from services.receiver.domain.errors import Fault

_NAME: Final = re.compile(
    rb"/(?:people|images/[0-9]+/faces/[0-9]+/denials)/([^/]*%2f[^/]*)", re.IGNORECASE
)


class SlashInName:
    """ASGI middleware: a quoted slash in a name is refused with 422.

    The router only sees the address unquoted, in which the name ends at the slash.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "http" and _NAME.match(scope.get("raw_path") or b""):
            refusal = problem(422, NO_SLASH, faults=[Fault("/path/name", NO_SLASH)])
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

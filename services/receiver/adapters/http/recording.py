"""Records what requests do, where that is not recorded with it, and what they are refused."""

from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import DatabaseUnavailableError
from services.common.probes import PROBES
from services.receiver.adapters.http.guard import Guard
from services.receiver.adapters.http.problems import unavailable
from services.receiver.adapters.http.rooms import refuse
from services.receiver.domain.acts import Act, acting
from services.receiver.service.auditing import Auditing

_ALWAYS: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST}
)
"""What the audit says of reading, too: that somebody wanted to who may not."""


class Recording:
    """ASGI middleware: no answer says that something was done before the audit does.

    Whatever changes rows is in it already. Of the rest, such as exports and searches, nothing is
    given away when it cannot be recorded: that is 503. What is refused is counted.
    """

    def __init__(self, app: ASGIApp, guard: Guard, auditing: Auditing) -> None:
        self._app = app
        self._guard = guard
        self._auditing = auditing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        withheld = False

        async def recording_send(message: Message) -> None:
            nonlocal withheld
            if message["type"] == "http.response.start":
                withheld = not await self._recorded(scope, message["status"])
                if withheld:
                    answer = refuse(scope, unavailable(DatabaseUnavailableError.service))
                    await answer(scope, receive, send)
            if not withheld:
                await send(message)

        before = acting.set(None)
        try:
            await self._app(scope, receive, recording_send)
        finally:
            acting.reset(before)

    async def _recorded(self, scope: Scope, status: int) -> bool:
        """Have an answer recorded before it begins; return whether it may."""
        if status >= HTTPStatus.BAD_REQUEST:
            act = self._guard.act(scope)
            if act.audited or status in _ALWAYS:
                self._auditing.refused(act, status)
            return True
        noted: Act | None = scope.get("act")
        if noted is not None and noted.audited and not noted.recorded:
            try:
                await self._auditing.done(noted)
            except DatabaseUnavailableError:
                self._auditing.refused(noted, HTTPStatus.SERVICE_UNAVAILABLE)
                return False
        return True

"""For whom the receiver is asked: noted once at the door, and read where a call is sent.

A context variable, so that what lies between needs to hand nothing through.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from services.frontend.domain.access import Account


@dataclass
class Visitor:
    """A browser's request.

    ``session`` is the token of who is logged in. ``csrf`` is what their forms must show, None
    where nobody logs in; ``by_itself``: the page asks, not a person; ``proven`` says that this
    one did, or that none is needed: without, the receiver is not asked. ``ask`` asks it who is
    logged in.
    """

    address: str = ""
    session: str | None = None
    csrf: str | None = None
    by_itself: bool = False
    proven: bool = False
    ask: Callable[[], Coroutine[None, None, Account | None]] | None = None
    asking: asyncio.Task[Account | None] | None = None
    account: Account | None = None

    @property
    def is_outside(self) -> bool:
        """Whether this is somebody who has yet to log in."""
        return self.csrf is not None and self.session is None

    def begin_asking(self) -> None:
        """Ask who is logged in, while other things are asked for."""
        if self.asking is None and self.ask is not None:
            self.asking = asyncio.create_task(self.ask())
            # A page that ends otherwise does not wait for it.
            self.asking.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def know(self) -> None:
        """Wait until it is known who is logged in, if anybody is."""
        if self.proven:
            self.begin_asking()
        if self.asking is not None:
            self.account = await self.asking

    def may(self, scope: str) -> bool:
        """Tell whether to offer what needs a scope; it is the receiver who decides.

        Everything where nobody logs in, or while the receiver does not say who this is.
        """
        return self.account is None or scope in self.account.scopes


_VISITOR: Final[ContextVar[Visitor]] = ContextVar("visitor")


def note(one: Visitor) -> None:
    """Note who asks, until the request's task ends."""
    _VISITOR.set(one)


def visitor() -> Visitor:
    """Return who asks: nobody, outside of a request."""
    return _VISITOR.get(None) or Visitor(proven=True)

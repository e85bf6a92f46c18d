"""What the pages of every subject are made with."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from services.common.spools import Spools
from services.frontend.adapters.pages.answers import Answers
from services.frontend.adapters.pages.forms import form_of
from services.frontend.adapters.receiver.api import ReceiverApi
from services.frontend.service import Names


class Pages(ABC):
    """The routes of one subject."""

    def __init__(
        self,
        receiver: ReceiverApi,
        answers: Answers,
        names: Names,
        spools: Spools,
        max_upload_bytes: int,
    ) -> None:
        self._receiver = receiver
        self._answers = answers
        self._names = names
        self._spools = spools
        self._max_upload_bytes = max_upload_bytes
        self.router = APIRouter()
        self._add_routes()

    @abstractmethod
    def _add_routes(self) -> None: ...

    def _post(self, path: str, action: Callable[..., Awaitable[Response]]) -> None:
        """Add an action, which begins once its form has shown that it is one of ours."""
        self.router.post(path, dependencies=[Depends(form_of)])(action)

    def _add_fragment(
        self, page: str, template: str, view: Callable[..., Awaitable[dict[str, Any]]]
    ) -> None:
        """Add what changes on a page, made of the view of the address's parameters."""

        @self.router.get(f"/fragments{page}")
        async def fragment(
            request: Request, made_of: Annotated[dict[str, Any], Depends(view)]
        ) -> Response:
            return await self._answers.fragment(request, template, made_of)

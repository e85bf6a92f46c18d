"""What the pages of every subject are made with."""

from abc import ABC, abstractmethod

from fastapi import APIRouter

from services.common import bodies
from services.frontend.adapters.pages.answers import Answers
from services.frontend.adapters.receiver.api import ReceiverApi
from services.frontend.service import Names


class Pages(ABC):
    """The routes of one subject."""

    def __init__(
        self,
        receiver: ReceiverApi,
        answers: Answers,
        names: Names,
        spools: bodies.Spools,
        max_upload_bytes: int,
    ) -> None:
        self._receiver = receiver
        self._answers = answers
        self._names = names
        self._spools = spools
        self._max_upload_bytes = max_upload_bytes

    @abstractmethod
    def router(self) -> APIRouter:
        """Return the routes."""

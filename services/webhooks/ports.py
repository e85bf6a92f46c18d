"""What the use cases need."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.webhooks.domain import Attempt, Endpoint


class WebhookDeliveries(Protocol):
    """The deliveries; each call raises ``DatabaseUnavailableError`` when the database is away."""

    async def make(self, endpoints: Sequence[Endpoint]) -> bool:
        """Make deliveries of the next changes; tell whether there may be more of them.

        Several replicas may: each change is one delivery to each endpoint that wants it.
        """

    async def take(self, url: str, limit: int) -> Sequence[Attempt]:
        """Take up to so many deliveries to an endpoint that are due, those due longest first."""

    async def data(self, attempt: Attempt) -> Mapping[str, object]:
        """Return what there is to say now of the image or person."""

    async def finish(self, attempt: Attempt, error: str | None, pause: int | None) -> None:
        """Store how an attempt ended, unless it is somebody else's by now.

        With an error it is due again after the pause in ms, or has failed if that is None.
        """

    async def remove_old(self) -> int:
        """Remove up to ``BATCH`` deliveries that are kept long enough; return how many."""


class Sender(Protocol):
    """Makes requests."""

    async def send(
        self, endpoint: Endpoint, attempt: Attempt, data: Mapping[str, object]
    ) -> str | None:
        """Return why the endpoint did not take it, for people; None when it did."""

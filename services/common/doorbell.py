"""The doorbell: an NSQ message that says "look at image 42", and nothing else.

The rows are the truth, so a ring may be lost or repeated; only latency changes.
"""

import json
import struct
from collections.abc import Sequence
from typing import Final, Protocol

import httpx

from services.common.errors import DoorbellUnavailableError
from services.common.settings import TOPIC, NsqdSettings


class Doorbell(Protocol):
    """What the receiver and the redeemer ring.

    ``polled`` tells that processors find pending rows by themselves, so that no ring is missed.
    """

    @property
    def polled(self) -> bool:
        """Whether nobody has to ring."""

    async def ring(self, image_ids: Sequence[int]) -> None:
        """Announce images, or raise :class:`DoorbellUnavailableError`."""

    async def depth(self) -> int:
        """Return how many rings wait to be delivered."""

    async def close(self) -> None:
        """Release connections."""


class PolledRows:
    """The embedded default: processors poll the rows, so nobody has to ring."""

    polled: Final = True

    async def ring(self, image_ids: Sequence[int]) -> None:
        """Do nothing."""

    async def depth(self) -> int:
        """Return 0."""
        return 0

    async def close(self) -> None:
        """Do nothing."""


class NsqDoorbell:
    """Publishes over nsqd's HTTP interface (https://nsq.io/components/nsqd.html).

    ``url`` is for example ``http://nsqd:4151``; nsqd has to answer within ``seconds``.
    """

    polled: Final = False

    def __init__(self, url: str, *, topic: str = TOPIC, seconds: float = 3.0) -> None:
        self._topic = topic
        self._client = httpx.AsyncClient(base_url=url, timeout=seconds)

    async def ring(self, image_ids: Sequence[int]) -> None:
        """Publish one message per image in one request."""
        bodies = [json.dumps({"id": image_id}).encode() for image_id in image_ids]
        # The binary form: a count, then each message behind its length, big-endian.
        content = struct.pack(">i", len(bodies)) + b"".join(
            struct.pack(">i", len(body)) + body for body in bodies
        )
        await self._request(
            "POST", "/mpub", params={"topic": self._topic, "binary": "true"}, content=content
        )

    async def depth(self) -> int:
        """Return the messages that no processor has been given yet, in memory and on disk."""
        response = await self._request(
            "GET",
            "/stats",
            params={"format": "json", "topic": self._topic, "include_clients": "false"},
        )
        return sum(
            # Before the first processor subscribes, messages wait in the topic.
            topic["depth"] + sum(channel["depth"] for channel in topic["channels"])
            for topic in response.json()["topics"] or ()  # null before the first ring
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _request(self, method: str, path: str, **arguments: object) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **arguments)  # type: ignore[arg-type]
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise DoorbellUnavailableError(f"nsqd: {error or type(error).__name__}") from error
        return response


def doorbell_for(settings: NsqdSettings) -> NsqDoorbell | PolledRows:
    """Return what rings where settings say."""
    if not settings.nsqd_url:
        return PolledRows()
    return NsqDoorbell(
        settings.nsqd_url, topic=settings.nsq_topic, seconds=settings.nsqd_timeout_seconds
    )


def parse_ring(body: bytes) -> int:
    """Return the image id of a message, or raise ``ValueError``."""
    try:
        image_id = json.loads(body)["id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a ring: {body[:100]!r}") from error
    if type(image_id) is not int or not 0 < image_id < 2**63:
        raise ValueError(f"not an image id: {image_id!r}")
    return image_id

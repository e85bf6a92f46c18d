"""The doorbell that NSQ is."""

import json
import struct
from collections.abc import Sequence
from typing import Final

import httpx

from services.common.doorbell import PolledRows
from services.common.errors import DoorbellUnavailableError
from services.common.settings import TOPIC, NsqdSettings


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
            # Also an answer that refuses: settings hold topics to what nsqd takes, rings are small.
            raise DoorbellUnavailableError(f"nsqd: {error or type(error).__name__}") from error
        return response


def doorbell_for(settings: NsqdSettings) -> NsqDoorbell | PolledRows:
    """Return what rings where settings say."""
    if not settings.nsqd_url:
        return PolledRows()
    return NsqDoorbell(
        settings.nsqd_url, topic=settings.nsq_topic, seconds=settings.nsqd_timeout_seconds
    )

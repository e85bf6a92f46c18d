"""Posts to endpoints."""

import asyncio
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import httpx

from services.webhooks.domain import Attempt, Endpoint, sign

_MOST_READ: Final = 4096
"""Bytes of an answer; a longer one is cut off with its connection."""


class HttpSender:
    """The port ``Sender``. It follows no redirect: an operator said where to send to.

    An endpoint has ``seconds`` for its whole answer. Connections are kept for ``at_once`` requests
    to each of four endpoints.
    """

    def __init__(self, *, seconds: float, at_once: int) -> None:
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=seconds,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=4 * at_once),
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def send(
        self, endpoint: Endpoint, attempt: Attempt, data: Mapping[str, object]
    ) -> str | None:
        created = datetime.fromtimestamp(attempt.created_at / 1000, UTC)
        body = json.dumps(
            {
                "id": attempt.message_id,
                "type": attempt.type,
                "timestamp": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": data,
            },
            ensure_ascii=False,
        ).encode()
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "facestack",
            "webhook-id": attempt.message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(endpoint.secret, attempt.message_id, now, body),
        }
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream("POST", endpoint.url, content=body, headers=headers) as answer,
            ):
                # A little, so that its connection is used again; not unpacked: it could be big.
                async for _ in answer.aiter_raw(_MOST_READ):
                    if answer.num_bytes_downloaded >= _MOST_READ:
                        break
        except (TimeoutError, httpx.TimeoutException):
            return f"did not answer within {self._seconds:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"[:500]
        if answer.is_success:
            return None
        if answer.is_redirect:
            return f"answered {answer.status_code}: redirects are not followed"
        # Not what it says: many repeat what they refuse, and with that people's names.
        phrase = httpx.codes.get_reason_phrase(answer.status_code)
        return f"answered {answer.status_code} {phrase}".rstrip()

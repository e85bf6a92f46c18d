"""Whom to tell what, how it is signed, and when it is tried again."""

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from services.common.errors import RefusedError
from services.common.webhooks import WebhookType

LEASE_MS: Final = 60_000
"""How long an attempt is one replica's; longer than it takes with the database's time-outs."""

BATCH: Final = 1000
"""Rows that are removed in one transaction."""

_S: Final = 1000
_H: Final = 3_600_000
PAUSES_MS: Final = (5 * _S, 30 * _S, 120 * _S, 600 * _S, 1 * _H, 6 * _H, 12 * _H, 24 * _H)
"""After each failed attempt; then it is given up."""

_JITTER: Final = 0.2
"""So that all that failed together does not come again together."""

LONGEST_PAUSE_MS: Final = round(PAUSES_MS[-1] * (1 + _JITTER))

RETRIED_MS: Final = round(sum(PAUSES_MS) * (1 + _JITTER))
"""How long after the first attempt the last one may be."""


class EndpointsError(RefusedError):
    """The file of endpoints cannot be used; the message says why, and never shows a secret."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somebody who is to be told; ``secret`` is the key itself, 24 to 64 bytes."""

    url: str
    secret: bytes = field(repr=False)
    types: frozenset[WebhookType]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a delivery that is ours: its first is ``number`` 1.

    ``type`` is a ``WebhookType``; the delivery was created at ``created_at``, ms since the epoch.
    """

    id: int
    message_id: str
    type: str
    subject_id: int
    number: int
    token: str
    created_at: int


def pause_ms(attempt: int, random: Callable[[], float]) -> int | None:
    """Return how long to wait after this attempt has failed, the first being 1; None: give up."""
    if attempt > len(PAUSES_MS):
        return None
    return round(PAUSES_MS[attempt - 1] * (1 + _JITTER * random()))


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature`` of Standard Webhooks 1.0, symmetric (v1).

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"

"""Numbers, times and reasons in words, and texts that tell whether something is still the same."""

import hashlib
from datetime import UTC, datetime
from typing import Final

from services.common.faces import CLOSE

VERY_CLOSE: Final = 0.40
"""Largest distance called "very close"; up to ``CLOSE`` it is "close", beyond that the faces are
alike, but not much."""


def closeness(distance: float) -> str:
    """Put a distance between two faces into words."""
    if distance <= VERY_CLOSE:
        return "very close"
    return "close" if distance <= CLOSE else "uncertain"


def fingerprint(*parts: str) -> str:
    """Return a short text that is the same only for the same parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def counted(number: int, thing: str) -> str:
    """Return how many things there are, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_words(time: datetime) -> str:
    """Return a time for people, in UTC."""
    return f"{time.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def sentence(text: str) -> str:
    """Return a text with a capital letter at its start and a full stop at its end."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."

"""The doorbell: an NSQ message that says "look at image 42", and nothing else.

The rows are the truth, so a ring may be lost or repeated; only latency changes.
"""

import json
from collections.abc import Sequence
from typing import Final, Protocol


class Doorbell(Protocol):
    """What the receiver and the redeemer ring; its calls raise ``DoorbellUnavailableError``.

    ``polled`` tells that processors find pending rows by themselves, so that no ring is missed.
    """

    @property
    def polled(self) -> bool:
        """Whether nobody has to ring."""

    async def ring(self, image_ids: Sequence[int]) -> None:
        """Announce images."""

    async def depth(self) -> int:
        """Return how many rings wait to be delivered."""

    async def close(self) -> None:
        """Release connections."""


class PolledRows:
    """The embedded default: processors poll the rows, so nobody has to ring."""

    polled: Final = True

    async def ring(self, image_ids: Sequence[int]) -> None:
        """Leave it to the rows, which say it already."""

    async def depth(self) -> int:
        """Return 0: no ring waits, only rows do."""
        return 0

    async def close(self) -> None:
        """Have no connection to close."""


def parse_ring(body: bytes) -> int:
    """Return the image id of a message, or raise ``ValueError``."""
    try:
        image_id = json.loads(body)["id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a ring: {body[:100]!r}") from error
    if type(image_id) is not int or not 0 < image_id < 2**63:
        raise ValueError(f"not an image id: {image_id!r}")
    return image_id

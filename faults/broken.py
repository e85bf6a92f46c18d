"""Image processors that are wrong on purpose: ``python -m faults.broken WHAT``.

Each leaves out what a promise rests on. A campaign with one of them must end red; one that is
green proves nothing.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from services.common.tables import images
from services.image_processor.adapters import nsq_queue, rows
from services.image_processor.app import main
from services.image_processor.domain import Claim


class _Answered:
    """A ring that nsqd has forgotten already."""

    def __init__(self, image_id: int) -> None:
        self.image_id = image_id

    def touch(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def requeue(self, delay: float) -> None:
        pass


def _finish_first() -> None:
    """Say FIN when a ring comes, and not after the commit."""
    take = nsq_queue.NsqQueue.take

    async def take_and_finish(self: nsq_queue.NsqQueue) -> Any:
        ring = await take(self)
        if ring is None:
            return None
        ring.finish()
        return _Answered(ring.image_id)

    nsq_queue.NsqQueue.take = take_and_finish  # type: ignore[method-assign]


def _do_not_fence() -> None:
    """Let whoever had a claim once write its result."""

    def anybodys(claim: Claim) -> Sequence[sa.ColumnElement[bool]]:
        return (images.c.id == claim.image_id,)

    if not callable(rows._ours):  # noqa: SLF001, replaced below
        raise TypeError("the fence is somewhere else now")
    rows._ours = anybodys  # noqa: SLF001


BREAKS: Final[dict[str, Callable[[], None]]] = {
    "fin-first": _finish_first,
    "no-fence": _do_not_fence,
}

if __name__ == "__main__":
    BREAKS[sys.argv[1]]()
    main()

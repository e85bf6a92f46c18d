"""What a service without requests does again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from services.common import metrics
from services.common.availability import AvailabilityLog
from services.common.errors import DatabaseUnavailableError
from services.common.lifecycle import Lifecycle

log = structlog.get_logger(__name__)


async def repeat(
    lifecycle: Lifecycle,
    operation: str,
    action: Callable[[], Awaitable[object]],
    seconds: float,
    away: AvailabilityLog,
) -> None:
    """Run the action with a pause between, whatever it raises, until the process drains.

    Libraries that retry end with the first success; this one's end is the drain, in the pause too.
    """
    while not lifecycle.draining:
        try:
            with metrics.observe(operation):
                await action()
            away.passed()
        except DatabaseUnavailableError as error:
            away.failed(error)
        except Exception:
            log.exception("unexpected error", operation=operation)
        with suppress(TimeoutError):
            await asyncio.wait_for(lifecycle.wait_draining(), seconds)

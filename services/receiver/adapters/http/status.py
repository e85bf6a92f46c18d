"""The route of the status: what waits, and what is away."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Annotated, Final, TypeVar

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from services.common.errors import DatabaseUnavailableError
from services.common.health import HealthChecks
from services.receiver.adapters.http import documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import OfPerson
from services.receiver.adapters.http.views import json_response
from services.receiver.adapters.rows.backups import DatabaseBackups
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.receiver.domain.access import AccessScope, Principal
from services.receiver.domain.images import StatusReport
from services.receiver.ports import ImageRows
from services.receiver.service.counting import Counting
from services.receiver.service.people import Enrolment

_KEPT_SECONDS: Final = 2.0
"""How long it is kept what is away: finding out may take a second."""

_FAILED: Final = "it failed; an administrator sees why in GET /status"

_T = TypeVar("_T")


def add_status(
    app: FastAPI,
    rows: ImageRows,
    enrolment: Enrolment,
    *,
    encoding: DatabaseEncoding,
    backups: DatabaseBackups,
    health: HealthChecks,
) -> None:
    """Add the route."""
    counting = Counting(rows)
    lock = asyncio.Lock()
    asked_at = float("-inf")
    known: dict[str, str] = {}

    async def counted(person: str | None) -> StatusReport:
        if person is not None:
            return await rows.status(await enrolment.who(person))
        return await counting.report()

    async def nothing() -> None:
        return None

    async def away() -> dict[str, str]:
        nonlocal asked_at, known
        async with lock:
            if time.monotonic() - asked_at > _KEPT_SECONDS:
                known = await health.away()
                asked_at = time.monotonic()
            return known

    @app.get(
        "/status",
        summary="Rows per status, the oldest that waits, and what is away",
        description="The counts have everything that was acknowledged before the request, by any"
        " replica; with person, they are of the images with a face of this person.",
        response_model=documents.StatusDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.READ)
    async def status(
        request: Request,
        person: OfPerson = None,
        counts: Annotated[
            bool, Query(description="False for what is away alone, which reads no row.")
        ] = True,
    ) -> Response:
        report, its_encoding, backup, problems = await asyncio.gather(
            _or_none(counted(person)) if counts else nothing(),
            _or_none(encoding.report()) if counts else nothing(),
            _or_none(backups.report()) if counts else nothing(),
            away(),
        )
        principal: Principal = request.scope["principal"]
        if backup and backup.error and AccessScope.ADMINISTER not in principal.scopes:
            # It names servers, buckets and users.
            backup = replace(backup, error=_FAILED)
        return json_response(
            {
                "images": report and report.images,
                "oldest_pending_seconds": report and report.oldest_pending_seconds,
                "encoding": its_encoding,
                "backup": backup,
                "problems": problems,
            }
        )


async def _or_none(report: Awaitable[_T]) -> _T | None:
    """Return the report; None while the database is away."""
    try:
        return await report
    except DatabaseUnavailableError:
        return None

"""The route of the audit."""

from typing import Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.receiver.adapters.http import documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import ON_A_PAGE, Cursor
from services.receiver.adapters.http.views import audit_page_view, json_response
from services.receiver.adapters.rows.audit import DatabaseAudit
from services.receiver.domain.access import AccessScope
from services.receiver.domain.acts import SubjectKind
from services.receiver.domain.cursors import LAST_ID, decode_cursor

_Id = Annotated[int | None, Query(ge=1, le=LAST_ID)]


def add_audit(app: FastAPI, audit: DatabaseAudit) -> None:
    """Add the route."""

    @app.get(
        "/audit",
        summary="Say who did what",
        description="Newest first: all that was done, searches and exports, and what was refused."
        " A name of a person on a picture stands nowhere in it, so it stays when they are"
        " forgotten.",
        response_model=documents.AuditPageDocument,
        responses=openapi.errors(422),
    )
    @needs(AccessScope.ADMINISTER)
    async def list_acts(
        person: Annotated[_Id, Query(description="Only about the person with this id.")] = None,
        image: Annotated[_Id, Query(description="Only about this image.")] = None,
        who: Annotated[
            str | None,
            Query(max_length=200, description="Only by the key or user of exactly this name."),
        ] = None,
        cursor: Annotated[
            Cursor | None, Query(description="next_cursor of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="On a page.")] = ON_A_PAGE,
    ) -> Response:
        before = decode_cursor(cursor) if cursor is not None else None
        subjects = {SubjectKind.PERSON: person, SubjectKind.IMAGE: image}
        page = await audit.page(subjects=subjects, who=who, before=before, limit=limit)
        return json_response(audit_page_view(page))

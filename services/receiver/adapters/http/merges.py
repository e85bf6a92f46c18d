"""The routes of people who are said to be one."""

from typing import Annotated

from fastapi import FastAPI, Request
from starlette.responses import Response

from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import Name, row_id
from services.receiver.adapters.http.views import json_response, whole_person_view
from services.receiver.domain.access import AccessScope
from services.receiver.service.merging import Merging

_MergeId = Annotated[int, row_id("A merge")]


def add_merges(app: FastAPI, merging: Merging, spools: Spools) -> None:
    """Add the routes."""

    @app.post(
        "/people/{name}/merge",
        summary="Say that somebody else is this person",
        description="That one's faces, known pictures and denials become this person's, and nobody"
        " has the other's id any more. A face that a hand has named so is never one of whom a hand"
        " says it is not them. It can be taken back.",
        response_model=documents.WholePersonDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.OtherDocument)),
    )
    @needs(AccessScope.NAME)
    async def merge(name: Name, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.OtherDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        return json_response(whole_person_view(await merging.merge(name, body.name)))

    @app.delete(
        "/people/{name}/merges/{merge_id:id}",
        summary="Take back that somebody else is this person",
        description="Answers with who is a person of their own again, with the id of before, and"
        " with what was theirs, is still there and still this person's.",
        response_model=documents.WholePersonDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def undo_merge(name: Name, merge_id: _MergeId) -> Response:
        return json_response(whole_person_view(await merging.undo(name, merge_id)))

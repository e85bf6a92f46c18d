"""The routes of groups of unknown faces, and of the questions about them."""

from typing import Annotated, Final

from fastapi import FastAPI, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import (
    ON_A_PAGE,
    FaceIndex,
    GroupId,
    ImageId,
    QuestionId,
)
from services.receiver.adapters.http.views import (
    group_page_view,
    json_response,
    question_view,
    whole_group_view,
)
from services.receiver.domain.access import AccessScope
from services.receiver.domain.cursors import PAIR_CURSOR, decode_pair
from services.receiver.domain.faces import FaceKey
from services.receiver.service.groups import Grouped

_QUESTIONS: Final = 20
"""Questions in an answer, if nothing is said."""

_Cursor = Annotated[str, WithJsonSchema({"type": "string", "pattern": PAIR_CURSOR})]
_Behind = Annotated[_Cursor | None, Query(description="next_cursor of the page before.")]


def add_groups(app: FastAPI, grouped: Grouped, spools: Spools) -> None:
    """Add the routes."""

    @app.get(
        "/groups",
        summary="List groups of unknown faces",
        description="Faces without a name that are one person's, as far as a machine can tell, the"
        " largest groups first, each with some of its faces. A group keeps its id while it grows.",
        response_model=documents.GroupPageDocument,
        responses=openapi.linked(
            200,
            "A page.",
            openapi.links(
                look=("get_group", {"group_id": "$response.body#/groups/0/id"}),
                name=("name_group", {"group_id": "$response.body#/groups/0/id"}),
            ),
            openapi.errors(422),
        ),
    )
    @needs(AccessScope.READ)
    async def list_groups(
        cursor: _Behind = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Groups on a page.")] = ON_A_PAGE,
    ) -> Response:
        after = None if cursor is None else decode_pair(cursor)
        return json_response(group_page_view(await grouped.page(after=after, limit=limit)))

    @app.get(
        "/groups/{group_id:id}",
        summary="Look at a group",
        description="Of one that is part of another by now, that one.",
        response_model=documents.WholeGroupDocument,
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.READ)
    async def get_group(
        group_id: GroupId,
        cursor: _Behind = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Faces on a page.")] = ON_A_PAGE,
    ) -> Response:
        after = None if cursor is None else decode_pair(cursor)
        return json_response(
            whole_group_view(await grouped.group(group_id, after=after, limit=limit))
        )

    @app.put(
        "/groups/{group_id:id}/person",
        summary="Say who a group is",
        description="All its faces get the name, but those that are excepted, which do not belong"
        " in it. Of the best some become known pictures of the person, who is made when missing. A"
        " face that gets another name meanwhile keeps it. An answer that the group is not this"
        " person is taken back; what was said of one face alone stays. If this ends in the middle,"
        " the same request goes on, with another with who was made then.",
        response_model=documents.NamedGroupDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.GroupNamingDocument)),
    )
    @needs(AccessScope.NAME)
    async def name_group(group_id: GroupId, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.GroupNamingDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        named = await grouped.name(
            group_id,
            body.name,
            another=body.another,
            without=[FaceKey(face.image_id, face.face_index) for face in body.without],
        )
        return json_response(named)  # written field by field

    @app.delete(
        "/groups/{group_id:id}/faces/{image_id:id}/{face_index:id}",
        status_code=204,
        summary="Say that a face does not belong in a group",
        description="No machine puts it there again.",
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.NAME)
    async def strike_from_group(
        group_id: GroupId, image_id: ImageId, face_index: FaceIndex
    ) -> Response:
        await grouped.strike(group_id, FaceKey(image_id, face_index))
        return Response(status_code=204)

    @app.get(
        "/questions",
        summary="List questions that wait for a person",
        description="Whether a group, and another one or a person, are the same, likeliest first.",
        response_model=documents.QuestionsDocument,
        responses=openapi.linked(
            200,
            "The questions.",
            openapi.links(
                answer=("answer_question", {"question_id": "$response.body#/questions/0/id"})
            ),
            openapi.errors(422),
        ),
    )
    @needs(AccessScope.READ)
    async def list_questions(
        limit: Annotated[int, Query(ge=1, le=100, description="So many at most.")] = _QUESTIONS,
    ) -> Response:
        found = await grouped.questions(limit)
        return json_response({"questions": [question_view(*question) for question in found]})

    @app.put(
        "/questions/{question_id:id}",
        status_code=204,
        summary="Answer a question",
        description="yes: the group gets the person's name, as by its address, or of two groups one"
        " is made within seconds. no: no machine gives a face that is in the group now that name,"
        " or puts faces that are in the two groups now together, and nobody is asked again. later:"
        " nobody is asked for a day. A no is taken back by another answer.",
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.AnswerDocument)),
    )
    @needs(AccessScope.NAME)
    async def answer_question(question_id: QuestionId, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.AnswerDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        await grouped.answer(question_id, body.answer)
        return Response(status_code=204)

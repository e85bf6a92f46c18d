"""The routes of people and their known pictures."""

from functools import partial
from typing import Annotated, Final

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from services.common.bodies import MULTIPART, MULTIPART_OVERHEAD
from services.common.person_names import MAX_NAME_LENGTH
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.files import FileResponses, unchanged
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import (
    ON_A_PAGE,
    Another,
    IfNoneMatch,
    Insist,
    Name,
    PictureId,
)
from services.receiver.adapters.http.views import (
    enrolled_view,
    json_response,
    people_view,
    whole_person_view,
)
from services.receiver.domain.access import AccessScope
from services.receiver.domain.cursors import PERSON_CURSOR, Page, decode_person_cursor
from services.receiver.domain.faces import FaceKey
from services.receiver.service.people import Enrolment

_KNOWN: Final = {"name": "$response.body#/person", "picture_id": "$response.body#/id"}


def add_people(app: FastAPI, enrolment: Enrolment, files: FileResponses, spools: Spools) -> None:
    """Add the routes."""
    _add_people(app, enrolment, spools)
    _add_known(app, enrolment, files, spools)


def _add_people(app: FastAPI, enrolment: Enrolment, spools: Spools) -> None:
    @app.get(
        "/people",
        summary="List people and their known pictures",
        description="By name, without those who are hidden. Without any parameter, everybody in one"
        " answer: so do clients ask of before there were pages.",
        response_model=documents.PeopleDocument,
        responses=openapi.linked(
            200,
            "A page.",
            openapi.links(
                enrol=("enrol", {"name": "$response.body#/people/0/name"}),
                forget=("delete_person", {"name": "$response.body#/people/0/name"}),
            ),
            openapi.errors(422),
        ),
    )
    @needs(AccessScope.READ)
    async def list_people(
        person: Annotated[
            documents.Who | None,
            Query(description="Only those who have exactly this name, or who has the id."),
        ] = None,
        name: Annotated[
            str | None,
            Query(
                max_length=MAX_NAME_LENGTH,
                description="Only those with this in their names, in capital or small letters.",
            ),
        ] = None,
        cursor: Annotated[
            str | None,
            Query(pattern=PERSON_CURSOR, description="next_cursor of the page before."),
        ] = None,
        hidden: Annotated[bool, Query(description="Those who are hidden instead.")] = False,
        limit: Annotated[
            int | None,
            Query(ge=1, le=200, description=f"People on a page; {ON_A_PAGE} if not given."),
        ] = None,
    ) -> Response:
        if (person, name, cursor, limit) == (None, None, None, None) and not hidden:
            return json_response(people_view(Page(await enrolment.all(), None)))
        page = await enrolment.page(
            who=person,
            part=name,
            hidden=hidden,
            after=None if cursor is None else decode_person_cursor(cursor),
            limit=limit or ON_A_PAGE,
        )
        return json_response(people_view(page))

    @app.get(
        "/people/{name}",
        summary="Get a person",
        response_model=documents.WholePersonDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.READ)
    async def get_person(name: Name) -> Response:
        return json_response(whole_person_view(await enrolment.person(name)))

    @app.patch(
        "/people/{name}",
        summary="Give a person another name, hide them or show them",
        description="All faces show the name at once. Known pictures stay where they are, and are"
        " found by their old addresses, too. Refused when somebody else has the name, unless"
        " another is true.",
        response_model=documents.WholePersonDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.ChangeDocument)),
    )
    @needs(AccessScope.NAME)
    async def change_person(name: Name, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.ChangeDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        person = await enrolment.change(
            name, name=body.name, another=body.another, hidden=body.hidden
        )
        return json_response(whole_person_view(person))

    @app.put(
        "/people/{name}/face",
        summary="Choose the face that stands for a person",
        description="One of theirs, which stands for them while it is theirs.",
        response_model=documents.WholePersonDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.FaceReferenceDocument)),
    )
    @needs(AccessScope.NAME)
    async def choose_face(name: Name, request: Request) -> Response:
        face = await bodies.read_json(
            request,
            documents.FaceReferenceDocument,
            spools,
            max_bytes=bodies.MAX_SMALL_JSON,
        )
        chosen = FaceKey(face.image_id, face.face_index)
        return json_response(whole_person_view(await enrolment.choose_face(name, chosen)))

    @app.delete(
        "/people/{name}/face",
        status_code=204,
        summary="Take back which face stands for a person",
        description="Another of theirs is taken.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def unchoose_face(name: Name) -> Response:
        await enrolment.choose_face(name, None)
        return Response(status_code=204)

    @app.delete(
        "/people/{name}",
        status_code=204,
        summary="Forget a person",
        description="Removes all known pictures, also those that only the object store knows. No"
        " face has the name any more, and what was said by hand of it is forgotten.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.ADMINISTER)
    async def delete_person(name: Name) -> Response:
        await enrolment.delete(name)
        return Response(status_code=204)


def _add_known(app: FastAPI, enrolment: Enrolment, files: FileResponses, spools: Spools) -> None:
    @app.post(
        "/people/{name}/pictures",
        status_code=201,
        summary="Make a picture a known one of a person",
        description="Upload a file, or name a face of a submitted picture, which is cut out and"
        " gets the name in its result. Refused unless it shows exactly one face; and when that is"
        " of low quality, does not look like the person's other pictures, or looks like somebody"
        " else who is known. Then errors points at insist, which overrules it.",
        response_model=documents.EnrolledDocument,
        responses=openapi.linked(
            201,
            "The known picture is stored.",
            openapi.links(
                look=("get_known", _KNOWN),
                forget=("delete_known", _KNOWN),
                forget_person=("delete_person", {"name": _KNOWN["name"]}),
            ),
            openapi.errors(404, 408, 409, 413, 415, 422),
        ),
        openapi_extra=openapi.body(
            {
                **openapi.one_file(MAX_PICTURE_BYTES),
                **openapi.json_body(documents.EnrolmentDocument),
            }
        ),
    )
    @needs(AccessScope.NAME)
    async def enrol(
        name: Name, request: Request, insist: Insist = False, another: Another = False
    ) -> Response:
        if bodies.media_type(request) == MULTIPART:
            async with bodies.multipart(
                request,
                spools,
                max_files=1,
                max_bytes=MAX_PICTURE_BYTES + MULTIPART_OVERHEAD,
            ) as form:
                file = bodies.check_file(form.get("file"), "/file")
                known = await enrolment.enrol(
                    name, bodies.reader(file), insist=insist, another=another
                )
        else:
            face = await bodies.read_json(
                request,
                documents.EnrolmentDocument,
                spools,
                max_bytes=bodies.MAX_SMALL_JSON,
            )
            known = await enrolment.enrol_face(
                name,
                face.image_id,
                face.face_index,
                insist=insist,
                another=another or face.another,
            )
        return json_response(enrolled_view(known), 201)

    @app.get(
        "/people/{name}/pictures/{picture_id:id}",
        summary="Get the file of a known picture",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422)),
    )
    @needs(AccessScope.READ)
    async def get_known(
        name: Name, picture_id: PictureId, if_none_match: IfNoneMatch = None
    ) -> Response:
        same = await unchanged(if_none_match, partial(enrolment.picture_tag, name, picture_id))
        return same or files.response(partial(enrolment.picture, name, picture_id))

    @app.delete(
        "/people/{name}/pictures/{picture_id:id}",
        status_code=204,
        summary="Forget a known picture",
        description="The person stays, also without pictures.",
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.NAME)
    async def delete_known(name: Name, picture_id: PictureId) -> Response:
        await enrolment.delete_picture(name, picture_id)
        return Response(status_code=204)

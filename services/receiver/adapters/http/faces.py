"""The routes of faces: what a person says of them."""

from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from services.common.faces import Box
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import FaceIndex, ImageId, Insist, Name
from services.receiver.adapters.http.views import (
    enrolled_view,
    image_view,
    json_response,
    location,
)
from services.receiver.domain.access import AccessScope
from services.receiver.service.faces import Drawing
from services.receiver.service.people import Enrolment

_NamedSo = Annotated[bool, Query(description="Also when it was named so by hand.")]


def add_faces(app: FastAPI, enrolment: Enrolment, drawing: Drawing, spools: Spools) -> None:
    """Add the routes."""

    @app.post(
        "/images/{image_id:id}/faces",
        status_code=201,
        summary="Draw a face that no machine saw",
        description="With a name it is that person's, by hand; and a known picture of theirs, too,"
        " if it is fit to be one. Without, the machine says who it is. Refused while the image has"
        " no result, where one of its faces is already, and with 1,000 faces.",
        response_model=documents.ImageDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.DrawingDocument)),
    )
    @needs(AccessScope.NAME)
    async def draw_face(image_id: ImageId, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.DrawingDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        box = Box(**body.box.model_dump())
        image = await drawing.draw(image_id, box, body.name, another=body.another)
        return json_response(image_view(image), 201, location(image_id))

    @app.delete(
        "/images/{image_id:id}/faces/{face_index:id}",
        status_code=204,
        summary="Strike out what is no face",
        description="It stays out: no machine names it or compares it, until it is restored. Who it"
        " was by hand is taken back, with the known picture that was cut out of it; whom a person"
        " has said that it is not is kept.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def strike_out(image_id: ImageId, face_index: FaceIndex) -> Response:
        await drawing.strike_out(image_id, face_index)
        return Response(status_code=204)

    @app.post(
        "/images/{image_id:id}/faces/{face_index:id}/restore",
        summary="Have a face that was struck out back",
        description="The machine says who it is. Refused where another face has been drawn.",
        response_model=documents.ImageDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def restore_face(image_id: ImageId, face_index: FaceIndex) -> Response:
        return json_response(image_view(await drawing.restore(image_id, face_index)))

    @app.put(
        "/images/{image_id:id}/faces/{face_index:id}/person",
        summary="Say who a face is",
        description="The face is cut out and becomes a known picture of the person, who is made"
        " when missing; no machine changes the name. If somebody else was named before, by hand,"
        " the known picture that the face was goes. Refused as enrolling a picture is.",
        response_model=documents.EnrolledDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.NamingDocument)),
    )
    @needs(AccessScope.NAME)
    async def name_face(
        image_id: ImageId, face_index: FaceIndex, request: Request, insist: Insist = False
    ) -> Response:
        body = await bodies.read_json(
            request, documents.NamingDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        known = await enrolment.enrol_face(
            body.name, image_id, face_index, insist=insist, another=body.another
        )
        return json_response(enrolled_view(known))

    @app.delete(
        "/images/{image_id:id}/faces/{face_index:id}/person",
        status_code=204,
        summary="Take back who a face is",
        description="What was said by hand; the known picture that the face is goes, and the"
        " machine decides again. A face that the machine has named stays as it is.",
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.NAME)
    async def unname_face(image_id: ImageId, face_index: FaceIndex) -> Response:
        await enrolment.unname_face(image_id, face_index)
        return Response(status_code=204)

    @app.put(
        "/images/{image_id:id}/faces/{face_index:id}/denials/{name}",
        status_code=204,
        summary="Say who a face is not",
        description="No machine gives it that name any more; it loses it at once. Refused when it"
        " was named so by hand, unless you insist: then that is taken back, too. What it is by hand"
        " of anybody else stays.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def deny(
        image_id: ImageId, face_index: FaceIndex, name: Name, insist: _NamedSo = False
    ) -> Response:
        await enrolment.deny(image_id, face_index, name, insist=insist)
        return Response(status_code=204)

    @app.delete(
        "/images/{image_id:id}/faces/{face_index:id}/denials/{name}",
        status_code=204,
        summary="Take back who a face is not",
        description="The machine decides again.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.NAME)
    async def allow(image_id: ImageId, face_index: FaceIndex, name: Name) -> Response:
        await enrolment.allow(image_id, face_index, name)
        return Response(status_code=204)

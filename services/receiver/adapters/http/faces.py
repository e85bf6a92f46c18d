"""The routes of faces: what a person says of them."""

from fastapi import FastAPI, Request
from starlette.responses import Response

from services.common.bodies import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.parameters import FaceIndex, ImageId, Insist, Name
from services.receiver.adapters.http.views import enrolled_view, json_response
from services.receiver.service.people import Enrolment


def add_faces(app: FastAPI, enrolment: Enrolment, spools: Spools) -> None:
    """Add the routes."""

    @app.put(
        "/images/{image_id:id}/faces/{face_index:id}/person",
        summary="Say who a face is",
        description="The face is cut out and becomes a known picture of the person, who is made"
        " when missing; no machine changes the name. If somebody else was named before, by hand,"
        " the known picture that the face was goes. Refused as enrolling a picture is.",
        response_model=documents.EnrolledDocument,
        responses=openapi.errors(403, 404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.NamingDocument)),
    )
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
        responses=openapi.errors(403, 404, 422),
    )
    async def unname_face(image_id: ImageId, face_index: FaceIndex) -> Response:
        await enrolment.unname_face(image_id, face_index)
        return Response(status_code=204)

    @app.put(
        "/images/{image_id:id}/faces/{face_index:id}/denials/{name}",
        status_code=204,
        summary="Say who a face is not",
        description="No machine gives it that name any more; it loses it at once. Refused when it"
        " was named so by hand: take that back first.",
        responses=openapi.errors(403, 404, 409, 422),
    )
    async def deny(image_id: ImageId, face_index: FaceIndex, name: Name) -> Response:
        await enrolment.deny(image_id, face_index, name)
        return Response(status_code=204)

    @app.delete(
        "/images/{image_id:id}/faces/{face_index:id}/denials/{name}",
        status_code=204,
        summary="Take back who a face is not",
        description="The machine decides again.",
        responses=openapi.errors(403, 404, 409, 422),
    )
    async def allow(image_id: ImageId, face_index: FaceIndex, name: Name) -> Response:
        await enrolment.allow(image_id, face_index, name)
        return Response(status_code=204)

"""The routes of users: who may log in, and as what."""

from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import ON_A_PAGE, Cursor, row_id
from services.receiver.adapters.http.views import json_response, user_page_view, user_view
from services.receiver.domain.access import AccessScope
from services.receiver.domain.cursors import decode_cursor
from services.receiver.service.users import Users

_UserId = Annotated[int, row_id("A user")]


def add_users(app: FastAPI, users: Users, spools: Spools) -> None:
    """Add the routes."""

    @app.get(
        "/users",
        summary="List who may log in",
        description="Oldest first.",
        response_model=documents.UserPageDocument,
        responses=openapi.errors(422),
    )
    @needs(AccessScope.ADMINISTER)
    async def list_users(
        cursor: Annotated[
            Cursor | None, Query(description="next_cursor of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="On a page.")] = ON_A_PAGE,
    ) -> Response:
        after = decode_cursor(cursor) if cursor is not None else None
        return json_response(user_page_view(await users.page(after=after, limit=limit)))

    @app.post(
        "/users",
        status_code=201,
        summary="Let somebody log in with a password",
        description="Who logs in with OpenID Connect is added when they do.",
        response_model=documents.UserDocument,
        responses=openapi.linked(
            201,
            "The user.",
            openapi.links(
                change=("change_user", {"user_id": "$response.body#/id"}),
                delete=("delete_user", {"user_id": "$response.body#/id"}),
            ),
            openapi.errors(408, 409, 413, 415, 422),
        ),
        openapi_extra=openapi.body(openapi.json_body(documents.NewUserDocument)),
    )
    @needs(AccessScope.ADMINISTER)
    async def add_user(request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.NewUserDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        return json_response(user_view(await users.add(body.name, body.role, body.password)), 201)

    @app.patch(
        "/users/{user_id:id}",
        summary="Change what a user may do, or their password",
        description="Their sessions end with it. The role and the password of who logs in with"
        " OpenID Connect are the provider's, and one administrator must be left unless"
        " ADMINISTRATOR_KEY_FILE is set: 409.",
        response_model=documents.UserDocument,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.UserChangeDocument)),
    )
    @needs(AccessScope.ADMINISTER)
    async def change_user(user_id: _UserId, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.UserChangeDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        changed = await users.change(
            user_id, role=body.role, password=body.password, disabled=body.disabled
        )
        return json_response(user_view(changed))

    @app.delete(
        "/users/{user_id:id}",
        status_code=204,
        summary="Let a user log in no more",
        description="Their sessions end with it. Whom a provider vouches for is added again when"
        " they log in: disable them instead.",
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.ADMINISTER)
    async def delete_user(user_id: _UserId) -> Response:
        await users.delete(user_id)
        return Response(status_code=204)

"""The routes of sessions: log-in, log-out, and who is logged in."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.views import json_response, new_session_view, session_view
from services.receiver.adapters.rows.sessions import DatabaseSessions
from services.receiver.domain.access import Caller, Principal
from services.receiver.domain.errors import (
    ConflictError,
    NoRoleError,
    TooManyAttemptsError,
    WrongLogInError,
)
from services.receiver.domain.users import Identity, NewSession
from services.receiver.service.logging_in import LogIn


def add_sessions(app: FastAPI, log_in: LogIn, sessions: DatabaseSessions, spools: Spools) -> None:
    """Add the routes."""

    @app.post(
        "/sessions",
        status_code=201,
        summary="Log somebody in",
        description="For the frontend alone. After some wrong passwords from the address that it"
        " tells in Facestack-Address, attempts from there are refused for a while with 429.",
        response_model=documents.NewSessionDocument,
        responses=openapi.errors(408, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.LogInDocument)),
    )
    @needs(Caller.FRONTEND)
    async def begin_session(request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.LogInDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        token, session = await _logged_in(body, request.scope["address"])
        answer = json_response(new_session_view(token, session), 201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    async def _logged_in(body: documents.LogInDocument, address: str) -> tuple[str, NewSession]:
        try:
            match body.root:
                case documents.PasswordLogInDocument(name=name, password=password):
                    return await log_in.by_password(name, password, address)
                case whose:
                    return await log_in.by_identity(
                        Identity(whose.issuer, whose.subject, whose.name, tuple(whose.groups))
                    )
        except TooManyAttemptsError as error:
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                str(error),
                headers={"Retry-After": str(error.seconds)},
            ) from None
        except WrongLogInError as error:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED, str(error), headers={"WWW-Authenticate": "Password"}
            ) from None
        except NoRoleError as error:
            raise HTTPException(HTTPStatus.FORBIDDEN, str(error)) from None

    @app.get(
        "/session",
        summary="Say who acts, and what they may do",
        response_model=documents.SessionDocument,
        responses=openapi.errors(),
    )
    @needs(Caller.KNOWN)
    async def get_session(request: Request) -> Response:
        principal: Principal = request.scope["principal"]
        return json_response(session_view(principal))

    @app.delete(
        "/session",
        status_code=204,
        summary="Log out",
        description="The session that the frontend acts on ends at once, on all replicas.",
        responses=openapi.errors(409),
    )
    @needs(Caller.KNOWN)
    async def end_session(request: Request) -> Response:
        principal: Principal = request.scope["principal"]
        if principal.session is None:
            raise ConflictError("nobody is logged in here: keys are revoked, see /keys")
        await sessions.end(principal.session)
        return Response(status_code=204)

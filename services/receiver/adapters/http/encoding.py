"""The routes that stop and start giving stored faces encodings of the engine in use."""

from fastapi import FastAPI
from starlette.responses import Response

from services.receiver.adapters.http import documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.views import json_response
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.receiver.domain.access import AccessScope


def add_encoding(app: FastAPI, encoding: DatabaseEncoding) -> None:
    """Add the routes."""

    @app.post(
        "/encoding/stop",
        summary="Stop giving stored faces encodings",
        description="After the picture that is being looked at, and until it is started again."
        " New pictures get theirs all the same.",
        response_model=documents.EncodingDocument,
        responses=openapi.errors(),
    )
    @needs(AccessScope.ADMINISTER)
    async def stop_encoding() -> Response:
        return json_response(await encoding.stop(stopped=True))

    @app.post(
        "/encoding/start",
        summary="Go on giving stored faces encodings",
        response_model=documents.EncodingDocument,
        responses=openapi.errors(),
    )
    @needs(AccessScope.ADMINISTER)
    async def start_encoding() -> Response:
        return json_response(await encoding.stop(stopped=False))

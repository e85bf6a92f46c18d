"""The routes of keys of programs."""

from typing import Annotated, Final

from fastapi import FastAPI, Path, Request
from starlette.responses import Response

from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.views import json_response, key_view
from services.receiver.domain.access import AccessScope, Principal
from services.receiver.domain.keys import KEY_ID_PATTERN, ApiKey, WantedKey
from services.receiver.service.keys import Keyring

_KeyId = Annotated[
    str, Path(pattern=KEY_ID_PATTERN, description="A key's id.", examples=["abcdefgh2345"])
]

_MADE: Final = openapi.linked(
    201,
    "The key, this once.",
    openapi.links(
        rotate=("rotate_key", {"key_id": "$response.body#/id"}),
        revoke=("revoke_key", {"key_id": "$response.body#/id"}),
    ),
    openapi.errors(404, 408, 409, 413, 415, 422),
)


def add_keys(app: FastAPI, keys: Keyring, spools: Spools) -> None:
    """Add the routes."""

    @app.get(
        "/keys",
        summary="List keys",
        description="Up to 1,000: first those that are not revoked, each part newest first.",
        response_model=documents.KeysDocument,
        responses=openapi.linked(
            200,
            "The keys, without their secrets.",
            openapi.links(rotate=("rotate_key", {"key_id": "$response.body#/keys/0/id"})),
            openapi.errors(422),
        ),
    )
    @needs(AccessScope.ADMINISTER)
    async def list_keys() -> Response:
        return json_response({"keys": [key_view(key) for key in await keys.all()]})

    @app.post(
        "/keys",
        status_code=201,
        summary="Make a key",
        description="The answer has the key, which is kept nowhere and cannot be shown again. One"
        " key of a name is valid at a time, or two while it is rotated.",
        response_model=documents.MadeKeyDocument,
        responses=_MADE,
        openapi_extra=openapi.body(openapi.json_body(documents.WantedKeyDocument)),
    )
    @needs(AccessScope.ADMINISTER)
    async def make_key(request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.WantedKeyDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        wanted = WantedKey(body.name, frozenset(body.scopes), body.expires_at)
        return _made(await keys.make(wanted, by=_name(request)))

    @app.post(
        "/keys/{key_id}/rotate",
        status_code=201,
        summary="Make a key that replaces another",
        description="Of the same name, with the same scopes, and valid for as long from now on. The"
        " other one is valid until it is revoked, so that nothing stands still meanwhile; there are"
        " never more than these two.",
        response_model=documents.MadeKeyDocument,
        responses=_MADE,
    )
    @needs(AccessScope.ADMINISTER)
    async def rotate_key(key_id: _KeyId, request: Request) -> Response:
        return _made(await keys.rotate(key_id, by=_name(request)))

    @app.delete(
        "/keys/{key_id}",
        status_code=204,
        summary="Revoke a key",
        description="At once, on all replicas: no request that begins after the answer is served"
        " for it, and streams of events end within seconds.",
        responses=openapi.errors(404, 422),
    )
    @needs(AccessScope.ADMINISTER)
    async def revoke_key(key_id: _KeyId) -> Response:
        await keys.revoke(key_id)
        return Response(status_code=204)


def _made(made: tuple[ApiKey, str]) -> Response:
    key, text = made
    response = json_response({**key_view(key), "key": text}, 201)
    response.headers["Cache-Control"] = "no-store"
    return response


def _name(request: Request) -> str:
    principal: Principal = request.scope["principal"]
    return principal.name

"""The routes of what is kept about a person: all of it at once, and none of it any more."""

from collections.abc import AsyncIterator
from dataclasses import asdict

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from services.common.person_names import by_id
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import Name
from services.receiver.adapters.http.views import json_response, kept_view, location
from services.receiver.domain.access import AccessScope
from services.receiver.domain.erasing import Erased
from services.receiver.domain.personal_data import Account, KeptKnown, KeptPicture
from services.receiver.service.erasing import Erasing


def add_erasing(app: FastAPI, erasing: Erasing, spools: Spools) -> None:
    """Add the routes."""

    @app.post(
        "/people/{name}/erase",
        status_code=202,
        summary="Forget a person for good",
        description="Nobody is called so from now on. Then their known pictures go, and of every"
        " face of theirs all that is kept but its place, so that no machine looks at it again;"
        " nobody is asked any more whether a face is theirs. The answer says how much that is.",
        response_model=Erased,
        responses=openapi.errors(404, 408, 409, 413, 415, 422),
        openapi_extra=openapi.body(openapi.json_body(documents.EraseDocument)),
    )
    @needs(AccessScope.ADMINISTER)
    async def erase(name: Name, request: Request) -> Response:
        body = await bodies.read_json(
            request, documents.EraseDocument, spools, max_bytes=bodies.MAX_SMALL_JSON
        )
        return json_response(asdict(await erasing.erase(name, pictures=body.pictures)), 202)

    @app.get(
        "/people/{name}/export",
        summary="Say all that is kept about a person",
        description="But for the numbers that faces are compared by: of these, that they are"
        " there, and by which engine.",
        response_model=documents.ExportDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.READ, audited=True)
    async def export(name: Name) -> Response:
        account = await erasing.export(name)
        return StreamingResponse(_pieces(account), media_type="application/json")


async def _pieces(account: Account) -> AsyncIterator[bytes]:
    """Yield an ``ExportDocument``."""
    yield b'{"person":' + orjson.dumps(kept_view(account.person))
    for name, parts in account.lists.items():
        yield b"," + orjson.dumps(name) + b":["
        between = b"\n"
        async for part in parts:
            yield between + orjson.dumps(kept_view(part) | _address(account, part))
            between = b",\n"
        yield b"]"
    yield b"}"


def _address(account: Account, part: object) -> dict[str, str | None]:
    match part:
        case KeptPicture():
            return {"address": f"{location(part.id)}/picture"}
        case KeptKnown(id=None):
            return {"address": None}
        case KeptKnown() if account.person.id is not None:
            return {"address": f"/people/{by_id(account.person.id)}/pictures/{part.id}"}
        case _:
            return {}

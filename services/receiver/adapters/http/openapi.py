"""Completes the OpenAPI document: bodies that FastAPI does not see, problems, links."""

import json
import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.common.bodies import MULTIPART
from services.common.picture_formats import FORMATS, MAX_PICTURE_BYTES
from services.receiver.adapters.http import documents, problems
from services.receiver.adapters.http.guard import needed
from services.receiver.domain.submissions import MAX_FILES

_REF: Final = "#/components/schemas/{model}"
_NAMES: Final = re.compile(_REF.format(model=r"(\w+)"))

_PROBLEMS: Final = {
    401: "No key, or one that is not valid.",
    403: "The caller does not have the scope, or a browser sent this for another site's page.",
    404: "What the address or the body names does not exist.",
    408: "The body came too slowly.",
    409: "The request does not fit the present state.",
    413: "The body or a file is too large.",
    415: "The body has the wrong media type.",
    421: "The request is for a host that is not this one.",
    422: "The request is wrong; errors says where.",
    429: "Too many requests of this kind are being served, or came from this caller in a minute.",
    500: "The receiver failed.",
    503: "Something that the receiver needs is away.",
}
_RETRIED: Final = frozenset({429, 503})


def _file(max_bytes: int) -> dict[str, Any]:
    description = f"At most {max_bytes} bytes."
    return {"type": "string", "format": "binary", "minLength": 1, "description": description}


_FILES: Final = {
    "type": "array",
    "items": _file(MAX_PICTURE_BYTES),
    "minItems": 1,
    "maxItems": MAX_FILES,
}
FILES: Final = {"type": "object", "properties": {"files": _FILES}, "required": ["files"]}


def one_file(max_bytes: int) -> dict[str, Any]:
    """Describe a form with a file."""
    schema = {"type": "object", "properties": {"file": _file(max_bytes)}, "required": ["file"]}
    return {MULTIPART: {"schema": schema}}


_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
ANY_PICTURE: Final = dict.fromkeys(
    (*(picture.media_type for picture in FORMATS), "application/octet-stream"), _BINARY
)
JPEG: Final = {"image/jpeg": _BINARY}

ETAG: Final = {
    "ETag": {
        "description": "Changes with the file.",
        "required": True,
        "schema": {"type": "string"},
    }
}


EVENTS: Final = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'event: image\ndata: {"id":42,"status":"processed"}\nid: 7.1714564800000\n\n'
        'event: person\ndata: {"id":3,"name":"Grace Hopper"}\nid: 8.1714564800000\n\n',
    }
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route may fail with; 401, 403, 421, 429, 500, 503 always may."""
    return {
        status: {
            "description": _PROBLEMS[status],
            "content": {problems.MEDIA_TYPE: {"schema": _reference(documents.ProblemDocument)}},
            **(
                {
                    "headers": {
                        "Retry-After": {
                            "description": "Seconds to wait.",
                            "required": True,
                            "schema": {"type": "integer", "minimum": 0},
                        }
                    }
                }
                if status in _RETRIED
                else {}
            ),
        }
        for status in sorted({*statuses, 401, 403, 421, 429, 500, 503})
    }


def links(**targets: tuple[str, dict[str, str]]) -> dict[str, Any]:
    """Say which operations take values of a response: name -> (parameter -> expression)."""
    return {
        name: {"operationId": operation, "parameters": parameters}
        for name, (operation, parameters) in targets.items()
    }


def image_links(pointer: str) -> dict[str, Any]:
    """Return links to what can be done with the image whose id is at the pointer."""
    expression = {"image_id": f"$response.body#{pointer}"}
    return links(
        regions=("get_regions", expression),
        sidecar=("get_sidecar", expression),
        look=("get_image", expression),
        picture=("get_picture", expression),
        thumbnail=("get_thumbnail", expression),
        preview=("get_preview", expression),
        retry=("retry", expression),
        recognise=("recognise", expression),
        delete=("delete_image", expression),
    )


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body."""
    return {"application/json": {"schema": _reference(model)}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return where :func:`build` puts the schema of a model of :mod:`documents`."""
    return {"$ref": _REF.format(model=model.__name__)}


def body(content: dict[str, Any]) -> dict[str, Any]:
    """Describe a body that the route reads by itself."""
    return {"requestBody": {"required": True, "content": content}}


def build(app: FastAPI, *, is_open: bool) -> dict[str, Any]:
    """Return the whole document; ``is_open``: nobody needs a key."""
    document = get_openapi(
        title="Facestack receiver",
        version=app.version,
        summary="Submit pictures, see who is on them, and name people.",
        description="Every error is a problem document (RFC 9457).",
        routes=app.routes,
    )
    known = document["components"]["schemas"]
    missing = sorted(set(_NAMES.findall(json.dumps(document["paths"]))) - known.keys())
    _, schemas = models_json_schema(
        [(getattr(documents, name), "validation") for name in missing], ref_template=_REF
    )
    known.update(schemas["$defs"])
    if is_open:
        return document
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            scope = needed(route)
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                # Since 3.1, of other schemes than OAuth, too: what the caller must have.
                operation["security"] = [] if scope is None else [{"key": [scope]}]
    return document


def linked(
    status: int, description: str, links: dict[str, Any], others: dict[int | str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """Describe an answer whose body leads on, beside the others."""
    return {status: {"description": description, "links": links}, **others}


def picture(
    responses: dict[int | str, dict[str, Any]], content: dict[str, Any] = ANY_PICTURE
) -> dict[int | str, dict[str, Any]]:
    """Describe the answer with a picture file, beside the others."""
    return {
        200: {"description": "The file.", "headers": ETAG, "content": content},
        304: {"description": "The client has the file already.", "headers": ETAG},
        **responses,
    }


def located(responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """Describe the answer that says where to look at an image, beside the others."""
    header = {
        "description": "Where to look.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/images/[1-9][0-9]*$"},
    }
    return {
        202: {
            "description": "The row is durable.",
            "headers": {"Location": header},
            "links": image_links("/id"),
        },
        **responses,
    }

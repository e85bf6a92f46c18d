"""The page at ``/docs``: the OpenAPI document for people, without any script.

Swagger UI and ReDoc, which packages bring without a CDN, are 1 to 2 MB of script each, in the
origin that serves people's faces and deletes them on request.
"""

import base64
import hashlib
import json
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from services.receiver.adapters.http import openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.views import json_response
from services.receiver.domain.access import AccessScope

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24;background:#fff}
section{border:1px solid #d0d7de;border-radius:8px;margin:1rem 0;padding:0 1rem 1rem}
h2{font-size:1.05rem;font-family:ui-monospace,monospace;overflow-wrap:anywhere}
h2 b{background:#0b5cad;color:#fff;border-radius:4px;padding:.1rem .5rem;margin-right:.5rem}
table{border-collapse:collapse;width:100%}td{border-top:1px solid #d8dee4;padding:.3rem .5rem;
vertical-align:top}td:first-child{font-family:ui-monospace,monospace;white-space:nowrap}
pre{background:#f6f8fa;padding:.75rem;border-radius:6px;overflow:auto;font-size:.85rem}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def docs_routes(app: FastAPI, *, is_open: bool) -> list[Route]:
    """Return the routes of an application's OpenAPI document and of its page.

    ``is_open``: nobody needs a key.
    """
    document: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not document:
            document.update(openapi.build(app, is_open=is_open))
        return document

    @needs(AccessScope.READ)
    async def openapi_document(_: Request) -> Response:
        return json_response(described())

    @needs(AccessScope.READ)
    async def docs(_: Request) -> Response:
        return HTMLResponse(render(described()), headers=HEADERS)

    return [Route("/openapi.json", openapi_document), Route("/docs", docs)]


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info = document["info"]
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f'<section id="{escape(name)}"><h2>{escape(name)}</h2>{_json(schema)}</section>'
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['summary'])}"
        f" {escape(info['description'])}"
        ' The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{operations}<h1>Documents</h1>{schemas}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = [
        (
            f"{parameter['name']} ({parameter['in']})",
            f"{escape(parameter.get('description', ''))} {_inline(parameter['schema'])}",
        )
        for parameter in operation.get("parameters", ())
    ]
    bodies = [
        (f"body: {kind}", _inline(content["schema"]))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        (
            status,
            escape(answer["description"])
            + " "
            + next(
                (_inline(content["schema"]) for content in answer.get("content", {}).values()), ""
            ),
        )
        for status, answer in sorted(operation["responses"].items())
    ]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{text}</td></tr>"
        for name, text in (*parameters, *bodies, *answers)
    )
    return (
        f"<section><h2><b>{escape(method.upper())}</b>{escape(path)}</h2>"
        f"<p>{escape(operation.get('description') or operation['summary'])}</p>"
        f"<table>{rows}</table></section>"
    )


def _inline(schema: dict[str, Any]) -> str:
    reference = schema.get("$ref")
    if reference:
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>"


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"

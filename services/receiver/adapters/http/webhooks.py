"""The routes of webhooks: what their endpoints are told, and what they did not take."""

from typing import Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.common.webhooks import DeliveryStatus
from services.receiver.adapters.http import documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.parameters import ON_A_PAGE, Cursor, row_id
from services.receiver.adapters.http.views import delivery_page_view, delivery_view, json_response
from services.receiver.adapters.rows.deliveries import DatabaseDeliveries
from services.receiver.domain.access import AccessScope
from services.receiver.domain.cursors import decode_cursor

_DeliveryId = Annotated[int, row_id("A delivery")]


def add_webhooks(app: FastAPI, deliveries: DatabaseDeliveries) -> None:
    """Add the routes."""

    @app.get(
        "/webhooks/deliveries",
        summary="List what endpoints of webhooks are told",
        description="Newest first. Deliveries are kept for a week.",
        response_model=documents.DeliveryPageDocument,
        responses=openapi.linked(
            200,
            "A page.",
            openapi.links(
                retry=("retry_delivery", {"delivery_id": "$response.body#/deliveries/0/id"})
            ),
            openapi.errors(422),
        ),
    )
    @needs(AccessScope.ADMINISTER)
    async def list_deliveries(
        status: Annotated[
            DeliveryStatus | None, Query(description="Only with this status.")
        ] = None,
        cursor: Annotated[
            Cursor | None, Query(description="next_cursor of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="On a page.")] = ON_A_PAGE,
    ) -> Response:
        before = decode_cursor(cursor) if cursor is not None else None
        page = await deliveries.page(status=status, before=before, limit=limit)
        return json_response(delivery_page_view(page))

    @app.post(
        "/webhooks/deliveries/{delivery_id:id}/retry",
        status_code=202,
        summary="Try a delivery again that was given up",
        response_model=documents.DeliveryDocument,
        responses=openapi.errors(404, 409, 422),
    )
    @needs(AccessScope.ADMINISTER)
    async def retry_delivery(delivery_id: _DeliveryId) -> Response:
        return json_response(delivery_view(await deliveries.retry(delivery_id)), 202)

"""The routes of submissions: pictures that are in the object store already, and uploads."""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from starlette.responses import Response

from services.common.bodies import MULTIPART
from services.common.spools import Spools
from services.receiver.adapters.http import bodies, documents, openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.rates import Rates
from services.receiver.adapters.http.views import accepted_view, json_response, location
from services.receiver.domain.access import AccessScope
from services.receiver.domain.errors import Fault, InvalidError
from services.receiver.domain.submissions import MAX_FILES, Accepted
from services.receiver.metrics import SUBMISSIONS
from services.receiver.service.images import Images
from services.receiver.service.submitting import Submissions


def add_submissions(
    app: FastAPI,
    submissions: Submissions,
    images: Images,
    spools: Spools,
    rates: Rates,
    *,
    max_json_bytes: int,
    max_upload_bytes: int,
) -> None:
    """Add the routes."""

    @app.post(
        "/image/post",
        status_code=202,
        summary="Submit one picture",
        description="Submit a picture that is in the object store. The answer comes when the row"
        " is durable. A path that was submitted before gives the first one's id; what was"
        " rejected or dead, or whose picture was replaced since, is looked at again.",
        response_model=documents.AcceptedDocument,
        responses=openapi.located(openapi.errors(408, 413, 415, 422)),
        openapi_extra=openapi.body(openapi.json_body(documents.PathDocument)),
    )
    @needs(AccessScope.SUBMIT)
    async def submit_one(request: Request) -> Response:
        body = await bodies.read_json(
            request,
            documents.PathDocument,
            spools,
            max_bytes=max_json_bytes,
            lenient=True,
        )
        (accepted,) = await submissions.submit([body.path])
        _count("/image/post", [accepted])
        return json_response(accepted_view(accepted), 202, location(accepted.id))

    @app.post(
        "/images/post",
        status_code=202,
        summary="Submit many pictures",
        description="Submit up to 1000 pictures that are in the object store: all or none.",
        response_model=documents.AcceptedListDocument,
        responses=openapi.linked(
            202,
            "Every row is durable.",
            openapi.image_links("/images/0/id"),
            openapi.errors(408, 413, 415, 422),
        ),
        openapi_extra=openapi.body(openapi.json_body(documents.PathsDocument)),
    )
    @needs(AccessScope.SUBMIT)
    async def submit_many(request: Request) -> Response:
        body = await bodies.read_json(
            request,
            documents.PathsDocument,
            spools,
            max_bytes=max_json_bytes,
            lenient=True,
        )
        rates.spend(request.scope, len(body.paths) - 1)
        accepted = await submissions.submit([picture.path for picture in body.paths])
        _count("/images/post", accepted)
        return json_response({"images": [accepted_view(row) for row in accepted]}, 202)

    @app.post(
        "/images",
        status_code=202,
        summary="Upload pictures",
        description="Upload 1 to 20 files of at most 20 MiB. They are stored by their content, so"
        " the same content gives the first one's id. What is no picture is rejected later.",
        response_model=documents.AcceptedListDocument,
        responses=openapi.linked(
            202,
            "Every row is durable.",
            openapi.image_links("/images/0/id"),
            openapi.errors(408, 413, 415, 422),
        ),
        openapi_extra=openapi.body({MULTIPART: {"schema": openapi.FILES}}),
    )
    @needs(AccessScope.SUBMIT)
    async def upload(request: Request) -> Response:
        async with bodies.multipart(
            request, spools, max_files=MAX_FILES, max_bytes=max_upload_bytes
        ) as form:
            files = [bodies.check_file(part, "/files") for part in form.getlist("files")]
            if not files:
                raise InvalidError("the form has no field files", [Fault("/files", "is missing")])
            rates.spend(request.scope, len(files) - 1)
            accepted = await images.upload(
                [(file.filename or "", bodies.reader(file)) for file in files]
            )
        _count("/images", accepted)
        return json_response({"images": [accepted_view(row) for row in accepted]}, 202)


def _count(endpoint: str, accepted: Sequence[Accepted]) -> None:
    duplicates = sum(row.duplicate for row in accepted)
    SUBMISSIONS.labels(endpoint, "duplicate").inc(duplicates)
    SUBMISSIONS.labels(endpoint, "new").inc(len(accepted) - duplicates)

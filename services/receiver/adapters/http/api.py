"""The routes."""

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Query, Request
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common.bodies import MULTIPART, Spools
from services.common.door import Door
from services.common.errors import DatabaseUnavailableError
from services.common.head import HeadApp
from services.common.images import InvalidPathError, Status
from services.common.ops import Lifecycle, Outages, probe_routes
from services.common.settings import HttpSettings
from services.receiver.adapters.http import bodies, docs_page, documents, openapi, problems, rooms
from services.receiver.adapters.http.erasing import add_erasing
from services.receiver.adapters.http.event_stream import EventStream
from services.receiver.adapters.http.faces import add_faces
from services.receiver.adapters.http.files import Files, unchanged
from services.receiver.adapters.http.groups import add_groups
from services.receiver.adapters.http.merges import add_merges
from services.receiver.adapters.http.parameters import (
    ON_A_PAGE,
    Cursor,
    FaceIndex,
    IfNoneMatch,
    ImageId,
    Name,
    PictureId,
)
from services.receiver.adapters.http.people import add_people
from services.receiver.adapters.http.regions import add_regions
from services.receiver.adapters.http.same_site import SameSite
from services.receiver.adapters.http.search import add_search
from services.receiver.adapters.http.slashes import SlashInName
from services.receiver.adapters.http.views import (
    accepted_view,
    image_view,
    json_response,
    location,
    page_view,
)
from services.receiver.adapters.http.webhooks import add_webhooks
from services.receiver.domain.cursors import decode_cursor
from services.receiver.domain.encoding import EncodingReport
from services.receiver.domain.errors import Fault, InvalidError
from services.receiver.domain.images import StatusReport
from services.receiver.domain.submissions import MAX_FILES, Accepted, Submission, submission_of_path
from services.receiver.domain.thumbnails import (
    FACE_SIDE,
    PREVIEW_SIDE,
    THUMBNAIL_SIDE,
    Thumbnail,
    face_thumbnails,
    image_thumbnails,
    known_thumbnail,
)
from services.receiver.metrics import SUBMISSIONS
from services.receiver.ports import DeliveryRows, Encoding, ImageRows
from services.receiver.service.counting import Counting
from services.receiver.service.erasing import Erasing
from services.receiver.service.faces import Drawing
from services.receiver.service.following import Following
from services.receiver.service.groups import Grouped
from services.receiver.service.images import Images
from services.receiver.service.merging import Merging
from services.receiver.service.people import Enrolment
from services.receiver.service.regions import Regions
from services.receiver.service.searching import Search
from services.receiver.service.submitting import Submissions
from services.receiver.service.thumbnails import Find, Thumbnails

_OUTAGES_SECONDS: Final = 2.0
"""How long it is kept what is away: finding out may take a second."""

_THUMBNAILS_AT_ONCE: Final = 64
"""They are read or made; one has 60 KB, a preview 300."""

THUMBNAIL_BYTES: Final = 32 * 1024 * 1024
"""Of thumbnails that are being sent."""


class _IdConvertor(IntegerConvertor):
    """Digits, fewer than those of which Python makes no number; more are nobody's id."""

    regex = "[0-9]{1,100}"


register_url_convertor("id", _IdConvertor())

_Person = Annotated[documents.Who | None, Query(description="Only with a face of this person.")]


class Api:
    """What the routes call.

    ``lifecycle`` answers the probes; ``outages`` only says what is away.
    """

    def __init__(
        self,
        *,
        rows: ImageRows,
        encoding: Encoding,
        submissions: Submissions,
        images: Images,
        regions: Regions,
        enrolment: Enrolment,
        search: Search,
        grouped: Grouped,
        drawing: Drawing,
        merging: Merging,
        erasing: Erasing,
        thumbnails: Thumbnails,
        following: Following,
        deliveries: DeliveryRows,
        lifecycle: Lifecycle,
        outages: Outages,
        max_json_bytes: int,
        http: HttpSettings,
    ) -> None:
        self.rows = rows
        self.encoding = encoding
        self.submissions = submissions
        self.images = images
        self.regions = regions
        self.enrolment = enrolment
        self.search = search
        self.grouped = grouped
        self.drawing = drawing
        self.merging = merging
        self.erasing = erasing
        self.thumbnails = thumbnails
        self.following = following
        self.deliveries = deliveries
        self.lifecycle = lifecycle
        self.outages = outages
        self.max_json_bytes = max_json_bytes
        self.http = http
        self.spools = Spools(http.max_spool_bytes)


def create_app(api: Api, places: rooms.Rooms) -> ASGIApp:
    """Return the whole HTTP interface."""
    app = FastAPI(
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    _add_submissions(app, api)
    files = Files()
    _add_images(app, api, files)
    add_regions(app, api.regions, api.spools)
    add_faces(app, api.enrolment, api.drawing, api.spools)
    add_groups(app, api.grouped, api.spools)
    add_people(app, api.enrolment, files, api.spools)
    add_search(app, api.search, api.spools)
    add_merges(app, api.merging, api.spools)
    add_erasing(app, api.erasing, api.spools)
    _add_thumbnails(app, api)
    _add_status(app, api)
    _add_encoding(app, api)
    _add_events(app, api)
    add_webhooks(app, api.deliveries)
    _add_documents(app)
    app.router.routes.extend(probe_routes(api.lifecycle))
    problems.install(app)
    door = Door(
        SameSite(SlashInName(_with_short_way(app, rooms.SUBMISSIONS))),
        room=places.of,
        refuse=rooms.refuse,
        settings=api.http,
    )
    return HeadApp(door)


def _with_short_way(app: FastAPI, paths: Collection[str]) -> ASGIApp:
    """Return the application with plain Starlette routes to ``paths``, which FastAPI describes.

    Their endpoints read the request themselves, so that FastAPI's handling of parameters would only
    cost time: more than everything else in a submission.
    """
    routes = [
        Route(route.path, route.endpoint, methods=route.methods)
        for route in app.routes
        if isinstance(route, APIRoute) and route.path in paths
    ]
    short = Starlette(routes=routes)
    problems.install(short)
    short.router.redirect_slashes = False
    short.router.default = app
    return short


def _add_submissions(app: FastAPI, api: Api) -> None:
    @app.post(
        "/image/post",
        status_code=202,
        summary="Submit one picture",
        description="Submit a picture that is in the object store. The answer comes when the row"
        " is durable. A path that was submitted before gives the first one's id; what was"
        " rejected or dead, or whose picture was replaced since, is looked at again.",
        response_model=documents.AcceptedDocument,
        responses=_located(openapi.errors(403, 408, 413, 415, 422)),
        openapi_extra=openapi.body(openapi.json_body(documents.PathDocument)),
    )
    async def submit_one(request: Request) -> Response:
        body = await bodies.read_json(
            request,
            documents.PathDocument,
            api.spools,
            max_bytes=api.max_json_bytes,
            lenient=True,
        )
        try:
            submission = submission_of_path(body.path)
        except InvalidPathError as error:
            raise InvalidError(str(error), [Fault("/path", str(error))]) from None
        (accepted,) = await api.submissions.submit([submission])
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
            openapi.errors(403, 408, 413, 415, 422),
        ),
        openapi_extra=openapi.body(openapi.json_body(documents.PathsDocument)),
    )
    async def submit_many(request: Request) -> Response:
        body = await bodies.read_json(
            request,
            documents.PathsDocument,
            api.spools,
            max_bytes=api.max_json_bytes,
            lenient=True,
        )
        accepted = await api.submissions.submit(_checked(body))
        _count("/images/post", accepted)
        return json_response({"images": [accepted_view(one) for one in accepted]}, 202)

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
            openapi.errors(403, 408, 413, 415, 422),
        ),
        openapi_extra=openapi.body({MULTIPART: {"schema": openapi.FILES}}),
    )
    async def upload(request: Request) -> Response:
        async with bodies.multipart(
            request, api.spools, max_files=MAX_FILES, max_bytes=api.http.max_upload_bytes
        ) as form:
            files = [bodies.check_file(part, "/files") for part in form.getlist("files")]
            if not files:
                raise InvalidError("the form has no field files", [Fault("/files", "is missing")])
            accepted = await api.images.upload(
                [(file.filename or "", bodies.reader(file)) for file in files]
            )
        _count("/images", accepted)
        return json_response({"images": [accepted_view(one) for one in accepted]}, 202)


def _add_images(app: FastAPI, api: Api, files: Files) -> None:
    @app.get(
        "/images",
        summary="List images",
        description="Newest first.",
        response_model=documents.ImagePageDocument,
        responses=openapi.linked(
            200, "A page.", openapi.image_links("/images/0/id"), openapi.errors(404, 409, 422)
        ),
    )
    async def list_images(
        status: Annotated[Status | None, Query(description="Only with this status.")] = None,
        person: _Person = None,
        cursor: Annotated[
            Cursor | None, Query(description="next_cursor of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Images on a page.")] = ON_A_PAGE,
    ) -> Response:
        before = decode_cursor(cursor) if cursor is not None else None
        whose = None if person is None else await api.enrolment.who(person)
        page = await api.rows.page(status=status, person=whose, before=before, limit=limit)
        return json_response(page_view(page))

    @app.get(
        "/images/{image_id:id}",
        summary="Get an image and its faces",
        response_model=documents.ImageDocument,
        responses=openapi.errors(404, 422),
    )
    async def get_image(image_id: ImageId) -> Response:
        return json_response(image_view(await api.images.get(image_id)))

    @app.get(
        "/images/{image_id:id}/picture",
        summary="Get the picture file",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422)),
    )
    async def get_picture(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        same = await unchanged(if_none_match, partial(api.images.picture_tag, image_id))
        return same or files.response(partial(api.images.picture, image_id))

    @app.post(
        "/images/{image_id:id}/retry",
        status_code=202,
        summary="Try a rejected or dead image again",
        response_model=documents.ImageDocument,
        responses=openapi.errors(403, 404, 409, 422),
    )
    async def retry(image_id: ImageId) -> Response:
        return json_response(image_view(await api.images.retry(image_id)), 202)

    @app.post(
        "/images/{image_id:id}/recognise",
        status_code=202,
        summary="Look at an image again with the people known now",
        description="Its result is given up for a new one. Refused while it is on its way anyway,"
        " and when somebody has said by hand who one of its faces is, or is not, which a new result"
        " would forget.",
        response_model=documents.ImageDocument,
        responses=_located(openapi.errors(403, 404, 409, 422)),
    )
    async def recognise(image_id: ImageId) -> Response:
        image = await api.images.recognise(image_id)
        return json_response(image_view(image), 202, location(image_id))

    @app.delete(
        "/images/{image_id:id}",
        status_code=204,
        summary="Delete an image, its faces and its picture",
        responses=openapi.errors(403, 404, 422),
    )
    async def delete_image(image_id: ImageId) -> Response:
        await api.images.delete(image_id)
        return Response(status_code=204)


def _add_thumbnails(app: FastAPI, api: Api) -> None:
    files = Files(loaded_at_once=_THUMBNAILS_AT_ONCE, sending_bytes=THUMBNAIL_BYTES)

    async def answer(if_none_match: str | None, one: Thumbnail, find: Find) -> Response:
        if same := await unchanged(if_none_match, partial(api.thumbnails.tag, one, find)):
            return same
        await api.thumbnails.prepare(one, find)
        return files.response(partial(api.thumbnails.get, one, find))

    @app.get(
        "/images/{image_id:id}/thumbnail",
        summary=f"Get the picture as a JPEG of at most {THUMBNAIL_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    async def get_thumbnail(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        small, _ = image_thumbnails(image_id)
        return await answer(if_none_match, small, partial(api.images.picture_key, image_id))

    @app.get(
        "/images/{image_id:id}/preview",
        summary=f"Get the picture as a JPEG of at most {PREVIEW_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    async def get_preview(image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
        _, large = image_thumbnails(image_id)
        return await answer(if_none_match, large, partial(api.images.picture_key, image_id))

    @app.get(
        "/images/{image_id:id}/faces/{face_index:id}/thumbnail",
        summary=f"Get a face as a square JPEG of at most {FACE_SIDE} pixels a side",
        description="Its box with a quarter of its size around it, upright, without metadata.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    async def get_face_thumbnail(
        image_id: ImageId, face_index: FaceIndex, if_none_match: IfNoneMatch = None
    ) -> Response:
        box = await api.images.face_box(image_id, face_index)
        (one,) = face_thumbnails(image_id, [box])
        find = partial(api.images.face_picture_key, image_id, face_index, box)
        return await answer(if_none_match, one, find)

    @app.get(
        "/people/{name}/pictures/{picture_id:id}/thumbnail",
        summary=f"Get a known picture as a JPEG of at most {THUMBNAIL_SIDE} pixels a side",
        description="Upright, without metadata, whatever the format of the file.",
        response_class=Response,
        responses=openapi.picture(openapi.errors(404, 422), openapi.JPEG),
    )
    async def get_known_thumbnail(
        name: Name, picture_id: PictureId, if_none_match: IfNoneMatch = None
    ) -> Response:
        find = partial(api.enrolment.picture_key, name, picture_id)
        return await answer(if_none_match, known_thumbnail(picture_id), find)


def _add_status(app: FastAPI, api: Api) -> None:
    counting = Counting(api.rows)
    lock = asyncio.Lock()
    asked_at = float("-inf")
    known: dict[str, str] = {}

    async def counted(person: str | None) -> StatusReport | None:
        try:
            if person is not None:
                return await api.rows.status(await api.enrolment.who(person))
            return await counting.report()
        except DatabaseUnavailableError:
            return None

    async def encoding() -> EncodingReport | None:
        try:
            return await api.encoding.report()
        except DatabaseUnavailableError:
            return None

    async def nothing() -> None:
        return None

    async def away() -> dict[str, str]:
        nonlocal asked_at, known
        async with lock:
            if time.monotonic() - asked_at > _OUTAGES_SECONDS:
                known = await api.outages.away()
                asked_at = time.monotonic()
            return known

    @app.get(
        "/status",
        summary="Rows per status, the oldest that waits, and what is away",
        description="The counts have everything that was acknowledged before the request, by any"
        " replica; with person, they are of the images with a face of this person.",
        response_model=documents.StatusDocument,
        responses=openapi.errors(404, 409, 422),
    )
    async def status(
        person: _Person = None,
        counts: Annotated[
            bool, Query(description="False for what is away alone, which reads no row.")
        ] = True,
    ) -> Response:
        report, its_encoding, problems = await asyncio.gather(
            counted(person) if counts else nothing(),
            encoding() if counts else nothing(),
            away(),
        )
        return json_response(
            {
                "images": report and report.images,
                "oldest_pending_seconds": report and report.oldest_pending_seconds,
                "encoding": its_encoding,
                "problems": problems,
            }
        )


def _add_encoding(app: FastAPI, api: Api) -> None:
    @app.post(
        "/encoding/stop",
        summary="Stop giving stored faces encodings",
        description="After the picture that is being looked at, and until it is started again."
        " New pictures get theirs all the same.",
        response_model=documents.EncodingDocument,
        responses=openapi.errors(403),
    )
    async def stop_encoding() -> Response:
        return json_response(await api.encoding.stop(stopped=True))

    @app.post(
        "/encoding/start",
        summary="Go on giving stored faces encodings",
        response_model=documents.EncodingDocument,
        responses=openapi.errors(403),
    )
    async def start_encoding() -> Response:
        return json_response(await api.encoding.stop(stopped=False))


def _add_events(app: FastAPI, api: Api) -> None:
    @app.get(
        "/events",
        summary="Listen to what changes",
        description="Server-sent events: image when a result is there, an image is to be"
        " recognised again, its names are others or it is gone; person when somebody's name or"
        " known pictures are others, or they are gone. data has the id, and the image's status or"
        " the person's name as it is when the event is sent; null for what is gone. An event may"
        " come twice. The stream begins with an id: what is committed after that comes. With a"
        " Last-Event-ID it goes on from there; the event reset says that this cannot be, as after"
        " an hour, and that everything is to be loaded anew. A stream that ends, since its client"
        " does not keep up or the receiver stops, goes on with the last id.",
        response_class=Response,
        responses={
            200: {"description": "The stream.", "content": openapi.EVENTS},
            **openapi.errors(422),
        },
    )
    async def follow(
        last_event_id: Annotated[
            str | None, Header(description="The id that came last of an earlier stream.")
        ] = None,
    ) -> Response:
        return EventStream(api.following, api.lifecycle, last_event_id)


def _add_documents(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not document:
            document.update(openapi.build(app))
        return document

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return json_response(described())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page.render(described()), headers=docs_page.HEADERS)


def _checked(body: documents.PathsDocument) -> list[Submission]:
    submissions = []
    faults = []
    for number, one in enumerate(body.paths):
        try:
            submissions.append(submission_of_path(one.path))
        except InvalidPathError as error:
            faults.append(Fault(f"/paths/{number}/path", str(error)))
    if faults:
        raise InvalidError(
            f"{len(faults)} of {len(body.paths)} paths are wrong, nothing was stored", faults
        )
    return submissions


def _count(endpoint: str, accepted: Sequence[Accepted]) -> None:
    duplicates = sum(one.duplicate for one in accepted)
    SUBMISSIONS.labels(endpoint, "duplicate").inc(duplicates)
    SUBMISSIONS.labels(endpoint, "new").inc(len(accepted) - duplicates)


def _located(responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    header = {
        "description": "Where to look.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/images/[1-9][0-9]*$"},
    }
    return {
        202: {
            "description": "The row is durable.",
            "headers": {"Location": header},
            "links": openapi.image_links("/id"),
        },
        **responses,
    }

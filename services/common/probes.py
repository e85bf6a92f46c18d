"""The addresses that Kubernetes and load balancers ask, and that which Prometheus asks."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.common.lifecycle import Lifecycle

PROBES: Final = frozenset({"/livez", "/readyz"})
"""Those of the former, which no limit holds up and no metric counts."""


_NOT_HERE: Final = "the port of probes says why"


def probe_routes(lifecycle: Lifecycle, *, for_everybody: bool = False) -> list[Route]:
    """Return the routes ``/livez`` and ``/readyz``.

    ``for_everybody``: what an error says of servers and users is left out.
    """

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        ready, problems = await lifecycle.readiness()
        if for_everybody:
            problems = dict.fromkeys(problems, _NOT_HERE)
        return JSONResponse(
            {"ready": ready, "problems": problems}, status_code=200 if ready else 503
        )

    return [Route("/livez", livez), Route("/readyz", readyz)]


def metrics_route() -> Route:
    """Return the route ``/metrics``, which is for no port that clients come to."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody asks for

    async def metrics_page(_: Request) -> Response:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", metrics_page)

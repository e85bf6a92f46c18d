"""How many requests of each kind are served at once, so that none takes the others' places."""

from collections.abc import Callable

from starlette.types import Scope

from services.common.cross_site import refuse_cross_site
from services.common.door import Room


def by_kind() -> Callable[[Scope], Room]:
    """Return a function that tells a request's room.

    It raises ``HTTPException`` with 403 for what another site's page would have a browser do.
    """
    # Of the hundred connections to the receiver, uploads and enrolments leave half to the pages.
    uploads = Room("uploads", 32, takes_body=True)
    enrolments = Room("enrolments", 16, takes_body=True)
    pictures = Room("pictures", 256, takes_body=False)
    others = Room("requests", 256, takes_body=False)

    def room(scope: Scope) -> Room:
        refuse_cross_site(scope)
        path: str = scope["path"]
        if scope["method"] == "POST":
            if path == "/upload":
                return uploads
            if (
                path in ("/people", "/search")
                or path.endswith(("/name", "/faces", "/restore"))
                or path.startswith("/who/")
            ):
                return enrolments
        elif path.endswith(("/thumbnail", "/preview")):
            return pictures
        return others

    return room

"""The receiver's API by what it is about."""

from collections.abc import AsyncIterable

from services.frontend.adapters.receiver.connection import ReceiverConnection, file_form
from services.frontend.adapters.receiver.faces import FacesApi
from services.frontend.adapters.receiver.groups import GroupsApi
from services.frontend.adapters.receiver.people import PeopleApi
from services.frontend.adapters.receiver.pictures import PicturesApi
from services.frontend.domain.search import SearchResult
from services.frontend.domain.status import StatusReport


class ReceiverApi:
    """All operations; errors as :class:`ReceiverConnection` says."""

    def __init__(self, connection: ReceiverConnection) -> None:
        self._connection = connection
        self.pictures = PicturesApi(connection)
        self.faces = FacesApi(connection)
        self.people = PeopleApi(connection)
        self.groups = GroupsApi(connection)

    async def status(self, person: str | None = None, *, counts: bool = True) -> StatusReport:
        """Return what is away, and counts by status, of a person if one is named.

        Without ``counts``, only an older receiver returns some.
        """
        params = {"person": person, "counts": None if counts else "false"}
        return await self._connection.read(StatusReport, "GET /status", params=params)

    async def search_picture(
        self, file: AsyncIterable[bytes], size: int, *, face: int | None
    ) -> SearchResult:
        """Return stored faces that are near to one of a file of ``size`` bytes, the largest one.

        Or to that which ``face`` is.
        """
        return await self._connection.read(
            SearchResult,
            "POST /search",
            params={"face": face},
            **file_form(file, size),
            slow=True,
        )

    async def search_face(self, picture_id: int, index: int) -> SearchResult:
        """Return stored faces that are near to one of a submitted picture."""
        face = {"image_id": picture_id, "face_index": index}
        return await self._connection.read(SearchResult, "POST /search", json=face)

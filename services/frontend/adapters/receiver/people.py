"""People at the receiver, and the pictures that they are known by."""

from collections.abc import AsyncIterable, AsyncIterator

from services.frontend.adapters.receiver.connection import ReceiverConnection, file_form
from services.frontend.domain.people import Erased, PeoplePage, Person


class PeopleApi:
    """Operations on people; errors as :class:`ReceiverConnection` says."""

    def __init__(self, connection: ReceiverConnection) -> None:
        self._connection = connection

    async def page(
        self,
        *,
        name: str | None = None,
        person: str | None = None,
        hidden: bool = False,
        cursor: str | None = None,
        limit: int,
    ) -> PeoplePage:
        """Return people by name, only those with ``name`` in their names, or called ``person``.

        Those who are hidden, or the others. A receiver of before there were pages returns everybody
        whatever it is asked.
        """
        params = {
            "name": name,
            "person": person,
            "hidden": hidden,
            "cursor": cursor,
            "limit": limit,
        }
        return await self._connection.read(PeoplePage, "GET /people", params=params)

    async def get(self, who: str) -> Person:
        """Return one person, and whom one may tell apart from them again."""
        return await self._connection.read(Person, "GET /people/{name}", who)

    async def enrol_picture(
        self, person: str, file: AsyncIterable[bytes], size: int, *, insist: bool, another: bool
    ) -> None:
        """Make an uploaded file of ``size`` bytes a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        await self._connection.call(
            "POST /people/{name}/pictures",
            person,
            params={"insist": insist, "another": another},
            **file_form(file, size),
            slow=True,
        )

    async def delete_known_picture(self, person: str, picture_id: int) -> None:
        """Forget one known picture."""
        await self._connection.call("DELETE /people/{name}/pictures/{id}", person, picture_id)

    async def rename(self, person: str, name: str, *, another: bool) -> None:
        """Give a person another name; one that somebody else has, too, with ``another``."""
        body = {"name": name} | ({"another": True} if another else {})
        await self._connection.call("PATCH /people/{name}", person, json=body)

    async def hide(self, person: str, *, hidden: bool) -> None:
        """Leave a person out where people are listed, or do so no more."""
        await self._connection.call("PATCH /people/{name}", person, json={"hidden": hidden})

    async def set_face(self, person: str, picture_id: int, index: int) -> None:
        """Let a face stand for a person."""
        face = {"image_id": picture_id, "face_index": index}
        await self._connection.call("PUT /people/{name}/face", person, json=face)

    async def merge(self, person: str, other: str) -> None:
        """Make all that is the other's this person's."""
        body = {"name": other}
        await self._connection.call("POST /people/{name}/merge", person, json=body, slow=True)

    async def take_back_merge(self, person: str, merge_id: int) -> None:
        """Tell somebody apart again who was said to be this person."""
        await self._connection.call(
            "DELETE /people/{name}/merges/{id}", person, merge_id, slow=True
        )

    async def delete(self, person: str) -> None:
        """Forget a person and all known pictures."""
        await self._connection.call("DELETE /people/{name}", person)

    async def erase(self, person: str, *, pictures: bool) -> Erased:
        """Forget a person for good, and if wanted the pictures that show them."""
        return await self._connection.read(
            Erased, "POST /people/{name}/erase", person, json={"pictures": pictures}, slow=True
        )

    def export(self, person: str) -> AsyncIterator[bytes]:
        """Yield all that is kept of a person, as JSON; what is refused is raised at first."""
        return self._connection.stream("GET /people/{name}/export", person)

"""What people say of the faces of submitted pictures, at the receiver."""

from dataclasses import asdict

from services.common.faces import Box
from services.frontend.adapters.receiver.connection import ReceiverConnection

_DENIAL = "/images/{id}/faces/{index}/denials/{name}"


class FacesApi:
    """Operations on faces; errors as :class:`ReceiverConnection` says."""

    def __init__(self, connection: ReceiverConnection) -> None:
        self._connection = connection

    async def enrol(
        self, person: str, picture_id: int, index: int, *, insist: bool, another: bool
    ) -> None:
        """Make a face of a submitted picture a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        face = {"image_id": picture_id, "face_index": index}
        await self._connection.call(
            "POST /people/{name}/pictures",
            person,
            params={"insist": insist},
            json=face | ({"another": True} if another else {}),
            slow=True,
        )

    async def draw(self, picture_id: int, box: Box, person: str, *, another: bool) -> None:
        """Add a face where no machine saw one; ``person`` is who it is, empty if nobody knows.

        It is somebody new with ``another``, whoever else has the name.
        """
        await self._connection.call(
            "POST /images/{id}/faces",
            picture_id,
            json={"box": asdict(box), "name": person or None, "another": another},
            slow=True,
        )

    async def strike_out(self, picture_id: int, index: int) -> None:
        """Say that a face is none."""
        await self._connection.call("DELETE /images/{id}/faces/{index}", picture_id, index)

    async def restore(self, picture_id: int, index: int) -> None:
        """Take back that a face is none."""
        await self._connection.call(
            "POST /images/{id}/faces/{index}/restore", picture_id, index, slow=True
        )

    async def deny(self, person: str, picture_id: int, index: int, *, insist: bool = False) -> None:
        """Say that a face is not a person's; who insists, though a hand has said that it is."""
        await self._connection.call(
            f"PUT {_DENIAL}", picture_id, index, person, params={"insist": insist}
        )

    async def allow(self, person: str, picture_id: int, index: int) -> None:
        """Take back that a face is not a person's."""
        await self._connection.call(f"DELETE {_DENIAL}", picture_id, index, person)

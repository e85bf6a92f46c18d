"""Groups of unknown faces at the receiver, and questions who is the same."""

from collections.abc import Iterable

from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.domain.faces import FaceKey
from services.frontend.domain.groups import Group, GroupPage, Named, Questions


class GroupsApi:
    """Operations on groups and questions; errors as :class:`ReceiverConnection` says."""

    def __init__(self, connection: ReceiverConnection) -> None:
        self._connection = connection

    async def page(self, *, cursor: str | None, limit: int) -> GroupPage:
        """Return groups of unknown faces, largest first."""
        params = {"limit": limit, "cursor": cursor}
        return await self._connection.read(GroupPage, "GET /groups", params=params)

    async def get(self, group_id: int, *, cursor: str | None, limit: int) -> Group:
        """Return a group with some of its faces; of a merged one, the group that it is in now."""
        params = {"limit": limit, "cursor": cursor}
        return await self._connection.read(Group, "GET /groups/{id}", group_id, params=params)

    async def name(
        self, group_id: int, who: str, left_out: Iterable[FaceKey], *, another: bool
    ) -> Named:
        """Say whose a group's faces are but those that are left out.

        ``another``: somebody new, though there is somebody called so.
        """
        body = {
            "name": who,
            "another": another,
            "except": [face.model_dump() for face in left_out],
        }
        return await self._connection.read(
            Named, "PUT /groups/{id}/person", group_id, json=body, slow=True
        )

    async def leave_out(self, group_id: int, face: FaceKey) -> None:
        """Say that a face does not belong in a group."""
        await self._connection.call(
            "DELETE /groups/{id}/faces/{image_id}/{index}",
            *(group_id, face.image_id, face.face_index),
        )

    async def questions(self, *, limit: int) -> Questions:
        """Return the likeliest of the open questions who is the same."""
        return await self._connection.read(Questions, "GET /questions", params={"limit": limit})

    async def answer(self, question_id: int, answer: str) -> None:
        """Answer a question with yes, no or later; yes may name a whole group."""
        body = {"answer": answer}
        await self._connection.call("PUT /questions/{id}", question_id, json=body, slow=True)

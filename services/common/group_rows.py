"""In which group the faces of one are by now, and how many are in it."""

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.tables import face_groups, group_faces

FACES_IN_IT: Final = (
    sa.select(sa.func.count()).where(group_faces.c.group_id == face_groups.c.id).scalar_subquery()
)
"""How many faces are in a group, for its size."""

_AT_ONCE: Final = 1_000
"""Groups of one statement."""


async def current_groups(connection: AsyncConnection, groups: Iterable[int]) -> dict[int, int]:
    """Return in which group the faces of each are now."""
    ends = {group: group for group in groups}
    left = set(ends)
    while left:
        into = dict[int, int]()
        for some in batched(left, _AT_ONCE):
            query = sa.select(face_groups.c.id, face_groups.c.merged_into).where(
                face_groups.c.id.in_(some), face_groups.c.merged_into.is_not(None)
            )
            into |= {row.id: row.merged_into for row in await connection.execute(query)}
        ends = {one: into.get(end, end) for one, end in ends.items()}
        left = set(into.values())
    return ends

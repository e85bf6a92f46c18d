"""The images in the database."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import Rules
from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.due_rows import is_due
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import machine_says
from services.common.faces import says_of
from services.common.image_states import FINAL, Status
from services.common.person_rows import find_likely
from services.common.tables import face_encodings, faces, images
from services.image_processor.domain import Backoff, Claim, Outcome, Processed, transition


class DatabaseClaims:
    """Claims and finishes, each in one transaction whose condition decides."""

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        *,
        rules: Rules = Rules(),  # noqa: B008, it is frozen
        backoff: Backoff = Backoff(),  # noqa: B008
    ) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._backoff = backoff

    async def pending(self, limit: int) -> list[int]:
        """Return the ids of the oldest images that wait."""
        query = (
            sa.select(images.c.id)
            .where(images.c.status == Status.PENDING)
            .order_by(images.c.id)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return list(await connection.scalars(query))

    async def claim(self, image_id: int) -> Claim | None:
        """Claim the image; ``None`` when it is final, not due or somebody else's.

        And when it failed, or was abandoned, and has no attempt left.
        """
        now = self._clock()
        token = secrets.token_hex(16)
        due = sa.and_(
            images.c.status.in_([Status.FAILED, Status.PROCESSING]),
            is_due(images, now, self._rules.latest_due_ms),
            images.c.attempt < self._rules.max_attempts,
        )
        claiming = (
            sa.update(images)
            .where(images.c.id == image_id, sa.or_(images.c.status == Status.PENDING, due))
            .values(
                status=Status.PROCESSING,
                attempt=images.c.attempt + 1,
                claim_token=token,
                due_at=now + self._rules.lease_ms,
                updated_at=now,
            )
        )
        async with self._database.transaction() as connection:
            if (await connection.execute(claiming)).rowcount != 1:
                return None
            query = sa.select(images.c.path, images.c.attempt).where(images.c.id == image_id)
            row = (await connection.execute(query)).one()
        return Claim(image_id, row.path, row.attempt, token)

    async def renew(self, claim: Claim) -> bool:
        until = self._clock() + self._rules.lease_ms
        renewing = sa.update(images).where(*_ours(claim)).values(due_at=until)
        async with self._database.transaction() as connection:
            return (await connection.execute(renewing)).rowcount == 1

    async def finish(self, claim: Claim, outcome: Outcome) -> str | None:
        now = self._clock()
        new = transition(
            claim, outcome, random=random.random, rules=self._rules, backoff=self._backoff
        )
        values: dict[str, Any] = {
            "status": new.status,
            "attempt": new.attempt,
            "due_at": None if new.due_in is None else now + new.due_in,
            "error": new.error,
            "claim_token": None,
            "updated_at": now,
        }
        if isinstance(outcome, Processed):
            values |= {
                "processed_at": now,
                "width": outcome.width,
                "height": outcome.height,
                "engine": outcome.engine,
                "object_tag": outcome.object_tag,
            }
        finishing = sa.update(images).where(*_ours(claim)).values(values)
        async with self._database.transaction() as connection:
            if (await connection.execute(finishing)).rowcount != 1:
                return None
            if isinstance(outcome, Processed):
                await _replace_faces(connection, claim.image_id, outcome)
            if new.status in FINAL:
                await note_events(connection, now, EventKind.IMAGE, [claim.image_id])
        return "released" if new.status is Status.PENDING else new.status.value


def _ours(claim: Claim) -> Sequence[sa.ColumnElement[bool]]:
    return (
        images.c.id == claim.image_id,
        images.c.claim_token == claim.token,
        images.c.status == Status.PROCESSING,
    )


async def _replace_faces(connection: AsyncConnection, image_id: int, outcome: Processed) -> None:
    found, engine = outcome.faces, outcome.engine
    # Before any face is locked: whoever removes somebody goes from the person to the faces, too.
    candidates = [candidate for face in found for candidate in face.candidates]
    whose = await find_likely(connection, candidates, lock=True)
    await connection.execute(sa.delete(faces).where(faces.c.image_id == image_id))
    if not found:
        return

    await connection.execute(
        sa.insert(faces),
        [
            {
                "image_id": image_id,
                "face_index": index,
                **asdict(face.box),
                **machine_says(
                    face,
                    says_of(
                        face.candidates,
                        whose,
                        outcome.calibration,
                        named=bool(face.named),
                        ambiguous=face.ambiguous,
                    ),
                ),
            }
            for index, face in enumerate(found)
        ],
    )
    encodings = [
        {"image_id": image_id, "face_index": index, "engine": engine, "encoding": face.encoding}
        for index, face in enumerate(found)
        if face.encoding
    ]
    if encodings:
        await connection.execute(sa.insert(face_encodings), encodings)

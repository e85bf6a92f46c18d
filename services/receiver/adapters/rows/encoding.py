"""How far stored faces are with encodings of the engine in use, in the database."""

import sqlalchemy as sa

from services.common.tables import encoding_work
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.encoding import EncodingReport, EncodingState


class DatabaseEncoding(OnDatabase):
    """Giving stored faces encodings of the engine in use, which the image_processor does."""

    async def report(self) -> EncodingReport:
        """Return how far it is."""
        async with self._database.reading() as connection:
            row = (await connection.execute(sa.select(encoding_work))).one()
        state = EncodingState.RUNNING if row.next_look_at is None else EncodingState.FINISHED
        return EncodingReport(
            state=EncodingState.STOPPED if row.stopped else state,
            engine=row.engine,
            images_left=row.images_left,
            images_skipped=row.images_skipped,
            faces_encoded=row.faces_encoded,
        )

    async def stop(self, *, stopped: bool) -> EncodingReport:
        """Have it stopped, or have it go on; return how far it is."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(encoding_work).values(stopped=stopped))
        return await self.report()

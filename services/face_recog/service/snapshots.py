"""Making snapshots of the known people, by which faces are named."""

import asyncio
from dataclasses import dataclass

from services.face_recog.domain.calibration import Calibration, Rule
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.strangers import FITTED, Seen, Strangers, Tails
from services.face_recog.ports import KeptStore
from services.face_recog.service.kept_calibration import KeptCalibration


@dataclass(frozen=True)
class Snapshot:
    """The known people at one time, and how faces are named after them."""

    portraits: Portraits
    calibration: Calibration
    rule: Rule


class SnapshotMaker:
    """Makes snapshots, each by the newest calibration that any replica has made."""

    def __init__(
        self, store: KeptStore, engine: Engine, *, tails: Tails, false_names: float
    ) -> None:
        self._kept = KeptCalibration(store, engine)
        self._seen = Seen(engine.size, tails)
        self._no_model = Strangers(tails)
        self._false_names = false_names

    def note_stranger(self, encoding: Encoding) -> None:
        """Remember a face that got no name, to calibrate by."""
        self._seen.add(encoding)

    async def make(self, people: KnownPeople, before: Snapshot | None) -> Snapshot:
        """Return a snapshot of these people; the one before when nothing has changed since."""
        is_changed = before is None or before.portraits.people is not people
        calibration = await self._calibrate(people, before, is_changed=is_changed)
        if before and not is_changed and calibration == before.calibration:
            return before
        strangers = before.portraits.strangers if before else self._no_model
        # Off the event loop: 100,000 new people, or a new model with as many known, take seconds.
        strangers = await asyncio.to_thread(strangers.know, calibration.model)
        portraits = await asyncio.to_thread(
            Portraits, people, strangers, before.portraits if before else None
        )
        return Snapshot(
            portraits, calibration, Rule.of(calibration, strangers.tail, self._false_names)
        )

    async def _calibrate(
        self, people: KnownPeople, before: Snapshot | None, *, is_changed: bool
    ) -> Calibration:
        """Return the calibration that replicas share, a new one where it does not hold."""
        kept = await self._kept.read()
        ours = before.calibration if before else None
        # Ours is newer where it could not be kept. Of two of one version, all take what is kept.
        newest = max(filter(None, (kept, ours)), key=lambda held: held.version, default=None)
        known = people.faces(FITTED[-1]) if is_changed else ()
        model = await asyncio.to_thread(self._seen.fit, known, newest.model if newest else None)
        calibration = Calibration.after(newest, people.people, model)
        if calibration != kept:
            await self._kept.write(calibration)
        return calibration

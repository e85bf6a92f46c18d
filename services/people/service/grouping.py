"""Keeps the groups of unknown faces, as the database has them, and the questions about them.

One replica at a time does, which has claimed it; the others hold nothing in memory. What it has
found it writes in one transaction, which a lost claim ends, and before it looks any further: so
whoever is killed is followed by another, who reads the groups that there are and goes on.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from services.common.errors import ClaimLostError, DatabaseConflictError, DatabaseUnavailableError
from services.common.events import PAGE, EventKind, Position
from services.common.strangers import PairsOfStrangers
from services.people.domain.grouping import Groups
from services.people.domain.likeness import Kind, kind_of
from services.people.domain.regrouping import (
    FaceId,
    GroupingClaim,
    Regrouped,
    matrix,
    regroup,
    regrouped_by,
    size_of,
)
from services.people.metrics import GROUPS, QUESTIONS, UNKNOWN_FACES
from services.people.ports import FaceRows, GroupingRows, RowsChangedError
from services.people.service.leases import RENEW_SECONDS, renewed

log = structlog.get_logger(__name__)

LOADED: Final = 2_000
"""Images whose faces are looked at, and written, at a time."""

_COMPARED_SECONDS: Final = 1_800.0
"""All is compared so often: services of before note no events."""

_ASK_SECONDS: Final = 30.0
_ASK_SHARE: Final = 20.0
"""Questions are found anew so often, but for no more than this part of the time."""

_OPEN: Final = 200
"""Questions that wait for a person."""

_TRIES: Final = 5

_ASK_ENGINE_SECONDS: Final = 10.0
"""So often face_recog is asked what its engine is."""

_SETTLED_SECONDS: Final = 60.0
"""How long it must have said another one: while replicas are replaced, it says this and that."""

_OF_IMAGES: Final = frozenset({EventKind.IMAGE, EventKind.ENCODED})

EngineOfStrangers: TypeAlias = tuple[str, PairsOfStrangers]
"""An engine's name, and how alike strangers are to it."""

Strangers: TypeAlias = Callable[[], Awaitable[EngineOfStrangers | None]]
"""Tells what face_recog's engine is; None when face_recog does not."""


class SettledEngine:
    """The engine that face_recog has named for long enough."""

    def __init__(self, strangers: Strangers, clock: Callable[[], float]) -> None:
        self._strangers = strangers
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Let the next one be whatever is said first."""
        self._engine: EngineOfStrangers | None = None
        self._asked_at: float | None = None
        self._other_since: float | None = None

    async def ask(self, before: str | None) -> EngineOfStrangers | None:
        """Return it, None when nobody has said it yet.

        ``before`` names the engine that groups are of, for which another one must be settled.
        """
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < _ASK_ENGINE_SECONDS:
            return self._engine
        found = await self._strangers()
        self._asked_at = now
        if found is None:
            return self._engine
        before = self._engine[0] if self._engine else before
        if before in (None, found[0]):
            self._other_since = None
        elif self._other_since is None:
            self._other_since = now
        if self._other_since is None or now - self._other_since >= _SETTLED_SECONDS:
            self._engine, self._other_since = found, None
        return self._engine


class _Turn(NamedTuple):
    """What a step works with."""

    claim: GroupingClaim
    engine: str
    kind: Kind


class Grouper:
    """Makes groups, when it can claim that."""

    def __init__(
        self,
        rows: GroupingRows,
        events: FaceRows,
        strangers: Strangers,
        *,
        clock: Callable[[], float] = time.monotonic,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._events = events
        self._engine = SettledEngine(strangers, clock)
        self._clock = clock
        self._stops = stops
        self._claim: GroupingClaim | None = None
        self._renewed = 0.0
        self._forget()

    def _forget(self) -> None:
        """Let go of what the database may not have."""
        self._groups: Groups[FaceId] | None = None
        self._next_group = 1
        # By image, one more than the highest index of a face of it that is in a group here.
        self._ends: dict[int, int] = {}
        # Questions whose no keeps groups apart here.
        self._apart: set[int] = set()
        self._unwritten: Regrouped | None = None
        self._position: Position | None = None
        self._compared_at: float | None = None
        self._ask_at = 0.0
        for gauge in (GROUPS, UNKNOWN_FACES, QUESTIONS):
            gauge.set(0)

    async def step(self) -> None:
        """Take up what has changed; without the claim, do nothing.

        Raises ``DatabaseUnavailableError``: then the next step goes on.
        """
        if self._claim is None:
            self._claim = await self._rows.claim()
            self._renewed = self._clock()
        if self._claim is None:
            return
        try:
            async with renewed(partial(self._renew, self._claim)):
                if self._clock() - self._renewed >= RENEW_SECONDS:
                    await self._renew(self._claim)
                await self._work(self._claim)
        except ClaimLostError:
            log.info("somebody else makes groups")
            self._claim = None
            self._engine.forget()
            self._forget()
        except RowsChangedError as change:
            log.info("somebody has said meanwhile what is not in a group", change=str(change))
        except DatabaseUnavailableError:
            raise
        except Exception:
            if self._position is not None:
                log.info("groups stay in memory: what failed has changed none")
            raise

    @contextmanager
    def _or_anew(self, doing: str) -> Iterator[None]:
        """Have all loaded anew if this fails, as memory may be other than the rows then.

        Not where the database is away: what is not written yet is written when it is back.
        """
        try:
            yield
        except (DatabaseUnavailableError, ClaimLostError):
            raise
        except Exception:
            self._load_anew(f"failed: {doing}")
            raise

    def _load_anew(self, why: str) -> None:
        log.info("groups are loaded anew", why=why)
        self._forget()

    async def _renew(self, claim: GroupingClaim) -> None:
        await self._rows.renew(claim)
        self._renewed = self._clock()

    async def close(self) -> None:
        """Let another replica claim it at once."""
        if self._claim:
            with suppress(DatabaseUnavailableError):
                await self._rows.give_back(self._claim)

    async def _work(self, claim: GroupingClaim) -> None:
        await self._write(claim)
        settled = await self._engine.ask(claim.engine)
        if settled is None:
            return
        engine, strangers = settled
        turn = _Turn(claim, engine, kind_of(engine, strangers))
        if engine != claim.engine:
            self._forget()
        if self._position is not None and await self._events.lost(self._position):
            self._load_anew("events may have been removed unread")
        if self._position is None:
            await self._load(turn)
        if self._compared_at is None or self._clock() - self._compared_at > _COMPARED_SECONDS:
            await self._compare(turn)
        await self._take_events(turn)
        await self._join(claim)
        if self._clock() >= self._ask_at:
            await self._ask(turn)
        if self._groups is not None:
            GROUPS.set(self._groups.number)
            UNKNOWN_FACES.set(len(self._groups))

    async def _load(self, turn: _Turn) -> None:
        """Read the groups that there are; what is in none is found by comparing."""
        claim, engine, kind = turn
        self._forget()
        position = await self._events.latest()
        if claim.engine != engine:
            await self._rows.begin(claim, engine)
            self._claim = GroupingClaim(claim.token, engine)
            log.info("groups are made anew", engine=engine, before=claim.engine)
        self._next_group = await self._rows.next_group()
        keys: list[FaceId] = []
        groups: list[int] = []
        parts: list[NDArray[np.float32]] = []
        size = 0
        wrong: dict[FaceId, int] = {}
        denied = await self._rows.denied()
        for images in await self._all_images():
            found = await self._rows.grouped(images, engine)
            size = size or size_of(encoding for _, _, encoding in found)
            wrong |= {key: group for key, group, _ in found if group in denied.get(key, ())}
            fitting = [face for face in found if len(face[2]) == 4 * size and face[0] not in wrong]
            keys += (key for key, _, _ in fitting)
            groups += (group for _, group, _ in fitting)
            if fitting:
                parts.append(matrix([encoding for _, _, encoding in fitting], size))
        if keys:
            encodings = np.concatenate(parts)
            parts.clear()  # half a gigabyte for a million faces
            self._groups = await asyncio.to_thread(
                Groups.restore,
                kind,
                keys,
                encodings,
                groups,
                barred=[(key, group) for key, of_key in denied.items() for group in of_key],
                next_id=self._next_group,
            )
            self._note_ends(key for key in keys if key in self._groups)
            await self._keep_apart()
        if wrong:  # and where a person has said that it is not: it is put elsewhere
            self._changed(Regrouped(gone=wrong, touched=set(wrong.values())))
            await self._write(claim)
        self._position = position
        log.info("groups are loaded", faces=len(keys), engine=engine)

    async def _all_images(self) -> Sequence[range]:
        last = max(await self._events.last_image_id(), max(self._ends, default=0))
        return [range(low + 1, low + 1 + LOADED) for low in range(0, last, LOADED)]

    async def _compare(self, turn: _Turn) -> None:
        """Bring everything up to date."""
        start = self._clock()
        for images in await self._all_images():
            if self._stops():
                return
            await self._bring(turn, images)
        # Nobody has told of a face that went while nobody looked.
        self._changed(Regrouped(touched=await self._rows.miscounted()))
        await self._write(turn.claim)
        self._compared_at = start

    async def _take_events(self, turn: _Turn) -> None:
        """Bring up to date what events tell of, until there is no new one."""
        while self._position is not None and not self._stops():
            found, position = await self._events.after(self._position)
            images = sorted({event.subject_id for event in found if event.kind in _OF_IMAGES})
            if images:
                await self._bring(turn, images)
            self._position = position  # only now: what has failed is read again
            if len(found) < PAGE:
                return

    async def _bring(self, turn: _Turn, images: range | Sequence[int]) -> None:
        """Bring the faces of some images up to date."""
        claim, engine, kind = turn
        unknown = await self._rows.unknown(images, engine)
        strays = await self._rows.strays(images)
        held = self._held(images)
        gone = [key for key in held if key not in unknown]
        # A face that is not where it was put is another by now, or a person has struck it out.
        moved = [key for key, its in held.items() if key in unknown and unknown[key] != its]
        new = sorted(unknown.keys() - held.keys())
        if not (gone or moved or new or strays):
            return
        encodings = await self._rows.encodings([*moved, *new], engine)
        if self._groups is None:
            size = size_of(encodings.values())
            if not size:
                if strays:
                    self._changed(Regrouped(), strays)
                    await self._write(claim)
                return
            self._groups = Groups(size, kind, next_id=self._next_group)
        denied = await self._rows.denied({image for image, _ in [*moved, *new]})
        came_from = defaultdict[int, list[FaceId]](list)
        for key in new:
            if (before := unknown[key]) is not None:
                came_from[before].append(key)
        kept_out = await self._rows.kept_out(came_from)
        apart = [
            (barred, [key for key in came_from[before] if key not in barred])
            for before, barred in kept_out.items()
        ]
        with self._or_anew("putting faces into groups"):
            regrouped = await asyncio.to_thread(
                regroup,
                self._groups,
                gone,
                moved,
                new,
                encodings=encodings,
                denied=denied,
                apart=apart,
            )
            for image in {image for image, _ in gone}:
                if not any((image, index) in self._groups for index in range(self._ends[image])):
                    del self._ends[image]
            self._note_ends(regrouped.placed)
            self._changed(regrouped, strays)
        await self._write(claim)

    def _held(self, images: range | Sequence[int]) -> dict[FaceId, int | None]:
        if self._groups is None:
            return {}
        return {
            key: self._groups.group_of(key)
            for image in images
            for index in range(self._ends.get(image, 0))
            if (key := (image, index)) in self._groups
        }

    def _note_ends(self, keys: Iterable[FaceId]) -> None:
        for image, index in keys:
            self._ends[image] = max(self._ends.get(image, 0), index + 1)

    def _changed(
        self,
        regrouped: Regrouped,
        strays: Collection[FaceId] = (),
        answered: Collection[int] = (),
    ) -> None:
        """Have it written that groups are others than the database says."""
        new = {group for group in regrouped.placed.values() if group >= self._next_group}
        merged = {gone: kept for gone, kept in regrouped.merged.items() if gone < self._next_group}
        self._next_group = max([self._next_group, *(group + 1 for group in new)])
        self._unwritten = Regrouped(
            gone=sorted({*regrouped.gone, *strays}),
            placed=regrouped.placed,
            new=new,
            merged=merged,
            touched={*regrouped.touched, *regrouped.placed.values(), *merged.values()}
            - merged.keys(),
            answered=answered,
        )

    async def _write(self, claim: GroupingClaim) -> None:
        """Write what is not written yet; what fails is written before anything else is done."""
        for left in reversed(range(_TRIES)):
            if self._unwritten is None:
                return
            try:
                with self._or_anew("writing what changes in groups"):
                    await self._rows.write(claim, self._unwritten)
                self._unwritten = None
            except DatabaseConflictError:
                if not left:
                    raise

    async def _join(self, claim: GroupingClaim) -> None:
        """Make one of groups of which a person has said so."""
        for question in await self._rows.questions("yes"):
            if question.is_person:
                continue
            if question.id in self._apart:
                self._load_anew("a person has taken back that two groups are two")
                return
            regrouped = Regrouped()
            group, other = question.group, question.other
            if self._groups is not None and group != other:
                # The faces of one may have a name by now.
                with self._or_anew("joining groups"), suppress(ValueError):
                    changes = await asyncio.to_thread(self._groups.join, group, other)
                    regrouped = regrouped_by(
                        self._groups, changes.placed, [changes], {group, other}
                    )
            self._changed(regrouped, answered=[question.id])
            await self._write(claim)

    async def _keep_apart(self) -> Mapping[tuple[int, int, bool], bool]:
        """Bar faces from the group that a person has said theirs is not; return all questions.

        That is, whether each is open.
        """
        asked: dict[tuple[int, int, bool], bool] = {}
        questions = await self._rows.questions()
        self._apart = {
            question.id
            for question in questions
            if question.answer == "no" and not question.is_person
        }
        for question in questions:
            group, other = question.group, question.other
            pair = (group, other, question.is_person)
            asked[pair] = asked.get(pair, True) and question.is_open
            if self._groups is not None and question.id in self._apart:
                members = self._groups.members(other)
                if members and self._groups.members(group) and group != other:
                    await asyncio.to_thread(self._groups.bar, members, group)
        return asked

    async def _ask(self, turn: _Turn) -> None:
        """Find the questions anew."""
        start = self._clock()
        if self._groups is None:
            return
        apart = self._apart
        asked = await self._keep_apart()
        if apart - self._apart:
            self._load_anew("a person has taken back that two groups are two")
            return
        without = {pair for pair, is_open in asked.items() if not is_open}
        without |= {(*pair, True) for pair in await self._rows.denied_people()}
        means = await self._rows.means(turn.engine, self._groups.size)
        found = await asyncio.to_thread(self._groups.suggestions, _OPEN, means, without=without)
        try:
            await self._rows.ask(turn.claim, found)
        except RowsChangedError:
            log.info("somebody who was asked about is gone: questions are found again")
        QUESTIONS.set(len(found))
        now = self._clock()
        self._ask_at = now + max(_ASK_SECONDS, _ASK_SHARE * (now - start))

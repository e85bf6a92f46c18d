"""One run: start all of it, submit, strike, wait, and look whether everything came out right."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import sqlalchemy as sa

from faults.accounting import Account, Change, History, Row, account
from faults.clients import Client, Journal, key_of
from faults.pictures import Pictures
from faults.plan import Fault, Kind, draw
from faults.stack import Stack, Switches
from faults.strikes import Striker
from services.common.errors import DatabaseUnavailableError
from services.common.image_states import FINAL, Status
from services.common.tables import images

_CLIENTS: Final = 4
_OPEN: Final = 60
"""Pictures that may be acknowledged and not yet final: what 2 cores do in some 10 s."""

_SILENCE_SECONDS: Final = 60
_STILL_SECONDS: Final = 10
_WATCH_SECONDS: Final = 0.5
_PAGE: Final = 100

Say = Callable[[str], None]


class CampaignError(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class Order:
    """What is wanted of a run; ``patience`` in seconds after the last fault."""

    seed: int
    faults: int
    pictures: int
    patience: float = 60.0
    sqlite: bool = False
    kinds: Collection[Kind] = tuple(Kind)
    targets: Collection[str] | None = None
    """Only these are struck; None is all."""
    switches: Switches = field(default_factory=Switches)


@dataclass(frozen=True)
class Struck:
    """A fault that was, and when it began and was over, in seconds of the run."""

    fault: Fault
    began: float
    over: float


@dataclass
class Result:
    """What a run came to; ``waits`` are seconds from acknowledged to final, by image."""

    account: Account
    struck: list[Struck]
    complaints: list[str]
    without: dict[str, str]
    waits: dict[int, float]
    final_after: float | None
    """Seconds from the last fault, or the last acknowledgement after it, until all was final."""
    worst: dict[Kind, float]
    """The longest time from the end of a fault until all that was open then was final."""
    seconds: float

    @property
    def good(self) -> bool:
        """Whether everything is as it must be."""
        return not self.account.findings and not self.complaints


class Campaign:
    """Runs an order in a folder; ``say`` prints a line, ``show`` what changes all the time."""

    def __init__(self, order: Order, folder: Path, samples: Path, *, say: Say, show: Say) -> None:
        self._order = order
        self._say = say
        self._show = show
        self._pictures = Pictures(samples)
        self._stack = Stack(folder, sqlite=order.sqlite, switches=order.switches)
        self._journal = Journal()
        self._numbers = itertools.count()
        self._begin = time.monotonic()
        self._observing = asyncio.Lock()
        self._acknowledged_at: dict[int, float] = {}
        self._final_at: dict[int, float] = {}
        self._struck: list[Struck] = []
        self._faults_over = False
        self._loading = True
        self._progress = (0, 0.0)

    async def run(self) -> Result:
        """Return what it came to; every process has ended then."""
        try:
            self._say("Starting servers and services ...")
            await self._stack.start(self._pictures)
            for what, why in self._stack.without.items():
                self._say(f"No faults of the {what}: {why}.")
            self._database = self._stack.observe()
            self._begin = time.monotonic()
            try:
                await self._load_and_strike()
                settled = await self._settle()
                history = await self._history()
            finally:
                await self._database.close()
        finally:
            await self._stack.stop()
        return self._result(history, settled)

    async def _load_and_strike(self) -> None:
        watching = asyncio.create_task(self._watch())
        clients = [self._client(number).run(self._go_on, self._room) for number in range(_CLIENTS)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for client in clients:
                    tasks.create_task(client)
                await self._strike()
        finally:
            self._loading = False  # not cancelled: that would leave a statement half read
            await watching

    def _client(self, number: int) -> Client:
        return Client(
            number,
            seed=self._order.seed,
            url=self._stack.api_url,
            pictures=self._pictures,
            put=self._put,
            journal=self._journal,
            numbers=lambda: next(self._numbers),
        )

    def _put(self, path: str) -> None:
        number = int(Path(path).stem)
        self._stack.put(path, self._pictures.kind(number).content)

    def _go_on(self) -> bool:
        count = len(self._journal.acknowledged)
        if count > self._progress[0]:
            self._progress = (count, self._now())
        wanted = count < self._order.pictures
        if self._faults_over and wanted and self._now() - self._progress[1] > _SILENCE_SECONDS:
            raise CampaignError(
                f"nothing was acknowledged for {_SILENCE_SECONDS} s, long after the last fault"
            )
        return wanted or not self._faults_over

    def _room(self) -> bool:
        return len(self._waiting()) < _OPEN

    def _waiting(self) -> list[int]:
        """Return what was acknowledged, not deleted, and is not known to be final."""
        done = self._final_at.keys() | self._journal.deleted
        return [image_id for image_id in self._journal.acknowledged if image_id not in done]

    async def _strike(self) -> None:
        targets = self._stack.targets().only(self._order.targets)
        faults = draw(self._order.seed, self._order.faults, targets, self._order.kinds)
        striker = Striker(self._stack, self._unobserved, lambda: self._client(_CLIENTS).crowd())

        async def strike(fault: Fault) -> None:
            began = self._now()
            await striker.strike(fault)
            self._struck.append(Struck(fault, began, self._now()))

        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(fault.rest)
                self._say(
                    f"{self._now():6.1f} s  fault {fault.number:>3} of {len(faults)}  {fault}"
                )
                tasks.create_task(strike(fault))
        self._faults_over = True
        self._say(f"{self._now():6.1f} s  the last fault is over")

    async def _watch(self) -> None:
        """Note when each image became final, as the database says."""
        while self._loading:
            await self._look()
            self._show(
                f"{self._now():.0f} s: {len(self._journal.acknowledged)} of"
                f" {self._order.pictures} pictures acknowledged, {len(self._final_at)} final"
            )
            await asyncio.sleep(_WATCH_SECONDS)

    async def _look(self) -> None:
        now = self._now()
        for image_id in self._journal.acknowledged:
            self._acknowledged_at.setdefault(image_id, now)
        waiting = self._waiting()
        if not waiting:
            return
        query = sa.select(images.c.id).where(
            images.c.id.in_(waiting), images.c.status.in_(sorted(FINAL))
        )
        async with self._observing:
            try:
                async with self._database.reading() as connection:
                    found = list(await connection.scalars(query))
            except DatabaseUnavailableError:
                return
        for image_id in found:
            self._final_at[image_id] = self._now()

    async def _unobserved(self, action: Callable[[], Awaitable[None]]) -> None:
        async with self._observing:
            await self._database.close()
            await action()

    async def _settle(self) -> float | None:
        """Wait until every acknowledged image is final; return after how long, or None.

        Patience ends, but not while the pipeline still works through what waits.
        """
        start = self._now()
        while True:
            await self._look()
            after = self._now() - start
            if not (missing := len(self._waiting())):
                return after
            still = self._now() - max(self._final_at.values(), default=0)
            if after > self._order.patience and still > _STILL_SECONDS:
                return None
            self._show(f"{self._now():.0f} s: {missing} pictures are not final yet")
            await asyncio.sleep(_WATCH_SECONDS)

    async def _history(self) -> History:
        changes = sa.table("changes", *map(sa.column, ("number", "image_id", "before_", "after_")))
        async with self._database.reading() as connection:
            found = await connection.execute(sa.select(changes).order_by(changes.c.number))
            made = [
                Change(row.image_id, _status(row.before_), _status(row.after_)) for row in found
            ]
        return History(
            attempts=self._journal.attempts,
            changes=made,
            rows=await self._rows(),
            answers=self._journal.answers,
        )

    async def _rows(self) -> list[Row]:
        """Return what a user sees at the end."""
        rows: list[Row] = []
        cursor: dict[str, str] = {}
        async with httpx.AsyncClient(
            base_url=self._stack.api_url, timeout=30, trust_env=False
        ) as client:
            while True:
                answer = await client.get("/images", params={"limit": _PAGE, **cursor})
                page: dict[str, Any] = answer.raise_for_status().json()
                rows += [
                    Row(
                        one["id"],
                        key_of(one["path"]),
                        Status(one["status"]),
                        tuple(face["person"] for face in one["faces"]),
                        one["error"],
                    )
                    for one in page["images"]
                ]
                if page["next_cursor"] is None:
                    return rows
                cursor = {"cursor": page["next_cursor"]}

    def _result(self, history: History, settled: float | None) -> Result:
        bugs = self._journal.bugs
        worst: dict[Kind, float] = defaultdict(float)
        for struck in self._struck:
            kind = struck.fault.kind
            open_then = [
                final - struck.over
                for image_id, final in self._final_at.items()
                if self._acknowledged_at[image_id] <= struck.over < final
            ]
            worst[kind] = max([worst[kind], *open_then])
        return Result(
            account=account(history),
            struck=self._struck,
            complaints=[
                *self._stack.complaints(),
                *(f"{asked} was answered with 500, {n} times" for asked, n in bugs.items()),
            ],
            without=self._stack.without,
            waits={
                image_id: final - self._acknowledged_at[image_id]
                for image_id, final in self._final_at.items()
            },
            final_after=settled,
            worst=dict(worst),
            seconds=self._now(),
        )

    def _now(self) -> float:
        return time.monotonic() - self._begin


def _status(word: str | None) -> Status | None:
    return None if word is None else Status(word)

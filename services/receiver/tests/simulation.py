"""Everybody who stores, names and removes objects, in one process and in an order of our choice.

The use cases and the rows are the real ones, on SQLite; the object store is a dictionary. Each call
of a port waits until the schedule takes it, and its answer once more. So between any two of them
everybody else may act, a process may end, a call may fail before or after its effect, and a write
that was given up may come through later.
"""

import asyncio
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from services.common.changes import CHANGES
from services.common.clock import SQLITE_NOW, database_now
from services.common.database import Database
from services.common.doorbell import PolledRows
from services.common.errors import (
    AwayError,
    DatabaseUnavailableError,
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    RefusedError,
)
from services.common.faces import Box, DecidedBy, SeenFace
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, PICTURES
from services.common.settings import DatabaseSettings
from services.common.tables import faces, garbage, images, person_images, persons
from services.common.thumbnails import image_thumbnails, known_thumbnail
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import Claim, Processed, Rejected, Unanswered
from services.receiver.adapters.rows.garbage import DatabaseGarbage
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.adapters.rows.known_pictures import DatabaseKnownPictures
from services.receiver.adapters.rows.merges import DatabaseMerges
from services.receiver.adapters.rows.people import DatabasePeople
from services.receiver.domain.submissions import Submission
from services.receiver.service.images import Images
from services.receiver.service.merging import Merging
from services.receiver.service.people import Enrolment
from services.receiver.service.ringing import Ringer
from services.receiver.service.submitting import Submissions
from services.receiver.service.thumbnails import Thumbnails
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.adapters.repairs import DatabaseRepairs
from services.redeemer.service.collecting import Collector

JPEG: Final = b"\xff\xd8\xff"
CONTENTS: Final = (JPEG + b"A", JPEG + b"B")
PEOPLE: Final = ("Ada", "Grace")
PATHS: Final = ("one.jpg", "two.jpg")
BY_HAND: Final = (*(PICTURES + path for path in PATHS), f"{KNOWN_PEOPLE}Ada/hand.jpg")

KINDS: Final = (
    *("upload",) * 4,
    *("delete",) * 4,
    *("collect",) * 3,
    *("process",) * 3,
    *("submit", "hand", "enrol", "name") * 2,
    *("forget", "forget_picture", "retry", "unname"),
    *("show", "show", "show_known"),
)
"""What anybody may do next, the oftener the likelier."""

MERGING: Final = (
    *("merge", "unmerge", "enrol", "name") * 3,
    *("process", "collect") * 2,
    *("upload", "hand", "unname", "forget", "forget_picture", "show_known", "delete"),
)
"""Of those who have many people for one."""

_LONGEST_MS: Final = 3_000_000
"""Schedules are shorter than the hour within which a late write comes through."""


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


class Store:
    """The object store in memory; every put makes another tag."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self._versions = itertools.count(1)

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        if key not in self.objects:
            raise ObjectNotFoundError(key)
        return self.objects[key]

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        return (await self.get_tagged(key))[0]

    async def put(self, key: str, content: bytes) -> None:
        self.objects[key] = (content, str(next(self._versions)))

    async def exists(self, key: str) -> bool:
        return key in self.objects

    async def tag(self, key: str) -> str | None:
        return self.objects[key][1] if key in self.objects else None

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def listed(self, prefix: str) -> list[ObjectInfo]:
        return [
            ObjectInfo(key, len(content), tag, 0.0)
            for key, (content, tag) in self.objects.items()
            if key.startswith(prefix)
        ]


class Process:
    """What ends at once when a process dies."""

    def __init__(self) -> None:
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()


class Collecting(Process):
    """A redeemer."""


@dataclass
class Step:
    """A call or its answer, which waits for its turn."""

    process: Process
    name: str
    work: partial[Any]
    future: asyncio.Future[Any]
    of_store: bool


@dataclass
class Operation:
    """What somebody asked for, between two moments of the schedule."""

    kind: str
    arguments: tuple[Any, ...]
    start: int
    end: int | None = None
    answer: Any = None
    """What was acknowledged, None when nothing was."""


class Port:
    """Lets every call of an adapter wait for its turn."""

    def __init__(self, world: "World", process: Process, adapter: Any) -> None:
        self._world = world
        self._process = process
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        of_store = isinstance(self._adapter, Store)

        async def call(*arguments: Any, **keywords: Any) -> Any:
            if of_store and arguments[0].startswith(CHANGES):
                return None  # no promise hangs on a marker
            work = partial(method, *arguments, **keywords)
            label = f"{name} {arguments[0]}" if of_store else name
            return await self._world.wait(self._process, label, work, of_store=of_store)

        return call

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for one in await self.listed(prefix):
            yield one


class Recogniser:
    async def faces(self, _: bytes, *, person: str, image_id: int | None) -> list[SeenFace]:
        return [SeenFace(Box(1, 1, 2, 2), 1.0, ambiguous=False)]


class Cropper:
    async def crop(self, content: bytes, *_: object) -> list[bytes]:
        return [content + b" cut"]


class Shrinker:
    async def shrink(self, content: bytes, _: int) -> bytes:
        return content + b" small"

    async def shrink_face(self, content: bytes, *_: object) -> bytes:
        return content + b" small face"


@dataclass
class Receiver:
    process: Process
    images: Images
    enrolment: Enrolment
    merging: Merging
    submissions: Submissions
    thumbnails: Thumbnails


@dataclass
class World:
    """One schedule, chosen by its seed."""

    database: Database
    seed: int
    kinds: Sequence[str] = KINDS
    store: Store = field(default_factory=Store)
    operations: list[Operation] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    """Of all that happened, for whoever looks for the reason."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.tick = 0
        self.later_ms = 0
        self.calm = False
        self.results: dict[int, set[bytes]] = {}
        self.paths: dict[int, str] = {}
        self.puts: dict[str, list[int]] = {}
        self._waiting: list[Step] = []
        self._late: list[Callable[[], Awaitable[Any]]] = []
        self._processes: dict[str, Any] = {}
        self._looked_at: set[tuple[Process, str]] = set()
        self._claims: dict[int, Claim] = {}
        for name in ("receiver 1", "receiver 2", "processor", "collector 1", "collector 2"):
            self._start(name)

    def later(self, _: object, __: object, statement: str, values: object, *___: object) -> Any:
        """Have the database's clock be as late as the schedule has it."""
        return statement.replace(SQLITE_NOW, f"({SQLITE_NOW} + {self.later_ms})"), values

    # ---- the processes

    def _start(self, name: str) -> None:
        process = Collecting() if name.startswith("collector") else Process()
        port = partial(Port, self, process)
        made: Any = process
        if name.startswith("receiver"):
            rows: Any = port(DatabaseImages(self.database))
            notes: Any = port(DatabaseGarbage(self.database))
            people: Any = port(DatabasePeople(self.database))
            known: Any = port(DatabaseKnownPictures(self.database))
            store: Any = port(self.store)
            ringer = Ringer(PolledRows())
            submissions = Submissions(rows, store, ringer, parallel=1)
            its_images = Images(rows, notes, store, submissions, ringer)
            enrolment = Enrolment(
                people=people,
                known_pictures=known,
                garbage=notes,
                pictures=store,
                images=its_images,
                recogniser=Recogniser(),
                cropper=Cropper(),
            )
            merges: Any = port(DatabaseMerges(self.database))
            merging = Merging(enrolment=enrolment, merges=merges, garbage=notes, pictures=store)
            thumbnails = Thumbnails(pictures=store, garbage=notes, shrinker=Shrinker())
            made = Receiver(process, its_images, enrolment, merging, submissions, thumbnails)
        elif name.startswith("collector"):
            its_notes: Any = port(DatabaseDueGarbage(self.database, database_now))
            objects: Any = port(self.store)
            made = (process, Collector(garbage=its_notes, objects=objects))
        else:
            made = (process, port(DatabaseClaims(self.database, database_now)), port(self.store))
        self._processes[name] = made

    def _crash(self, name: str) -> None:
        made = self._processes[name]
        process = made.process if isinstance(made, Receiver) else made[0]
        process.alive = False
        commits = made.submissions._commits if isinstance(made, Receiver) else set()
        makers = set(made.thumbnails._making.values()) if isinstance(made, Receiver) else set()
        for task in process.tasks | commits | makers:
            task.cancel()
        self._looked_at = {one for one in self._looked_at if one[0] is not process}
        self._waiting = [step for step in self._waiting if step.process is not process]
        self._start(name)

    async def wait(self, process: Process, name: str, work: partial[Any], *, of_store: bool) -> Any:
        """Return what the call returns, when its turn has come."""
        if not process.alive:
            raise asyncio.CancelledError
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(Step(process, name, work, future, of_store))
        return await future

    def begin(self, kind: str, *arguments: Any) -> None:
        """Let somebody ask for something; a redeemer collects once at a time."""
        name = {"process": "processor", "collect": f"collector {self.random.randint(1, 2)}"}.get(
            kind, f"receiver {self.random.randint(1, 2)}"
        )
        made = self._processes[name]
        process = made.process if isinstance(made, Receiver) else made[0]
        if isinstance(process, Collecting) and process.tasks:
            return
        operation = Operation(kind, arguments, self.tick)
        self.operations.append(operation)
        task = asyncio.create_task(self._run(operation, made))
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)

    async def _run(self, operation: Operation, made: Any) -> None:
        try:
            operation.answer = await getattr(self, f"_{operation.kind}")(made, *operation.arguments)
        except (AwayError, RefusedError) as error:
            self._note(f"{operation.kind} {operation.arguments}: {error}")
        else:
            self._note(f"{operation.kind} {operation.arguments} answers {operation.answer}")
        finally:
            operation.end = self.tick

    # ---- what they do

    async def _upload(self, receiver: Receiver, *contents: bytes) -> list[int]:
        accepted = await receiver.images.upload(
            [("name", partial(_later, content)) for content in contents]
        )
        for one in accepted:
            self.paths.setdefault(one.id, one.path)
        return [one.id for one in accepted]

    async def _submit(self, receiver: Receiver, path: str) -> int:
        (accepted,) = await receiver.submissions.submit([Submission(path, path)])
        self.paths[accepted.id] = path
        return accepted.id

    async def _delete(self, receiver: Receiver, image_id: int) -> bool:
        await receiver.images.delete(image_id)
        return True

    async def _retry(self, receiver: Receiver, image_id: int) -> bool:
        await receiver.images.retry(image_id)
        return True

    async def _enrol(self, receiver: Receiver, person: str, content: bytes) -> Any:
        return await receiver.enrolment.enrol(person, partial(_later, content))

    async def _name(self, receiver: Receiver, person: str, image_id: int) -> Any:
        return await receiver.enrolment.enrol_face(person, image_id, 0)

    async def _show(self, receiver: Receiver, image_id: int) -> bytes:
        find = partial(receiver.images.picture_key, image_id)
        return (await receiver.thumbnails.get(image_thumbnails(image_id)[0], find))[0]

    async def _show_known(self, receiver: Receiver, person: str, picture_id: int) -> bytes:
        find = partial(receiver.enrolment.picture_key, person, picture_id)
        return (await receiver.thumbnails.get(known_thumbnail(picture_id), find))[0]

    async def _unname(self, receiver: Receiver, image_id: int) -> bool:
        await receiver.enrolment.unname_face(image_id, 0)
        return True

    async def _forget(self, receiver: Receiver, person: str) -> bool:
        await receiver.enrolment.delete(person)
        return True

    async def _forget_picture(self, receiver: Receiver, person: str, picture_id: int) -> bool:
        await receiver.enrolment.delete_picture(person, picture_id)
        return True

    async def _merge(self, receiver: Receiver, kept: str, gone: str) -> Any:
        return await receiver.merging.merge(kept, gone)

    async def _unmerge(self, receiver: Receiver, kept: str) -> Any:
        merges = (await receiver.enrolment.person(kept)).merges
        return await receiver.merging.undo(kept, merges[0].id) if merges else None

    async def _collect(self, made: tuple[Process, Collector]) -> bool:
        await made[1].collect()
        return True

    async def _process(self, made: tuple[Process, Any, Any], image_id: int) -> bool:
        _, rows, store = made
        claim = await rows.claim(image_id)
        if claim is None:
            return False
        try:
            content, tag = await store.get_tagged(PICTURES + claim.path)
            if await store.tag(PICTURES + claim.path) == tag:
                face = SeenFace(Box(1, 1, 2, 2), 1.0, False, ())
                outcome: Any = Processed((face,), 9, 9, content.hex(), tag)
                # Noted before, for the answer may get lost.
                self.results.setdefault(image_id, set()).add(content)
            else:
                outcome = Unanswered("replaced")
        except ObjectNotFoundError:
            outcome = Rejected("no picture")
        await rows.finish(claim, outcome)
        return True

    # ---- the schedule

    async def run(self, steps: int) -> None:
        """Do what the seed says, then let everything come to rest, and check it."""
        if self.kinds is MERGING:
            await self._make_people()
        for _ in range(steps):
            await self._next()
        await self.rest()
        await check(self)

    async def _make_people(self) -> None:
        self.calm = True
        self.begin("upload", *CONTENTS)
        await self.finish_waiting()
        await self._process_all()
        for person, content, image_id in zip(
            PEOPLE, CONTENTS, self.operations[0].answer, strict=True
        ):
            self.begin("enrol", person, content)
            await self.finish_waiting()
            self.begin("name", person, image_id)
            await self.finish_waiting()
        self.calm = False

    async def _next(self) -> None:
        self.tick += 1
        await _settle()
        chance = self.random.random()
        if self._waiting and chance < 0.72:
            await self._take(self.random.choice(self._waiting))
        elif chance < 0.95:
            self._begin_any()
        elif chance < 0.97:
            name = self.random.choice(list(self._processes))
            self._note(f"{name} dies")
            self._crash(name)
        elif chance < 0.98 and self._late:
            self._note("a late write comes through")
            await self._late.pop(self.random.randrange(len(self._late)))()
        elif self.later_ms < _LONGEST_MS:
            self.later_ms += self.random.choice((31_000, 61_000, 121_000))

    def _begin_any(self) -> None:
        choose = self.random.choice
        uploaded = [
            one
            for operation in self.operations
            if operation.kind in ("upload", "submit") and operation.answer
            for one in (
                operation.answer if isinstance(operation.answer, list) else [operation.answer]
            )
        ]
        known = [
            one.answer for one in self.operations if one.kind in ("enrol", "name") and one.answer
        ]
        kind = choose(self.kinds)
        if kind == "merge":
            self.begin(kind, *self.random.sample(PEOPLE, 2))
        elif kind == "upload":
            self.begin(kind, *self.random.sample(CONTENTS, self.random.randint(1, 2)))
        elif kind == "submit":
            self.begin(kind, choose(PATHS))
        elif kind == "hand":
            self._put_by_hand(choose(BY_HAND), JPEG + b"hand %d" % self.tick)
        elif kind == "enrol":
            self.begin(kind, choose(PEOPLE), choose(CONTENTS))
        elif kind in ("forget", "unmerge", "collect"):
            self.begin(kind, *([] if kind == "collect" else [choose(PEOPLE)]))
        elif kind in ("forget_picture", "show_known") and known:
            picture = choose(known)
            self.begin(kind, picture.person, picture.id)
        elif kind == "name" and uploaded:
            self.begin(kind, choose(PEOPLE), choose(uploaded[-3:]))
        elif kind in ("delete", "retry", "process", "unname", "show") and uploaded:
            self.begin(kind, choose(uploaded[-3:]))

    def _put_by_hand(self, key: str, content: bytes) -> None:
        # No store removes an object only if it has a tag, so between the look at the tag and the
        # removal somebody may replace it: the one thing that is not promised.
        if key in {looked_at for _, looked_at in self._looked_at}:
            return
        self._note(f"by hand: {key}")
        self.store.objects[key] = (content, f"hand {self.tick}")
        self.puts.setdefault(key, []).append(self.tick)

    def _look(self, process: Process, call: str, key: str = "") -> None:
        """Note what a redeemer looks at and has not removed yet."""
        if call == "tag":
            self._looked_at.add((process, key))
        elif call == "delete":
            self._looked_at.discard((process, key))
        elif call == "removed":
            self._looked_at = {one for one in self._looked_at if one[0] is not process}

    async def _take(self, step: Step) -> None:
        self._waiting.remove(step)
        away: type[Exception] = (
            ObjectStoreUnavailableError if step.of_store else DatabaseUnavailableError
        )
        chance = 1.0 if self.calm else self.random.random()
        self._note(step.name)
        if isinstance(step.process, Collecting):
            self._look(step.process, *step.name.split())
        if step.name == "answer":
            step.future.set_result(await step.work())
        elif chance < 0.02:
            self._note("  fails before its effect")
            step.future.set_exception(away("failed"))
        else:
            late = step.name.startswith(("put", "delete")) and step.of_store
            by_hand = step.name.removeprefix("delete ") in BY_HAND
            if chance < 0.05 and late and not by_hand:
                self._note("  fails, and comes through later")
                self._late.append(step.work)
                step.future.set_exception(away("failed"))
                return
            try:
                answer = await step.work()
            except Exception as error:  # noqa: BLE001, it is the caller's
                step.future.set_exception(error)
                return
            await self._check_step(step, answer)
            if chance < 0.07:
                self._note("  fails after its effect")
                step.future.set_exception(away("failed"))
            elif self.calm or chance < 0.5:
                step.future.set_result(answer)
            else:
                self._waiting.append(
                    Step(step.process, "answer", partial(_later, answer), step.future, False)
                )

    async def _check_step(self, step: Step, answer: Any) -> None:
        """Raise :class:`BrokenPromiseError` when a claim is not what its adapter says."""
        if step.name == "claim" and answer:
            self._claims[answer.image_id] = answer
        elif step.name == "finish" and answer:
            claim = step.work.args[0]
            if self._claims[claim.image_id] is not claim:
                raise BrokenPromiseError(
                    f"a claim of image {claim.image_id} that was lost wrote a result"
                )
        elif step.name == "take" and answer:
            keys = {one.key for one in answer}
            async with self.database.reading() as connection:
                paths = await connection.scalars(sa.select(images.c.path))
                if named := keys & {PICTURES + path for path in paths}:
                    raise BrokenPromiseError(f"{named} is to be removed, and a row names it")

    async def rest(self) -> None:
        """Let everything that was begun end, and the repair loops do their work."""
        self.calm = True
        await self.finish_waiting()
        for late in self._late:
            await late()
        self._late = []
        for _ in range(3):
            self.later_ms += 2 * 3_600_000
            repair = DatabaseRepairs(self.database, database_now)
            await repair.take_abandoned()
            await repair.mark_abandoned_dead()
            await repair.take_failed()
            await self._process_all()
            self.begin("collect")
            await self.finish_waiting()

    async def _process_all(self) -> None:
        async with self.database.reading() as connection:
            found = list(
                await connection.scalars(sa.select(images.c.id).where(images.c.status == "pending"))
            )
        for image_id in found:
            self.begin("process", image_id)
            await self.finish_waiting()

    async def finish_waiting(self) -> None:
        """Let everything that was begun end."""
        await _settle()
        while self._waiting:
            self.tick += 1
            await self._take(self._waiting[0])
            await _settle()

    async def submit_all(self) -> None:
        """Submit every path again, and look at what is looked at again."""
        for path in PATHS:
            self.begin("submit", path)
            await self.finish_waiting()
        await self._process_all()

    def _note(self, text: str) -> None:
        self.history.append(f"{self.tick:4} {text}")


async def _later(answer: Any) -> Any:
    return answer


async def _settle() -> None:
    """Run everything that waits for nothing."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110, whatever is ready is to run
        await asyncio.sleep(0)


# ---- what must hold at rest


async def check(world: World) -> None:
    """Raise :class:`BrokenPromiseError` unless all that was promised holds."""
    async with world.database.reading() as connection:
        rows = {row.id: row for row in await connection.execute(sa.select(images))}
        known = {
            row.id: row
            for row in await connection.execute(
                sa.select(person_images, persons.c.name).join(persons)
            )
        }
        notes = (await connection.execute(sa.select(garbage))).all()
        by_hand = sa.select(faces).where(faces.c.decided_by == DecidedBy.HAND)
        named = (await connection.execute(by_hand)).all()
    if notes:
        raise BrokenPromiseError(f"notes stay: {notes}")
    _check_objects(world, rows, known)
    _check_uploads(world, rows)
    _check_by_hand(world, rows)
    _check_people(world, known)
    await _check_shown(world, rows, known)
    _check_by_hand_named(world, named, known)
    await world.submit_all()
    async with world.database.reading() as connection:
        again = (await connection.execute(sa.select(images))).all()
    _check_results(world, again)


def _check_objects(world: World, rows: dict[int, Any], known: dict[int, Any]) -> None:
    named = {PICTURES + row.path for row in rows.values()}
    named |= {KNOWN_PEOPLE + row.image_name for row in known.values()}
    named |= {one.key for row in rows.values() for one in image_thumbnails(row.id)}
    named |= {known_thumbnail(row.id).key for row in known.values()}
    for key in world.store.objects:
        if key not in named and key not in BY_HAND:
            raise BrokenPromiseError(f"nobody names {key}")
    for row in rows.values():
        if row.content_digest:
            content, _ = world.store.objects.get(PICTURES + row.path, (b"", ""))
            if hashlib.sha256(content).hexdigest() != row.content_digest:
                raise BrokenPromiseError(f"image {row.id} has lost its picture")
    for row in known.values():
        content, _ = world.store.objects.get(KNOWN_PEOPLE + row.image_name, (b"", ""))
        if hashlib.sha256(content).hexdigest() not in row.image_name:
            raise BrokenPromiseError(f"known picture {row.id} of {row.name} has lost its object")


async def _check_shown(world: World, rows: dict[int, Any], known: dict[int, Any]) -> None:
    """Raise when somebody is shown another picture than the one that is there."""
    asked: list[tuple[str, tuple[Any, ...]]] = [
        *((PICTURES + row.path, ("show", row.id)) for row in rows.values()),
        *(
            (KNOWN_PEOPLE + row.image_name, ("show_known", row.name, row.id))
            for row in known.values()
        ),
    ]
    for key, arguments in asked:
        world.begin(*arguments)
        await world.finish_waiting()
        shown, there = world.operations[-1].answer, world.store.objects.get(key)
        if shown != (there and there[0] + b" small"):
            raise BrokenPromiseError(f"{arguments} shows {shown!r} for {there}")


def _of(world: World, *kinds: str) -> list[Operation]:
    return [one for one in world.operations if one.kind in kinds]


def _ended_before(operation: Operation, moment: int) -> bool:
    return operation.end is not None and operation.end < moment


def _check_uploads(world: World, rows: dict[int, Any]) -> None:
    for operation in _of(world, "upload", "submit"):
        answer = operation.answer if isinstance(operation.answer, list) else [operation.answer]
        for image_id in answer if operation.answer else []:
            deletions = [one for one in _of(world, "delete") if one.arguments == (image_id,)]
            for one in deletions:
                if one.answer and _ended_before(one, operation.start):
                    raise BrokenPromiseError(
                        f"{operation.kind} got the id {image_id}, which was deleted"
                    )
            if image_id not in rows and all(
                _ended_before(one, operation.start) for one in deletions
            ):
                raise BrokenPromiseError(f"image {image_id} was acknowledged and is lost")
    for one in _of(world, "delete"):
        if one.answer and one.arguments[0] in rows:
            raise BrokenPromiseError(f"image {one.arguments[0]} was deleted and is there")


def _check_by_hand(world: World, rows: dict[int, Any]) -> None:
    for path in PATHS:
        key = PICTURES + path
        puts = world.puts.get(key, [])
        if not puts:
            continue
        its_ids = {image_id for image_id, its_path in world.paths.items() if its_path == path}
        deletions = [one for one in _of(world, "delete") if one.arguments[0] in its_ids]
        there = key in world.store.objects
        if not there and all(_ended_before(one, puts[-1]) for one in deletions):
            raise BrokenPromiseError(f"{key} was put after every deletion and is lost")
        deleted = [one for one in deletions if one.answer and one.start > puts[-1]]
        named = any(row.path == path for row in rows.values())
        if there and len(puts) == 1 and deleted and not named:
            raise BrokenPromiseError(f"{key} was deleted and is there")


def _check_people(world: World, known: dict[int, Any]) -> None:
    forgetting = _of(world, "forget", "forget_picture")
    for operation in _of(world, "enrol", "name"):
        picture = operation.answer
        if picture is None:
            continue
        # Of somebody else it may be who was said to be this person.
        whoever = PEOPLE if _of(world, "merge") else (picture.person,)
        its = [
            one
            for one in forgetting
            if one.arguments[0] in whoever and one.arguments[1:] in ((), (picture.id,))
        ]
        moving = _taking_back(world, picture.person)
        if picture.id not in known and all(
            _ended_before(one, operation.start) for one in (*its, *moving)
        ):
            raise BrokenPromiseError(f"known picture {picture.id} was acknowledged and is lost")
        for one in its:
            if (
                one.answer
                and _ended_before(operation, one.start)
                and picture.id in known
                and len(whoever) == 1
            ):
                later = [
                    other
                    for other in _of(world, "enrol", "name")
                    if other.answer and other.answer.id == picture.id and other is not operation
                ]
                if all(_ended_before(other, one.start) for other in later):
                    raise BrokenPromiseError(
                        f"known picture {picture.id} was forgotten and is there"
                    )
    _check_named(world)
    _check_forgotten(world)


def _taking_back(world: World, person: str) -> list[Operation]:
    """Return what may take known pictures from a person that were cut out of images."""
    naming = _of(world, "name")
    its = {one.arguments[1] for one in naming if one.arguments[0] == person}
    others = [one for one in naming if one.arguments[0] != person and one.arguments[1] in its]
    return [*others, *(one for one in _of(world, "unname") if one.arguments[0] in its)]


def _check_by_hand_named(world: World, named: Sequence[Any], known: dict[int, Any]) -> None:
    """Who is named by hand is known by that face, as no two images here have one content."""
    for face in named:
        shown = {hashlib.sha256(one + b" cut").hexdigest() for one in world.results[face.image_id]}
        its = [row.image_name for row in known.values() if row.person_id == face.person_id]
        if not any(digest in image_name for digest in shown for image_name in its):
            raise BrokenPromiseError(
                f"image {face.image_id} is by hand a face of {face.person}, who is not known by it"
            )


def _check_named(world: World) -> None:
    for operation in _of(world, "name"):
        if operation.answer is None:
            continue
        image_id = operation.arguments[1]
        shown = {hashlib.sha256(one + b" cut").hexdigest() for one in world.results[image_id]}
        if not any(one in operation.answer.image_name for one in shown):
            raise BrokenPromiseError(
                f"naming a face of image {image_id} enrolled one that was never shown"
            )


def _check_forgotten(world: World) -> None:
    hand = f"{KNOWN_PEOPLE}Ada/hand.jpg"
    put = world.puts.get(hand, [0])[-1]
    its = [one for one in _of(world, "forget") if one.arguments == ("Ada",)]
    its += [one for one in _of(world, "merge") if one.arguments[1] == "Ada"]
    if hand in world.puts:
        there = hand in world.store.objects
        if not there and all(_ended_before(one, put) for one in its):
            raise BrokenPromiseError(f"{hand} was put after Ada was forgotten and is lost")
        if there and any(one.answer and one.start > put for one in its):
            raise BrokenPromiseError(f"Ada was forgotten and {hand} is there")


def _check_results(world: World, rows: Sequence[Any]) -> None:
    for row in rows:
        content, _ = world.store.objects.get(PICTURES + row.path, (b"", ""))
        if row.content_digest and row.status != "processed":
            raise BrokenPromiseError(f"image {row.id} is {row.status}")
        if row.path in PATHS and content and row.status != "processed":
            raise BrokenPromiseError(f"{row.path} is {row.status}, although it is there")
        if row.status == "processed" and bytes.fromhex(row.engine) != content:
            raise BrokenPromiseError(f"image {row.id} has the result of another picture")


async def run_in(world: World, *, steps: int = 150) -> None:
    """Run the schedule of a world's seed from nothing; raise :class:`BrokenPromiseError`."""
    async with world.database.transaction() as connection:
        for table in (faces, images, person_images, persons, garbage):
            await connection.execute(sa.delete(table))
    engine = world.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", world.later, retval=True)
    try:
        await world.run(steps)
    finally:
        event.remove(engine, "before_cursor_execute", world.later)


def open_database(settings: DatabaseSettings) -> Database:
    """Open a database that need not outlive a power cut."""
    database = Database(settings)

    def hurry(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(database._engine.sync_engine, "connect", hurry)
    return database

"""A pool of worker processes with one socket each.

The usual pools share one pipe and its lock between all workers: a worker that is killed while it
waits for work holds that lock, and the others starve until a timeout (``pebble``) or the whole
pool is declared broken (``concurrent.futures``, ``loky``). Here a worker's death touches only its
own request.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import Final

import structlog

from services.common.errors import (
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserUnavailableError,
)
from services.common.faces import Box
from services.face_recog import metrics
from services.face_recog.adapters.worker import NUMBER, Steps, read_engine, serve
from services.face_recog.domain.engines import Engine, EngineChoice
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import Recognition

log = structlog.get_logger(__name__)

_START_SECONDS: Final = 60.0
"""Loading the models takes about a second; a busy machine may need longer."""

_RESTART_PAUSE_SECONDS: Final = 1.0

SLICE_SECONDS: Final = 1.0
"""Faces are encoded for so long; then it is another picture's turn."""


@dataclass(order=True)
class _Job:
    priority: int
    number: int
    request: bytes = field(compare=False)
    answer: asyncio.Future[bytes] = field(compare=False)
    weight: int = field(compare=False)


class _Worker:
    """One process and the socket to it."""

    def __init__(
        self, process: ForkServerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.ended = asyncio.Event()
        self._reader = reader
        self._writer = writer
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_end)

    @classmethod
    async def start(
        cls,
        context: multiprocessing.context.ForkServerContext,
        engine: EngineChoice,
        memory_bytes: int,
    ) -> "_Worker":
        ours, theirs = socket.socketpair()
        with theirs:
            process = context.Process(
                target=serve, args=(theirs, engine, memory_bytes), daemon=True
            )
            process.start()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            process.kill()
            raise
        return cls(process, reader, writer)

    async def exchange(self, request: bytes) -> bytes:
        """Send a request and return its answer; ``OSError`` or ``EOFError`` when it died."""
        self._writer.write(request)
        await self._writer.drain()
        return await self.receive()

    async def receive(self) -> bytes:
        [size] = NUMBER.unpack(await self._reader.readexactly(NUMBER.size))
        return await self._reader.readexactly(size)

    async def end(self) -> int | None:
        """Kill the process if it still lives, and return its exit code."""
        self._writer.close()
        if not self.ended.is_set():  # else its process id may be another's by now
            self.process.kill()
        await self.ended.wait()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        return code

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self.process.sentinel)
        self.ended.set()


class Pool:
    """Recognises pictures in ``size`` processes, by one ``engine``.

    At most ``queue_size`` requests wait for their first step; ``memory_bytes`` is the most address
    space that a picture may take. A picture of many faces is worked on in steps, and queues anew
    for each, so others pass it. A step may take ``work_seconds``, for a worker that hangs is to be
    noticed; then it is done once more from its start, in a process beside the others, one such step
    at a time, and may take ``long_seconds``. A picture that needs longer than that is rejected.
    """

    def __init__(
        self,
        *,
        engine: EngineChoice,
        size: int,
        queue_size: int,
        work_seconds: float,
        long_seconds: float,
        memory_bytes: int,
        slice_seconds: float = SLICE_SECONDS,
    ) -> None:
        self.size = size
        self._choice = engine
        self._engine: Engine | None = None
        self._queue_size = queue_size
        self._work_seconds = work_seconds
        self._long_seconds = long_seconds
        self._slice_seconds = slice_seconds
        self._memory_bytes = memory_bytes
        self._context = multiprocessing.get_context("forkserver")
        self._jobs: asyncio.PriorityQueue[_Job] = asyncio.PriorityQueue()
        self._overran: asyncio.PriorityQueue[_Job] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._waiting = 0
        self._workers: set[_Worker] = set()
        self._ready: set[_Worker] = set()
        self._answers: set[asyncio.Future[bytes]] = set()
        self._slots: list[asyncio.Task[None]] = []
        self._available = asyncio.Event()
        self._unavailable = asyncio.Event()
        self._is_stopping = False

    @property
    def engine(self) -> Engine:
        """What the answers come from, once a worker has started."""
        if self._engine is None:
            raise RecogniserUnavailableError("no worker has started yet")
        return self._engine

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    async def check(self) -> None:
        """Raise ``RecogniserUnavailableError`` while no worker can take a picture."""
        if not self._available.is_set():
            raise RecogniserUnavailableError("no worker process is running")

    async def wait_available(self) -> None:
        """Return when a worker can take a picture."""
        await self._available.wait()

    async def wait_unavailable(self) -> None:
        """Return when no worker can take a picture."""
        await self._unavailable.wait()

    async def start(self) -> None:
        """Start the workers and return when all are ready; raise if one cannot start."""
        self._context.set_forkserver_preload(["services.face_recog.adapters.preload"])
        workers = await asyncio.gather(*(self._start_worker() for _ in range(self.size)))
        self._ready.update(workers)
        self._count_workers()
        self._slots = [asyncio.create_task(self._serve(worker)) for worker in workers]
        self._slots.append(asyncio.create_task(self._serve_overran()))

    def give_back(self) -> None:
        """Refuse, with a ``RecogniserBusyError``, what was not finished and whatever comes."""
        self._is_stopping = True
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(_stopping())

    async def close(self) -> None:
        """End the workers, and give back what they have not finished."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        await asyncio.gather(*(self._end_worker(worker) for worker in list(self._workers)))
        self.give_back()

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,
        boxes: Sequence[Box] = (),
        urgent: bool = False,
        on_long: Callable[[], Awaitable[None]] | None = None,
    ) -> Recognition:
        """Find and encode faces, as ``ports.PictureRecogniser`` says."""
        if self._waiting >= self._queue_size and not urgent:
            raise RecogniserBusyError(f"{self._waiting} pictures are waiting already")
        is_long = False

        async def say_long() -> None:
            nonlocal is_long
            if not is_long:
                is_long = True
                metrics.POOL_LONG.inc()
                if on_long:
                    await on_long()

        steps = Steps(self.engine, picture, max_faces, self._slice_seconds, boxes)
        del picture  # what it is in the first request is enough
        while True:
            # What was begun keeps nobody out who comes anew.
            weight = 0 if is_long else 1
            try:
                answer = await self._do(self._jobs, steps.request, urgent=urgent, weight=weight)
            except TimeoutError:
                await say_long()
                try:
                    answer = await self._do(self._overran, steps.request, urgent=urgent, weight=0)
                except TimeoutError:
                    raise RejectedError(
                        f"recognising it takes longer than {self._long_seconds:g} s",
                        Rejection.TOO_LARGE,
                    ) from None
            if found := steps.take(answer):
                return found
            await say_long()

    async def _do(
        self, queue: "asyncio.PriorityQueue[_Job]", request: bytes, *, urgent: bool, weight: int
    ) -> bytes:
        """Have a step done when it is its turn."""
        if self._is_stopping:
            raise _stopping()
        job = _Job(
            priority=0 if urgent else 1,
            number=next(self._numbers),
            request=request,
            answer=asyncio.get_running_loop().create_future(),
            weight=weight,
        )
        self._answers.add(job.answer)
        queue.put_nowait(job)
        self._count_waiting(job.weight)
        try:
            return await job.answer
        except asyncio.CancelledError:
            # The job stays in the queue until its turn, without its weight; a worker that is
            # busy with it is bound by its time.
            if job.request:
                self._take(job)
            raise
        finally:
            self._answers.discard(job.answer)

    async def _serve(self, worker: _Worker) -> None:
        """Give one worker its jobs, and replace it when it is lost."""
        while True:
            reason = await self._serve_until_lost(worker)
            metrics.POOL_RESTARTS.labels(reason).inc()
            code = await self._end_worker(worker)
            log.warning("worker replaced", reason=reason, exit_code=code)
            worker = await self._replacement()
            self._ready.add(worker)
            self._count_workers()

    async def _serve_until_lost(self, worker: _Worker) -> str:
        while (job := await self._next_job(worker)) is not None:
            if lost := await self._do_in(worker, job, self._take(job), self._work_seconds):
                return lost
        return "crash"

    async def _serve_overran(self) -> None:
        """Give each step that overran its time its long time, in a process of its own."""
        while True:
            job = await self._overran.get()
            if not job.request:
                continue
            request = self._take(job)
            worker = await self._replacement()
            try:
                await self._do_in(worker, job, request, self._long_seconds)
            finally:
                await self._end_worker(worker)

    async def _do_in(self, worker: _Worker, job: _Job, request: bytes, seconds: float) -> str:
        """Have a worker do a job; return what it was lost by, or nothing."""
        try:
            async with asyncio.timeout(seconds):
                answer = await worker.exchange(request)
        except TimeoutError:
            self._fail(job, TimeoutError())
            return "timeout"
        except (OSError, EOFError):
            self._fail(job, RecogniserFailedError("the worker process died"))
            return "crash"
        if not job.answer.done():
            job.answer.set_result(answer)
        return ""

    async def _next_job(self, worker: _Worker) -> _Job | None:
        """Return a job that somebody waits for, or None when the idle worker died."""
        ended = asyncio.create_task(worker.ended.wait())
        getting = asyncio.create_task(self._jobs.get())
        try:
            while True:
                await asyncio.wait({getting, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    if getting.done():
                        self._jobs.put_nowait(getting.result())
                    return None
                if getting.result().request:
                    return getting.result()
                getting = asyncio.create_task(self._jobs.get())
        finally:
            ended.cancel()
            getting.cancel()

    async def _start_worker(self) -> _Worker:
        worker = await _Worker.start(self._context, self._choice, self._memory_bytes)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(_START_SECONDS):
                self._engine = read_engine(await worker.receive())
        except RecogniserUnavailableError:
            await self._end_worker(worker)
            raise
        except (OSError, EOFError, TimeoutError) as error:
            code = await self._end_worker(worker)
            raise RecogniserUnavailableError(
                f"a worker could not start, exit code {code}"
            ) from error
        return worker

    async def _end_worker(self, worker: _Worker) -> int | None:
        self._workers.discard(worker)
        self._ready.discard(worker)
        self._count_workers()
        return await worker.end()

    async def _replacement(self) -> _Worker:
        while True:
            try:
                return await self._start_worker()
            except (OSError, RecogniserUnavailableError) as error:
                log.critical("worker could not be replaced", reason=str(error))
                await asyncio.sleep(_RESTART_PAUSE_SECONDS)

    def _count_workers(self) -> None:
        metrics.POOL_WORKERS.set(len(self._ready))
        if self._ready:
            self._available.set()
            self._unavailable.clear()
        else:
            self._unavailable.set()
            self._available.clear()

    def _take(self, job: _Job) -> bytes:
        """Return what is to be done; the job waits no longer."""
        request, job.request = job.request, b""
        self._count_waiting(-job.weight)
        return request

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        metrics.POOL_QUEUE.set(self._waiting)

    @staticmethod
    def _fail(job: _Job, error: Exception) -> None:
        if not job.answer.done():
            job.answer.set_exception(error)


def _stopping() -> RecogniserBusyError:
    return RecogniserBusyError("the service is stopping")

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from PIL import Image

from services.common.errors import (
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserUnavailableError,
)
from services.common.faces import measured
from services.face_recog import metrics
from services.face_recog.adapters.models import load_models
from services.face_recog.adapters.pool import Pool
from services.face_recog.domain.engines import EngineChoice
from services.face_recog.domain.errors import RejectedError, Rejection
from services.testing.damaged_pictures import save


@asynccontextmanager
async def started(
    *,
    engine: EngineChoice = "classic",
    size: int = 1,
    queue_size: int = 64,
    work_seconds: float = 60,
    long_seconds: float = 60,
    slice_seconds: float = 60,
    memory_bytes: int = 2 * 1024**3,
) -> AsyncIterator[Pool]:
    pool = Pool(
        engine=engine,
        size=size,
        queue_size=queue_size,
        work_seconds=work_seconds,
        long_seconds=long_seconds,
        slice_seconds=slice_seconds,
        memory_bytes=memory_bytes,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110, the condition is another process's
            await asyncio.sleep(0.005)


def halt(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def restarts(reason: str) -> float:
    return float(metrics.POOL_RESTARTS.labels(reason)._value.get())


async def test_recognises_in_every_process_and_leaves_none_behind(small_hopper: bytes) -> None:
    async with started(size=2) as pool:
        pids = pool.processes
        assert len(set(pids)) == 2
        assert pool.engine == load_models("classic").engine
        for found in await asyncio.gather(*(pool.recognise(small_hopper) for _ in range(6))):
            assert len(found.faces) == 1
            assert found.faces[0].encoding.shape == (128,)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_killed_worker_fails_only_its_own_request(small_hopper: bytes) -> None:
    crashes = restarts("crash")
    async with started(size=2) as pool:
        victim = pool.processes[0]
        halt(victim)
        requests = [asyncio.create_task(pool.recognise(small_hopper)) for _ in range(6)]
        await until(lambda: sum(request.done() for request in requests) == 5)
        os.kill(victim, signal.SIGKILL)
        results = await asyncio.gather(*requests, return_exceptions=True)
        faults = [result for result in results if isinstance(result, RecogniserFailedError)]
        assert [str(fault) for fault in faults] == ["the worker process died"]
        await until(lambda: len(pool.processes) == 2 and restarts("crash") == crashes + 1)
        assert victim not in pool.processes
        again = await asyncio.gather(*(pool.recognise(small_hopper) for _ in range(4)))
        assert all(len(found.faces) == 1 for found in again)


async def test_killed_idle_workers_are_replaced_and_fail_nothing(small_hopper: bytes) -> None:
    async with started(size=2) as pool:
        for _ in range(3):
            pids = pool.processes
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: len(set(pool.processes) - set(pids)) == 2)  # noqa: B023
            assert len((await pool.recognise(small_hopper)).faces) == 1


async def test_a_pool_without_workers_says_so() -> None:
    async with started(size=2) as pool:
        await pool.check()
        first, _ = pool.processes
        unavailable = asyncio.create_task(pool.wait_unavailable())
        os.kill(first, signal.SIGKILL)
        await until(lambda: len({first, *pool.processes}) == 3)
        assert not unavailable.done()
        await pool.check()
    await unavailable
    with pytest.raises(RecogniserUnavailableError, match="no worker"):
        await pool.check()


async def test_the_fork_server_killed(small_hopper: bytes) -> None:
    async with started(size=2) as pool:
        os.kill(psutil.Process(pool.processes[0]).ppid(), signal.SIGKILL)
        results = await asyncio.gather(*(pool.recognise(small_hopper) for _ in range(4)))
        assert all(len(found.faces) == 1 for found in results)


async def test_a_signal_to_the_whole_group_ends_no_worker(small_hopper: bytes) -> None:
    async with started(size=2) as pool:
        pids = pool.processes
        for pid in [psutil.Process(pids[0]).ppid(), *pids]:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert len((await pool.recognise(small_hopper)).faces) == 1
        assert set(pool.processes) == set(pids)


class Listener:
    """Counts how often it is told that a picture needs long."""

    def __init__(self) -> None:
        self.told = 0

    async def __call__(self) -> None:
        self.told += 1


@pytest.fixture(scope="session")
def page(astronaut: Image.Image, hopper: Image.Image) -> bytes:
    """Twelve faces."""
    faces = [astronaut.crop((140, 40, 300, 200)), hopper.crop((123, 82, 423, 382))]
    sheet = Image.new("RGB", (640, 480), "gray")
    for number in range(12):
        size = 150 - 2 * number  # one order of the faces
        face = faces[number % 2].resize((size, size))
        sheet.paste(face, (number % 4 * 160, number // 4 * 160))
    return save(sheet, "PNG")


async def test_steps_find_what_one_would(page: bytes) -> None:
    listener = Listener()
    async with started() as pool:
        whole = await pool.recognise(page, on_long=listener)
    assert (len(whole.faces), listener.told) == (12, 0)
    async with started(size=2, slice_seconds=0) as pool:
        found = await pool.recognise(page, on_long=listener)
        some = await pool.recognise(page, max_faces=5, on_long=listener)
    assert (len(some.faces), listener.told) == (5, 2)
    assert (found.width, found.height) == (whole.width, whole.height)
    for one, other in [
        *zip(found.faces, whole.faces, strict=True),
        *zip(some.faces, whole.faces[:5], strict=True),
    ]:
        assert measured(one) == measured(other)
        assert (one.encoding == other.encoding).all()


async def test_other_pictures_pass_one_of_many_faces(page: bytes, small_hopper: bytes) -> None:
    async with started(slice_seconds=0, queue_size=1) as pool:
        pages = []
        for _ in range(2):
            began = Listener()
            pages.append(asyncio.create_task(pool.recognise(page, on_long=began)))
            await until(lambda: began.told > 0)  # noqa: B023
        for _ in range(3):  # what was begun fills no queue
            assert len((await pool.recognise(small_hopper)).faces) == 1
        assert not any(request.done() for request in pages)
        assert [len((await request).faces) for request in pages] == [12, 12]


async def test_a_worker_that_dies_at_a_later_step_ends_the_picture(
    page: bytes, small_hopper: bytes
) -> None:
    async with started(slice_seconds=0) as pool:

        async def kill() -> None:
            halt(pool.processes[0])
            os.kill(pool.processes[0], signal.SIGKILL)

        with pytest.raises(RecogniserFailedError, match="died"):
            await pool.recognise(page, on_long=kill)
        assert len((await pool.recognise(small_hopper)).faces) == 1


async def test_a_step_over_its_time_gets_a_long_one_once(small_hopper: bytes) -> None:
    timeouts = restarts("timeout")
    listener = Listener()
    async with started(work_seconds=4) as pool:
        [slow] = pool.processes
        halt(slow)
        found = await pool.recognise(small_hopper, on_long=listener)
        assert (len(found.faces), listener.told) == (1, 1)
        assert restarts("timeout") == timeouts + 1
        assert not psutil.pid_exists(slow)
        await until(lambda: len(pool.processes) == 1)
    async with started(work_seconds=4, long_seconds=0.001) as pool:
        halt(pool.processes[0])
        with pytest.raises(RejectedError, match="takes longer than") as rejected:
            await pool.recognise(small_hopper)
        assert rejected.value.rejection == Rejection.TOO_LARGE
        assert len((await pool.recognise(small_hopper)).faces) == 1


async def test_others_go_on_while_one_step_takes_long(
    small_hopper: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(work_seconds=4, queue_size=1) as pool:
        beside = pool._slots[-1]
        held: list[int] = []
        replacement = pool._replacement

        async def halted() -> Any:
            worker = await replacement()
            if asyncio.current_task() is beside:
                held.append(worker.process.pid or 0)
                halt(held[-1])
            return worker

        monkeypatch.setattr(pool, "_replacement", halted)
        slow = []
        before = restarts("timeout")
        halted_before: set[int] = set()

        def free() -> set[int]:
            return {worker.process.pid or 0 for worker in pool._ready} - halted_before

        for number in range(1, 3):
            await until(lambda: bool(free()))
            halted_before |= free()
            for pid in halted_before & set(pool.processes):
                halt(pid)
            slow.append(asyncio.create_task(pool.recognise(small_hopper)))
            await until(lambda: restarts("timeout") >= before + number)  # noqa: B023
        await until(lambda: bool(held))
        for _ in range(3):
            assert len((await pool.recognise(small_hopper)).faces) == 1
        assert not any(request.done() for request in slow)
        for number in range(2):  # one after the other
            await until(lambda: len(held) == number + 1)  # noqa: B023
            resume(held[number])
            assert len((await slow[number]).faces) == 1


async def test_a_picture_that_wants_too_much_memory_fails_alone(small_hopper: bytes) -> None:
    monster = save(Image.new("RGBA", (8000, 6000), (1, 2, 3, 200)), "PNG", compress_level=1)
    async with started(memory_bytes=256 * 1024**2) as pool:
        pids = pool.processes
        with pytest.raises(RecogniserFailedError, match="more memory"):
            await pool.recognise(monster)
        assert len((await pool.recognise(small_hopper)).faces) == 1
        assert pool.processes == pids
    async with started() as pool:
        found = await pool.recognise(monster)
        assert (found.width, found.height) == (8000, 6000)


async def test_a_full_queue_refuses_and_an_urgent_request_goes_first(
    small_hopper: bytes,
) -> None:
    async with started(queue_size=2) as pool:
        [pid] = pool.processes
        halt(pid)
        order: list[str] = []

        async def ask(name: str, *, urgent: bool = False) -> None:
            await pool.recognise(small_hopper, urgent=urgent)
            order.append(name)

        running = asyncio.create_task(ask("running"))
        await asyncio.sleep(0)
        await until(lambda: metrics.POOL_QUEUE._value.get() == 0)
        waiting = [asyncio.create_task(ask(name)) for name in ("first", "second")]
        await until(lambda: metrics.POOL_QUEUE._value.get() == 2)
        with pytest.raises(RecogniserBusyError):
            await pool.recognise(small_hopper)
        urgent = asyncio.create_task(ask("urgent", urgent=True))
        await until(lambda: metrics.POOL_QUEUE._value.get() == 3)
        resume(pid)
        await asyncio.gather(running, urgent, *waiting)
        assert order == ["running", "urgent", "first", "second"]


async def test_a_request_whose_client_went_away_is_dropped(small_hopper: bytes) -> None:
    async with started(queue_size=2) as pool:
        [pid] = pool.processes
        halt(pid)
        running = asyncio.create_task(pool.recognise(small_hopper))
        await asyncio.sleep(0)
        await until(lambda: metrics.POOL_QUEUE._value.get() == 0)
        gone = [asyncio.create_task(pool.recognise(b"never read")) for _ in range(2)]
        await until(lambda: metrics.POOL_QUEUE._value.get() == 2)
        for request in (running, *gone):
            request.cancel()
        await asyncio.gather(running, *gone, return_exceptions=True)
        assert metrics.POOL_QUEUE._value.get() == 0
        # There is room again, and the worker goes on with those who wait.
        waiting = [asyncio.create_task(pool.recognise(small_hopper)) for _ in range(2)]
        await until(lambda: metrics.POOL_QUEUE._value.get() == 2)
        resume(pid)
        found = await asyncio.gather(*waiting)
        assert all(len(recognition.faces) == 1 for recognition in found)
        assert pool.processes == [pid]


async def test_closing_gives_back_what_still_waits(small_hopper: bytes) -> None:
    async with started() as pool:
        [pid] = pool.processes
        halt(pid)
        requests = [asyncio.create_task(pool.recognise(small_hopper)) for _ in range(3)]
        await until(lambda: metrics.POOL_QUEUE._value.get() == 2)
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(result, RecogniserBusyError) for result in results)
    assert not psutil.pid_exists(pid)


async def test_no_content_ends_a_worker(small_astronaut: bytes, astronaut: Image.Image) -> None:
    choose = random.Random(11)
    face = astronaut.crop((140, 40, 300, 200))
    originals = [
        small_astronaut,
        save(face, "PNG"),
        save(face, "WEBP"),
        save(face.convert("P"), "PNG"),
    ]
    contents = [choose.randbytes(choose.randrange(300)) for _ in range(40)]
    for number in range(260):
        content = bytearray(originals[number % len(originals)])
        # Mostly headers: what is behind them is the decoders' everyday life.
        reach = len(content) if number % 5 == 0 else 700
        for _ in range(choose.randrange(1, 12)):
            content[choose.randrange(min(reach, len(content)))] = choose.randrange(256)
        if number % 7 == 0:
            del content[choose.randrange(len(content)) :]
        contents.append(bytes(content))
    async with started(size=2, queue_size=1000) as pool:
        pids = pool.processes
        results = await asyncio.gather(
            *(pool.recognise(content, max_faces=1) for content in contents),
            return_exceptions=True,
        )
        failures = [
            result
            for result in results
            if isinstance(result, BaseException) and not isinstance(result, RejectedError)
        ]
        assert not failures
        assert any(isinstance(result, RejectedError) for result in results)
        assert any(not isinstance(result, BaseException) for result in results)
        assert pool.processes == pids

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from services.image_processor.domain import BreakerLimits
from services.image_processor.service.breaker import Breaker, State
from services.image_processor.tests.virtual_time import VirtualTime


class Recogniser:
    def __init__(self) -> None:
        self.up = False
        self.pings = 0
        self.hang: asyncio.Event | None = None
        self.error: Exception | None = None

    async def ping(self) -> bool:
        self.pings += 1
        if self.hang:
            await self.hang.wait()
        if self.error:
            raise self.error
        return self.up


@pytest.fixture
def recogniser() -> Recogniser:
    return Recogniser()


@pytest.fixture
def virtual_time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def states() -> list[State]:
    return []


@pytest.fixture
async def breaker(
    recogniser: Recogniser, states: list[State], virtual_time: VirtualTime
) -> AsyncIterator[Breaker]:
    made = Breaker(recogniser.ping, on_change=states.append, time=virtual_time, random=lambda: 0.5)
    yield made
    await made.close()


def _open(breaker: Breaker) -> None:
    for _ in range(BreakerLimits.faults):
        breaker.fault()


async def test_five_faults_in_a_row_open_it_and_four_do_not(
    breaker: Breaker, states: list[State]
) -> None:
    for _ in range(4):
        breaker.fault()
    breaker.success()
    for _ in range(4):
        breaker.fault()
    assert states == []
    breaker.fault()
    assert states == [State.OPEN]


async def test_nothing_is_sent_before_the_cool_down_is_over(
    breaker: Breaker, recogniser: Recogniser, virtual_time: VirtualTime
) -> None:
    _open(breaker)
    await virtual_time.advance(0.99)
    assert recogniser.pings == 0
    await virtual_time.advance(0.02)
    assert recogniser.pings == 1


async def test_a_ping_that_is_answered_closes_it(
    breaker: Breaker, recogniser: Recogniser, states: list[State], virtual_time: VirtualTime
) -> None:
    _open(breaker)
    recogniser.up = True
    await virtual_time.advance(1)
    assert states == [State.OPEN, State.HALF_OPEN, State.CLOSED]
    await virtual_time.advance(100)
    assert recogniser.pings == 1
    for _ in range(4):
        breaker.fault()
    assert breaker.state is State.CLOSED, "old faults are forgotten"


async def test_the_cool_down_doubles_up_to_a_cap(
    breaker: Breaker, recogniser: Recogniser, virtual_time: VirtualTime
) -> None:
    _open(breaker)
    await virtual_time.advance(1 + 2 + 4 + 8 + 15 + 15)
    assert virtual_time.slept == [1, 2, 4, 8, 15, 15, 15]
    assert recogniser.pings == 6
    assert breaker.state is State.OPEN


async def test_half_open_waits_for_the_one_ping(
    breaker: Breaker, recogniser: Recogniser, states: list[State], virtual_time: VirtualTime
) -> None:
    recogniser.hang = asyncio.Event()
    _open(breaker)
    await virtual_time.advance(1)
    assert breaker.state is State.HALF_OPEN
    for _ in range(20):
        breaker.fault()  # of calls that began before
    breaker.success()
    await virtual_time.advance(60)
    assert recogniser.pings == 1, "single flight"
    assert breaker.state is State.HALF_OPEN
    recogniser.hang.set()
    await virtual_time.advance(0)
    assert states == [State.OPEN, State.HALF_OPEN, State.OPEN]


async def test_a_ping_that_raises_is_one_that_failed(
    breaker: Breaker, recogniser: Recogniser, states: list[State], virtual_time: VirtualTime
) -> None:
    recogniser.error = RuntimeError("channel is broken")
    _open(breaker)
    with structlog.testing.capture_logs() as logs:
        await virtual_time.advance(1)
    assert states == [State.OPEN, State.HALF_OPEN, State.OPEN]
    assert [entry["event"] for entry in logs] == ["the ping failed"]
    recogniser.error, recogniser.up = None, True
    await virtual_time.advance(2)
    assert states[3:] == [State.HALF_OPEN, State.CLOSED]


async def test_it_stays_wary_until_a_real_call_succeeds(
    breaker: Breaker, recogniser: Recogniser, states: list[State], virtual_time: VirtualTime
) -> None:
    recogniser.up = True  # answers pings and nothing else
    for pause in (1, 2, 4):
        _open(breaker)
        await virtual_time.advance(pause - 0.01)
        assert states.pop() is State.OPEN
        await virtual_time.advance(0.01)
        assert states.pop() is State.CLOSED
    breaker.success()
    _open(breaker)
    await virtual_time.advance(1)
    assert virtual_time.slept == [1, 2, 4, 1]


@pytest.mark.parametrize(("random", "expected"), [(0.0, [0.8, 1.6]), (0.999999, [1.2, 2.4])])
async def test_jitter_spreads_the_cool_down(
    recogniser: Recogniser, virtual_time: VirtualTime, random: float, expected: list[float]
) -> None:
    breaker = Breaker(
        recogniser.ping, on_change=lambda _: None, time=virtual_time, random=lambda: random
    )
    _open(breaker)
    await virtual_time.advance(500)
    assert virtual_time.slept[:2] == pytest.approx(expected, rel=1e-4)
    assert max(virtual_time.slept) <= BreakerLimits.longest_cool_down
    await breaker.close()


async def test_its_limits_are_told_to_it(recogniser: Recogniser, virtual_time: VirtualTime) -> None:
    breaker = Breaker(
        recogniser.ping,
        on_change=lambda _: None,
        time=virtual_time,
        random=lambda: 0.5,
        limits=BreakerLimits(faults=2, first_cool_down=3, longest_cool_down=7),
    )
    breaker.fault()
    assert breaker.state is State.CLOSED
    breaker.fault()
    await virtual_time.advance(500)
    assert virtual_time.slept[:4] == [3, 6, 7, 7]
    await breaker.close()


async def test_waiting_for_it_to_open(breaker: Breaker, recogniser: Recogniser) -> None:
    waiting = asyncio.create_task(breaker.wait_open())
    breaker.fault()
    await asyncio.sleep(0)
    assert not waiting.done()
    _open(breaker)
    await asyncio.wait_for(waiting, 1)

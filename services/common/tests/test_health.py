import asyncio

import pytest

from services.common import health
from services.common.health import HealthChecks, at_start, failed_checks


async def away() -> None:
    raise ConnectionError("nobody there")


async def there() -> None:
    pass


async def hangs() -> None:
    await asyncio.Event().wait()


async def test_a_dependency_that_hangs_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_CHECK_TIMEOUT_SECONDS", 0.01)
    assert await failed_checks({"store": hangs, "queue": there}) == {"store": "TimeoutError"}


async def test_a_start_waits_for_a_dependency_but_not_for_ever() -> None:
    check = at_start(away, seconds=0.2)
    with pytest.raises(ConnectionError):
        await check()
    await asyncio.sleep(0.2)
    await check()


async def test_a_dependency_that_fails_for_a_moment_is_not_away() -> None:
    answers = [away, there]

    async def restarts() -> None:
        await answers.pop(0)()

    assert await HealthChecks({"database": restarts}).away() == {}
    assert not answers, "it was asked again"


async def test_a_dependency_that_fails_for_long_is_away_until_it_answers() -> None:
    checks = {"database": away, "queue": there, "object store": hangs}
    checked = HealthChecks(checks, patience=0.1)
    assert await checked.away() == {
        "database": "nobody there",
        "object store": "no answer within 0.1 s",
    }
    checks["database"] = checks["object store"] = there
    assert await checked.away() == {}


async def test_an_answer_does_not_wait_for_what_is_slow() -> None:
    checked = HealthChecks({"database": hangs, "queue": there})
    assert await checked.away() == {}
    assert asyncio.all_tasks() - {asyncio.current_task()}, "the slow one is still asked"
    await checked.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}

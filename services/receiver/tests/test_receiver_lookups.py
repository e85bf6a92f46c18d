"""One query for all who ask at the same time, and never one that began before they asked."""

import asyncio
from collections.abc import Collection, Mapping

from services.receiver.service.lookups import SharedLookup


class Table:
    """Rows, and a query over them that takes until it is let go on."""

    def __init__(self) -> None:
        self.rows = {"a": 1, "b": 2}
        self.asked: list[set[str]] = []
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)

    async def many(self, ids: Collection[str]) -> Mapping[str, int]:
        self.asked.append(set(ids))
        seen = {key: self.rows[key] for key in ids if key in self.rows}
        self.begun.release()
        await self.go_on.acquire()
        return seen


async def test_who_asks_during_a_query_gets_a_later_one_that_all_of_them_share() -> None:
    table = Table()
    lookup = SharedLookup(table.many)
    first = asyncio.create_task(lookup.get("a"))
    await table.begun.acquire()
    del table.rows["a"]
    gone = asyncio.create_task(lookup.get("b"))
    later = [asyncio.create_task(lookup.get(key)) for key in ("a", "b", "a", "c")]
    await asyncio.sleep(0)
    gone.cancel()
    table.go_on.release()
    table.go_on.release()
    assert await first == 1
    assert [await one for one in later] == [None, 2, None, None]
    assert table.asked == [{"a"}, {"a", "b", "c"}]


async def test_an_error_is_for_those_who_shared_the_query_alone() -> None:
    failures = [OSError("away")]

    async def many(_: Collection[str]) -> Mapping[str, int]:
        if failures:
            raise failures.pop()
        return {"a": 1}

    lookup = SharedLookup(many)
    told = await asyncio.gather(lookup.get("a"), lookup.get("b"), return_exceptions=True)
    assert [type(one) for one in told] == [OSError, OSError]
    assert await lookup.get("a") == 1

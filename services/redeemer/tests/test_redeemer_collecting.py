from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from services.common.changes import changed_person
from services.common.errors import ObjectStoreUnavailableError
from services.common.object_info import ObjectInfo
from services.redeemer.domain import DueRemoval
from services.redeemer.service.collecting import Collector


async def test_an_object_that_cannot_be_removed_keeps_no_other_waiting() -> None:
    keys = ("locked", "one", "known_people/Ann/1")
    removals = [DueRemoval(key, None, "token") for key in keys]
    gone: list[DueRemoval] = []

    class Notes:
        async def take(self) -> Sequence[DueRemoval]:
            return removals

        async def removed(self, removals: Sequence[DueRemoval]) -> None:
            gone.extend(removals)

        async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
            raise AssertionError(thumbnails)

    changes: list[str] = []

    class Store:
        async def tag(self, key: str) -> str | None:
            raise AssertionError(key)

        async def delete(self, key: str) -> None:
            if key == "locked":
                raise ObjectStoreUnavailableError("no permission")
            changes.append(key)

        def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            raise AssertionError(prefix)

        async def put(self, key: str, content: bytes) -> None:
            assert content == b""
            changes.append(key)

    with structlog.testing.capture_logs() as logs:
        await Collector(garbage=Notes(), objects=Store()).collect()
    assert gone == removals[1:]
    assert changes[:2] == [*keys[1:]]
    assert [changed_person(key) for key in changes[2:]] == ["Ann"], "marked when it is gone"
    assert [entry["event"] for entry in logs] == ["removed", "removed", "object store is away"]

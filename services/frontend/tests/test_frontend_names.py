"""Names that all open pages share."""

import asyncio

import pytest

from services.frontend.domain.errors import LoggedOutError
from services.frontend.domain.people import PeoplePage
from services.frontend.service import Names


async def test_whose_session_is_over_throws_nobody_else_out() -> None:
    sessions = iter([False, True, True])

    async def fetch() -> PeoplePage:
        is_valid = next(sessions)
        await asyncio.sleep(0)
        if not is_valid:
            raise LoggedOutError
        return PeoplePage(people=[], next_cursor=None)

    names = Names(fetch)
    first, *others = await asyncio.gather(*(names.get() for _ in range(3)), return_exceptions=True)
    assert isinstance(first, LoggedOutError)
    assert not any(isinstance(one, BaseException) for one in others)


async def test_who_asks_alone_is_told_that_the_session_is_over() -> None:
    async def fetch() -> PeoplePage:
        raise LoggedOutError

    with pytest.raises(LoggedOutError):
        await Names(fetch).get()

"""Passwords: how they are hashed, how often they may be wrong, and what happens meanwhile."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import argon2
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.common.tables import log_in_failures
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.adapters.rows.attempts import DatabaseAttempts
from services.receiver.adapters.rows.sessions import DatabaseSessions
from services.receiver.adapters.rows.users import DatabaseUsers
from services.receiver.domain.access import Role
from services.receiver.domain.attempts import FORGOTTEN_AFTER_MS, MAX_DELAY_MS, delay_ms
from services.receiver.domain.errors import (
    BusyError,
    TooManyAttemptsError,
    UnknownCallerError,
    WrongLogInError,
)
from services.receiver.domain.users import Identity, UserChange
from services.receiver.ports import PasswordHasher
from services.receiver.service.logging_in import LogIn
from services.receiver.service.sessions import Sessions
from services.receiver.settings import ReceiverSettings

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
KEY = b"a key that lies in a file"
PASSWORD = "correct horse battery"
SECOND = 1000


class Checked:
    """A hasher that only counts what it is asked, and waits where a test wants it to."""

    def __init__(self) -> None:
        self.checked: list[str | None] = []
        self.before: Callable[[], Awaitable[object]] | None = None

    async def hash(self, password: str) -> str:
        return f"hash of {password}"

    async def verify(self, stored: str | None, password: str) -> bool:
        self.checked.append(stored)
        if self.before:
            await self.before()
        return stored == f"hash of {password}"

    def is_outdated(self, stored: str) -> bool:
        return False


class Desk:
    """Where people log in, on one replica, at a time that a test says."""

    def __init__(self, database: Database, hasher: PasswordHasher | None = None) -> None:
        self.now = 0
        self.key = KEY
        self.users = DatabaseUsers(database)
        self.rows = DatabaseSessions(
            database, idle_ms=10**6, longest_ms=10**7, now=lambda: sa.literal(self.now)
        )
        self.attempts = DatabaseAttempts(database, lambda: sa.literal(self.now))
        self.hasher = Checked()
        self.log_in = LogIn(
            users=self.users,
            sessions=self.rows,
            attempts=self.attempts,
            hasher=hasher or self.hasher,
            roles={},
            administrator_key=lambda: [self.key],
        )

    async def tries(self, name: str, password: str, address: str) -> int | str:
        """Return what comes of it: seconds to wait, or what happened."""
        try:
            await self.log_in.by_password(name, password, address)
        except TooManyAttemptsError as error:
            return error.seconds
        except WrongLogInError:
            return "wrong"
        return "in"


@pytest.fixture
async def desk(database: Database) -> Desk:
    desk = Desk(database)
    await desk.users.add("Ada", Role.VIEWER, f"hash of {PASSWORD}")
    return desk


@pytest.fixture
async def plain_desk(sqlite_settings: DatabaseSettings) -> AsyncIterator[Desk]:
    database = Database(sqlite_settings)
    desk = Desk(database)
    await desk.users.add("Ada", Role.VIEWER, f"hash of {PASSWORD}")
    yield desk
    await database.close()


def test_the_delay_grows_from_a_second_to_a_quarter_of_an_hour() -> None:
    delays = [delay_ms(failures, 5) // SECOND for failures in range(18)]
    assert delays == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert delay_ms(10**9, 20) == MAX_DELAY_MS


async def test_who_guesses_waits_longer_each_time_and_nobody_else_does(
    desk: Desk, database: Database
) -> None:
    other = Desk(database)  # another replica
    for _ in range(5):
        assert await desk.tries("Ada", "wrong", "192.0.2.1") == "wrong"
    assert await other.tries("Ada", PASSWORD, "192.0.2.1") == 1
    assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == 1, "what is refused does not count"
    assert other.hasher.checked == []
    # Neither the same person elsewhere, nor somebody else here.
    assert await other.tries("Ada", PASSWORD, "192.0.2.2") == "in"
    assert await other.tries("Bob", "wrong", "192.0.2.1") == "wrong"
    for waited in (1, 2, 4):
        desk.now += waited * SECOND - 1
        assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == 1
        desk.now += 1
        assert await desk.tries("Ada", "wrong", "192.0.2.1") == "wrong"
    desk.now += 8 * SECOND
    assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == "in"
    # All is well again.
    for _ in range(5):
        assert await desk.tries("Ada", "wrong", "192.0.2.1") == "wrong"
    assert await desk.tries("Ada", "wrong", "192.0.2.1") == 1


async def test_an_address_waits_that_tries_many_names(plain_desk: Desk) -> None:
    addresses = ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:0:9::")
    for number in range(20):
        tried = await plain_desk.tries(f"name {number}", "wrong", addresses[number % 3])
        assert tried == "wrong"
    assert await plain_desk.tries("Ada", PASSWORD, "2001:db8::2") == 1
    assert await plain_desk.tries("Ada", PASSWORD, "2001:db8:0:1::") == "in"
    for address in ("192.0.2.1", "::ffff:192.0.2.2", "", "x" * 99):
        assert await plain_desk.tries("Ada", PASSWORD, address) == "in"
    plain_desk.now = SECOND
    # One that is right counts as none, but makes none before it good.
    assert await plain_desk.tries("Ada", PASSWORD, "2001:db8::2") == "in"
    assert await plain_desk.tries("Ada", "wrong", "2001:db8::2") == "wrong"
    assert await plain_desk.tries("Ada", PASSWORD, "2001:db8::2") == 2


async def test_after_a_day_all_is_forgotten(desk: Desk, database: Database) -> None:
    for _ in range(5):
        await desk.tries("Ada", "wrong", "192.0.2.1")
    desk.now = FORGOTTEN_AFTER_MS - 1
    await desk.log_in.tidy()
    async with database.reading() as connection:
        rows = (await connection.execute(sa.select(log_in_failures))).all()
    assert {row.failures for row in rows} == {5}
    assert "Ada" not in str(rows), "it may be a password"
    desk.now += 1
    assert await desk.tries("Ada", "wrong", "192.0.2.1") == "wrong"
    assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == "in", "counted anew"
    desk.now += FORGOTTEN_AFTER_MS
    await desk.log_in.tidy()
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(log_in_failures))).all() == []


async def test_attempts_at_the_same_moment_count_too(desk: Desk, database: Database) -> None:
    other = Desk(database)
    tried = await asyncio.gather(
        *(
            one.tries("Ada", f"guess {number}", "192.0.2.1")
            for number in range(10)
            for one in (desk, other)
        )
    )
    assert tried.count("wrong") == 5
    assert len(desk.hasher.checked) + len(other.hasher.checked) == 5


async def test_10_000_attempts(plain_desk: Desk) -> None:
    tried: list[int | str] = []
    for number in range(200):
        at_once = (plain_desk.tries("Ada", f"{number}", "192.0.2.1") for _ in range(50))
        tried += await asyncio.gather(*at_once)
        plain_desk.now += 300
    assert len(tried) == 10_000
    # In a minute: five at once, then one after 1, 2, 4, 8 and 16 s.
    assert tried.count("wrong") == len(plain_desk.hasher.checked) == 5 + 5
    assert await plain_desk.tries("Ada", PASSWORD, "192.0.2.2") == "in"


async def test_whatever_is_wrong_takes_the_same_work(plain_desk: Desk) -> None:
    disabled = await plain_desk.users.add("disabled", Role.VIEWER, f"hash of {PASSWORD}")
    await plain_desk.users.change(disabled.id, UserChange(disabled=True), keep_administrator=False)
    provided = Identity("https://id.example", "7", "provided", ())
    assert await plain_desk.rows.begin_for("session", provided, Role.VIEWER)
    for name in ("Ada", "nobody", "disabled", "provided", "ada", "Ada\0", ""):
        password = "wrong" if name == "Ada" else PASSWORD
        with pytest.raises(WrongLogInError, match="the name or the password is wrong"):
            await plain_desk.log_in.by_password(name, password, "192.0.2.1")
    assert plain_desk.hasher.checked == [f"hash of {PASSWORD}", *[None] * 6]


async def test_the_administrators_key_is_a_password_before_there_is_any_user(desk: Desk) -> None:
    _, session = await desk.log_in.by_password("administrator", KEY.decode(), "10.0.0.1")
    assert (session.name, session.role) == ("administrator", Role.ADMINISTRATOR)
    assert await desk.tries("Ada", KEY.decode(), "10.0.0.1") == "wrong"
    assert await desk.tries("Administrator", KEY.decode(), "10.0.0.1") == "wrong"
    assert await desk.tries("administrator", "", "10.0.0.1") == "wrong"
    assert len(desk.hasher.checked) == 4  # as much work as for anybody else

    [_, administrator] = (await desk.users.page(after=None, limit=50)).items
    change = UserChange(disabled=True)
    await desk.users.change(administrator.id, change, keep_administrator=False)
    assert await desk.tries("administrator", KEY.decode(), "10.0.0.1") == "wrong"
    desk.key = b"another one"
    await desk.users.change(administrator.id, UserChange(disabled=False), keep_administrator=False)
    assert await desk.tries("administrator", KEY.decode(), "10.0.0.1") == "wrong"
    assert await desk.tries("administrator", "another one", "10.0.0.1") == "in"


async def test_who_is_disabled_while_the_password_is_checked_does_not_get_in(desk: Desk) -> None:
    [ada] = (await desk.users.page(after=None, limit=9)).items
    for change in (UserChange(disabled=True), UserChange(password_hash="another")):

        async def meanwhile(change: UserChange = change) -> None:
            await desk.users.change(ada.id, change, keep_administrator=True)

        desk.hasher.before = meanwhile
        assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == "wrong"
        desk.hasher.before = None
        anew = UserChange(password_hash=f"hash of {PASSWORD}", disabled=False)
        await desk.users.change(ada.id, anew, keep_administrator=True)
    assert await desk.tries("Ada", PASSWORD, "192.0.2.1") == "in"


async def test_who_logs_out_while_the_session_is_used_stays_out(
    desk: Desk, database: Database
) -> None:
    token, _ = await desk.log_in.by_password("Ada", PASSWORD, "192.0.2.1")
    other = Desk(database)  # another replica
    here, there = Sessions(desk.rows), Sessions(other.rows)
    principal = await here.principal(token, by_hand=True)
    assert principal.session

    class Ending(DatabaseSessions):
        async def touch(self, session_id: str) -> None:
            await other.rows.end(principal.session or "")
            await super().touch(session_id)

    desk.now = other.now = 10 * 60 * SECOND
    ending = Ending(database, idle_ms=10**6, longest_ms=10**7, now=lambda: sa.literal(desk.now))
    # It began while the session was valid; that it was used brings nothing back.
    using = Sessions(ending)
    assert (await using.principal(token, by_hand=True)).name == "Ada"
    await using.close()
    for sessions in (here, there):
        with pytest.raises(UnknownCallerError):
            await sessions.principal(token, by_hand=True)


async def test_what_a_page_asks_by_itself_is_no_use_of_the_session(desk: Desk) -> None:
    by_itself, _ = await desk.log_in.by_password("Ada", PASSWORD, "192.0.2.1")
    by_hand, _ = await desk.log_in.by_password("Ada", PASSWORD, "192.0.2.1")
    sessions = Sessions(desk.rows)
    for _ in range(3):  # it may be idle for 1,000 s
        desk.now += 500 * SECOND
        await sessions.principal(by_hand, by_hand=True)
        with contextlib.suppress(UnknownCallerError):
            await sessions.principal(by_itself, by_hand=False)
        await sessions.close()
    await sessions.principal(by_hand, by_hand=True)
    with pytest.raises(UnknownCallerError):
        await sessions.principal(by_itself, by_hand=False)
    await sessions.close()


async def test_what_was_not_tried_is_not_counted(plain_desk: Desk) -> None:
    async def busy() -> None:
        raise BusyError

    plain_desk.hasher.before = busy
    for _ in range(9):
        with pytest.raises(BusyError):
            await plain_desk.log_in.by_password("Ada", "wrong", "192.0.2.1")
    plain_desk.hasher.before = None
    assert await plain_desk.tries("Ada", PASSWORD, "192.0.2.1") == "in"


async def test_a_password_is_hashed_anew_when_that_is_harder_to_guess(
    sqlite_settings: DatabaseSettings,
) -> None:
    database = Database(sqlite_settings)
    hasher = Argon2Hasher(CHEAP)
    desk = Desk(database, hasher)
    easier = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, hash_len=16)
    # However a keyboard writes it.
    await desk.users.add("Ada", Role.VIEWER, easier.hash("Ångström 1234"))
    assert await desk.tries("Ada", "A\u030angstro\u0308m 1234", "192.0.2.1") == "in"
    stored = await desk.users.password("Ada")
    assert stored
    assert not hasher.is_outdated(stored.hash)
    assert await desk.tries("Ada", "Ångström 1234", "192.0.2.1") == "in"
    assert await desk.tries("Ada", "Angstrom 1234", "192.0.2.1") == "wrong"
    assert await desk.users.password("Ada") == stored
    hasher.close()
    await database.close()


async def test_nobodys_password_costs_what_anybodys_does() -> None:
    hasher = Argon2Hasher()
    default = argon2.PasswordHasher()
    assert argon2.extract_parameters(hasher._nobodys) == argon2.extract_parameters(
        default.hash(PASSWORD)
    )
    assert not await hasher.verify(None, PASSWORD)
    assert not await hasher.verify("damaged", PASSWORD)
    hasher.close()


async def test_two_are_hashed_at_once_some_wait_and_more_are_refused() -> None:
    started, go_on = threading.Semaphore(0), threading.Semaphore(0)
    running = most = 0
    lock = threading.Lock()

    class Slow(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # noqa: A002
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            started.release()
            go_on.acquire()
            with lock:
                running -= 1
            return True

    hasher = Argon2Hasher(Slow())
    tasks = [asyncio.create_task(hasher.verify("stored", PASSWORD)) for _ in range(35)]
    for _ in range(2):
        await asyncio.to_thread(started.acquire)
    go_on.release(35)
    *served, refused = await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [True] * 34
    assert isinstance(refused, BusyError)
    assert most == 2
    go_on.release()
    assert await hasher.verify("stored", PASSWORD)
    hasher.close()


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("staff", "'staff' is not group=role"),
        ("staff=owner", "viewer, editor, administrator"),
        ("=viewer", "'=viewer' is not group=role"),
        ("staff=viewer,staff=editor", "'staff' has two roles"),
    ],
)
def test_roles_of_groups_that_say_nothing_clear(
    plain_settings: ReceiverSettings, listed: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        ReceiverSettings(**{**plain_settings.model_dump(), "oidc_roles": listed})

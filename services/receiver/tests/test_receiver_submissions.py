import asyncio
import gc
import json
import os
import subprocess
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest

from services.common.database import Database
from services.common.errors import DatabaseUnavailableError, DoorbellUnavailableError
from services.common.settings import DatabaseSettings
from services.receiver.adapters.http import problems
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.domain.acts import ActOnPaths
from services.receiver.domain.errors import BusyError
from services.receiver.domain.submissions import Accepted, Submission
from services.receiver.metrics import RINGS
from services.receiver.service.ringing import Ringer
from services.receiver.service.submitting import Submissions
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Launch, Start
from services.testing.fixtures import new_mariadb_settings
from services.testing.servers import MariaDb, find_binary
from services.testing.waiting import eventually


async def test_one_path_is_accepted_and_can_be_looked_at(client: httpx.AsyncClient) -> None:
    answer = await client.post("/image/post", json={"path": "people/a.jpg"})
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted == {
        "id": accepted["id"],
        "path": "people/a.jpg",
        "status": "pending",
        "duplicate": False,
        "location": f"/images/{accepted['id']}",
    }
    assert answer.headers["location"] == accepted["location"]
    image = (await client.get(accepted["location"])).json()
    assert image["path"] == image["name"] == "people/a.jpg"
    assert image["status"] == "pending"
    assert image["attempt"] == 0
    assert image["faces"] == []
    assert image["created_at"].endswith("Z")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "application/json"])
async def test_json_is_taken_however_it_is_declared(
    plain: httpx.AsyncClient, kind: str | None
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await plain.post("/image/post", content=b'{"path": "a.jpg"}', headers=headers)
    assert answer.status_code == 202
    paths = b'{"paths": [{"path": "b.jpg"}]}'
    answer = await plain.post("/images/post", content=paths, headers=headers)
    assert answer.status_code == 202


async def test_a_leading_slash_makes_no_other_picture(plain: httpx.AsyncClient) -> None:
    first = (await plain.post("/image/post", json={"path": "/a/b.jpg"})).json()
    assert (first["path"], first["duplicate"]) == ("a/b.jpg", False)
    again = (await plain.post("/images/post", json={"paths": [{"path": "a/b.jpg"}]})).json()
    assert (again["images"][0]["id"], again["images"][0]["duplicate"]) == (first["id"], True)


def test_curl_submits_pictures_with_nothing_but_its_data(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    curl = find_binary("curl")
    host = launch(plain_settings).url.removeprefix("http://")
    for command, path in (
        (
            """curl -d '{"path":"/unknown_images/unknown0001.jpg"}' http://HOST/image/post""",
            "unknown_images/unknown0001.jpg",
        ),
        (
            """curl -d '{"paths":[{"path":"unknown4456.jpg"}]}' http://HOST/images/post""",
            "unknown4456.jpg",
        ),
    ):
        answer = subprocess.run(
            ["bash", "-c", command.replace("HOST", host)],
            capture_output=True,
            check=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        accepted = json.loads(answer.stdout)
        [accepted] = accepted.get("images", [accepted])
        assert (accepted["path"], accepted["status"]) == (path, "pending"), answer.stdout
    # The same body in a form of another site's page changes nothing.
    refused = subprocess.run(
        [
            *(curl, "-d", '{"paths":[{"path":"x"}]}', "-H", "Origin: http://evil.example"),
            f"http://{host}/images/post",
        ],
        capture_output=True,
        check=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert json.loads(refused.stdout)["status"] == 403


async def test_bulk_answers_in_order_and_marks_duplicates(client: httpx.AsyncClient) -> None:
    first = (await client.post("/image/post", json={"path": "b"})).json()["id"]
    paths = ["z", "b", "a", "z"]
    answer = await client.post("/images/post", json={"paths": [{"path": path} for path in paths]})
    assert answer.status_code == 202
    images = answer.json()["images"]
    assert [one["path"] for one in images] == paths
    assert [one["duplicate"] for one in images] == [False, True, False, True]
    assert images[1]["id"] == first
    assert images[3]["id"] == images[0]["id"]
    assert images[2]["id"] not in (first, images[0]["id"])


async def test_every_path_is_stored_as_it_was_given(client: httpx.AsyncClient) -> None:
    paths = [
        *("a", "A", "á", "a\u0301", "a ", " a", "0", "1e3", "null", "%s", "?", "'", "a'); --"),
        *(
            '"',
            "\\",
            "\\\\",
            "\\n",
            "\\u0041",
            "😀/日本",
            "[1]",
            "{}",
            "\u2028",
            "\ufeff",
            "\ufffd",
        ),
        "/".join(["日" * 60] * 5),
        "😀" * 50 + "/" + "\\" * 200 + "/" + '"' * 200,
    ]
    answer = await client.post("/images/post", json={"paths": [{"path": path} for path in paths]})
    accepted = answer.json()["images"]
    assert [one["path"] for one in accepted] == paths
    assert not any(one["duplicate"] for one in accepted)
    for path, one in zip(paths, accepted, strict=True):
        image = (await client.get(one["location"])).json()
        assert (image["path"], image["name"]) == (path, path[-255:])


async def test_bulk_stores_all_or_nothing(client: httpx.AsyncClient) -> None:
    paths = [{"path": "good"}, {"path": "../bad"}, {"path": "also/good"}, {"path": "//worse"}]
    answer = await client.post("/images/post", json={"paths": paths})
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/paths/1/path", "/paths/3/path"]
    assert (await client.get("/images")).json()["images"] == []


async def test_a_thousand_of_the_longest_paths_are_one_request(client: httpx.AsyncClient) -> None:
    paths = [{"path": "/".join([f"{n:04}" + "é" * 97] * 5)} for n in range(1000)]
    answer = await client.post("/images/post", json={"paths": paths})
    assert answer.status_code == 202
    assert len({one["id"] for one in answer.json()["images"]}) == 1000


async def test_the_same_path_from_twenty_clients_makes_one_row(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/image/post", json={"path": "same"}) for _ in range(20))
    )
    accepted = [answer.json() for answer in answers]
    assert len({one["id"] for one in accepted}) == 1
    assert sorted(one["duplicate"] for one in accepted) == [False] + [True] * 19
    assert len((await client.get("/images")).json()["images"]) == 1


async def test_replicas_with_the_same_paths_in_any_order_agree(
    database_settings: DatabaseSettings,
) -> None:
    databases = [Database(database_settings) for _ in range(2)]
    replicas = [DatabaseImages(database) for database in databases]
    paths = [Submission(f"{n}", f"{n}") for n in range(200)]
    results = await asyncio.gather(
        *(replicas[turn % 2].add(paths if turn % 4 < 2 else paths[::-1]) for turn in range(8))
    )
    ids = {path: row.id for path, row in results[0].items()}
    assert all({path: row.id for path, row in one.items()} == ids for one in results)
    assert sum(not row.duplicate for one in results for row in one.values()) == 200
    for database in databases:
        await database.close()


async def test_the_victim_of_a_deadlock_runs_again(mariadb: MariaDb) -> None:
    settings = new_mariadb_settings(mariadb)
    database = Database(settings)
    name = settings.database_url.rpartition("/")[2]
    insert = (
        "INSERT INTO images (path, name, status, attempt, created_at, updated_at)"
        " VALUES (%s, '', 'pending', 0, 1, 1)"
    )
    with (
        pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root", database=name) as other,
        other.cursor() as cursor,
    ):
        # The transaction with fewer changes becomes the victim.
        cursor.executemany(insert, [(f"heavy-{n}",) for n in range(100)])
        cursor.execute(insert, ("z",))
        adding = asyncio.create_task(
            DatabaseImages(database).add([Submission("a", "a"), Submission("z", "z")])
        )
        await _until_somebody_waits_for_a_lock(mariadb)
        await asyncio.to_thread(cursor.execute, insert, ("a",))
        assert not adding.done()
        other.commit()
    rows = await adding
    assert {path: row.duplicate for path, row in rows.items()} == {"a": True, "z": True}
    await database.close()


async def _until_somebody_waits_for_a_lock(mariadb: MariaDb) -> None:
    with (
        pymysql.connect(
            host="127.0.0.1", port=mariadb.port, user="root", autocommit=True
        ) as watcher,
        watcher.cursor() as cursor,
    ):
        async with asyncio.timeout(10):
            # The server tells nobody when a lock wait begins.
            while not cursor.execute(  # noqa: ASYNC110
                "SELECT 1 FROM information_schema.GLOBAL_STATUS"
                " WHERE VARIABLE_NAME = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND VARIABLE_VALUE > 0"
            ):
                await asyncio.sleep(0.01)


NO_PICTURES: Any = None  # nothing is compared with a result


class HeldRows:
    """Rows whose transaction takes until ``release`` is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def add(
        self, submissions: Sequence[Submission], acts: Sequence[ActOnPaths]
    ) -> dict[str, Accepted]:
        self.batches.append([one.path for one in submissions])
        self.entered.set()
        await self.release.wait()
        if self.error:
            raise self.error
        return {
            one.path: Accepted(number, one.path, "pending", duplicate=False)
            for number, one in enumerate(submissions, 1)
        }


class ListedDoorbell:
    """Notes which images the queue is told of."""

    polled = False

    def __init__(self) -> None:
        self.notified: list[int] = []
        self.error: Exception | None = None

    async def ring(self, image_ids: Sequence[int]) -> None:
        if self.error:
            raise self.error
        self.notified.extend(image_ids)

    async def depth(self) -> int:
        return 0

    async def close(self) -> None:
        pass


def _submit(submissions: Submissions, path: str) -> "asyncio.Task[list[Accepted]]":
    return asyncio.create_task(submissions.submit([Submission(path, path)]))


async def test_what_waits_while_one_transaction_commits_goes_into_the_next_together() -> None:
    rows: Any = HeldRows()
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=1)
    first = _submit(submissions, "first")
    await rows.entered.wait()
    others = [_submit(submissions, f"{n}") for n in range(30)]
    await asyncio.sleep(0)  # lets them queue up
    assert not first.done()
    rows.release.set()
    await asyncio.gather(first, *others)
    assert rows.batches == [["first"], [f"{n}" for n in range(30)]]


async def test_a_transaction_holds_at_most_a_thousand_rows() -> None:
    rows: Any = HeldRows()
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=1)
    tasks = [
        asyncio.create_task(submissions.submit([Submission(f"{n}/{m}", "") for m in range(400)]))
        for n in range(5)
    ]
    rows.release.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in rows.batches] == [800, 800, 400]


async def test_more_than_can_be_committed_soon_is_sent_away() -> None:
    rows: Any = HeldRows()
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=1)

    def submit(number: int) -> "asyncio.Task[list[Accepted]]":
        batch = [Submission(f"{number}/{m}", "") for m in range(1000)]
        return asyncio.create_task(submissions.submit(batch))

    first = submit(0)
    await rows.entered.wait()
    waiting = [submit(number) for number in range(1, 9)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="8000 paths wait"):
        await submissions.submit([Submission("one more", "")])
    rows.release.set()
    await asyncio.gather(first, *waiting)
    assert len(rows.batches) == 9
    await submissions.submit([Submission("one more", "")])


async def test_a_failed_transaction_fails_its_requests_and_no_other() -> None:
    rows: Any = HeldRows()
    doorbell = ListedDoorbell()
    ringer = Ringer(doorbell)
    submissions = Submissions(rows, NO_PICTURES, ringer, parallel=1)
    rows.error = DatabaseUnavailableError("away")
    rows.release.set()
    failed = [_submit(submissions, f"{n}") for n in range(3)]
    for one in await asyncio.gather(*failed, return_exceptions=True):
        assert isinstance(one, DatabaseUnavailableError)
    rows.error = None
    assert await _submit(submissions, "next")
    await ringer.flush()
    assert doorbell.notified == [1]


class Traces:
    """A log that notes by which of our functions each error came."""

    def __init__(self) -> None:
        self.found: list[list[str]] = []

    def error(self, _: str, *, exc_info: BaseException) -> None:
        frames = traceback.extract_tb(exc_info.__traceback__)
        self.found.append(
            [
                f"{Path(frame.filename).name}: {frame.name}"
                for frame in frames
                if "/services/" in frame.filename
            ]
        )


async def test_the_trace_of_an_insert_that_fails_begins_at_the_route_of_each_request(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = Traces()
    monkeypatch.setattr(problems, "log", traces)
    monkeypatch.setattr(
        "services.receiver.adapters.rows.images._INSERT_SQLITE", "INSERT INTO nowhere"
    )
    client = start(plain_settings).client
    answers = await asyncio.gather(
        client.post("/image/post", json={"path": "a"}),
        client.post("/images/post", json={"paths": [{"path": "b"}]}),
    )
    assert [answer.status_code for answer in answers] == [500, 500]
    to_the_row = [
        "submitting.py: submit",
        "submitting.py: _commit",
        "conflicts.py: retried",
        "images.py: add",
    ]
    assert traces.found == [
        ["submissions.py: submit_one", *to_the_row],
        ["submissions.py: submit_many", *to_the_row],
    ]


async def test_a_client_that_goes_away_does_not_disturb_the_others() -> None:
    rows: Any = HeldRows()
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=1)
    leaving, staying = _submit(submissions, "leaving"), _submit(submissions, "staying")
    await rows.entered.wait()
    leaving.cancel()
    rows.release.set()
    assert (await staying)[0].path == "staying"


async def test_nobody_is_warned_of_a_failure_whose_clients_have_all_gone() -> None:
    warned: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: warned.append(context))
    rows: Any = HeldRows()
    rows.error = DatabaseUnavailableError("away")
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=1)
    leaving = _submit(submissions, "leaving")
    await rows.entered.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    rows.release.set()
    await eventually(lambda: not submissions._commits)
    del leaving, rows.error  # they hold the frames that they came through, and these the task
    gc.collect()
    assert not warned


def _rings(result: str) -> float:
    return float(RINGS.labels(result)._value.get())


async def test_rings_beyond_the_buffer_are_dropped_and_counted() -> None:
    doorbell = ListedDoorbell()
    ringer = Ringer(doorbell, capacity=5)
    before = _rings("dropped")
    ringer.ring(range(8))
    await ringer.flush()
    assert doorbell.notified == [0, 1, 2, 3, 4]
    assert _rings("dropped") - before == 3


async def test_a_failed_ring_is_counted_and_the_next_one_is_tried() -> None:
    doorbell = ListedDoorbell()
    ringer = Ringer(doorbell)
    before = _rings("failed")
    doorbell.error = DoorbellUnavailableError("away")
    ringer.ring([1, 2])
    await ringer.flush()
    assert _rings("failed") - before == 2
    doorbell.error = None
    ringer.ring([3])
    await ringer.flush()
    assert doorbell.notified == [3]


@pytest.mark.parametrize("parallel", [1, 2])
async def test_who_submits_again_at_once_never_waits_for_a_writer_that_just_ended(
    parallel: int,
) -> None:
    rows: Any = HeldRows()
    rows.release.set()
    submissions = Submissions(rows, NO_PICTURES, Ringer(ListedDoorbell()), parallel=parallel)

    async def client(name: str) -> None:
        for number in range(20):
            await submissions.submit([Submission(f"{name}/{number}", "")])

    async with asyncio.timeout(10):
        await asyncio.gather(*(client(name) for name in "abc"))
    assert sum(len(batch) for batch in rows.batches) == 60

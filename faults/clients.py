"""Clients who submit pictures in every way there is, and write down what they were told."""

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx

from faults.accounting import Answer, Ask, Attempt, Told
from faults.pictures import Picture, Pictures
from services.common.image_states import Status

_TIMEOUT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = (0.2, 1.0)
_AGAIN_SHARE: Final = 0.1  # of requests that submit once more what was acknowledged
_DELETE_SHARE: Final = 0.05
_UPLOAD_AGAIN_SHARE: Final = 0.7  # of uploads that were deleted
_CROWD: Final = 300
_CROWDS: Final = 2
_LONG: Final = f"no picture/{'x' * 180}/{'y' * 180}"
_NO_PICTURE: Final = Picture(b"", Answer(Status.REJECTED))
_UPLOADED: Final = re.compile(r"^(uploads/[0-9a-f]{64})\b.*")


def key_of(path: str) -> str:
    """Return what a picture is told apart by: its path, or the digest of an upload in it."""
    return _UPLOADED.sub(r"\1", path)


@dataclass(frozen=True)
class Item:
    """One picture to submit: by its path, which is its key then, or with its content."""

    key: str
    content: bytes | None


class Journal:
    """What was asked for and answered so far, and what must come of it."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.answers: dict[str, Answer] = {}
        self.acknowledged: dict[int, str] = {}
        self.deleted: set[int] = set()
        self.bugs: Counter[str] = Counter()
        """Answers with 500 by what was asked; what is away or full is said with 503."""

    def write(self, ask: Ask, items: Sequence[Item], told: Told, ids: Sequence[int | None]) -> None:
        """Write one request down."""
        for item, image_id in zip(items, ids, strict=True):
            self.attempts.append(Attempt(ask, item.key, told, image_id))
            if ask is Ask.SUBMIT and told is Told.ACKNOWLEDGED and image_id is not None:
                self.acknowledged[image_id] = item.key
            elif ask is Ask.DELETE and told is not Told.REFUSED and image_id is not None:
                self.deleted.add(image_id)


class Client:
    """Submits one request after the other until told to stop, and insists on an answer."""

    def __init__(
        self,
        number: int,
        *,
        seed: int,
        url: str,
        pictures: Pictures,
        put: Callable[[str], None],
        journal: Journal,
        numbers: Callable[[], int],
    ) -> None:
        self._name = f"client {number}"
        self._random = random.Random(f"{seed}-{number}")  # noqa: S311, it has to repeat
        self._pictures = pictures
        self._put = put
        self._journal = journal
        self._numbers = numbers
        self._submitted: list[tuple[Sequence[Item], Sequence[int]]] = []
        self._laid: set[str] = set()
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)

    async def run(self, go_on: Callable[[], bool], room: Callable[[], bool]) -> None:
        """Submit while there is room, until it need not go on."""
        async with self._client:
            while go_on():
                if not room():
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                dice = self._random.random()
                if self._submitted and dice < _DELETE_SHARE:
                    await self._delete(go_on)
                elif self._submitted and dice < _DELETE_SHARE + _AGAIN_SHARE:
                    await self._submit(self._random.choice(self._submitted)[0], go_on)
                else:
                    await self._submit(self._draw(), go_on)

    async def _submit(self, items: Sequence[Item], go_on: Callable[[], bool]) -> None:
        """Submit until it is acknowledged."""
        await self._lay(items, go_on)
        while go_on():
            told, ids = await self._told(items)
            self._journal.write(Ask.SUBMIT, items, told, ids)
            if told is Told.ACKNOWLEDGED:
                self._submitted.append(
                    (items, [image_id for image_id in ids if image_id is not None])
                )
                return
            await self._rest()

    async def _delete(self, go_on: Callable[[], bool]) -> None:
        """Delete what was submitted, and mostly submit an upload again at once."""
        items, ids = self._submitted.pop(self._random.randrange(len(self._submitted)))
        # Whoever submits it again from now on gets another image.
        keys = {item.key for item in items}
        self._submitted = [one for one in self._submitted if keys.isdisjoint(_keys(one[0]))]
        for item, image_id in zip(items, ids, strict=True):
            while go_on():
                told = await self._told_of_deletion(image_id)
                self._journal.write(Ask.DELETE, [item], told, [image_id])
                if told is Told.ACKNOWLEDGED:
                    break
                await self._rest()
            else:
                return
        if items[0].content is not None and self._random.random() < _UPLOAD_AGAIN_SHARE:
            await self._submit(items, go_on)

    async def _rest(self) -> None:
        await asyncio.sleep(self._random.uniform(*_AGAIN_SECONDS))

    async def _lay(self, items: Sequence[Item], go_on: Callable[[], bool]) -> None:
        """Put what is submitted by its path where its owner would."""
        for item in items:
            while item.content is None and item.key not in self._laid and go_on():
                try:
                    self._put(item.key)
                    self._laid.add(item.key)
                except OSError:  # the disk is full
                    await asyncio.sleep(_AGAIN_SECONDS[1])

    def _draw(self) -> list[Item]:
        how = self._random.choice(["one path", "paths", "files"])
        if how == "one path":
            return [self._by_path()]
        if how == "paths":
            return [self._by_path() for _ in range(self._random.randint(2, 8))]
        return [self._by_content() for _ in range(self._random.randint(1, 3))]

    async def crowd(self) -> None:
        """Submit so many long paths that the database needs room for them, until it has none.

        There is no picture at any of them, which is soon found out.
        """
        async with self._client:
            for _ in range(_CROWDS):
                items = [
                    self._item(f"{_LONG}/{self._numbers()}.jpg", _NO_PICTURE, None)
                    for _ in range(_CROWD)
                ]
                told, ids = await self._told(items)
                self._journal.write(Ask.SUBMIT, items, told, ids)
                if told is not Told.ACKNOWLEDGED:
                    return

    def _by_path(self) -> Item:
        number = self._numbers()
        picture = self._pictures.kind(number)
        path = f"by path/{number}.jpg"
        return self._item(path, picture, None)

    def _by_content(self) -> Item:
        picture = self._pictures.unique(self._numbers())
        digest = hashlib.sha256(picture.content).hexdigest()
        return self._item(f"uploads/{digest}", picture, picture.content)

    def _item(self, key: str, picture: Picture, content: bytes | None) -> Item:
        self._journal.answers[key] = picture.answer
        return Item(key, content)

    async def _told(self, items: Sequence[Item]) -> tuple[Told, Sequence[int | None]]:
        nobody = [None] * len(items)
        try:
            answer = self._looked_at(await self._send(items))
            if answer.is_client_error:
                return Told.REFUSED, nobody
            if not answer.is_success:
                return Told.UNKNOWN, nobody
            content: Any = answer.json()
        except (httpx.HTTPError, ValueError):
            return Told.UNKNOWN, nobody
        accepted = content.get("images", [content])
        return Told.ACKNOWLEDGED, [int(one["id"]) for one in accepted]

    async def _told_of_deletion(self, image_id: int) -> Told:
        try:
            answer = self._looked_at(await self._client.delete(f"/images/{image_id}"))
        except httpx.HTTPError:
            return Told.UNKNOWN
        # Not there is gone: an earlier answer may have been lost.
        if answer.is_success or answer.status_code == HTTPStatus.NOT_FOUND:
            return Told.ACKNOWLEDGED
        return Told.REFUSED if answer.is_client_error else Told.UNKNOWN

    def _looked_at(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
            self._journal.bugs[answer.request.method] += 1
        return answer

    async def _send(self, items: Sequence[Item]) -> httpx.Response:
        if items[0].content is not None:
            files = [("files", ("picture.jpg", item.content or b"")) for item in items]
            return await self._client.post("/images", files=files)
        if len(items) == 1:
            return await self._client.post("/image/post", json={"path": items[0].key})
        paths = [{"path": item.key} for item in items]
        return await self._client.post("/images/post", json={"paths": paths})


def _keys(items: Sequence[Item]) -> set[str]:
    return {item.key for item in items}

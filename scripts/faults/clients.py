"""Clients who submit pictures in every way there is, and write down what they were told."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from scripts.faults.accounting import Answer, Ask, Attempt, Told
from scripts.faults.pictures import Picture, Pictures
from services.receiver.domain import submission_of_upload

_TIMEOUT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = (0.2, 1.0)
_AGAIN_SHARE: Final = 0.1  # of requests that submit once more what was acknowledged


@dataclass(frozen=True)
class Item:
    """One picture to submit: by its path, or with its content."""

    path: str
    content: bytes | None


class Journal:
    """What was asked for and answered so far, and what must come of it."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.answers: dict[str, Answer] = {}
        self.acknowledged: dict[int, str] = {}

    def write(self, ask: Ask, items: Sequence[Item], told: Told, ids: Sequence[int | None]) -> None:
        """Write one request down."""
        for item, image_id in zip(items, ids, strict=True):
            self.attempts.append(Attempt(ask, item.path, told, image_id))
            if ask is Ask.SUBMIT and told is Told.ACKNOWLEDGED and image_id is not None:
                self.acknowledged[image_id] = item.path


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
        self._submitted: list[list[Item]] = []
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)

    async def run(self, go_on: Callable[[], bool], room: Callable[[], bool]) -> None:
        """Submit while there is room, until it need not go on."""
        async with self._client:
            while go_on():
                if not room():
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                items = self._draw()
                await self._lay(items, go_on)
                while go_on() and not await self._submit(items):  # noqa: ASYNC110, a client waits
                    await asyncio.sleep(self._random.uniform(*_AGAIN_SECONDS))
                self._submitted.append(items)

    async def _lay(self, items: Sequence[Item], go_on: Callable[[], bool]) -> None:
        """Put what is submitted by its path where its owner would."""
        for item in items:
            while item.content is None and go_on():
                try:
                    self._put(item.path)
                    break
                except OSError:  # the disk is full
                    await asyncio.sleep(_AGAIN_SECONDS[1])

    def _draw(self) -> list[Item]:
        if self._submitted and self._random.random() < _AGAIN_SHARE:
            return self._random.choice(self._submitted)
        how = self._random.choice(["one path", "paths", "files"])
        if how == "one path":
            return [self._by_path()]
        if how == "paths":
            return [self._by_path() for _ in range(self._random.randint(2, 8))]
        return [self._by_content() for _ in range(self._random.randint(1, 3))]

    def _by_path(self) -> Item:
        number = self._numbers()
        picture = self._pictures.kind(number)
        path = f"by path/{number}.jpg"
        return self._item(path, picture, None)

    def _by_content(self) -> Item:
        picture = self._pictures.unique(self._numbers())
        path = submission_of_upload("picture.jpg", picture.content).path
        return self._item(path, picture, picture.content)

    def _item(self, path: str, picture: Picture, content: bytes | None) -> Item:
        self._journal.answers[path] = picture.answer
        return Item(path, content)

    async def _submit(self, items: Sequence[Item]) -> bool:
        """Send one request; False when it has to be sent again."""
        told, ids = await self._told(items)
        self._journal.write(Ask.SUBMIT, items, told, ids)
        return told is Told.ACKNOWLEDGED

    async def _told(self, items: Sequence[Item]) -> tuple[Told, Sequence[int | None]]:
        nobody = [None] * len(items)
        try:
            answer = await self._send(items)
            if answer.is_client_error:
                return Told.REFUSED, nobody
            if not answer.is_success:
                return Told.UNKNOWN, nobody
            content: Any = answer.json()
        except (httpx.HTTPError, ValueError):
            return Told.UNKNOWN, nobody
        accepted = content.get("images", [content])
        return Told.ACKNOWLEDGED, [int(one["id"]) for one in accepted]

    async def _send(self, items: Sequence[Item]) -> httpx.Response:
        if items[0].content is not None:
            files = [("files", ("picture.jpg", item.content or b"")) for item in items]
            return await self._client.post("/images", files=files)
        if len(items) == 1:
            return await self._client.post("/image/post", json={"path": items[0].path})
        paths = [{"path": item.path} for item in items]
        return await self._client.post("/images/post", json={"paths": paths})

"""Sends files, several at once, and none that the server has already."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from services.client import files
from services.client.api import PAGE, FacestackApi, Image
from services.client.errors import ItemRefusedError
from services.client.report import Report, who
from services.common.image_states import FINAL, RETRIABLE, Status
from services.common.object_keys import UPLOADS

PARALLEL: Final = 8
"""Files at once, of up to 20 MiB in memory: the receiver stores as many at a time."""

_LOOK_SECONDS: Final = 0.5
_WATCH_SECONDS: Final = 2.0

_IMAGES_PER_FILE: Final = 10
"""So many of the server's newest images are looked through for each file that is to be sent."""

_MOST_IMAGES: Final = 20_000
"""At most so many are looked through, a hundred pages: the server knows the rest."""

_UPLOADED: Final = re.compile(rf"{UPLOADS}([0-9a-f]{{64}})\.")
T = TypeVar("T")


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for each item, :data:`PARALLEL` at once; the first error ends it."""
    left = iter(items)

    async def go() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(go())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Submitter:
    """Sends files to a server and reports what came of each; with ``wait``, who is in it.

    ``then`` is told of each image that was waited for instead.
    """

    def __init__(
        self,
        api: FacestackApi,
        report: Report,
        *,
        wait: bool = False,
        then: Callable[[Path, Image], Awaitable[None]] | None = None,
    ) -> None:
        self._api = api
        self._report = report
        self._wait = wait or then is not None
        self._then = then
        self._known: dict[str, Image] = {}
        self._sent: list[dict[str, Any]] = []

    async def submit(self, paths: list[Path]) -> None:
        """Send files, wait for the results if so wished, and sum up, also when interrupted."""
        try:
            await self.learn(len(paths))
            with self._report.progress("sending", len(paths)) as step:
                await each(paths, lambda path: self._send(path, step))
            if self._wait:
                with self._report.progress("recognising", len(self._sent)) as step:
                    await each(self._sent, lambda sent: self._result(sent, step))
        finally:
            old = sum(sent["duplicate"] for sent in self._sent)
            self._report.say(
                f"{len(self._sent)} of {len(paths)} files are at the server, {old} of them were"
                " there before"
            )

    async def watch(self, folder: Path, *, every: bool) -> None:
        """Send what is in a folder and what comes, each when it has stopped growing, for ever."""
        before = files.FoundFiles()
        sent: dict[Path, files.Version] = {}
        while True:
            now = await asyncio.to_thread(files.find, [folder], every=every)
            for path, reason in now.problems.items():
                if before.problems.get(path) != reason:
                    self._report.failed(str(path), reason, {"file": str(path)})
            ready = [
                path
                for path, version in now.files.items()
                if version[0] and before.files.get(path) == version != sent.get(path)
            ]
            if ready:
                await self.learn(len(ready))
                await each(ready, self._send)
                self._sent.clear()
            sent |= {path: now.files[path] for path in ready}
            sent = {path: version for path, version in sent.items() if path in now.files}
            before = now
            await asyncio.sleep(_WATCH_SECONDS)

    async def learn(self, number: int) -> None:
        """Ask what the server has; what is not seen here it will know by its content."""
        self._known.clear()
        try:
            await self._look_through(min(number * _IMAGES_PER_FILE, _MOST_IMAGES))
        except ItemRefusedError as error:
            self._report.note(f"what the server has is not known, so it is sent again: {error}")

    async def _look_through(self, left: int) -> None:
        async for page in self._api.pages("images"):
            for image in page:
                uploaded = _UPLOADED.match(image["path"])
                if uploaded and image["status"] not in RETRIABLE:  # which it looks at again
                    self._known[uploaded[1]] = {key: image[key] for key in ("id", "path", "status")}
            left -= PAGE
            if left <= 0:
                break

    async def _send(self, path: Path, step: Callable[[], None] = lambda: None) -> None:
        about = {"file": str(path)}
        with self._report.trying(str(path), about):
            content = await asyncio.to_thread(files.read, path)
            known = self._known.get(hashlib.sha256(content).hexdigest())
            if known is None:
                form = {"files": (files.sent_name(path), content)}
                answer = await self._api.get("POST", "/images", "images", files=form)
                done = {**about, **answer["images"][0]}
            else:
                done = {**about, **known, "duplicate": True}
            self._sent.append(done)
            if not self._wait:
                how = "known already" if done["duplicate"] else "new"
                self._report.result(f"{path}: image {done['id']}, {how}", done, routine=True)
        step()

    async def _result(self, sent: dict[str, Any], step: Callable[[], None]) -> None:
        path = sent["file"]
        with self._report.trying(path, sent):  # somebody may delete it meanwhile
            image: Image = {"status": Status.PENDING}
            while image["status"] not in FINAL:
                image = await self._api.image("GET", f"/images/{sent['id']}")
                if image["status"] not in FINAL:
                    await asyncio.sleep(_LOOK_SECONDS)
            done = {**sent, **image}
            if image["status"] != Status.PROCESSED:
                self._report.failed(path, who(image), done)
            elif self._then is not None:
                await self._then(Path(path), image)
            else:
                self._report.result(f"{path}: image {image['id']}, {who(image)}", done)
        step()

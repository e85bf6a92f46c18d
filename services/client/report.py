"""What a command says: to a person at a terminal, line by line to a pipe, as JSON to a script."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.client.api import Image
from services.client.errors import ItemRefusedError
from services.common.image_states import Status


class Report:
    """Results go to the standard output, a line or a JSON document each; errors beside them.

    ``failures`` counts what was refused or failed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._out = Console()
        self._err = Console(stderr=True)
        self._bar = False
        self.failures = 0

    def result(self, text: str, document: dict[str, Any], *, routine: bool = False) -> None:
        """Say what came of something; what is ``routine`` is not said above a progress bar."""
        if self._json:
            self._out.out(json.dumps(document), highlight=False)
        elif not (routine and self._bar):
            self.say(text)

    def say(self, text: str) -> None:
        """Say something to people alone."""
        if not self._json:
            self._out.out(printable(text), highlight=False)

    def note(self, text: str) -> None:
        """Say something that is no result."""
        self._err.out(printable(f"facestack: {text}"), highlight=False)

    def failed(self, what: str, reason: str, document: dict[str, Any]) -> None:
        """Say what went wrong with one thing of several."""
        self.failures += 1
        if self._json:
            self._out.out(json.dumps({**document, "error": reason}), highlight=False)
        self.note(f"{what}: {reason}")

    @contextmanager
    def trying(self, what: str, document: dict[str, Any]) -> Iterator[None]:
        """Say it when the block is refused, and go on."""
        try:
            yield
        except ItemRefusedError as error:
            self.failed(what, str(error), document)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar, at a terminal; what is yielded moves it by one."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = self._out.is_terminal and not self._json
        with Progress(
            TextColumn(title), *columns, console=self._out, transient=True, disable=not self._bar
        ) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
        self._bar = False


def printable(text: str) -> str:
    """Return the text in one line that no terminal takes for a command."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def who(image: Image) -> str:
    """Return what is known about an image: its people from left to right, or where it stands."""
    if image["status"] != Status.PROCESSED:
        return f"{image['status']}: {image['error']}" if image["error"] else str(image["status"])
    faces = sorted(image["faces"], key=lambda face: face["box"]["left"])
    return ", ".join(map(whose, faces)) or "nobody"


def whose(face: dict[str, Any]) -> str:
    """Return whose face it is, as far as is known."""
    if face["person"] is not None:
        return str(face["person"])
    if face["ambiguous"] and face["candidates"]:
        return f"perhaps {face['candidates'][0]['person']}"
    return "somebody unknown"

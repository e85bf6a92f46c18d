"""People who look at pages, and programs that send pictures: Locust's users, for ``make load``.

A program sends the photographs of the samples, each changed in a byte so that nobody has sent it
before, follows it to its end, and deletes it: nothing stays. For one program there are four people.
``FACESTACK_URL`` names the receiver, ``FACESTACK_PAGE`` the page, without which there are no
people; ``FACESTACK_KEY`` holds a key with the scopes submit, read and name, or an administrator's
for both.
"""

import io
import itertools
import os
import re
import time
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, Final
from uuid import uuid4

from locust import HttpUser, between, events, task
from locust.env import Environment
from PIL import ImageOps

from load.promises import LOG_IN, PAGE, PROMISES, RESULT, SUBMISSION
from services.common.image_states import FINAL, Status
from services.local.samples import load_photos

SAMPLES: Final = Path(__file__).resolve().parents[1] / "var" / "samples"
KEY: Final = os.environ.get("FACESTACK_KEY", "")
API_URL: Final = os.environ.get("FACESTACK_URL", "").rstrip("/")
PAGE_URL: Final = os.environ.get("FACESTACK_PAGE", "").rstrip("/")
for name, url in (("URL", API_URL), ("PAGE", PAGE_URL or API_URL)):
    if not url.startswith(("http://", "https://")):
        raise SystemExit(f"load: {name} is {url!r}: say make load URL=http://... [PAGE=http://...]")
_PATIENCE_SECONDS: Final = 180
_LOOK_SECONDS: Final = 0.5
_logging_in: Final = Lock()
_CSRF: Final = re.compile(r'name="csrf" value="([^"]+)"')
_LINK: Final = re.compile(r'href="(/images/\d+)')


class Program(HttpUser):
    """A program that sends a picture now and then, and waits for who is in it."""

    weight = 1
    host = API_URL
    wait_time = between(1, 5)

    def on_start(self) -> None:
        """Read the photographs, smaller, as most pictures are."""
        photos = load_photos(SAMPLES).values()
        self._photos = itertools.cycle([ImageOps.scale(photo, 0.6) for photo in photos])
        self.client.headers.update({"Authorization": f"Bearer {KEY}"} if KEY else {})

    @task
    def submit(self) -> None:
        """Send a picture, follow it to its end, and delete it."""
        file = io.BytesIO()
        next(self._photos).save(file, "JPEG", comment=uuid4().bytes)
        name = f"load-{uuid4().hex}.jpg"
        files = {"files": (name, file.getvalue())}
        with self.client.post(
            "/images", name=SUBMISSION, files=files, catch_response=True
        ) as answer:
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                answer.success()  # it is told to wait, and does
                time.sleep(float(answer.headers.get("Retry-After", "1")))
            if not answer.ok:
                return
        (image,) = answer.json()["images"]
        self._follow(image["id"], time.perf_counter())
        self.client.delete(f"/images/{image['id']}", name="delete")

    def _follow(self, image_id: int, began: float) -> None:
        """Wait for the end of a picture; what it took is a row of its own in the report."""
        status, error = "", None
        while status not in FINAL and time.perf_counter() < began + _PATIENCE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            answer = self.client.get(f"/images/{image_id}", name="look")
            status = answer.json()["status"] if answer.ok else ""
        if status != Status.PROCESSED:
            error = RuntimeError(f"is {status or 'unknown'} after {_PATIENCE_SECONDS} s or sooner")
        self.environment.events.request.fire(
            request_type="picture",
            name=RESULT,
            response_time=1000 * (time.perf_counter() - began),
            response_length=0,
            exception=error,
            context={},
        )


class Visitor(HttpUser):
    """A person who looks at the list, at one picture in it, and at who is known."""

    weight = 4
    abstract = not PAGE_URL
    host = PAGE_URL
    session = ""
    wait_time = between(2, 10)

    def on_start(self) -> None:
        """Have the session of all: so many log-ins from one address would be refused."""
        self._pictures: list[str] = []
        with _logging_in:
            Visitor.session = self.session or self._log_in()
        self.client.headers["Cookie"] = self.session

    def _log_in(self) -> str:
        """Log in with the key, where the page asks who comes; return the cookie."""
        if self._get("/", LOG_IN).url == f"{self.host}/":
            return "none=asked"
        form = self._get("/log-in", LOG_IN)
        told = {"then": "/", "name": "administrator", "password": KEY}
        answer = self.client.post(
            "/log-in",
            name=LOG_IN,
            data={"csrf": "".join(_CSRF.findall(form.text)[:1]), **told},
            headers={"Cookie": f"__Host-log-in={form.cookies.get('__Host-log-in')}"},
            allow_redirects=False,
        )
        # Not by the client's own cookies: over HTTP it keeps back those that are Secure.
        self.client.cookies.clear()
        return f"__Host-session={answer.cookies.get('__Host-session')}"

    def _get(self, path: str, name: str = PAGE) -> Any:
        return self.client.get(path, name=name)

    @task(6)
    def look_at_list(self) -> None:
        """Open the newest pictures."""
        self._pictures = _LINK.findall(self._get("/").text)

    @task(3)
    def look_at_picture(self) -> None:
        """Open one of them; it may be gone meanwhile."""
        if self._pictures:
            path = self._pictures.pop()
            with self.client.get(path, name=PAGE, catch_response=True) as answer:
                if answer.status_code == HTTPStatus.NOT_FOUND:
                    answer.success()

    @task(1)
    def look_at_people(self) -> None:
        """Open who is known."""
        self._get("/people")


_verdicts: Final[list[str]] = []


def judge(environment: Environment, **_: object) -> None:
    """Find which promises were kept; the exit code is 1 if one was not, or nothing was sent."""
    broken = environment.stats.total.num_requests == 0
    for promise in PROMISES:
        entries = [e for (name, _), e in environment.stats.entries.items() if name == promise.name]
        total = sum(entry.num_requests for entry in entries)
        kept = sum(promise.kept(entry.response_times, entry.num_failures) for entry in entries)
        broken |= kept < promise.share * total
        _verdicts.append(promise.verdict(kept, total))
    environment.process_exit_code = int(broken)


def tell(**_: object) -> None:
    """Say it below the tables, where it is read."""
    print(*_verdicts, sep="\n")


events.quitting.add_listener(judge)  # type: ignore[no-untyped-call]
events.quit.add_listener(tell)  # type: ignore[no-untyped-call]

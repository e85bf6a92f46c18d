"""A real Chromium on the pages of the real pipeline."""

import base64
import io
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    Route,
    sync_playwright,
)

from services.testing.pipeline import Pipeline
from services.testing.samples import sample
from services.testing.servers import find_binary

ROOT: Final = Path(__file__).parents[3]
SCREENSHOTS: Final = ROOT / "var" / "screenshots"

_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=find_binary("chromium"), args=_ARGUMENTS
        )
        yield running
        running.close()


EILEEN: Final = "Eileen Collins"
GRACE: Final = "Grace Hopper"
PHOTOS: Final = {EILEEN: "astronaut.png", GRACE: "grace_hopper.jpg"}

PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

# Where the faces are in the photographs, in pixels: from hairline to chin, from ear to ear.
FACES: Final = {EILEEN: (175, 76, 265, 166), GRACE: (180, 139, 366, 325)}

# Those further down are loaded when they are scrolled to.
_PICTURES_ARE_SHOWN: Final = """[...document.images].every((image) =>
    image.complete || image.getBoundingClientRect().top > innerHeight)"""

_numbers = itertools.count(1)


def photo(person: str) -> Image.Image:
    """Return a person's photograph."""
    with Image.open(sample(PHOTOS[person])) as image:
        return image.convert("RGB")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Return a file that no other test has: the same content is one picture only."""
    output = io.BytesIO()
    image.save(output, "JPEG", quality=quality, comment=f"variant {next(_numbers)}".encode())
    return output.getvalue()


def mirrored(person: str) -> bytes:
    """Return another picture of the person than the photograph: mirrored, smaller, paler."""
    image = photo(person).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return jpeg(image.resize((image.width * 4 // 5, image.height * 4 // 5)), 80)


def as_file(content: bytes) -> FilePayload:
    """Return a picture as a person chooses it in a form."""
    return {"name": "chosen.jpg", "mimeType": "image/jpeg", "buffer": content}


def wait_for(condition: Callable[[], object], *, seconds: float = 20) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@dataclass
class Site:
    """The pages in a browser, and the receiver's API as another client uses it."""

    pipeline: Pipeline
    browser: Browser
    complaints: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, path: str = "/", **options: Any) -> Iterator[Page]:
        """Open a page in a new window, and note every error that the browser reports."""
        viewport = {"width": 1280, "height": 900}
        with self.browser.new_context(
            base_url=self.pipeline.page_url, **{"viewport": viewport, **options}
        ) as context:
            page = context.new_page()
            page.on("console", self._note)
            page.on("pageerror", lambda error: self.complaints.append(str(error)))
            page.goto(path)
            yield page

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the receiver as another client would."""
        answer = httpx.request(
            method, f"{self.pipeline.api_url}{path}", trust_env=False, timeout=20, **arguments
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    @property
    def store(self) -> Path:
        """The folder that is the object store."""
        return self.pipeline.store

    def get(self, url: str, path: str) -> httpx.Response:
        """Get what is no JSON, from the page or the receiver."""
        answer = httpx.get(url + path, trust_env=False, timeout=20)
        answer.raise_for_status()
        return answer

    def submit(self, name: str, content: bytes) -> int:
        """Upload a picture past the pages, and return its id."""
        answer = self.call("POST", "/images", files={"files": (name, content)})
        return int(answer["images"][0]["id"])

    def wait_status(self, picture_id: int, status: str) -> None:
        """Return when the picture has this status."""
        wait_for(lambda: self.call("GET", f"/images/{picture_id}")["status"] == status)

    def wait_known(self, *, pictures: int) -> None:
        """Return when the recogniser compares with this many known pictures."""
        line = f"facestack_gallery_pictures {pictures}.0"
        url = self.pipeline.face_recog_metrics_url
        wait_for(lambda: line in httpx.get(url, trust_env=False).text.splitlines())

    def clear(self) -> None:
        """Remove every picture and person."""
        while images := self.call("GET", "/images?limit=200")["images"]:
            for image in images:
                self.call("DELETE", f"/images/{image['id']}")
        people = [
            person
            for query in ("", "?hidden=true&limit=200")
            for person in self.call("GET", f"/people{query}")["people"]
        ]
        # Whom the recogniser is just about to know it would know for a while after this.
        self.wait_known(pictures=sum(len(person["pictures"]) for person in people))
        for person in people:
            self.call("DELETE", f"/people/~{person['id']}")
        self.wait_known(pictures=0)


def drop(page: Page, *files: tuple[str, bytes | int]) -> None:
    """Drag files, each a name and its content or its size, over the page and drop them."""
    encoded = [
        {"name": name, "content": base64.b64encode(content).decode(), "size": 0}
        if isinstance(content, bytes)
        else {"name": name, "content": "", "size": content}
        for name, content in files
    ]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const { name, content, size } of files) {
                const bytes = size
                    ? new Uint8Array(size)
                    : Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        encoded,
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": transfer})


def drop_from_disk(page: Page, *paths: Path) -> None:
    """Drag files and folders over the page and drop them, as from a file manager."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for event in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": event, "x": 300, "y": 300, "data": data})
    session.detach()


class Gate:
    """Holds a page's requests to addresses of a pattern back until it is opened."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.held: list[Route] = []
        self._open = False
        page.route(pattern, self._pass)

    def _pass(self, route: Route) -> None:
        if self._open:
            route.continue_()
        else:
            self.held.append(route)

    def open(self) -> None:
        """Let those that wait and all later ones pass."""
        self._open = True
        while self.held:
            self.held.pop(0).continue_()


def card(page: Page, name: str) -> Locator:
    """Return the card of the picture with this name."""
    return page.locator(".card", has=page.get_by_role("link", name=name, exact=True))


def drawn_in_pixels(box: Locator, *, picture: tuple[int, int], fit: str) -> list[float]:
    """Return where a box is drawn, in pixels of the picture below it: left, top, right, bottom."""
    result: list[float] = box.evaluate(
        """(box, { width, height, fit }) => {
            const image = box.closest("svg").parentElement.querySelector("img");
            const area = image.getBoundingClientRect();
            const style = getComputedStyle(image);
            if (style.objectFit !== fit) throw new Error(style.objectFit);
            const scales = [area.width / width, area.height / height];
            const scale = fit === "cover" ? Math.max(...scales) : Math.min(...scales);
            const [x, y] = style.objectPosition.split(" ").map((part) => parseFloat(part) / 100);
            const left = area.left + (area.width - width * scale) * x;
            const top = area.top + (area.height - height * scale) * y;
            const drawn = box.getBoundingClientRect();
            return [
                (drawn.left - left) / scale, (drawn.top - top) / scale,
                (drawn.right - left) / scale, (drawn.bottom - top) / scale,
            ];
        }""",
        {"width": picture[0], "height": picture[1], "fit": fit},
    )
    return result


def mark(page: Page) -> None:
    """Note which document this is."""
    page.evaluate("window.sameDocument = true")


def assert_not_reloaded(page: Page) -> None:
    """The document is still the one that was marked."""
    assert page.evaluate("window.sameDocument") is True


def keep_screenshot(page: Page, name: str, *, published: bool = False) -> None:
    """Keep a screenshot in var/screenshots; with REFRESH_IMAGES=1 also in docs/images."""
    wait_for(lambda: page.evaluate(_PICTURES_ARE_SHOWN))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = SCREENSHOTS / f"{name}.png"
    shot = page.screenshot(animations="disabled", caret="hide")
    with Image.open(io.BytesIO(shot)) as image:
        # 256 colours: a fifth of the size, and the eye sees hardly a difference.
        image.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(
            file, optimize=True
        )
    if published and os.environ.get("REFRESH_IMAGES") == "1":
        target = ROOT / "docs" / "images"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)

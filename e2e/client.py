"""What a client of the pipeline does, and where a test looks behind the pipeline's back."""

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from threading import Event, Thread
from typing import Any, Final
from uuid import uuid4

import httpx
from obstore.store import S3Store
from PIL import Image, ImageOps

from e2e.cluster import ROOT, Cluster
from e2e.waiting import wait_until
from services.common.image_states import FINAL, Status
from services.local.samples import KNOWN, load_photos

SAMPLES: Final = ROOT / "var" / "samples"
METRICS_PORTS: Final = {
    "image-processor": 9101,
    "face-recog": 9102,
    "redeemer": 9103,
    "people": 9104,
    "webhooks": 9105,
    "receiver": 9106,
    "frontend": 9107,
}
_FINAL_SECONDS: Final = 120
"""Everything is final within 60 s of the last fault; the rest is for a slow machine."""

_GALLERY_SECONDS: Final = 60
_PAUSE_SECONDS: Final = 0.5


def request(method: str, url: str, **arguments: Any) -> httpx.Response:
    """Ask once, over a new connection and no proxy; a busy machine has 30 s to answer."""
    return httpx.request(method, url, timeout=30, trust_env=False, **arguments)


class RefusedError(Exception):
    """The API says that the request is wrong, so repeating it is no use."""


class Api:
    """The API of a cluster, with the key that may do everything."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._key = ""

    @property
    def headers(self) -> dict[str, str]:
        """What shows the key."""
        self._key = self._key or self._cluster.administrator_key()
        return {"Authorization": f"Bearer {self._key}"}

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask once, over a new connection."""
        address = f"{self._cluster.api_url}{path}"
        answer = request(method, address, headers=self.headers, **arguments)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._key = ""  # it is another cluster than before
            answer = request(method, address, headers=self.headers, **arguments)
        return answer


class Client:
    """A client of the API that knows what to do with a refusal: ask again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.api = Api(cluster)
        self._photos = load_photos(SAMPLES)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the receiver once, over a new connection."""
        answer = self.api.request(method, path, **arguments)
        if answer.is_client_error and answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
            raise RefusedError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def picture(self, person: str) -> bytes:
        """Return a file that nobody has sent before: the photograph mirrored and smaller."""
        image = ImageOps.mirror(ImageOps.scale(self._photos[person], 0.6))
        return new_jpeg(image)

    def upload(self, *pictures: bytes) -> list[int]:
        """Upload pictures until they are acknowledged, and return their ids."""
        files = [("files", (f"{uuid4().hex}.jpg", picture)) for picture in pictures]

        def acknowledged() -> list[int]:
            images = self.call("POST", "/images", files=files)["images"]
            return [image["id"] for image in images]

        return wait_until(acknowledged, 180, "a submission to be acknowledged")

    @contextmanager
    def uploading(self, person: str) -> Iterator[list[int]]:
        """Upload a picture now and then while the block runs; give the acknowledged ids."""
        ids: list[int] = []
        errors: list[BaseException] = []
        stop = Event()

        def upload() -> None:
            try:
                while not stop.wait(_PAUSE_SECONDS):
                    ids.extend(self.upload(self.picture(person)))
            except BaseException as error:  # noqa: BLE001, raised below in the test's thread
                errors.append(error)

        thread = Thread(target=upload, name="uploading")
        thread.start()
        try:
            yield ids
        finally:
            stop.set()
            thread.join()
        if errors:
            raise errors[0]

    def image(self, image_id: int) -> dict[str, Any]:
        """Return what the API says of an image."""
        found: dict[str, Any] = self.call("GET", f"/images/{image_id}")
        return found

    def wait_final(self, ids: Collection[int]) -> list[dict[str, Any]]:
        """Return the images when each is processed, rejected or dead."""
        waiting = dict.fromkeys(ids)
        images: dict[int, dict[str, Any]] = {}

        def done() -> bool:
            for image_id in list(waiting):
                image = self.image(image_id)
                if image["status"] in FINAL:
                    images[image_id] = image
                    del waiting[image_id]
            if waiting:
                raise AssertionError(f"not final: {sorted(waiting)[:20]}")
            return True

        wait_until(done, _FINAL_SECONDS, f"{len(ids)} images to be final")
        return [images[image_id] for image_id in ids]

    def clear(self) -> None:
        """Delete every picture and forget everybody."""
        # Other tests leave thousands of rows, too many to ask for each.
        self._cluster.sql("DELETE FROM images")
        for person in self.call("GET", "/people")["people"]:
            self.call("DELETE", f"/people/~{person['id']}")
        self._wait_for_gallery(lambda pictures: pictures == 0)

    def enrol(self) -> None:
        """Tell who is who, as the demo does, and wait until every recogniser knows."""
        known = {person["name"] for person in self.call("GET", "/people")["people"]}
        for person, name in KNOWN.items():
            if person not in known:
                file = (name, (SAMPLES / name).read_bytes())
                self.call("POST", f"/people/{person}/pictures", files={"file": file})
        self._wait_for_gallery(lambda pictures: pictures >= len(KNOWN))

    def _wait_for_gallery(self, enough: Callable[[float], bool]) -> None:
        with metrics_pages(self._cluster, "face-recog") as pages:
            wait_until(
                lambda: all(
                    enough(read(page)["facestack_gallery_pictures"]) for page in pages.values()
                ),
                _GALLERY_SECONDS,
                "every recogniser to see who is known",
            )


def people(image: dict[str, Any]) -> list[str]:
    """Return the names of the faces, from left to right."""
    faces = sorted(image["faces"], key=lambda face: face["box"]["left"])
    return [face["person"] or "somebody unknown" for face in faces]


def assert_recognised(images: list[dict[str, Any]], person: str) -> None:
    """Assert that each image is processed and shows this person and nobody else."""
    wrong = {
        image["id"]: (image["status"], image["error"], people(image))
        for image in images
        if image["status"] != Status.PROCESSED or people(image) != [person]
    }
    if wrong:
        raise AssertionError(f"expected {person}, got {wrong}")


def pods(cluster: Cluster, workload: str) -> list[dict[str, Any]]:
    """Return the pods of a workload that are not on their way out."""
    return cluster.staying("pods", f"--selector=app.kubernetes.io/name={workload}")


@contextmanager
def metrics_pages(cluster: Cluster, workload: str) -> Iterator[dict[str, str]]:
    """Give the address of the metrics of each pod of a workload, by the pod's name."""
    with ExitStack() as stack:
        addresses = {}
        for pod in pods(cluster, workload):
            name = pod["metadata"]["name"]
            port = stack.enter_context(cluster.forward(f"pod/{name}", METRICS_PORTS[workload]))
            addresses[name] = f"http://127.0.0.1:{port}/metrics"
        yield addresses


def read(page: str) -> dict[str, float]:
    """Return the values of a metrics page, each by its name with its labels."""
    lines = request("GET", page).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def metrics(cluster: Cluster, workload: str, name: str) -> dict[str, float]:
    """Return one metric of each pod of a workload; a name without labels is the sum over them."""
    with metrics_pages(cluster, workload) as addresses:
        return {
            pod: sum(
                value for key, value in read(page).items() if name in (key, key.partition("{")[0])
            )
            for pod, page in addresses.items()
        }


@contextmanager
def object_store(cluster: Cluster) -> Iterator[S3Store]:
    """Give the pipeline's bucket."""
    keys = {
        key: cluster.kubectl(
            "get",
            "secret",
            "object-store",
            "-o",
            f'go-template={{{{index .data "{key}" | base64decode}}}}',
        ).stdout
        for key in ("access-key-id", "secret-access-key")
    }
    with cluster.forward("svc/object-store", 7070) as port:
        yield S3Store(
            "facestack",
            config={
                "endpoint": f"https://127.0.0.1:{port}",
                "region": "us-east-1",
                "access_key_id": keys["access-key-id"],
                "secret_access_key": keys["secret-access-key"],
                "virtual_hosted_style_request": False,
            },
            # Its certificate is for another name; kubectl's tunnel knows whom it leads to.
            client_options={"allow_invalid_certificates": True},
        )


def new_jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """Return a file that nobody has sent before."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, comment=uuid4().bytes)
    return file.getvalue()

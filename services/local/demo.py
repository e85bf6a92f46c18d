"""The demo: enrols two people, submits every sample, and compares what comes of them."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.common.image_states import FINAL
from services.local.errors import LocalError
from services.local.samples import KNOWN, SAMPLES, Photos, Sample

_PATIENCE_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Row:
    """What came of a sample: the API's image object and whether it was known as a duplicate."""

    sample: Sample
    image: dict[str, Any]
    duplicate: bool

    @property
    def people(self) -> list[str]:
        """Names of the faces, from left to right."""
        faces = sorted(self.image["faces"], key=lambda face: face["box"]["left"])
        return [face["person"] or "somebody unknown" for face in faces]

    @property
    def distances(self) -> list[float]:
        """Distance of each face to the person it was taken for, from left to right."""
        faces = sorted(self.image["faces"], key=lambda face: face["box"]["left"])
        return [face["distance"] for face in faces if face["distance"] is not None]

    @property
    def milliseconds(self) -> int:
        """From the commit of the submission to that of the result."""
        end = self.image["processed_at"] or self.image["updated_at"]
        took = datetime.fromisoformat(end) - datetime.fromisoformat(self.image["created_at"])
        return round(took.total_seconds() * 1000)

    def faults(self, rows: "Iterable[Row]") -> list[str]:
        """Return what is not as it should be, each as "expected ..., got ..."."""
        sample = self.sample
        error = self.image["error"] or ""
        faults = []
        if self.image["status"] != sample.status:
            faults.append(f"expected {sample.status}, got {self.image['status']} {error}".rstrip())
        elif sample.error not in error:
            faults.append(f"expected an error that says '{sample.error}', got '{error}'")
        if self.people != list(sample.people):
            faults.append(f"expected {_names(sample.people)}, got {_names(self.people)}")
        if self.duplicate != (sample.same_as is not None):
            faults.append(f"expected duplicate={sample.same_as is not None}, got {self.duplicate}")
        if sample.same_as:
            first = next(row for row in rows if row.sample.name == sample.same_as)
            if first.image["id"] != self.image["id"]:
                faults.append(f"expected image {first.image['id']}, got {self.image['id']}")
        return faults


def _batches() -> list[list[Sample]]:
    """Return the samples of each request."""
    return [
        batch
        for endpoint, group in itertools.groupby(SAMPLES, lambda sample: sample.endpoint)
        for batch in (
            [[sample] for sample in group] if endpoint == "POST /image/post" else [list(group)]
        )
    ]


def _names(people: Sequence[str]) -> str:
    return " and ".join(people) or "nobody"


@dataclass(frozen=True)
class Demo:
    """One run of the demo against services that are up.

    ``key`` may submit, read and name; ``put`` places a picture where a path that is submitted is
    looked up.
    """

    api_url: str
    key: str
    face_recog_metrics_urls: Sequence[str]
    put: Callable[[str, bytes], None]
    photos: Photos
    samples_folder: Path

    async def run(self, on_step: Callable[[str], None], on_row: Callable[[Row], None]) -> list[Row]:
        """Tell of each step and row, and return every row; raise :class:`LocalError`."""
        async with httpx.AsyncClient(
            base_url=self.api_url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=30.0,
            trust_env=False,
        ) as client:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    on_step("telling the recogniser who is who")
                    await self._enrol(client)
                    await self._wait_for_the_gallery(client)
                    rows = []
                    for batch in _batches():
                        on_step(
                            f"{batch[0].endpoint}: {', '.join(sample.name for sample in batch)}"
                        )
                        for row in await self._submit_and_wait(client, batch):
                            rows.append(row)
                            on_row(row)
                    return rows
            except TimeoutError:
                raise LocalError(f"not done after {_PATIENCE_SECONDS:g} s") from None
            except httpx.HTTPError as error:
                raise LocalError(f"the receiver does not answer: {error!r}") from None

    async def _enrol(self, client: httpx.AsyncClient) -> None:
        for person, name in KNOWN.items():
            picture = (self.samples_folder / name).read_bytes()
            # Whatever samples somebody brings: what comes of them is what the table shows.
            response = await client.post(
                f"/people/{person}/pictures",
                files={"file": (name, picture)},
                params={"insist": "true"},
            )
            _expect(response, f"enrolling {person}")

    async def _wait_for_the_gallery(self, client: httpx.AsyncClient) -> None:
        """Wait until every recogniser has seen the new known pictures in the store."""
        for url in self.face_recog_metrics_urls:
            while True:
                if await _gallery_pictures(client, url) >= len(KNOWN):
                    break
                await asyncio.sleep(0.1)

    async def _submit_and_wait(
        self, client: httpx.AsyncClient, batch: Sequence[Sample]
    ) -> list[Row]:
        files = {sample.name: sample.make(self.photos) for sample in batch if sample.make}
        if batch[0].endpoint == "POST /images":
            response = await client.post(
                "/images", files=[("files", file) for file in files.items()]
            )
            submitted = _expect(response, f"uploading {batch[0].name}")["images"]
        else:
            # A path names a picture in the store, where a synced folder would have put it.
            for name, content in files.items():
                self.put(name, content)
            submitted = await submit(
                client,
                [sample.name for sample in batch],
                together=batch[0].endpoint == "POST /images/post",
            )
        return [
            Row(sample, await self._wait_final(client, one["id"]), one["duplicate"])
            for sample, one in zip(batch, submitted, strict=True)
        ]

    @staticmethod
    async def _wait_final(client: httpx.AsyncClient, image_id: int) -> dict[str, Any]:
        while True:
            image = _expect(await client.get(f"/images/{image_id}"), f"asking for {image_id}")
            if image["status"] in FINAL:
                return image
            await asyncio.sleep(0.05)


async def submit(
    client: httpx.AsyncClient, paths: Sequence[str], *, together: bool
) -> list[dict[str, Any]]:
    """Submit pictures that are in the store, and return what the receiver says of each.

    While a rollout mixes versions, a receiver may not know the endpoint for many: then they are
    submitted one by one.
    """
    if together:
        many = {"paths": [{"path": path} for path in paths]}
        response = await client.post("/images/post", json=many)
        if response.status_code != HTTPStatus.NOT_FOUND:
            images: list[dict[str, Any]] = _expect(response, f"submitting {paths[0]}")["images"]
            return images
    return [
        _expect(await client.post("/image/post", json={"path": path}), f"submitting {path}")
        for path in paths
    ]


async def _gallery_pictures(client: httpx.AsyncClient, url: str) -> float:
    page = await client.get(url)
    return next(
        sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if sample.name == "facestack_gallery_pictures"
    )


def _expect(response: httpx.Response, what: str) -> dict[str, Any]:
    if not response.is_success:
        raise LocalError(f"{what}: {response.status_code} {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer

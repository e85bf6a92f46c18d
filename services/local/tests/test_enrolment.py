"""Who may become known, asked of the real recogniser over HTTP."""

import io
import time
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image, ImageEnhance, ImageOps

from services.testing.pipeline import Pipeline, pipeline
from services.testing.samples import sample

__all__ = ["pipeline"]

EILEEN = "Eileen Collins"


def jpeg(image: Image.Image) -> bytes:
    output = io.BytesIO()
    image.save(output, "JPEG", quality=90)
    return output.getvalue()


@pytest.fixture
def receiver(pipeline: Pipeline) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pipeline.api_url, trust_env=False, timeout=60) as client:
        yield client


def enrol(receiver: httpx.Client, name: str, content: bytes, **params: str) -> httpx.Response:
    return receiver.post(f"/people/{name}/pictures", files={"file": ("a", content)}, params=params)


def wait_known(pipeline: Pipeline, pictures: int) -> None:
    line = f"facestack_gallery_pictures {pictures}.0"
    deadline = time.monotonic() + 30
    while line not in httpx.get(pipeline.face_recog_metrics_url, trust_env=False).text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_face_becomes_known_when_it_is_good_and_the_persons_own_or_somebody_insists(
    pipeline: Pipeline, receiver: httpx.Client
) -> None:
    eileen, grace = (
        Image.open(sample(name)).convert("RGB") for name in ("astronaut.png", "grace_hopper.jpg")
    )
    dark = jpeg(ImageEnhance.Brightness(grace).enhance(0.07))
    for content, person, reason in (
        (dark, "Nobody", "the face is dark: choose one with more light"),
        (jpeg(grace), EILEEN, f"the face does not look like the other pictures of '{EILEEN}'"),
        (jpeg(ImageOps.mirror(eileen)), "Somebody", f"the face looks like '{EILEEN}'"),
    ):
        if person == EILEEN:
            assert enrol(receiver, EILEEN, jpeg(eileen)).status_code == 201
            wait_known(pipeline, 1)
        refused = enrol(receiver, person, content)
        assert refused.status_code == 422
        assert reason in refused.json()["detail"]
        assert [one["pointer"] for one in refused.json()["errors"]] == ["/query/insist"]
    assert [one["name"] for one in receiver.get("/people").json()["people"]] == [EILEEN]
    # A good one of the same person needs no insisting.
    assert enrol(receiver, EILEEN, jpeg(ImageOps.mirror(eileen))).status_code == 201
    assert enrol(receiver, "Nobody", dark, insist="true").status_code == 201
    assert enrol(receiver, EILEEN, jpeg(grace), insist="true").status_code == 201
    wait_known(pipeline, 4)
    log = (pipeline.store.parent / "logs" / "face_recog.log").read_text()
    assert log.count("known picture is of low quality") == 1
    assert log.count("known picture is unlike the person's others") == 1

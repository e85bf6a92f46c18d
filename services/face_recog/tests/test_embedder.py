"""An embedder that the operator brings, on the one that tests bring."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from services.common.errors import RecogniserUnavailableError
from services.face_recog.adapters.centerface import MODEL
from services.face_recog.adapters.embedder import _TEMPLATE, align
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.pool import Pool
from services.face_recog.adapters.recognition import find
from services.face_recog.domain.engines import Embedder
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE
from services.face_recog.service.kept_encodings import folder_of
from services.face_recog.settings import EngineSettings
from services.face_recog.tests.conftest import FaceRecog
from services.testing.damaged_pictures import save
from services.testing.samples import embedder


@pytest.fixture(scope="module")
def brought() -> Embedder:
    return Embedder(embedder(), mean=127.0, scale=128.0, colours="RGB", size=512, distance=1.1)


@pytest.fixture(scope="module")
def models(brought: Embedder) -> Models:
    return load_models(brought)


def encode_only(models: Models, content: bytes) -> Encoding:
    found = find(models, content, 0)
    [chip] = found.chips
    return models.encode(chip)


def test_points_come_to_lie_on_the_template() -> None:
    for turn, start in (
        (1 + 0j, 50 + 40j),
        (2 + 1j, 300 + 90j),
        (-0.4 + 0.6j, 150 + 20j),
        (8j, 1200 + 9j),
    ):
        places = turn * _TEMPLATE + start
        across, down = np.meshgrid(np.arange(1400) + 0.5, np.arange(1100) + 0.5)
        # A blob at each point, of a colour of its own.
        for number in range(5):
            pixels = np.zeros((1100, 1400, 3), np.uint8)
            distance = np.abs(across + 1j * down - places[number])
            pixels[distance < 4 * abs(turn)] = 255
            points = np.stack([places.real, places.imag], axis=1).ravel().tolist()
            aligned = align(pixels, points)[:, :, 0].astype(float)
            assert aligned.shape == (112, 112)
            rows, columns = np.mgrid[:112, :112] + 0.5
            x, y = ((along * aligned).sum() / aligned.sum() for along in (columns, rows))
            assert abs(x + 1j * y - _TEMPLATE[number]) < 0.6


def test_a_face_is_the_same_however_it_lies(
    models: Models, astronaut: Image.Image, hopper: Image.Image
) -> None:
    upright = encode_only(models, save(hopper, "PNG"))
    other = encode_only(models, save(astronaut, "PNG"))
    assert upright.shape == other.shape == (512,)
    assert np.linalg.norm(upright - other) > DEFAULT_TOLERANCE
    for picture in (hopper.rotate(25), hopper.resize((1536, 1800)), hopper.resize((171, 200))):
        assert np.linalg.norm(upright - encode_only(models, save(picture, "PNG"))) < 0.4


def test_another_reading_of_the_pixels_is_another_engine(
    models: Models, brought: Embedder, hopper: Image.Image
) -> None:
    content = save(hopper, "PNG")
    names = {models.engine.name}
    for change in ({"mean": 100.0}, {"scale": 64.0}, {"colours": "BGR"}, {"distance": 1.0}):
        changed = load_models(dataclasses.replace(brought, **change))
        names.add(changed.engine.name)
        assert not np.allclose(encode_only(changed, content), encode_only(models, content))
    assert len(names) == 5
    assert max(map(len, names)) <= 64  # the column in the tables


async def test_it_names_and_its_encodings_are_kept(
    face_recog: Callable[..., FaceRecog], brought: Embedder, small_hopper: bytes
) -> None:
    settings = {
        "ENGINE": "onnx",
        "EMBEDDER_FILE": str(brought.file),
        "EMBEDDER_MEAN": "127",
        "EMBEDDER_SCALE": "128",
    }
    first = face_recog(**settings)
    second = face_recog(**settings, OBJECT_STORE_URL=f"file://{first.store}", LOG_LEVEL="DEBUG")
    for server in (first, second):
        answer = await server.identify(small_hopper)
        [face] = answer.faces
        assert face.candidates[0].image_name == "Grace Hopper/g.jpg"
        assert answer.engine == load_models(brought).engine.name
        assert "damaged" not in server.log.read_text()
    kept = [*(first.store / folder_of(load_models(brought).engine)).glob("[0-9a-f][0-9a-f]")]
    assert sum(path.stat().st_size for path in kept) > 2 * 4 * 512, "of two known pictures"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": 128}, r"shape \(512,\), but EMBEDDER_SIZE is 128"),
        ({"file": Path(__file__)}, "is no ONNX model"),
        ({"file": Path("/nowhere/a.onnx")}, "cannot be read"),
    ],
    ids=["size", "no-model", "missing"],
)
async def test_a_file_that_does_not_fit_is_told(
    brought: Embedder, change: dict[str, Any], why: str
) -> None:
    pool = Pool(
        engine=dataclasses.replace(brought, **change),
        size=1,
        queue_size=1,
        work_seconds=60,
        long_seconds=60,
        memory_bytes=1024**3,
    )
    with pytest.raises(RecogniserUnavailableError, match=why):
        await pool.start()
    await pool.close()


def test_a_detector_is_no_embedder(brought: Embedder) -> None:
    detector = dataclasses.replace(brought, file=MODEL)
    with pytest.raises(OSError, match="takes one 112 x 112 picture"):
        load_models(detector)


def test_the_engine_onnx_wants_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EngineSettings().choice == "centerface"
    monkeypatch.setenv("ENGINE", "onnx")
    with pytest.raises(ValidationError) as error:
        EngineSettings()
    [one] = error.value.errors()
    assert one["loc"] == ("embedder_file",)
    file = tmp_path / "any.onnx"
    file.write_bytes(b"")
    monkeypatch.setenv("EMBEDDER_FILE", str(file))
    choice = EngineSettings().choice
    assert choice == Embedder(file, mean=127.5, scale=127.5, colours="RGB", size=512, distance=1.1)

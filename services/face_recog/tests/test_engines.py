"""Every engine finds and names the same people; those of two are never compared."""

import itertools
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.common.errors import RecogniserUnavailableError
from services.common.faces import Box
from services.face_recog.adapters import centerface, worker
from services.face_recog.adapters.classic import NETWORK, model_file
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.onnx import resnet
from services.face_recog.adapters.pool import Pool
from services.face_recog.adapters.recognition import find
from services.face_recog.adapters.tiles import along
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE
from services.face_recog.service.kept_encodings import folder_of
from services.face_recog.settings import MIN_WORKER_BYTES
from services.face_recog.tests.conftest import FaceRecog
from services.testing.damaged_pictures import save

StartServer = Callable[..., FaceRecog]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("centerface")


@pytest.fixture(scope="module")
def faces(astronaut: Image.Image, hopper: Image.Image) -> list[Image.Image]:
    """Both faces with little around them; each is half as wide as its picture."""
    return [astronaut.crop((132, 28, 322, 218)), hopper.crop((81, 47, 449, 415))]


def centre(box: Box) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2


def assert_each_once(boxes: Any, places: list[tuple[int, int]], within: float) -> None:
    assert len(boxes) == len(places)
    for x, y in places:
        near = [
            middle
            for middle in map(centre, boxes)
            if abs(middle[0] - x) <= within and abs(middle[1] - y) <= within
        ]
        assert len(near) == 1, (x, y)


def test_both_engines_encode_a_face_nearly_alike(
    models: Models, astronaut: Image.Image, hopper: Image.Image
) -> None:
    classic = load_models("classic")
    assert models.engine.name != classic.engine.name
    assert max(len(models.engine.name), len(classic.engine.name)) <= 64  # the column in the tables
    encodings: dict[str, list[Any]] = {"classic": [], "centerface": []}
    for picture in (astronaut, hopper):
        for name, engine in (("classic", classic), ("centerface", models)):
            found = find(engine, save(picture, "PNG"), 0)
            [chip] = found.chips
            encodings[name].append(engine.encode(chip))
    for encoding, other in zip(*encodings.values(), strict=True):
        assert encoding.shape == other.shape == (128,)
        assert np.linalg.norm(encoding - other) < 0.3
    assert (
        np.linalg.norm(encodings["centerface"][0] - encodings["centerface"][1]) > DEFAULT_TOLERANCE
    )


@pytest.mark.parametrize(
    ("width", "size"),
    [
        (20, (600, 400)),
        (24, (800, 600)),
        (400, (800, 600)),
        (36, (2048, 1536)),
        (60, (2048, 1536)),
        (200, (2048, 1536)),
        (480, (2048, 1536)),
        (1150, (2048, 1536)),
        (2200, (4000, 3000)),
    ],
)
def test_faces_of_every_size_are_found(
    models: Models,
    faces: list[Image.Image],
    width: int,
    size: tuple[int, int],
) -> None:
    x, y = size[0] // 2, size[1] // 2
    for face in faces:
        picture = Image.new("RGB", size, "gray")
        picture.paste(face.resize((2 * width, 2 * width)), (x - width, y - width))
        [found] = find(models, save(picture, quality=95), 0).faces
        assert_each_once([found.box], [(x, y)], within=0.15 * width)
        assert 0.6 * width < found.box.right - found.box.left < 1.3 * width


def test_a_face_across_the_edges_of_tiles_is_found_once(
    models: Models, faces: list[Image.Image]
) -> None:
    for size, start in itertools.product((40, 90, 130, 280), (0, 20, 40)):
        step = 2 * size + 11
        crowd = Image.new("RGB", (1500, 1000), "gray")
        places = [
            (x, y)
            for x in range(size + start, 1500 - size, step)
            for y in range(size + start, 1000 - size, step)
        ]
        for number, (x, y) in enumerate(places):
            face = faces[number % 2].resize((2 * size, 2 * size))
            crowd.paste(face, (x - size, y - size))
        boxes = [face.box for face in find(models, save(crowd, quality=95), 0).faces]
        assert_each_once(boxes, places, size / 8)
        for box in boxes:  # not only the part of it that a tile shows
            assert 0.8 * size < box.right - box.left < 1.2 * size
            assert size < box.bottom - box.top < 1.5 * size


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2), (5000, 1), (2, 60_000), (641, 97)])
def test_odd_sizes_show_no_face(models: Models, size: tuple[int, int]) -> None:
    assert not find(models, save(Image.new("RGB", size), "PNG"), 0).faces


@pytest.mark.parametrize(
    ("length", "tiles"),
    [
        (1, [(0, 1)]),
        (640, [(0, 640)]),
        (641, [(0, 369), (273, 641)]),
        (1184, [(0, 640), (544, 1184)]),
        (1185, [(0, 459), (363, 822), (726, 1185)]),
    ],
)
def test_tiles_cover_a_side_and_overlap(length: int, tiles: list[tuple[int, int]]) -> None:
    assert along(length, tile=640, overlap=96) == tiles


async def test_a_worker_keeps_its_memory(hopper: Image.Image) -> None:
    photo = save(hopper.resize((7380, 8650)))
    pool = Pool(
        engine="centerface",
        size=1,
        queue_size=8,
        work_seconds=60,
        long_seconds=60,
        memory_bytes=MIN_WORKER_BYTES,
    )
    try:
        await pool.start()
        assert pool.engine == load_models("centerface").engine
        for _ in range(3):
            assert len((await pool.recognise(photo)).faces) == 1
    finally:
        await pool.close()


async def test_engines_beside_each_other_know_the_same_people_and_keep_their_own_encodings(
    face_recog: StartServer, small_hopper: bytes
) -> None:
    """As in a rollout from one to the default."""
    old = face_recog(ENGINE="classic")
    new = face_recog(OBJECT_STORE_URL=f"file://{old.store}")
    engines = {load_models(name).engine for name in ("classic", "centerface")}
    names = set()
    for server in (old, new):
        answer = await server.identify(small_hopper)
        [face] = answer.faces
        assert face.candidates[0].image_name == "Grace Hopper/g.jpg"
        names.add(answer.engine)
        forks = server.workers()
        for process in (*forks, *(fork.parent() for fork in forks)):
            assert process
            assert process.num_threads() == 1, "nothing computes or reports beside the worker"
    assert names == {engine.name for engine in engines}
    kept = {path.parent for path in (old.store / "encodings").rglob("*") if path.is_file()}
    assert kept == {old.store / folder_of(engine) for engine in engines}


def test_a_missing_model_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(centerface, "MODEL", tmp_path / "centerface.onnx")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of a worker's process
    load_models.cache_clear()
    ours, theirs = socket.socketpair()
    worker.serve(theirs, "centerface", 1)
    with ours, pytest.raises(RecogniserUnavailableError, match=r"No such file.*centerface\.onnx"):
        worker.read_engine(ours.recv(4096)[worker.NUMBER.size :])


def test_the_network_by_onnx_runtime_equals_dlib(models: Models, faces: list[Image.Image]) -> None:
    classic = load_models("classic")
    for face in faces:
        for picture in (face, face.resize((90, 90)), face.rotate(20), face.convert("L")):
            found = find(models, save(picture.resize((300, 300)), "PNG"), 0)
            for chip in found.chips:
                one, other = (which.encode(chip) for which in (models, classic))
                assert one.shape == (128,)
                assert np.abs(one - other).max() < 1e-4


def test_a_file_of_another_network_is_told() -> None:
    content = model_file(NETWORK).read_bytes()
    with pytest.raises(ValueError, match="last layer is missing"):
        resnet(content.replace(b"fc_2", b"fc_9"))

"""A network that sees a picture strip by strip answers as if it had seen all of it."""

import numpy as np
import pytest
from PIL import Image

from services.face_recog.adapters.centerface import FIRST_LAYERS
from services.face_recog.adapters.onnx import Network, free_shapes
from services.face_recog.adapters.strips import StripedNetwork
from services.testing.samples import weights


@pytest.fixture(scope="module")
def model() -> bytes:
    return free_shapes(weights("centerface.onnx").read_bytes(), "input.1")


@pytest.mark.parametrize("size", [(32, 32), (640, 128), (96, 160), (512, 640), (64, 288)])
def test_strips_answer_as_the_whole_does(
    model: bytes, hopper: Image.Image, size: tuple[int, int]
) -> None:
    pixels = np.asarray(hopper.resize(size), np.float32).transpose(2, 0, 1)[None]
    whole = Network(model).run(pixels)
    striped = StripedNetwork(model, FIRST_LAYERS).run(pixels)
    assert len(whole) == len(striped) == 4
    for one, other in zip(whole, striped, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-5

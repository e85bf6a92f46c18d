"""The network in 8 bits is what the script makes, and finds what the published one does."""

import itertools

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image, ImageEnhance

from bench.quantise import make, published
from services.face_recog.adapters.centerface import MODEL
from services.testing.samples import sample, weights

Answers = list[NDArray[np.float32]]


def run(model: bytes, picture: NDArray[np.uint8] | NDArray[np.float32]) -> Answers:
    session = onnxruntime.InferenceSession(model)
    [taken] = session.get_inputs()
    return [answer[0] for answer in session.run(None, {taken.name: picture})]


def pictures() -> list[NDArray[np.uint8]]:
    """Both photographs in sizes, and with a light, that the script does not show to the network."""
    names, sides, lights = ("astronaut.png", "grace_hopper.jpg"), (96, 160, 320, 512), (0.7, 1.0)
    return [
        np.asarray(ImageEnhance.Brightness(image.resize((side, side))).enhance(light))
        for image in (Image.open(sample(name)).convert("RGB") for name in names)
        for side, light in itertools.product(sides, lights)
    ]


def test_it_answers_nearly_what_the_published_network_does() -> None:
    network = published(weights("centerface.onnx").read_bytes()).SerializeToString()
    for pixels in pictures():
        right = run(network, pixels.transpose(2, 0, 1)[None].astype(np.float32))
        ours = run(MODEL.read_bytes(), pixels[None])
        for one, other in zip(right, ours, strict=True):
            assert one.shape == other.shape
        assert np.abs(ours[0] - right[0]).max() < 0.12
        faces = right[0][0] > 0.6
        assert faces.any()
        assert abs(ours[0].max() - right[0].max()) < 0.05
        for number, most in ((1, 0.05), (2, 0.05), (3, 0.02)):  # log of size, cells, parts of size
            off = np.abs(ours[number] - right[number])[:, faces]
            assert off.mean() < most, number


def test_two_products_go_into_16_bits() -> None:
    """As CPUs without VNNI add them up; what does not go in would be cut off there."""
    graph = onnx.load(MODEL).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    numbers = [
        held[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in held
    ]
    eight = [tensor for tensor in numbers if tensor.dtype == np.int8]
    assert len(eight) > 50
    for tensor in eight:
        assert np.abs(tensor.astype(int)).max() * 2 * 255 < 2**15


def test_it_is_what_the_script_makes() -> None:
    made = make()
    for pixels in pictures():
        for one, other in zip(
            run(made, pixels[None]), run(MODEL.read_bytes(), pixels[None]), strict=True
        ):
            assert np.abs(one - other).max() < 0.05

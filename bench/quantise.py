"""Make the network of CenterFace in 8 bits, which face_recog runs, from the one in 32.

It is made from what ``scripts/get-samples`` fetches: the published weights, and the two sample
photographs, which show what values its layers take. It takes half of the time and a quarter of the
memory, and is the same on every CPU: weights have 7 bits, since two products of 8 bits by 8 do not
go into the 16 bits in which a CPU without VNNI adds them up (2 * 255 * 64 does).

Two steps keep the faces where they were (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019): before a convolution that takes each channel on its own,
all channels get the same range; and what the answers are off by in the mean is taken from their
biases.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from PIL import Image, ImageEnhance

from services.face_recog.adapters.centerface import MODEL
from services.testing.samples import sample, weights

_OPSET: Final = 13
"""The first in which weights have a scale for each channel."""

_INPUT: Final = "input.1"
_HEAT: Final = "536"
"""The logits of the scores."""

_ANSWERS: Final = (_HEAT, "538", "539", "540")
_LAST: Final = (*_ANSWERS, "537")
"""The last layers, which are quick, and whose values are what is asked for, stay in 32 bits."""

_SIZE: Final = (640, 512)
_SIDES: Final = (640, 384, 224, 128, 64)
"""Of the photographs, with faces that are about a third as wide."""

_LIGHTS: Final = (0.5, 1.0, 1.6)
_SMALLEST: Final = 1e-3
"""A channel's range is taken to be at least so much of the widest."""

Floats = NDArray[np.float32]


def pictures() -> Iterator[Floats]:
    """Yield what the layers are looked at with, shape (1, 3, height, width)."""
    photographs = [sample("astronaut.png"), sample("grace_hopper.jpg")]
    number = 0
    for photograph in photographs:
        image = Image.open(photograph).convert("RGB")
        for side in _SIDES:
            for light in _LIGHTS:
                tile = ImageEnhance.Brightness(image.resize((side, side))).enhance(light)
                picture = Image.new("RGB", _SIZE)
                for left in range(0, _SIZE[0], side):
                    for top in range(0, _SIZE[1], side):
                        picture.paste(tile, (left, top))
                turned = picture.rotate(90 * (1 + number % 3), expand=True)
                number += 1
                for shown in (picture, turned):
                    yield np.asarray(shown, np.float32).transpose(2, 0, 1)[None]


class _Reader(CalibrationDataReader):  # type: ignore[misc] # it has no types
    def __init__(self) -> None:
        self._pictures = pictures()

    def get_next(self) -> dict[str, Floats] | None:
        return next(({_INPUT: tile} for tile in self._pictures), None)


def _values(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[list[Floats]]:
    """Yield for each picture the values of these names, shape (channels, height, width)."""
    looking = onnx.ModelProto()
    looking.CopyFrom(model)
    del looking.graph.output[:]
    looking.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(looking.SerializeToString())
    for picture in pictures():
        yield [answer[0] for answer in session.run(None, {_INPUT: picture})]


def published(content: bytes) -> onnx.ModelProto:
    """Return the published network for a picture of any size, with names for its layers."""
    model = onnx.load_from_string(content)
    graph = model.graph
    # Old exporters wrote the weights as inputs, too, and some that no layer uses.
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.input[:], graph.value_info[:]
    graph.initializer.extend(kept)
    shape = (1, 3, "height", "width")
    graph.input.append(helper.make_tensor_value_info(_INPUT, onnx.TensorProto.FLOAT, shape))
    for answer in graph.output:
        answer.type.tensor_type.ClearField("shape")
    for node in graph.node:
        node.name = node.output[0]
    return version_converter.convert_version(model, _OPSET)


def _equalise(model: onnx.ModelProto) -> None:
    """Give all channels before a depthwise convolution one range, and take it back in there."""
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    by_channel = [
        node
        for node in graph.node
        if any(one.name == "group" and one.i > 1 for one in node.attribute)
    ]
    names = [node.input[0] for node in by_channel]
    seen = ([value.max((1, 2)) for value in values] for values in _values(model, names))
    ranges = zip(*seen, strict=True)
    for node, each in zip(by_channel, ranges, strict=True):
        widest = np.max(each, axis=0)
        scale = np.maximum(widest / widest.max(), _SMALLEST)
        before = makers[makers[node.input[0]].input[0]]  # what is between is a ReLU
        _multiply(held[before.input[1]], 1 / scale[:, None, None, None])
        _multiply(held[before.input[2]], 1 / scale)
        _multiply(held[node.input[1]], scale[:, None, None, None])


def _multiply(weights: onnx.TensorProto, by: Floats) -> None:
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * by, weights.name))


def _quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        file, made = Path(folder) / "model.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, file)  # given as it is, it would be changed
        quantize_static(
            file,
            made,
            _Reader(),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(_LAST),
        )
        return onnx.load(made)


def _correct(quantised: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Take from the last biases what the answers are off by in the mean where faces are."""
    held = {tensor.name: tensor for tensor in quantised.graph.initializer}
    makers = {node.output[0]: node for node in quantised.graph.node}
    off: dict[str, list[Floats]] = {name: [] for name in _ANSWERS}
    both = zip(_values(model, _ANSWERS), _values(quantised, _ANSWERS), strict=True)
    for right, ours in both:
        faces = right[0][0] > 0
        for name, one, other in zip(_ANSWERS, right, ours, strict=True):
            off[name].append((other - one)[:, faces])
    for name, differences in off.items():
        bias = held[makers[name].input[2]]
        better = numpy_helper.to_array(bias) - np.concatenate(differences, axis=1).mean(axis=1)
        bias.CopyFrom(numpy_helper.from_array(better, bias.name))


def _take_pixels(model: onnx.ModelProto) -> None:
    """Let the input be a picture's pixels, shape (1, height, width, 3), as 8 bits hold them."""
    graph = model.graph
    first = next(node for node in graph.node if node.input[0] == _INPUT)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if [held[name].item() for name in first.input[1:]] != [1, 0]:
        raise ValueError("the pictures do not show all values from 0 to 255")
    turn = helper.make_node("Transpose", ["pixels"], first.output, perm=(0, 3, 1, 2))
    first.CopyFrom(turn)
    del graph.input[:], graph.value_info[:]
    shape = (1, "height", "width", 3)
    graph.input.append(helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, shape))


def make() -> bytes:
    """Return the network in 8 bits."""
    model = published(weights("centerface.onnx").read_bytes())
    _equalise(model)
    quantised = _quantise(model)
    _correct(quantised, model)
    _take_pixels(quantised)
    onnx.checker.check_model(quantised)
    return quantised.SerializeToString()


if __name__ == "__main__":
    MODEL.write_bytes(make())

"""dlib's residual network as an ONNX model, made from the file that dlib reads.

The file holds the layers from the input on: a tag with a layer's name and version before its
parameters. The tags tell the whole of the network (dlib's ``anet_type``): a convolution and a
pooling, then blocks of two convolutions beside a short cut, then a mean over what is left and a
matrix. Each convolution is followed by a scaling, which is folded into it here.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.face_recog.adapters.classic import CHIP_SIDE
from services.face_recog.adapters.onnx import ModelWriter

MEANS: Final = np.array([122.782, 117.001, 104.298], np.float32)
"""Of red, green and blue: what the network's input layer takes away."""

SCALE: Final = 256
"""What it then divides by."""

_TAG: Final = re.compile(rb"\x05con_4|\x07affine_|\x0aavg_pool_2|\x04fc_2")

Floats = NDArray[np.float32]
Convolution = tuple[Floats, Floats]


def resnet(content: bytes) -> bytes:
    """Return the ONNX model of the file's content: from 1 x 3 x 150 x 150 to 1 x 128 numbers."""
    convolutions, pooled, matrix = _read(content)
    model = ModelWriter()
    first, *rest = convolutions
    value = model.add("Relu", model.add("Conv", "input", *first, strides=(2, 2)))
    value = model.add("MaxPool", value, kernel_shape=(3, 3), strides=(2, 2))
    side = ((CHIP_SIDE - 7) // 2 + 1 - 3) // 2 + 1
    channels = len(first[1])
    for block, (one, other) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
        smaller = 2 * block + 3 in pooled
        how = {"strides": (2, 2)} if smaller else {"pads": (1, 1, 1, 1)}
        long = model.add("Relu", model.add("Conv", value, *one, **how))
        long = model.add("Conv", long, *other, pads=(1, 1, 1, 1))
        if smaller:
            value = model.add("AveragePool", value, kernel_shape=(2, 2), strides=(2, 2))
            # What is missing on either side counts as nothing: channels here, an edge there.
            value = _pad(model, value, (len(other[1]) - channels, 0))
            channels = len(other[1])
            long = _pad(model, long, (0, side // 2 - ((side - 3) // 2 + 1)))
            side //= 2
        value = model.add("Relu", model.add("Add", long, value))
    value = model.add("Flatten", model.add("GlobalAveragePool", value))
    return model.finish(model.add("MatMul", value, matrix))


def _pad(model: ModelWriter, value: str, by: tuple[int, int]) -> str:
    channels, edge = by
    if not any(by):
        return value
    return model.add("Pad", value, np.array([0, 0, 0, 0, 0, channels, edge, edge], np.int64))


def _read(content: bytes) -> tuple[list[Convolution], set[int], Floats]:
    """Return the convolutions, after how many of them there is a short cut that is pooled, and
    the matrix."""  # noqa: D205, D209
    convolutions: list[Convolution] = []
    pooled: set[int] = set()
    weights = np.empty(0, np.float32)
    for name, at in _tags(content):
        if name == b"con_4":
            weights = _read_tensor(content, at)
        elif name == b"affine_":
            scale, shift = np.split(_read_tensor(content, at), 2)
            kernel = 3 if convolutions else 7
            filters = weights[: -len(scale)].reshape(len(scale), -1, kernel, kernel)
            biases = weights[-len(scale) :]
            convolutions.append((filters * scale[:, None, None, None], biases * scale + shift))
        elif name == b"avg_pool_2":
            pooled.add(len(convolutions))
        else:
            outputs, start = _read_int(content, at)
            inputs, start = _read_int(content, start)
            return convolutions, pooled, _read_tensor(content, start).reshape(inputs, outputs)
    raise ValueError("it is no network of this kind: its last layer is missing")


def _tags(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each layer's name and where it ends."""
    for found in _TAG.finditer(content):
        yield found.group()[1:], found.end()


def _read_int(content: bytes, at: int) -> tuple[int, int]:
    """Return one of dlib's integers and where it ends: a byte with its length, then its bytes."""
    end = at + 1 + (content[at] & 0x0F)
    return int.from_bytes(content[at + 1 : end], "little"), end


def _read_tensor(content: bytes, at: int) -> Floats:
    """Return a tensor's numbers: there is its version, its four sides, and float32."""
    _, at = _read_int(content, at)
    numbers = 1
    for _ in range(4):
        side, at = _read_int(content, at)
        numbers *= side
    return np.frombuffer(content, "<f4", numbers, at)

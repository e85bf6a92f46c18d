"""ONNX models: dlib's residual network as one, and running them in the thread that a worker has.

The file that dlib reads holds the layers from the input on: a tag with a layer's name and version
before its parameters. The tags tell the whole of the network (dlib's ``anet_type``): a convolution
and a pooling, then blocks of two convolutions beside a short cut, then a mean over what is left and
a matrix. Each convolution is followed by a scaling, which is folded into it here.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray

from services.face_recog.adapters.classic import CHIP_SIDE

MEANS: Final = np.array([122.782, 117.001, 104.298], np.float32)
"""Of red, green and blue: what the input layer of dlib's network takes away."""

SCALE: Final = 256
"""What it then divides by."""

_TAG: Final = re.compile(rb"\x05con_4|\x07affine_|\x0aavg_pool_2|\x04fc_2")

Floats = NDArray[np.float32]
Convolution = tuple[Floats, Floats]

# The part of ONNX's format that is used here.
_FORMAT: Final = """
name: "services/face_recog/onnx_part.proto" package: "onnx_part"
message_type { name: "Model"
  field { name: "ir_version" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: "Graph" label: LABEL_OPTIONAL }
  field { name: "opset_import" number: 8 type: TYPE_MESSAGE type_name: "Opset"
          label: LABEL_REPEATED }
}
message_type { name: "Opset"
  field { name: "version" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL }
}
message_type { name: "Graph"
  field { name: "node" number: 1 type: TYPE_MESSAGE type_name: "Node" label: LABEL_REPEATED }
  field { name: "name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "initializer" number: 5 type: TYPE_MESSAGE type_name: "Tensor"
          label: LABEL_REPEATED }
  field { name: "input" number: 11 type: TYPE_MESSAGE type_name: "Value" label: LABEL_REPEATED }
  field { name: "output" number: 12 type: TYPE_MESSAGE type_name: "Value" label: LABEL_REPEATED }
}
message_type { name: "Node"
  field { name: "input" number: 1 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "output" number: 2 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "op_type" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "attribute" number: 5 type: TYPE_MESSAGE type_name: "Ints" label: LABEL_REPEATED }
}
message_type { name: "Ints"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "ints" number: 8 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "type" number: 20 type: TYPE_INT32 label: LABEL_OPTIONAL }
}
message_type { name: "Tensor"
  field { name: "dims" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "data_type" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "name" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "raw_data" number: 9 type: TYPE_BYTES label: LABEL_OPTIONAL }
}
message_type { name: "Value"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "type" number: 2 type: TYPE_BYTES label: LABEL_OPTIONAL }
}
"""

_ERRORS: Final = 3
"""ONNX Runtime's number of that level."""

_WORK_BYTES: Final = 128 * 1024**2
"""Address space for what models hold, in one piece: what is not used of it takes no memory, and
pieces for each size of picture that comes took 40 MB more."""

_INTS: Final = 7
_TENSOR_TYPES: Final = {"float32": 1, "int64": 7}
_FLOATS: Final = b"\n\x02\x08\x01"
"""ONNX's TypeProto of float32 in any shape."""


@functools.cache
def _message() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_FORMAT, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx_part.Model"))


class ModelWriter:
    """Writes a model of one input, named ``input``, node by node."""

    def __init__(self) -> None:
        # Of 2021: every version of ONNX Runtime that is installed today reads them.
        self._model = _message()(ir_version=8)
        self._model.opset_import.add(version=13)
        self._model.graph.name = "model"
        self._model.graph.input.add(name="input", type=_FLOATS)

    def add(self, kind: str, *inputs: str | NDArray[Any], **attributes: Sequence[int]) -> str:
        """Add a node of this kind on other nodes' results or constants; return its result."""
        graph = self._model.graph
        name = f"{kind}_{len(graph.node)}"
        node = graph.node.add(op_type=kind, output=[name])
        for number, value in enumerate(inputs):
            if isinstance(value, str):
                node.input.append(value)
                continue
            node.input.append(f"{name}_{number}")
            graph.initializer.add(
                name=f"{name}_{number}",
                dims=value.shape,
                data_type=_TENSOR_TYPES[value.dtype.name],
                raw_data=value.tobytes(),
            )
        for key, ints in attributes.items():
            node.attribute.add(name=key, ints=ints, type=_INTS)
        return name

    def finish(self, output: str) -> bytes:
        """Return the model whose output is this node's result."""
        self._model.graph.output.add(name=output, type=_FLOATS)
        written: bytes = self._model.SerializeToString()
        return written


@functools.cache
def _share_memory() -> None:
    """Let all models of the process work in the same memory: only one runs at a time."""
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        onnxruntime.OrtArenaCfg({"initial_chunk_size_bytes": _WORK_BYTES}),
    )


class Network:
    """A model. It has no threads, so a process may fork after it was loaded."""

    def __init__(self, model: bytes) -> None:
        _share_memory()
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS  # weights that a model does not use are no news
        # Plans of the memory are kept for each size of picture that ever came.
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        [self._input] = [node.name for node in self._session.get_inputs()]

    def run(self, value: NDArray[np.float32 | np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs for a value of the one input."""
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: value})
        return outputs


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

"""ONNX models, run by ONNX Runtime in the one thread that a worker has."""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray

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

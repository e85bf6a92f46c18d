"""ONNX models, run by ONNX Runtime in the one thread that a worker has."""

from typing import Any, Final

import numpy as np
import onnxruntime
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray

# The part of ONNX's format that is changed here; protobuf carries the rest along unread.
_FORMAT: Final = """
name: "services/face_recog/onnx_part.proto" package: "onnx_part"
message_type { name: "Model"
  field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: "Graph" label: LABEL_OPTIONAL }
}
message_type { name: "Graph"
  field { name: "input" number: 11 type: TYPE_MESSAGE type_name: "Value" label: LABEL_REPEATED }
  field { name: "output" number: 12 type: TYPE_MESSAGE type_name: "Value" label: LABEL_REPEATED }
}
message_type { name: "Value"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "type" number: 2 type: TYPE_BYTES label: LABEL_OPTIONAL }
}
"""

_ERRORS: Final = 3
"""ONNX Runtime's number of that level."""

_FLOATS: Final = b"\n\x02\x08\x01"
"""ONNX's TypeProto of float32 in any shape."""


def free_shapes(model: bytes, name: str) -> bytes:
    """Return a model that takes its input ``name`` in any size.

    Whatever else it calls an input are weights, as old exporters wrote them. As inputs they could
    change between two runs, which keeps ONNX Runtime from folding them: it takes twice the time.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_FORMAT, descriptor_pb2.FileDescriptorProto()))
    part: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx_part.Model"))
    parsed = part.FromString(model)
    del parsed.graph.input[:]
    parsed.graph.input.add(name=name, type=_FLOATS)
    for output in parsed.graph.output:
        output.type = _FLOATS
    changed: bytes = parsed.SerializeToString()
    return changed


class Network:
    """A model of one input. It has no threads, so a process may fork after it was loaded."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS  # weights that a model does not use are no news
        # Plans of the memory are kept for each size of picture that ever came.
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        [self._input] = [one.name for one in self._session.get_inputs()]

    def run(self, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for one input."""
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: value})
        return outputs

import json
import struct
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import RecogniserFailedError
from services.common.faces import Box, MeasuredFace
from services.common.quality import Quality
from services.face_recog.adapters.worker import Steps
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import RejectedError

ENGINE = Engine("an engine", 128)
FACE = asdict(
    MeasuredFace(Box(1, 2, 3, 4), 1.0, quality=Quality(0.25, "blurred", 1.0, 0.25, 1.0, 1.0))
)
HEAD = {
    "width": 9,
    "height": 9,
    "faces": [FACE],
    "chip_bytes": 27,
    "encodings": [[0.5] * 128],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([*HEAD.values()]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["rejection", "reason", "failure", *HEAD, *FACE]), inner)
    ),
)


def with_face(change: dict[str, Any]) -> dict[str, Any]:
    return {**HEAD, "faces": [{**FACE, **change}]}


def packed(head: Any) -> bytes:
    encoded = json.dumps(head).encode()
    return struct.pack(">I", len(encoded)) + encoded


GOOD = packed(HEAD)


def damaged(position: int, bit: int) -> bytes:
    content = bytearray(GOOD)
    content[position % len(content)] ^= 1 << bit
    return bytes(content)


@given(
    st.binary()
    | JSON.map(packed)
    | st.dictionaries(st.sampled_from([*HEAD]), JSON).map(lambda part: packed({**HEAD, **part}))
    | st.dictionaries(st.sampled_from([*FACE]), JSON).map(lambda part: packed(with_face(part)))
    | st.builds(damaged, st.integers(0), st.integers(0, 7))
    | st.integers(0, len(GOOD)).map(lambda length: GOOD[:length])
)
def test_whatever_a_worker_says_is_an_answer_or_its_fault(answer: bytes) -> None:
    steps = Steps(ENGINE, b"picture", 0, 1.0)
    try:
        found = steps.take(answer)
    except (RecogniserFailedError, RejectedError):
        return
    assert found is None or all(face.encoding.shape == (128,) for face in found.faces)


@pytest.mark.parametrize(
    "change",
    [
        {"encodings": [[0.5] * 127]},
        {"encodings": [[float("nan")] * 128]},
        {"faces": []},
        {"faces": 1},
        {"faces": [[1, 2, 3, 4]]},
        with_face({"box": [1, 2, 3, 4]}),
        with_face({"box": {"left": 1, "top": 2, "right": 3}}),
        with_face({"quality": None}),
        with_face({"quality": {**FACE["quality"], "score": float("nan")}}),
        with_face({"quality": {**FACE["quality"], "light": 2.0}}),
        with_face({"quality": {**FACE["quality"], "flaw": 7}}),
        with_face({"age": 7}),
    ],
    ids=str,
)
def test_an_answer_of_another_shape_is_a_fault(change: dict[str, Any]) -> None:
    steps = Steps(ENGINE, b"picture", 0, 1.0)
    with pytest.raises(RecogniserFailedError, match="makes no sense"):
        steps.take(packed({**HEAD, **change}))

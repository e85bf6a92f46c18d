import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.face_recog.adapters.worker import decode_answer
from services.face_recog.domain import RecogniserFaultError, RejectedError

FACE = {"box": [1, 2, 3, 4], "score": 1.0, "encoding": [0.5] * 128}
GOOD = json.dumps({"width": 9, "height": 9, "faces": [FACE]}).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just(FACE),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["width", "height", "faces", "problem", "reason", "failure", *FACE]),
            inner,
        )
    ),
)


def damaged(position: int, bit: int) -> bytes:
    content = bytearray(GOOD)
    content[position % len(content)] ^= 1 << bit
    return bytes(content)


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(damaged, st.integers(0), st.integers(0, 7))
    | st.integers(0, len(GOOD)).map(lambda length: GOOD[:length])
)
def test_whatever_a_worker_says_is_an_answer_or_its_fault(answer: bytes) -> None:
    try:
        found = decode_answer(answer)
    except (RecogniserFaultError, RejectedError):
        return
    assert all(face.encoding.shape == (128,) for face in found.faces)


@pytest.mark.parametrize(
    "change",
    [{"encoding": [0.5] * 127}, {"encoding": [float("nan")] * 128}, {"box": [1, 2, 3]}, {"box": 1}],
    ids=str,
)
def test_an_answer_of_another_shape_is_a_fault(change: dict[str, Any]) -> None:
    answer = {"width": 9, "height": 9, "faces": [{**FACE, **change}]}
    with pytest.raises(RecogniserFaultError, match="makes no sense"):
        decode_answer(json.dumps(answer).encode())

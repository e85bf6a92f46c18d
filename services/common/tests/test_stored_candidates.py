import json
from typing import Any

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from structlog.testing import capture_logs

from services.common.column_types import Candidates
from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.common.tables import faces, images

read = Candidates().result_processor(sqlite.dialect(), None)
CANDIDATE = {"person": "Ada", "image_name": "Ada/1.jpg", "distance": 0.25}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just(CANDIDATE),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*CANDIDATE]) | st.text(), inner)
    ),
)


@given(st.text() | JSON.map(json.dumps) | st.binary() | st.integers())
def test_whatever_is_stored_is_read_as_sound_candidates(value: Any) -> None:
    for one in read(value):
        assert isinstance(one["person"] + one["image_name"], str)
        assert isinstance(one["distance"] + 1, int | float)


@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_never_ends_the_reading(at: int, bit: int) -> None:
    value = bytearray(json.dumps([CANDIDATE] * 3).encode())
    value[at % len(value)] ^= 1 << bit
    assert len(read(value.decode(errors="replace"))) <= 3


def test_deep_nesting_is_damage() -> None:
    with capture_logs() as logs:
        assert read("[" * 100_000) == []
    assert [line["event"] for line in logs] == ["candidates of a face are damaged and left out"]


async def test_a_damaged_value_takes_no_other_rows_with_it(
    sqlite_settings: DatabaseSettings,
) -> None:
    database = Database(sqlite_settings)
    row = {"name": "a", "status": "processed", "attempt": 1, "created_at": 1, "updated_at": 1}
    box = {"left": 0, "top": 0, "right": 1, "bottom": 1, "detection_score": 1.0, "ambiguous": False}
    async with database.transaction() as connection:
        for number in (1, 2):
            await connection.execute(
                sa.insert(images), [{"id": number, "path": str(number), **row}]
            )
            face = {"image_id": number, "face_index": 0, **box, "candidates": [CANDIDATE]}
            await connection.execute(sa.insert(faces), [face])
        await connection.execute(sa.text("UPDATE faces SET candidates = '[{' WHERE image_id = 1"))
    with capture_logs() as logs:
        async with database.reading() as connection:
            query = sa.select(faces.c.candidates).order_by(faces.c.image_id)
            assert (await connection.scalars(query)).all() == [[], [CANDIDATE]]
    assert ["value" in line for line in logs] == [False]  # which has names
    await database.close()

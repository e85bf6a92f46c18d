"""A face's encoding in the database: what it is read as, and that it goes with its face."""

import math
import struct
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from structlog.testing import capture_logs

from services.common.database import Database
from services.common.faces import MAX_NUMBERS
from services.common.tables import face_encodings, faces, images

read: Any = face_encodings.c.encoding.type.result_processor(sqlite.dialect(), None)
ENCODING = struct.pack("<128f", *range(128))
IMAGE = {"name": "a", "status": "processed", "attempt": 1, "created_at": 1, "updated_at": 1}
FACE = {
    "left": 0,
    "top": 0,
    "right": 1,
    "bottom": 1,
    "detection_score": 1.0,
    "ambiguous": False,
    "candidates": [],
}


async def store(database: Database, *encodings: bytes) -> None:
    """Store an image with a face for each."""
    for number, encoding in enumerate(encodings, start=1):
        keys = {"image_id": number, "face_index": 0}
        async with database.transaction() as connection:
            await connection.execute(sa.insert(images).values(id=number, path=str(number), **IMAGE))
            await connection.execute(sa.insert(faces).values(**keys, **FACE))
            await connection.execute(
                sa.insert(face_encodings).values(**keys, engine="e", encoding=encoding)
            )


async def stored(database: Database) -> list[tuple[int, bytes | None]]:
    async with database.reading() as connection:
        rows = await connection.execute(
            sa.select(face_encodings.c.image_id, face_encodings.c.encoding).order_by(
                face_encodings.c.image_id
            )
        )
        return [(row.image_id, row.encoding) for row in rows]


numbers = st.lists(st.floats(width=32), max_size=20).map(
    lambda some: struct.pack(f"<{len(some)}f", *some)
)


@given(st.binary() | numbers | st.text() | st.none() | st.integers() | st.floats())
def test_whatever_is_stored_is_read_as_what_can_be_compared_or_as_nothing(value: Any) -> None:
    found = read(value)
    if found is None:
        return
    assert found == value
    some = struct.unpack(f"<{len(found) // 4}f", found)
    assert 0 < len(some) <= MAX_NUMBERS
    assert 0 < math.hypot(*some) < math.inf


@given(st.integers(0, len(ENCODING) - 1), st.integers(0, 7), st.integers(0, len(ENCODING)))
def test_damage_never_ends_the_reading(at: int, bit: int, length: int) -> None:
    value = bytearray(ENCODING)
    value[at] ^= 1 << bit
    for damaged in (bytes(value), ENCODING[:length]):
        assert read(damaged) in {damaged, None}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        ENCODING[:-1],
        bytes(4 * (MAX_NUMBERS + 1)),
        bytes(512),
        struct.pack("<2f", 1, math.nan),
        struct.pack("<2f", 1, -math.inf),
        "text",
        None,
        10**9,
    ],
)
def test_what_cannot_be_compared_is_left_out_and_told_without_showing_it(value: Any) -> None:
    with capture_logs() as logs:
        assert read(value) is None
    [line] = logs
    assert line["event"] == "encoding of a face is damaged and left out"
    assert len(str(line["reason"])) < 100


async def test_a_damaged_one_takes_no_others_with_it(database: Database) -> None:
    largest = struct.pack(f"<{MAX_NUMBERS}f", *range(MAX_NUMBERS))
    await store(database, ENCODING, b"damaged", largest)
    assert await stored(database) == [(1, ENCODING), (2, None), (3, largest)]


@pytest.mark.parametrize("table", ["images", "faces"])
async def test_it_goes_with_its_face_and_its_image(database: Database, table: str) -> None:
    """Whoever deletes these, also an older version that knows nothing of it."""
    await store(database, ENCODING, ENCODING)
    column = "id" if table == "images" else "image_id"
    async with database.transaction() as connection:
        await connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = 1")
    assert await stored(database) == [(2, ENCODING)]


async def test_no_error_shows_it(database: Database) -> None:
    values = {"image_id": 1, "face_index": 0, "engine": "e", "encoding": ENCODING}
    with pytest.raises(sa.exc.IntegrityError) as caught:
        async with database.transaction() as connection:
            await connection.execute(sa.insert(face_encodings).values(values))
    assert "foreign key" in str(caught.value).lower()
    for text in (str(caught.value), repr(caught.value)):
        assert repr(ENCODING)[2:20] not in text

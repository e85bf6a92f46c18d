"""Rows that this version has not written: damaged, or from a version to come.

On SQLite, since MariaDB itself refuses what is no JSON.
"""

import json
from typing import Any

import httpx
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.database import Database
from services.common.faces import DecidedBy
from services.common.image_states import Status
from services.common.settings import DatabaseSettings
from services.common.tables import faces, images

whole = st.integers(-(2**63), 2**63 - 1)
small = st.integers(-(2**31), 2**31 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
anything = st.recursive(
    st.none() | st.booleans() | whole | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
candidate = st.fixed_dictionaries(
    {}, optional={"person": anything, "image_name": anything, "distance": anything}
)
damaged = st.one_of(
    st.builds(json.dumps, anything),
    st.builds(json.dumps, st.lists(candidate, max_size=3)),
    st.builds(lambda value, cut: json.dumps(value)[:cut], anything, st.integers(0, 40)),
    text,
    st.just("[" * 100_000),
)
number = st.floats(0, 1) | anything
damaged_quality = damaged | st.builds(
    json.dumps,
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("score", "size", "sharpness", "pose", "light"), number),
            "flaw": anything,
        }
    ),
)
row = st.fixed_dictionaries(
    {
        "name": text,
        "status": st.sampled_from([*Status, "archived", ""]),
        "attempt": small,
        "error": st.none() | text,
        "created_at": whole,
        "updated_at": whole,
        "processed_at": st.none() | whole,
        "due_at": st.none() | whole,
        "width": st.none() | small,
        "height": st.none() | small,
        "engine": st.none() | text,
    }
)
face = st.fixed_dictionaries(
    {
        "left": small,
        "top": small,
        "right": small,
        "bottom": small,
        "detection_score": st.floats(allow_nan=False),
        "ambiguous": st.booleans(),
        "person": st.none() | text,
        "distance": st.none() | st.floats(allow_nan=False),
        "decided_by": st.none() | text | st.sampled_from(DecidedBy),
    }
)


@given(row=row, face=face, candidates=damaged, quality=damaged_quality)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_row_is_shown(  # noqa: PLR0917, as many as Hypothesis makes
    sqlite_settings: DatabaseSettings,
    plain: httpx.AsyncClient,
    row: dict[str, Any],
    face: dict[str, Any],
    candidates: str,
    quality: str,
) -> None:
    database = Database(sqlite_settings)
    async with database.transaction() as connection:
        await connection.execute(sa.delete(images))
        await connection.execute(sa.insert(images).values(path="a.jpg", **row))
        image_id = await connection.scalar(sa.select(images.c.id))
        await connection.execute(
            sa.insert(faces).values(
                image_id=image_id,
                face_index=0,
                candidates=sa.type_coerce(candidates, sa.Text),
                quality=sa.type_coerce(quality, sa.Text),
                **face,
            )
        )
    await database.close()
    for address in (f"/images/{image_id}", "/images", "/status"):
        answer = await plain.get(address)
        assert answer.status_code == 200, answer.text
        assert answer.json()

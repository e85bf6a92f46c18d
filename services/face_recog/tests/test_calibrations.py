"""What replicas calibrate by: it comes back as it was kept, and all of them use the same."""

import hashlib
import struct
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.common.errors import ObjectStoreUnavailableError
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.calibration import Calibration
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.strangers import Model
from services.face_recog.service.kept_calibration import KeptCalibration, pack, unpack
from services.face_recog.service.kept_encodings import folder_of

ENGINE: Final = Engine("dlib-1+rules-1", 4)
OTHER: Final = Engine("dlib-2+rules-1", 4)
KEY: Final = folder_of(ENGINE) + "calibration"


def model(seed: int = 1, kinds: int = 2, dimensions: int = 3, size: int = 4) -> Model:
    drawing = np.random.default_rng(seed)
    return Model(
        300,
        drawing.random(kinds).astype(np.float32) + 0.1,
        drawing.normal(size=(kinds, size)).astype(np.float32),
        drawing.normal(size=(dimensions, size)).astype(np.float32),
    )


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


WITH: Final = pack(ENGINE, Calibration(3, 20, model()))
WITHOUT: Final = pack(ENGINE, Calibration(3, 20))


def test_the_layout_is_the_documented_one() -> None:
    name = ENGINE.name.encode()
    head = b"FSKC" + struct.pack("<HH", 1, len(name)) + name + struct.pack("<II", 3, 20)
    assert sealed(head + struct.pack("<IHH", 0, 0, 0)) == WITHOUT
    one = model()
    numbers = [*one.weights, *one.means.ravel(), *one.spread.ravel()]
    assert sealed(head + struct.pack("<IHH", 300, 2, 3) + struct.pack("<22f", *numbers)) == WITH


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0), st.integers(1, 12))
def test_what_is_kept_comes_back(version: int, people: int, seed: int, kinds: int) -> None:
    one = model(seed, kinds)
    found = unpack(pack(ENGINE, Calibration(version, people, one)), ENGINE)
    assert (found.version, found.people) == (version, people)
    assert found.model
    assert found.model.seen == one.seen
    for part in ("weights", "means", "spread"):
        np.testing.assert_array_equal(getattr(found.model, part), getattr(one, part))
    assert unpack(pack(ENGINE, Calibration(version, people)), ENGINE) == Calibration(
        version, people
    )


@given(st.binary() | st.binary().map(sealed) | st.binary().map(lambda end: sealed(WITH[:30] + end)))
def test_random_bytes_are_no_calibration(content: bytes) -> None:
    with pytest.raises(DamagedError):
        unpack(content, ENGINE)


@given(st.sampled_from([WITH, WITHOUT]), st.data())
def test_a_flipped_bit_and_a_cut_are_noticed(good: bytes, data: st.DataObject) -> None:
    flipped = bytearray(good)
    flipped[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    for damaged in (bytes(flipped), cut, good + cut, good + b"\0"):
        if damaged != good:
            with pytest.raises(DamagedError):
                unpack(damaged, ENGINE)


@pytest.mark.parametrize(
    "foreign",
    [
        pack(OTHER, Calibration(3, 20, model())),
        sealed(WITH[:4] + b"\2" + WITH[5:-32]),
        sealed(WITH[:-36]),
        sealed(WITHOUT[:-32] + bytes(4)),
        sealed(WITHOUT[:-33]),
        pack(ENGINE, Calibration(3, 20, model(size=5))),
        pack(ENGINE, Calibration(3, 20, Model(9, *(np.full((1, 4), np.nan, "f4"),) * 3))),
        pack(
            ENGINE, Calibration(3, 20, Model(9, np.zeros(1, "f4"), *(np.ones((1, 4), "f4"),) * 2))
        ),
    ],
    ids=["engine", "layout", "cut", "too long", "head cut", "size", "no numbers", "no weights"],
)
def test_a_sound_file_of_something_else_is_noticed(foreign: bytes) -> None:
    with pytest.raises(DamagedError):
        unpack(foreign, ENGINE)


@pytest.fixture
def store(folder_store_settings: ObjectStoreSettings) -> ObjectStore:
    return ObjectStore(folder_store_settings)


async def test_what_is_unchanged_is_the_same_object_and_another_is_seen(store: ObjectStore) -> None:
    first, second = KeptCalibration(store, ENGINE), KeptCalibration(store, ENGINE)
    assert await first.read() is None
    await first.write(Calibration(1, 20, model()))
    [seen, again] = await second.read(), await second.read()
    assert seen
    assert seen is again
    await second.read()
    await second.write(Calibration(2, 30, model(2)))
    found = await first.read()
    assert found
    assert found.version == 2


async def test_engines_have_calibrations_of_their_own(store: ObjectStore) -> None:
    ours, theirs = KeptCalibration(store, ENGINE), KeptCalibration(store, OTHER)
    for kept, version in ((ours, 1), (theirs, 7)):
        await kept.read()
        await kept.write(Calibration(version, 20, model(version)))
    assert (await KeptCalibration(store, ENGINE).read()) != (
        await KeptCalibration(store, OTHER).read()
    )
    found = await ours.read()
    assert found
    assert found.version == 1


@pytest.mark.parametrize("content", [b"", b"FSKC", bytes(100), bytes(100_000), WITH[:-1]])
async def test_what_is_damaged_is_said_once_and_may_be_replaced(
    store: ObjectStore, content: bytes
) -> None:
    await store.put(KEY, content)
    kept = KeptCalibration(store, ENGINE)
    with capture_logs() as logs:
        assert await kept.read() is None
        assert await kept.read() is None
    assert [line["event"] for line in logs] == ["kept calibration is damaged and made again"]
    await kept.write(Calibration(1, 10))
    assert await KeptCalibration(store, ENGINE).read() == Calibration(1, 10)


async def test_what_cannot_be_read_is_not_replaced(
    folder_store_settings: ObjectStoreSettings,
) -> None:
    """It may be newer than what would take its place."""

    class Away(ObjectStore):
        away = False

        async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            if self.away:
                raise ObjectStoreUnavailableError("no answer")
            return await super().get(key, max_bytes=max_bytes)

    away = Away(folder_store_settings)
    kept = KeptCalibration(away, ENGINE)
    await kept.read()
    await kept.write(Calibration(5, 10))
    away.away = True
    assert await kept.read() is None
    await kept.write(Calibration(1, 10))
    away.away = False
    assert await kept.read() == Calibration(5, 10)

import hashlib
import io
import os
import pickle
import struct
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.common.objects import ObjectInfo, ObjectStore, ObjectStoreUnavailableError
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain import Engine
from services.face_recog.kept import (
    GRACE_SECONDS,
    DamagedError,
    Faces,
    KeptEncodings,
    pack,
    unpack,
)

ENGINE = Engine("dlib-1+rules-1", 128)
OTHER = Engine("dlib-2+rules-1", 128)
PICTURE = hashlib.sha256(b"a picture").hexdigest()
NUMBERS = np.random.default_rng(1).normal(size=128).astype(np.float32).astype(np.float64)
ONE = pack(ENGINE, PICTURE, Faces(1, NUMBERS))
NONE = pack(ENGINE, PICTURE, Faces(0))


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_the_layout_is_the_documented_one() -> None:
    name = ENGINE.name.encode()
    head = b"FSKE" + struct.pack("<HH", 1, len(name)) + name + hashlib.sha256(b"a picture").digest()
    numbers = struct.pack("<I128f", 1, *NUMBERS)
    assert sealed(head + numbers) == ONE
    assert sealed(head + bytes(4)) == NONE


@given(count=st.just(1) | st.integers(0, 2**32 - 1), seed=st.integers(0))
def test_what_is_kept_comes_back(count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).normal(size=128)
    encoding = numbers if count == 1 else None
    found = unpack(pack(ENGINE, PICTURE, Faces(count, encoding)), ENGINE, PICTURE)
    assert found.count == count
    assert (found.encoding is None) == (encoding is None)
    if found.encoding is not None:
        assert found.encoding.tolist() == numbers.astype(np.float32).tolist()


@given(st.binary() | st.binary().map(sealed) | st.binary().map(lambda end: sealed(ONE[:52] + end)))
def test_random_bytes_are_no_encoding(content: bytes) -> None:
    with pytest.raises(DamagedError):
        unpack(content, ENGINE, PICTURE)


@given(st.sampled_from([ONE, NONE]), st.data())
def test_a_flipped_bit_is_noticed(good: bytes, data: st.DataObject) -> None:
    damaged = bytearray(good)
    damaged[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError, match="checksum"):
        unpack(bytes(damaged), ENGINE, PICTURE)


@given(st.sampled_from([ONE, NONE]), st.data())
def test_a_cut_and_a_longer_file_are_noticed(good: bytes, data: st.DataObject) -> None:
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    for damaged in (cut, good + cut, good + b"\0", cut + bytes(len(good) - len(cut))):
        if damaged != good:  # a file may end in zeros
            with pytest.raises(DamagedError):
                unpack(damaged, ENGINE, PICTURE)


@pytest.mark.parametrize(
    "foreign",
    [
        pack(OTHER, PICTURE, Faces(1, NUMBERS)),
        pack(ENGINE, hashlib.sha256(b"another").hexdigest(), Faces(1, NUMBERS)),
        sealed(ONE[:4] + b"\2" + ONE[5:-32]),
        sealed(ONE[:-36]),
        sealed(ONE[:-32] + bytes(4)),
        sealed(NONE[:-33]),
        sealed(NONE[:-32] + bytes(512)),
        pack(ENGINE, PICTURE, Faces(1, np.full(128, np.nan))),
        pack(ENGINE, PICTURE, Faces(1, np.full(128, np.inf))),
    ],
    ids=[
        "engine",
        "picture",
        "version",
        "numbers-missing",
        "too-many-numbers",
        "count-missing",
        "numbers-of-nobody",
        "nan",
        "infinite",
    ],
)
def test_a_sound_file_of_something_else_is_noticed(foreign: bytes) -> None:
    with pytest.raises(DamagedError):
        unpack(foreign, ENGINE, PICTURE)


def npy(array: Any, **options: bool) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, encodings=np.zeros((1, 128)))
    return content.getvalue()


def zip_of(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, b"x")
    return content.getvalue()


@pytest.fixture
def store(folder_store_settings: ObjectStoreSettings) -> ObjectStore:
    return ObjectStore(folder_store_settings)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        npy(np.zeros((1, 128))),
        npy(np.array([[{}]], dtype=object), allow_pickle=True),
        b"\x93NUMPY\x01\0v\0{'descr': '<f8', 'shape': (" + b"9" * 70 + b", 128), }\n",
        npz(),
        npz()[:-20],
        zip_of("encodings.npy"),
        b"PK\x03\x04",
        pickle.dumps(os.getcwd),
        bytes(10_000_000),
    ],
    ids=[
        "empty",
        "text",
        "npy",
        "npy-object",
        "npy-huge",
        "npz",
        "npz-cut",
        "zip",
        "zip-start",
        "pickle",
        "10-MB",
    ],
)
async def test_whatever_lies_there_is_made_again_and_replaced(
    store: ObjectStore, content: bytes
) -> None:
    kept = KeptEncodings(store, ENGINE)
    key = f"encodings/{ENGINE.name}/{PICTURE}"
    await store.put(key, content)
    with capture_logs() as logs:
        assert await kept.read(PICTURE) is None
    assert [(line["event"], line["key"]) for line in logs] == [
        ("kept encoding is damaged and made again", key)
    ]
    assert logs[0]["reason"]
    await kept.write(PICTURE, Faces(1, NUMBERS))
    found = await kept.read(PICTURE)
    assert found is not None
    assert found.encoding is not None
    assert np.array_equal(found.encoding, NUMBERS)


async def test_a_folder_in_its_place_costs_only_time(
    store: ObjectStore, folder_store_settings: ObjectStoreSettings
) -> None:
    await store.put(f"encodings/{ENGINE.name}/{PICTURE}/something", b"x")
    kept = KeptEncodings(store, ENGINE)
    assert await kept.read(PICTURE) is None
    await kept.write(PICTURE, Faces(1, NUMBERS))
    await kept.sweep()
    await kept.remove(set())
    assert await kept.read(PICTURE) is None


class AgedStore:
    """A store that says of objects that they are older than they are."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.get, self.put, self.delete = store.get, store.put, store.delete
        self.ages: dict[str, float] = {}

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in self._store.list(prefix):
            age = next((age for start, age in self.ages.items() if info.key.startswith(start)), 0.0)
            yield ObjectInfo(info.key, info.size, info.tag, info.modified - age)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


async def keys(store: ObjectStore) -> set[str]:
    return {info.key.removeprefix("encodings/") async for info in store.list("encodings/")}


async def test_only_what_no_known_picture_has_goes(any_store: ObjectStore) -> None:
    for info in [info async for info in any_store.list("encodings/")]:
        await any_store.delete(info.key)
    ours, theirs = KeptEncodings(any_store, ENGINE), KeptEncodings(any_store, OTHER)
    for number in range(4):
        await ours.write(digest(number), Faces(0))
        await theirs.write(digest(number), Faces(0))
    await any_store.put("encodings/notes.txt", b"somebody's")
    await any_store.put(f"encodings/{ENGINE.name}/notes.txt", b"somebody's")
    await ours.sweep()
    await ours.remove({digest(1), digest(2)})
    wanted = {
        f"{engine}/{digest(number)}" for engine in (ENGINE.name, OTHER.name) for number in (1, 2)
    }
    marks = {f"{ENGINE.name}/in-use", f"{OTHER.name}/in-use"}
    assert await keys(any_store) == wanted | marks | {"notes.txt", f"{ENGINE.name}/notes.txt"}

    await ours.write(digest(7), Faces(0))  # by another replica: its picture was listed later
    ours.forget(digest(1))
    await ours.remove({digest(2)})
    assert await keys(any_store) == (wanted - {f"{ENGINE.name}/{digest(1)}"}) | marks | {
        "notes.txt",
        f"{ENGINE.name}/notes.txt",
        f"{ENGINE.name}/{digest(7)}",
    }


async def test_two_engines_beside_each_other_keep_theirs_and_a_former_one_goes_after_a_day(
    store: ObjectStore,
) -> None:
    aged = AgedStore(store)
    old, new = KeptEncodings(aged, ENGINE), KeptEncodings(aged, OTHER)
    former = "dlib-0+rules-1"
    for engine in (ENGINE.name, former):
        for number in range(3):
            await store.put(f"encodings/{engine}/{digest(number)}", b"kept long ago")
    wanted = {digest(number) for number in range(3)}
    aged.ages = {
        f"encodings/{engine}/{name[:3]}": 1e7 for engine in (ENGINE.name, former) for name in wanted
    }

    async def look() -> None:
        for replica in (old, new):
            await replica.sweep()
            await replica.remove(wanted)

    await look()
    everything = {f"{engine}/{name}" for engine in (ENGINE.name, former) for name in wanted}
    everything |= {f"{engine}/in-use" for engine in (ENGINE.name, OTHER.name, former)}
    assert await keys(store) == everything, "an engine without a mark has a day from now on"

    aged.ages[f"encodings/{former}/"] = GRACE_SECONDS - 60
    await look()
    assert await keys(store) == everything
    aged.ages[f"encodings/{former}/"] = GRACE_SECONDS + 60
    await look()
    assert await keys(store) == {one for one in everything if not one.startswith(former)}

    # The version before was taken away; until then each of its looks renewed its mark.
    aged.ages = {f"encodings/{ENGINE.name}/": GRACE_SECONDS + 60}
    await old.sweep()
    await old.remove(wanted)
    assert f"{ENGINE.name}/{digest(0)}" in await keys(store), "nobody removes what is its own"
    await new.sweep()
    await new.remove(wanted)
    assert await keys(store) == {f"{OTHER.name}/in-use"}


async def test_a_sweep_removes_some_at_a_time_and_a_mark_last(store: ObjectStore) -> None:
    former = "dlib-0+rules-1"
    for number in range(700):
        await store.put(f"encodings/{former}/{digest(number)}", b"")
    await store.put(f"encodings/{former}/in-use", b"")
    aged = AgedStore(store)
    aged.ages = {f"encodings/{former}/": GRACE_SECONDS + 60}
    kept = KeptEncodings(aged, ENGINE)
    await kept.sweep()
    await kept.remove(set())
    left = await keys(store)
    assert 0 < len(left) < 300
    assert f"{former}/in-use" in left
    await kept.remove(set())
    assert await keys(store) == {f"{ENGINE.name}/in-use"}


async def test_a_listing_that_breaks_off_removes_nothing(
    store: ObjectStore,
) -> None:
    await store.put(f"encodings/{ENGINE.name}/{digest(1)}", b"")

    class Broken(AgedStore):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            raise ObjectStoreUnavailableError("gone")

    kept = KeptEncodings(Broken(store), ENGINE)
    with capture_logs() as logs:
        await kept.sweep()
        await kept.remove(set())
    assert f"{ENGINE.name}/{digest(1)}" in await keys(store)
    assert "place for encodings is away" in [line["event"] for line in logs]

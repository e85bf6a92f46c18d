"""What is kept of known pictures: its layout, and that it is theirs and nobody else's."""

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

from services.common.errors import ObjectStoreUnavailableError
from services.common.object_info import ObjectInfo
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.parts import GalleryPicture, KeptPart, PictureFaces, part_of
from services.face_recog.service.kept_encodings import GRACE_SECONDS, KeptEncodings, folder_of

ENGINE = Engine("dlib-1+rules-1", 128)
OTHER = Engine("dlib-2+rules-1", 64)
OURS, THEIRS = folder_of(ENGINE), folder_of(OTHER)
NUMBERS = np.random.default_rng(1).normal(size=128).astype(np.float32)
DIGEST = hashlib.sha256(b"a picture").digest()


def keys_of(part: int, count: int) -> list[str]:
    """Keys of known pictures that all belong to one part."""
    keys = (f"known_people/Zo\u00eb/{number}.jpg" for number in range(100_000))
    return [key for key in keys if part_of(key) == part][:count]


A, B, C = sorted(keys_of(7, 3))
TWO = KeptPart(
    ENGINE,
    7,
    {
        B: GalleryPicture("tag b", DIGEST, PictureFaces(3)),
        A: GalleryPicture("a", DIGEST, PictureFaces(1, NUMBERS)),
    },
)
PACKED = TWO.pack()


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def same(one: KeptPart, other: KeptPart) -> bool:
    """Whether two parts are equal to the last number."""
    return (one.engine, one.number) == (other.engine, other.number) and {
        key: (known.tag, known.digest, known.faces and known.faces.count, numbers(known))
        for key, known in one.known.items()
    } == {
        key: (known.tag, known.digest, known.faces and known.faces.count, numbers(known))
        for key, known in other.known.items()
    }


def numbers(known: GalleryPicture) -> list[float] | None:
    return None if known.encoding is None else known.encoding.tolist()


def test_the_layout_is_the_documented_one() -> None:
    name = ENGINE.name.encode()
    body = b"FSKP" + struct.pack("<HH", 1, len(name)) + name + struct.pack("<HBI", 128, 7, 2)
    body += struct.pack("<HH32sI", len(A.encode()), 1, DIGEST, 1)
    body += struct.pack("<HH32sI", len(B.encode()), 5, DIGEST, 3)
    body += A.encode() + b"a" + B.encode() + b"tag b" + struct.pack("<128f", *NUMBERS)
    assert sealed(body) == PACKED


@st.composite
def any_part(draw: st.DrawFn) -> KeptPart:
    size = draw(st.integers(2, 8))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    found = draw(st.dictionaries(text, st.tuples(text, st.binary(min_size=32, max_size=32))))
    number = part_of(next(iter(found), ""))
    known = {}
    for key, (tag, digest) in found.items():
        if part_of(key) == number:
            count = draw(st.just(1) | st.integers(0, 2**32 - 1))
            seed = draw(st.integers(0, 2**32))
            encoding = np.random.default_rng(seed).normal(size=size).astype(np.float32)
            known[key] = GalleryPicture(
                tag, digest, PictureFaces(count, encoding if count == 1 else None)
            )
    return KeptPart(Engine(draw(text), size), number, known)


@given(any_part())
def test_what_is_kept_comes_back(part: KeptPart) -> None:
    found = KeptPart.unpack(part.pack())
    assert same(found, part)
    assert found.pack() == part.pack()


@given(
    st.binary()
    | st.binary().map(sealed)
    | st.tuples(st.integers(0, 60), st.binary()).map(
        lambda both: sealed(PACKED[: both[0]] + both[1])
    )
)
def test_random_bytes_are_no_part(content: bytes) -> None:
    with pytest.raises(DamagedError):
        KeptPart.unpack(content)


@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    damaged = bytearray(PACKED)
    damaged[data.draw(st.integers(0, len(PACKED) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError, match="checksum"):
        KeptPart.unpack(bytes(damaged))


@given(st.data())
def test_a_cut_and_a_longer_file_are_noticed(data: st.DataObject) -> None:
    cut = PACKED[: data.draw(st.integers(0, len(PACKED) - 1))]
    for damaged in (cut, PACKED + cut, PACKED + b"\0", cut + bytes(len(PACKED) - len(cut))):
        if damaged != PACKED:  # a file may end in zeros
            with pytest.raises(DamagedError):
                KeptPart.unpack(damaged)
    # The same of what has a checksum of its own: then it is the lengths that tell.
    body = PACKED[:-32]
    with pytest.raises(DamagedError):
        KeptPart.unpack(sealed(body[: data.draw(st.integers(0, len(body) - 1))]))
    with pytest.raises(DamagedError):
        KeptPart.unpack(sealed(body + data.draw(st.binary(min_size=1))))


def one(encoding: Any) -> bytes:
    return KeptPart(ENGINE, 7, {A: GalleryPicture("a", DIGEST, PictureFaces(1, encoding))}).pack()


@pytest.mark.parametrize(
    "foreign",
    [
        sealed(PACKED[:4] + b"\2" + PACKED[5:-32]),
        sealed(PACKED[:-36]),
        KeptPart(ENGINE, 8, TWO.known).pack(),
        sealed(PACKED[:-32].replace(B.encode(), A.encode())),
        sealed(PACKED[:-32].replace(B.encode(), b"\xff" * len(B.encode()))),
        one(np.full(128, np.nan)),
        one(np.full(128, np.inf)),
    ],
    ids=["version", "numbers-missing", "another-part", "twice", "no-text", "nan", "infinite"],
)
def test_a_sound_file_of_something_else_is_noticed(foreign: bytes) -> None:
    with pytest.raises(DamagedError):
        KeptPart.unpack(foreign)


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
        KeptPart(OTHER, 7, {}).pack(),
        KeptPart(ENGINE, 8, {}).pack(),
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
        "another-engine",
        "another-part",
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
    await store.put(f"{OURS}07", content)
    with capture_logs() as logs:
        assert await kept.read() == {}
    assert [(line["event"], line["key"]) for line in logs] == [
        ("kept encodings are damaged and made again", f"{OURS}07")
    ]
    assert logs[0]["reason"]
    kept.note_changed(A)
    await kept.write(TWO.known)
    assert await store.get(f"{OURS}07") == PACKED
    assert await kept.read() == TWO.known


async def test_a_damaged_part_goes_when_nothing_of_it_is_known(store: ObjectStore) -> None:
    kept = KeptEncodings(store, ENGINE)
    await store.put(f"{OURS}07", b"damaged")
    await kept.read()
    await kept.write({})
    assert await keys(store) == set()


async def test_a_folder_in_its_place_costs_only_time(store: ObjectStore) -> None:
    await store.put(f"{OURS}07/something", b"x")
    kept = KeptEncodings(store, ENGINE)
    assert await kept.read() == {}
    kept.note_changed(A)
    await kept.write(TWO.known)
    await kept.sweep(TWO.known)
    assert await kept.read() == {}


class Partly:
    """A store that does not give some objects; it counts what it was asked for."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.put, self.delete, self.list = store.put, store.delete, store.list
        self.withheld: tuple[str, ...] = ()
        self.gets = 0

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.gets += 1
        if key.endswith(self.withheld):
            raise ObjectStoreUnavailableError("permission denied")
        return await self._store.get(key, max_bytes=max_bytes)


def crowd(number: int) -> dict[str, GalleryPicture]:
    return {
        f"known_people/p{picture}/x": GalleryPicture(
            "tag", digest(picture), PictureFaces(1, NUMBERS)
        )
        for picture in range(number)
    }


async def write(kept: KeptEncodings, known: dict[str, GalleryPicture]) -> None:
    for key in known:
        kept.note_changed(key)
    await kept.write(known)


async def test_all_of_it_takes_256_requests_at_most(store: ObjectStore) -> None:
    partly = Partly(store)
    kept = KeptEncodings(partly, ENGINE)
    await write(kept, crowd(3000))
    assert await kept.read() == crowd(3000)
    assert partly.gets == 256


async def test_a_part_that_the_store_does_not_give_is_made_again_in_the_end(
    store: ObjectStore,
) -> None:
    partly = Partly(store)
    known = crowd(40)
    await write(KeptEncodings(partly, ENGINE), known)
    missing = part_of("known_people/p0/x")
    partly.withheld = (f"{missing:02x}",)
    kept = KeptEncodings(partly, ENGINE)
    for _ in range(2):
        with pytest.raises(ObjectStoreUnavailableError):
            await kept.read()
    with capture_logs() as logs:
        found = await kept.read()
    assert found.keys() == {key for key in known if part_of(key) != missing}
    assert [line["event"] for line in logs] == ["kept encodings cannot be read and are made again"]
    partly.withheld = tuple("0123456789abcdef")
    for _ in range(9):  # it is not one part: the store is away
        with pytest.raises(ObjectStoreUnavailableError):
            await kept.read()


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


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


async def keys(store: ObjectStore) -> set[str]:
    return {info.key.removeprefix("encodings/") async for info in store.list("encodings/")}


async def test_a_part_is_written_only_when_it_changed(any_store: ObjectStore) -> None:
    for info in [info async for info in any_store.list("encodings/")]:
        await any_store.delete(info.key)
    kept = KeptEncodings(any_store, ENGINE)
    known = crowd(40)
    await write(kept, known)
    before = {info.key: info.tag async for info in any_store.list("encodings/")}
    key = "known_people/p3/x"
    del known[key]
    kept.note_gone(key)
    await kept.write(known)
    after = {info.key: info.tag async for info in any_store.list("encodings/")}
    assert {key for key in before if before[key] != after.get(key)} == {f"{OURS}{part_of(key):02x}"}
    assert await KeptEncodings(any_store, ENGINE).read() == known


async def test_a_picture_that_is_gone_goes_from_every_engine_at_once(store: ObjectStore) -> None:
    ours, theirs = KeptEncodings(store, ENGINE), KeptEncodings(store, OTHER)
    known = crowd(40)
    small = {
        key: GalleryPicture(picture.tag, picture.digest, PictureFaces(1, NUMBERS[: OTHER.size]))
        for key, picture in known.items()
    }
    await write(ours, known)
    await write(theirs, small)
    old = f"encodings/{ENGINE.name}/"
    for number in (0, 3):
        await store.put(f"{old}{digest(number).hex()}", b"of the layout before")
    await store.put("encodings/notes.txt", b"somebody's")
    await store.put(f"{OURS}notes.txt", b"somebody's")
    await ours.sweep(known)
    assert await KeptEncodings(store, OTHER).read() == small
    for key, now in {"known_people/p3/x": None, "known_people/p4/x": digest(77)}.items():
        known.pop(key)
        if now:
            known[key] = GalleryPicture("another", now, PictureFaces(0))
        ours.note_gone(key)
    await ours.write(known)
    left = await KeptEncodings(store, OTHER).read()
    assert left.keys() == small.keys() - {"known_people/p3/x", "known_people/p4/x"}
    await ours.sweep(known)
    assert await store.exists(f"{old}{digest(0).hex()}")
    assert not await store.exists(f"{old}{digest(3).hex()}")
    assert {"notes.txt", f"{OURS.removeprefix('encodings/')}notes.txt"} < await keys(store)


async def test_a_sweep_puts_right_what_another_replica_left(store: ObjectStore) -> None:
    known = crowd(40)
    kept = KeptEncodings(store, ENGINE)
    await write(kept, known)
    more = crowd(60)
    del more["known_people/p5/x"]
    await write(KeptEncodings(store, ENGINE), more)  # and then it ended
    await store.delete(f"{OURS}{part_of('known_people/p7/x'):02x}")
    await kept.sweep(known)
    assert await KeptEncodings(store, ENGINE).read() == known


async def test_two_engines_beside_each_other_keep_theirs_and_a_former_one_goes_after_a_day(
    store: ObjectStore,
) -> None:
    aged = AgedStore(store)
    old, new = KeptEncodings(aged, ENGINE), KeptEncodings(aged, OTHER)
    former = Engine("dlib-0+rules-1", 128)
    known = crowd(3)
    for kept in (old, new, KeptEncodings(store, former)):
        await write(
            kept,
            {
                key: GalleryPicture(picture.tag, picture.digest, PictureFaces(0))
                for key, picture in known.items()
            },
        )
    folders = {folder.split("/")[1] for folder in (OURS, THEIRS, folder_of(former))}
    parts = {f"{folder}/{part_of(key):02x}" for folder in folders for key in known}
    marks = {f"{folder}/in-use" for folder in folders}
    aged.ages = {f"encodings/{part}": 1e7 for part in parts}

    async def look() -> None:
        for replica in (old, new):
            await replica.sweep(known)

    await look()
    assert await keys(store) == parts | marks, "an engine without a mark has a day from now on"
    aged.ages[folder_of(former)] = GRACE_SECONDS - 60
    await look()
    assert await keys(store) == parts | marks
    aged.ages = {folder_of(former): GRACE_SECONDS + 60}
    await store.put(f"{folder_of(former)}calibration", b"")
    await look()
    left = {key for key in parts | marks if not key.startswith(former.name)}
    assert await keys(store) == left

    # The version before was taken away; until then each of its looks renewed its mark.
    aged.ages = {OURS: GRACE_SECONDS + 60}
    await old.sweep(known)
    assert await keys(store) == left, "nobody removes what is its own"
    await new.sweep(known)
    assert await keys(store) == {key for key in left if key.startswith(OTHER.name)}


async def test_a_sweep_removes_some_at_a_time_and_a_mark_last(store: ObjectStore) -> None:
    former = "encodings/dlib-0+rules-1/"
    for number in range(700):
        await store.put(f"{former}{digest(number).hex()}", b"")
    await store.put(f"{former}in-use", b"")
    aged = AgedStore(store)
    aged.ages = {former: GRACE_SECONDS + 60}
    kept = KeptEncodings(aged, ENGINE)
    await kept.sweep({})
    left = await keys(store)
    assert 0 < len(left) < 300
    assert f"{former.removeprefix('encodings/')}in-use" in left
    await kept.write({})
    assert await keys(store) == {f"{OURS.removeprefix('encodings/')}in-use"}


async def test_a_listing_that_breaks_off_removes_nothing(store: ObjectStore) -> None:
    await write(KeptEncodings(store, ENGINE), crowd(3))

    class Broken(AgedStore):
        async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix):
                yield info
            raise ObjectStoreUnavailableError("gone")

    with capture_logs() as logs:
        await KeptEncodings(Broken(store), ENGINE).sweep({})
    assert await KeptEncodings(store, ENGINE).read() == crowd(3)
    assert "place for encodings is away" in [line["event"] for line in logs]

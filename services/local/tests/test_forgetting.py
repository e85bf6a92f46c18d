"""Forgetting somebody on a whole pipeline: its folder is searched for traces, byte by byte."""

import asyncio
import io
import json
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from services.common.changes import CHANGES
from services.face_recog.domain.parts import KeptPart
from services.testing.pipeline import Pipeline, running
from services.testing.samples import sample
from services.testing.waiting import eventually

NAME = "Zoë Łątka 日本 q7Zx"
SECONDS = 150
"""A marker of a change stays for a minute by face_recog's own clock."""


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline of the test's own."""
    with running(tmp_path) as one:
        yield one


def jpeg(image: Image.Image) -> bytes:
    output = io.BytesIO()
    image.save(output, "JPEG", quality=90)
    return output.getvalue()


def names() -> dict[str, list[bytes]]:
    """The name in all ways in which a file may have it."""
    forms = {unicodedata.normalize(form, NAME) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    return {
        "name": [
            text.encode(encoding)
            for form in forms
            for text in (form, json.dumps(form)[1:-1], quote(form), quote(form).lower())
            for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        ]
    }


def numbers(*encodings: bytes) -> dict[str, list[bytes]]:
    """Encodings as they are, and of length 1, in both sizes of a number."""
    found = []
    for one in encodings:
        encoding = np.frombuffer(one, "<f4").astype(np.float64)
        for vector in (encoding, encoding / np.linalg.norm(encoding)):
            # A few numbers of it tell enough.
            found += [vector[8:16].astype(kind).tobytes() for kind in ("<f4", "<f8")]
        single = encoding.astype(np.float32)
        found.append((single / np.linalg.norm(single))[8:16].tobytes())
    return {"encoding": found}


def traces(folder: Path, wanted: dict[str, list[bytes]]) -> set[tuple[str, str]]:
    """Return what was found where: a kind, and the top folder or the file."""
    found = set()
    for path in folder.rglob("*"):
        place = path.relative_to(folder).as_posix()
        content = place.encode("utf-8", "surrogateescape") + b"\n"
        if path.is_file():
            content += path.read_bytes()
        for kind, pieces in wanted.items():
            if any(one in content for one in pieces):
                found.add((kind, "/".join(place.split("/")[:2])))
    return found


def run(pipeline: Pipeline, statement: str) -> list[tuple[object, ...]]:
    file = pipeline.store.parent / "facestack.db"
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        connection.execute("PRAGMA secure_delete = ON")
        return connection.execute(statement).fetchall()


def wait(condition: Callable[[], bool]) -> None:
    asyncio.run(eventually(condition, seconds=SECONDS))


def known_parts(pipeline: Pipeline) -> list[Path]:
    return sorted((pipeline.store / "encodings").glob("*/[0-9a-f][0-9a-f]"))


def known_encodings(pipeline: Pipeline) -> list[bytes]:
    """What is kept of the person's known pictures."""
    return [
        one.encoding.astype("<f4").tobytes()
        for path in known_parts(pipeline)
        for key, one in KeptPart.unpack(path.read_bytes()).known.items()
        if unicodedata.normalize("NFC", NAME) in unicodedata.normalize("NFC", key)
        and one.encoding is not None
    ]


def test_no_file_has_a_trace_of_somebody_who_was_forgotten(  # noqa: PLR0915, one story
    pipeline: Pipeline, tmp_path: Path
) -> None:
    store = pipeline.store
    grace, eileen = (
        Image.open(sample(name)).convert("RGB") for name in ("grace_hopper.jpg", "astronaut.png")
    )
    by_hand = store / "known_people" / unicodedata.normalize("NFD", NAME) / "front.jpg"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(jpeg(grace))
    with httpx.Client(base_url=pipeline.api_url, trust_env=False, timeout=60) as client:

        def enrol(name: str, image: Image.Image) -> None:
            form = {"file": ("a.jpg", jpeg(image))}
            client.post(f"/people/{quote(name)}/pictures", files=form).raise_for_status()

        def upload(image: Image.Image) -> str:
            form = {"files": ("a.jpg", jpeg(image))}
            answer = client.post("/images", files=form).raise_for_status()
            return str(answer.json()["images"][0]["location"])

        def people(location: str) -> list[str | None]:
            return [one["person"] for one in client.get(location).json()["faces"]]

        def encoding_of(location: str) -> bytes:
            number = location.rpartition("/")[2]
            query = f"SELECT encoding FROM face_encodings WHERE image_id = {number}"
            [(encoding,)] = run(pipeline, query)
            assert isinstance(encoding, bytes)
            return encoding

        enrol("Eileen", eileen)
        enrol(NAME, ImageOps.mirror(grace))
        wait(lambda: len(known_encodings(pipeline)) == 2)
        theirs = upload(grace.rotate(3))
        other = upload(ImageOps.mirror(eileen))
        wait(lambda: (people(theirs), people(other)) == ([NAME], ["Eileen"]))
        for address in (f"{theirs}/thumbnail", f"{theirs}/preview"):
            client.get(address).raise_for_status()
        httpx.get(f"{pipeline.page_url}/people", trust_env=False).raise_for_status()
        stored = encoding_of(theirs)
        kept = known_encodings(pipeline)
        pictures = [
            path.read_bytes()[2_000:2_032]
            for path in store.rglob("*")
            if path.is_file() and path.parts[-1] == "front.jpg"
        ] + [jpeg(one)[2_000:2_032] for one in (ImageOps.mirror(grace), grace.rotate(3))]
        wanted = names() | numbers(stored, *kept) | {"picture": pictures}
        before = traces(tmp_path, wanted)
        places = {(kind, place.partition(".db")[0]) for kind, place in before}
        assert places >= {
            ("name", "facestack"),
            ("encoding", "facestack"),
            ("name", "store/known_people"),
            ("picture", "store/known_people"),
            ("picture", "store/pictures"),
            ("name", "store/encodings"),
            ("encoding", "store/encodings"),
        }, before
        assert not [place for _, place in before if place.startswith("logs")], before
        old_parts = {path: path.read_bytes() for path in known_parts(pipeline)}

        client.post(f"/people/{quote(NAME)}/erase", json={"pictures": True}).raise_for_status()
        assert client.get(theirs).status_code == 404 or people(theirs) != [NAME]

        def is_done() -> bool:
            # As if the waits were over: for recognisers of before, and for what is written late.
            run(pipeline, "UPDATE erasures SET due_at = 0 WHERE stage = 'last'")
            run(pipeline, "UPDATE people_work SET due_at = 0 WHERE claim_token IS NULL")
            run(pipeline, "UPDATE garbage SET due_at = 0 WHERE claim_token IS NULL")
            rows = run(
                pipeline,
                "SELECT person_id FROM erasures UNION ALL SELECT person_id FROM people_work"
                " UNION ALL SELECT 1 FROM garbage",
            )
            return not rows and not any((store / CHANGES).iterdir())

        wait(is_done)
        # The redeemer empties the database's log when it starts, and every minute.
        pipeline.services["redeemer"].stop()
        pipeline.services["redeemer"].start()
        wait(lambda: traces(tmp_path, wanted) == set())
        assert [one["name"] for one in client.get("/people").json()["people"]] == ["Eileen"]
        assert people(other) == ["Eileen"]

        # A replica that was away meanwhile had kept what it knew.
        recogniser = pipeline.services["face_recog"]
        recogniser.stop()
        for path, content in old_parts.items():
            path.write_bytes(content)
        assert {kind for kind, _ in traces(tmp_path, wanted)} == {"name", "encoding"}
        recogniser.start()
        recogniser.wait_ready()
        wait(lambda: traces(tmp_path, wanted) == set())
        again = upload(grace.rotate(4))
        wait(lambda: client.get(again).json()["status"] == "processed")
        assert people(again) == [None]

        # And a picture whose time is over, with whom it shows.
        wanted = {"picture": [jpeg(grace.rotate(4))[2_000:2_032]]} | numbers(encoding_of(again))
        assert {kind for kind, _ in traces(tmp_path, wanted)} == {"picture", "encoding"}
        number = again.rpartition("/")[2]
        run(pipeline, f"UPDATE images SET created_at = 1 WHERE id = {number}")
        redeemer = pipeline.services["redeemer"]
        redeemer.stop()
        redeemer.environment = {**redeemer.environment, "KEEP_DAYS": "1"}
        redeemer.start()
        wait(lambda: client.get(again).status_code == 404)
        wait(is_done)
        redeemer.stop()
        redeemer.start()
        wait(lambda: traces(tmp_path, wanted) == set())
        assert people(other) == ["Eileen"]

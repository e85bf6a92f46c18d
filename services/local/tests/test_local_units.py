import io
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageOps

from services.local.demo import Row, submit
from services.local.programs import make_plan
from services.local.samples import GRACE, KNOWN, SAMPLES, Sample
from services.local.settings import LocalSettings
from services.local.supervisor import Log, read_line

SCALED = SAMPLES[0]


async def test_many_paths_are_submitted_one_by_one_to_a_receiver_that_knows_no_bulk() -> None:
    asked: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.content))
        if request.url.path == "/images/post":
            return httpx.Response(404, json={"status": 404})
        return httpx.Response(202, json={"id": len(asked), **json.loads(request.content)})

    older = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=older, base_url="http://receiver") as client:
        accepted = await submit(client, ["a.jpg", "b.jpg"], together=True)
    assert accepted == [{"id": 2, "path": "a.jpg"}, {"id": 3, "path": "b.jpg"}]
    assert [path for path, _ in asked] == ["/images/post", "/image/post", "/image/post"]


def face(person: str | None, *, left: int = 0) -> dict[str, Any]:
    return {"person": person, "distance": 0.3, "box": {"left": left}}


def row(sample: Sample, *, duplicate: bool = False, **image: Any) -> Row:
    right = {
        "id": 1,
        "status": sample.status,
        "error": sample.error or None,
        "faces": [face(person, left=left) for left, person in enumerate(sample.people)],
        "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.900Z",
        "processed_at": "2026-01-01T00:00:00.250Z",
    }
    return Row(sample, {**right, **image}, duplicate)


def test_a_row_as_it_should_be_has_no_faults() -> None:
    one = row(SCALED)
    assert one.faults([one]) == []
    assert one.milliseconds == 250
    assert row(SCALED, processed_at=None).milliseconds == 900


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ({"status": "dead", "error": "boom"}, "expected processed, got dead boom"),
        ({"faces": [face(None)]}, "expected Eileen Collins, got somebody unknown"),
        ({"faces": []}, "expected Eileen Collins, got nobody"),
        (
            {"faces": [face("Eileen Collins"), face("Grace Hopper", left=9)]},
            "expected Eileen Collins, got Eileen Collins and Grace Hopper",
        ),
        ({"duplicate": True}, "expected duplicate=False, got True"),
    ],
)
def test_a_fault_says_what_was_expected_and_what_came(image: dict[str, Any], fault: str) -> None:
    one = row(SCALED, **image)
    assert one.faults([one]) == [fault]


def test_people_are_named_from_left_to_right() -> None:
    both = next(sample for sample in SAMPLES if len(sample.people) == 2)
    faces = [face(GRACE, left=2000), face("Eileen Collins", left=10)]
    one = row(both, faces=faces)
    assert one.faults([one]) == []


def test_a_duplicate_must_be_the_same_image() -> None:
    again = next(sample for sample in SAMPLES if sample.same_as == SCALED.name)
    first, second = row(SCALED), row(again, duplicate=True, id=7)
    assert second.faults([first, second]) == ["expected image 1, got 7"]


def test_a_rejection_for_another_reason_is_a_fault() -> None:
    missing = next(sample for sample in SAMPLES if sample.make is None)
    one = row(missing, error="too large")
    assert one.faults([one]) == [f"expected an error that says '{missing.error}', got 'too large'"]


@pytest.fixture
def photos() -> dict[str, Image.Image]:
    colours = dict(zip(KNOWN, ("red", "blue"), strict=True))
    return {person: Image.new("RGB", (400, 500), colour) for person, colour in colours.items()}


def test_every_sample_is_another_file_than_the_known_picture(
    photos: dict[str, Image.Image],
) -> None:
    made = {sample.name: sample.make(photos) for sample in SAMPLES if sample.make}
    with Image.open(io.BytesIO(made["both-4000-pixels.jpg"])) as both:
        assert both.width == 4000
    with Image.open(io.BytesIO(made["phone-photo.jpg"])) as phone:
        assert phone.getexif()[0x0112] == 6
        assert phone.size == (500, 400)
        assert ImageOps.exif_transpose(phone).size == (400, 500)
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(made["no-image.jpg"]))


def test_every_endpoint_and_kind_of_row_is_in_the_demo() -> None:
    assert {sample.endpoint for sample in SAMPLES} == {
        "POST /image/post",
        "POST /images/post",
        "POST /images",
    }
    assert {sample.status for sample in SAMPLES} == {"processed", "rejected"}
    assert {sample.people for sample in SAMPLES} >= {(), *((one,) for one in KNOWN), tuple(KNOWN)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"level": "info", "event": "up"}', ("info", "up")),
        (
            '{"service": "x", "level": "warning", "event": "slow", "logger": "x", "image_id": 42}',
            ("warning", "slow image_id=42"),
        ),
        (
            '{"level": "error", "event": "failed", "exception": "Trace\\n  x\\nKeyError: 1"}',
            ("error", "failed (KeyError: 1)"),
        ),
        ("KeyError: 1", ("", "KeyError: 1")),
        ("[1]", ("", "[1]")),
        ("{}", ("", "{}")),
    ],
)
def test_a_log_line_for_people(line: str, expected: tuple[str, str]) -> None:
    assert read_line(line) == expected


def test_a_line_is_said_once_it_is_whole(tmp_path: Path) -> None:
    said: list[str] = []
    log = Log("receiver", tmp_path / "receiver.log", said.append)
    with (tmp_path / "receiver.log").open("a") as child:
        child.write('{"level": "info", "event": "up"}\n{"level": "warning", "ev')
        child.flush()
        log.follow()
        assert said == []
        child.write('ent": "away"}\nSystemExit: no\n')
    log.follow()
    log.follow()
    log.close()
    assert said == ["receiver warning: away"]
    assert log.last_line == "SystemExit: no"


def test_services_are_kept_from_other_databases_and_queues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql+asyncmy://production/face")
    monkeypatch.setenv("NSQD_URL", "http://production:4151")
    monkeypatch.setenv("TOLERANCE", "0.5")
    settings = LocalSettings(receiver_port=0, frontend_port=0)
    folder = tmp_path / "a folder"
    for program in make_plan(settings, folder, os.environ).programs:
        assert program.environment["DATABASE_URL"] == f"sqlite+aiosqlite:///{folder}/facestack.db"
        assert program.environment["OBJECT_STORE_URL"].endswith("/a%20folder/store")
        assert "NSQD_URL" not in program.environment
        assert program.environment["TOLERANCE"] == "0.5"


def test_endpoints_are_told_when_there_is_a_file_of_them(tmp_path: Path) -> None:
    settings = LocalSettings(receiver_port=0, frontend_port=0)
    assert "webhooks" not in {one.name for one in make_plan(settings, tmp_path, {}).programs}
    settings = settings.model_copy(update={"webhooks_file": Path("endpoints.json")})
    programs = {one.name: one for one in make_plan(settings, tmp_path, {}).programs}
    environment = programs["webhooks"].environment
    assert environment["WEBHOOKS_FILE"] == str(Path.cwd() / "endpoints.json")
    ports = [one.environment.get("PROBE_PORT") for one in programs.values()]
    assert len(set(ports) - {None}) == len([one for one in ports if one])


def test_where_others_can_reach_it_there_is_a_key_that_stays(tmp_path: Path) -> None:
    open_to_all = LocalSettings(host="0.0.0.0", receiver_port=0, frontend_port=0)
    mine = LocalSettings(receiver_port=0, frontend_port=0)
    environment = {"ACCESS": "open", "ADMINISTRATOR_KEY_FILE": "/tmp/theirs"}
    plan = make_plan(open_to_all, tmp_path, environment)
    again = make_plan(open_to_all, tmp_path, environment)
    assert len(plan.administrator_key) > 40
    assert again.administrator_key == plan.administrator_key
    assert plan.administrator_key not in repr(plan)
    told = {program.name: program.environment for program in plan.programs}
    assert told["receiver"]["ACCESS"] == "keys"
    file = Path(told["receiver"]["ADMINISTRATOR_KEY_FILE"])
    assert (file.read_text(), file.stat().st_mode & 0o77) == (plan.administrator_key, 0)
    assert told["frontend"]["RECEIVER_KEY_FILE"] == told["receiver"]["FRONTEND_KEY_FILE"]
    assert make_plan(mine, tmp_path, {}).administrator_key == ""
    assert make_plan(mine, tmp_path, {}, with_keys=True).administrator_key


def test_only_page_and_api_listen_where_it_was_asked_for(tmp_path: Path) -> None:
    settings = LocalSettings(host="0.0.0.0", receiver_port=0, frontend_port=0)
    plan = make_plan(settings, tmp_path, os.environ)
    hosts = {program.name: program.environment["HOST"] for program in plan.programs}
    assert hosts == {
        "face_recog": "127.0.0.1",
        "image_processor": "127.0.0.1",
        "redeemer": "127.0.0.1",
        "people": "127.0.0.1",
        "receiver": "0.0.0.0",
        "frontend": "0.0.0.0",
    }
    assert plan.page_url.startswith("http://127.0.0.1:")
    probe_port = next(one for one in plan.programs if one.name == "receiver").environment[
        "PROBE_PORT"
    ]
    assert plan.docs_url == f"http://127.0.0.1:{probe_port}/docs", "not to clients"

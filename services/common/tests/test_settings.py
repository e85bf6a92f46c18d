"""A wrong or missing setting ends each process with one line that names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.settings import Settings, load
from services.face_recog.settings import FaceRecogSettings
from services.frontend.settings import FrontendSettings
from services.image_processor.settings import ImageProcessorSettings
from services.receiver.settings import ReceiverSettings
from services.webhooks.settings import WebhooksSettings

ROOT = Path(__file__).parents[3]

RIGHT = {
    "DATABASE_URL": "sqlite+aiosqlite:///facestack.db",
    "OBJECT_STORE_URL": "file:///tmp/store",
    "FACE_RECOG_TARGET": "dns:///face-recog:50051",
    "RECEIVER_URL": "http://receiver:8000",
}

MISSING = {
    "receiver": ["DATABASE_URL", "OBJECT_STORE_URL", "FACE_RECOG_TARGET"],
    "image_processor": ["DATABASE_URL", "OBJECT_STORE_URL", "FACE_RECOG_TARGET"],
    "face_recog": ["OBJECT_STORE_URL"],
    "redeemer": ["DATABASE_URL", "OBJECT_STORE_URL"],
    "people": ["DATABASE_URL", "FACE_RECOG_TARGET"],
    "migrations": ["DATABASE_URL"],
    "webhooks": ["DATABASE_URL"],
}

WRONG = {
    "receiver": ("PORT", "70000"),
    "image_processor": ("FACE_RECOG_TIMEOUT_SECONDS", "soon"),
    "face_recog": ("LOG_LEVEL", "LOUD"),
    "frontend": ("RECEIVER_URL", "receiver"),
    "redeemer": ("DATABASE_URL", "postgresql://db/facestack"),
    "people": ("POLL_SECONDS", "0"),
    "migrations": ("DATABASE_PASSWORD_FILE", "/nonexistent/password"),
    "webhooks": ("ENDPOINT_CONCURRENCY", "0"),
}

TOGETHER = {
    ("receiver", "MAX_UPLOAD_BYTES=2000", "MAX_SPOOL_BYTES=1999"): "raise MAX_SPOOL_BYTES",
    ("frontend", "MAX_UPLOAD_BYTES=2000", "MAX_SPOOL_BYTES=1999"): "lower MAX_UPLOAD_BYTES",
    ("image_processor", "LEASE_SECONDS=29", "DATABASE_TIMEOUT_SECONDS=10"): "raise LEASE_SECONDS",
    ("image_processor", "MAX_BACKOFF_SECONDS=61", "LEASE_SECONDS=60"): "lower MAX_BACKOFF_SECONDS",
    ("image_processor", "FIRST_BACKOFF_SECONDS=4", "MAX_BACKOFF_SECONDS=3"): "lower the first",
    ("image_processor", "FIRST_COOL_DOWN_SECONDS=4", "MAX_COOL_DOWN_SECONDS=3"): "lower the first",
    ("face_recog", "WORK_SECONDS=121", "LONG_SECONDS=120"): "raise LONG_SECONDS",
    ("webhooks", "ENDPOINT_TIMEOUT_SECONDS=41", "DATABASE_TIMEOUT_SECONDS=10"): "lower one",
    ("webhooks", "KEPT_DAYS=2", "ENDPOINT_TIMEOUT_SECONDS=15"): "raise KEPT_DAYS",
}
"""A service, two of its settings that do not go together, and what to do."""

CLASSES: dict[str, type[Settings]] = {
    "receiver": ReceiverSettings,
    "frontend": FrontendSettings,
    "image_processor": ImageProcessorSettings,
    "face_recog": FaceRecogSettings,
    "webhooks": WebhooksSettings,
}


def start(
    service: str, folder: Path, settings: dict[str, str], command: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *(command or [])],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", MISSING)
def test_missing_settings_end_the_process_with_one_line(service: str, tmp_path: Path) -> None:
    ended = start(service, tmp_path, {})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{service}: wrong settings: ")
    for name in MISSING[service]:
        assert f"{name}: Field required" in line
    assert line.count(";") == len(MISSING[service]) - 1


@pytest.mark.parametrize("service", WRONG)
def test_a_wrong_setting_ends_the_process_with_one_line(service: str, tmp_path: Path) -> None:
    name, value = WRONG[service]
    ended = start(service, tmp_path, {**RIGHT, name: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{service}: wrong settings: {name}: ")
    assert f"got '{value}'" in line
    assert "^" not in line, "no regular expression, but words"


@pytest.mark.parametrize("case", TOGETHER, ids=" ".join)
def test_settings_that_do_not_go_together_are_both_named_and_what_to_do(
    case: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service, *both = case
    monkeypatch.chdir(tmp_path)
    for name, value in {**RIGHT, **dict(one.split("=") for one in both)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load(CLASSES[service])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{service}: wrong settings: ")
    assert TOGETHER[case] in line
    assert both[0].replace("=", " ") in line
    assert "KEPT_DAYS" in line or both[1].replace("=", " ") in line
    assert "Value error" not in line
    assert "got {" not in line


def test_a_wrong_setting_in_the_env_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECEIVER_PORT=eight thousand\n")
    ended = start("local", tmp_path, {}, ["run"])
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("local: wrong settings: RECEIVER_PORT: ")


@pytest.mark.parametrize("service", WRONG)
def test_every_service_reads_the_env_file(service: str, tmp_path: Path) -> None:
    name, value = WRONG[service]
    right = {key: one for key, one in RIGHT.items() if key != name}
    (tmp_path / ".env").write_text(f"{name}={value}\nSOMETHING_ELSE=1\n")
    ended = start(service, tmp_path, right)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{service}: wrong settings: {name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql+asyncmy://face@db:port/x"),
        ("DATABASE_URL", "mysql+asyncmy://face:password@db/x"),
        ("OBJECT_STORE_URL", "s3://"),
        ("OBJECT_STORE_URL", "/var/store"),
        ("S3_SECRET_ACCESS_KEY_FILE", "latin1"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"\xe9")
    ended = start("receiver", tmp_path, {**RIGHT, name: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"receiver: wrong settings: {name}: ")


def test_a_store_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = f"file://{tmp_path}/file/x"
    ended = start("receiver", tmp_path, {**RIGHT, "OBJECT_STORE_URL": store, "PORT": "0"})
    assert ended.returncode == 1
    (line,) = [one for one in ended.stderr.splitlines() if one]
    assert line.startswith("OBJECT_STORE_URL: cannot make the folder")


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=nonsense\n")
    ended = start("migrations", tmp_path, {"DATABASE_URL": RIGHT["DATABASE_URL"]})
    assert ended.returncode == 0
    assert (tmp_path / "facestack.db").exists()


def test_the_value_of_a_secret_is_never_printed(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    ended = start(
        "migrations",
        tmp_path,
        {
            "DATABASE_URL": "mysql+asyncmy://face@127.0.0.1:1/x",
            "DATABASE_PASSWORD_FILE": str(secret),
        },
    )
    assert ended.returncode == 1
    assert "migrations: database cannot be migrated" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("service", ["face_recog", "redeemer"])
def test_a_damaged_env_file_is_one_line(service: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\0LOG_LEVEL=\xc3(")
    result = start(service, tmp_path, RIGHT)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"{service}: .env cannot be read")

"""Typed settings from the environment or a ``.env`` file.

Each process builds one frozen object in its ``main`` with :func:`load`. A secret is never a
setting itself: the setting names the file that holds it.
"""

import sys
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, FilePath, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


def _check_secret(file: Path) -> Path:
    try:
        read_secret(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    return file


SecretFile = Annotated[FilePath, AfterValidator(_check_secret)]


class _FromEnvironment(BaseSettings):
    """Field ``log_level`` is read from ``LOG_LEVEL`` or from that line of ``.env``, and so on."""

    # Every group of settings needs it: the first base of a class decides.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)


class Settings(_FromEnvironment):
    """What every process has."""

    host: str = Field("0.0.0.0", description="Address to listen on.")
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR."
    )
    drain_seconds: float = Field(
        0.5,
        ge=0,
        description="How long to go on serving after SIGTERM, so that load balancers notice.",
    )


class HttpSettings(_FromEnvironment):
    """What an HTTP server waits for, and how much it takes at once."""

    max_connections: int = Field(
        1000,
        ge=8,
        description="Connections at once; for one more, that which waited longest is closed.",
    )
    head_seconds: Seconds = Field(
        10.0, description="How long a client may take for a request's line and headers."
    )
    body_idle_seconds: Seconds = Field(
        10.0, description="How long a client may send nothing of a request's body."
    )
    body_seconds: Seconds = Field(300.0, description="How long a client may take for a whole body.")
    max_upload_bytes: int = Field(
        100 * 1024 * 1024, ge=1024, description="Largest body of an upload of pictures."
    )
    max_spool_bytes: int = Field(
        768 * 1024 * 1024,
        ge=1024,
        description="Disk space for bodies that arrive, which are too large for memory.",
    )


class DatabaseSettings(_FromEnvironment):
    """Where the rows are."""

    database_url: str = Field(
        pattern=r"^(sqlite\+aiosqlite:///.+|mysql\+asyncmy://[^@/:]+@[^@/:]+(:\d+)?/\w+)$",
        description="sqlite+aiosqlite:///FILE or mysql+asyncmy://USER@HOST:PORT/NAME.",
    )
    database_password_file: SecretFile | None = Field(
        None, description="File with the password of the user in DATABASE_URL."
    )
    database_pool_size: int = Field(8, ge=1, description="Connections kept open.")
    database_timeout_seconds: Seconds = Field(
        10.0, description="How long a statement may take before the server counts as away."
    )


class ObjectStoreSettings(_FromEnvironment):
    """Where pictures and known people are."""

    object_store_url: str = Field(
        pattern=r"^(file:///.*|s3://[a-z0-9][a-z0-9.-]+/?)$",
        description="file:///FOLDER or s3://BUCKET.",
    )
    s3_endpoint: str | None = Field(
        None, pattern="^https?://", description="S3 server; AWS when not set."
    )
    s3_region: str = "us-east-1"
    s3_access_key_id_file: SecretFile | None = Field(
        None, description="File with the key's id; without it the pod's own identity is used."
    )
    s3_secret_access_key_file: SecretFile | None = None


class RecogniserTargetSettings(_FromEnvironment):
    """Where face_recog answers."""

    face_recog_target: str = Field(description="gRPC target, for example dns:///face-recog:50051.")


class RecogniserClientSettings(RecogniserTargetSettings):
    """Where face_recog answers, and by when."""

    face_recog_timeout_seconds: Seconds = Field(
        20.0, description="Deadline of one request, while a person waits for its answer."
    )


def read_secret(file: Path) -> str:
    """Read a secret from its file, without the newline that editors add."""
    return file.read_text().strip()


S = TypeVar("S", bound=Settings)


def _said(settings: type[Settings], fault: ErrorDetails) -> str:
    """Return what is wrong, in words: of a form, what it is for rather than its expression."""
    if fault["type"] != "string_pattern_mismatch":
        return fault["msg"]
    meaning = (settings.model_fields[str(fault["loc"][0])].description or "").rstrip(".")
    return f"does not have the form that it needs ({meaning})"


def load(settings: type[S]) -> S:
    """Build the settings, or end the process with one line that names each wrong one."""
    try:
        return settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']).upper()}: {_said(settings, one)}"
            + ("" if one["type"] == "missing" else f", got {one['input']!r}")
            for one in error.errors()
            # A default that follows from a setting that is wrong is not wrong itself.
            if one["type"] != "default_factory_not_called"
        )
        print(  # noqa: T201, logging is configured from these very settings
            f"{settings.__module__.split('.')[-2]}: wrong settings: {wrong}."
            " Set them in the environment or in .env.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except (UnicodeDecodeError, OSError) as error:
        service = settings.__module__.split(".")[-2]
        print(f"{service}: .env cannot be read: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None

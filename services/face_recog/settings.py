"""Settings of the face recogniser."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, FilePath, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from services.common.cgroups import memory_limit, usable_cpus
from services.common.faces import MAX_NUMBERS
from services.common.settings import ObjectStoreSettings, Port, Seconds, Settings, TlsSettings
from services.face_recog.domain.calibration import DEFAULT_FALSE_NAMES
from services.face_recog.domain.engines import Embedder, EngineChoice
from services.face_recog.domain.strangers import DLIB, Tails, tails_within

QUEUE_PER_WORKER: Final = 4
"""A person who enrols waits 20 s at most, as long as the last of a full queue if each takes 4 s."""

_SERVICE_BYTES: Final = 240 * 1024**2
"""For the service, the fork server and idle workers: 120 MiB after the start, or 160 with
CenterFace, and 15,000 known people. 100,000 take 280 MiB, and 330 more while a snapshot is made."""

_QUEUE_BYTES: Final = 400 * 1024**2
"""For the pictures that a worker has and that wait for it: one of 20 MiB took up to 80 MiB, in
gRPC's buffers, as its message and as itself."""

MAX_WORKER_BYTES: Final = 2 * 1024**3
"""More than twice of what any picture took."""

MIN_WORKER_BYTES: Final = 768 * 1024**2
"""Enough for a JPEG of any size that is taken."""


def worker_memory(workers: int, limit: int) -> int:
    """Return the bytes for a picture in each of so many workers, within the container's limit."""
    share = (limit - _SERVICE_BYTES) // workers - _QUEUE_BYTES
    return min(max(share, MIN_WORKER_BYTES), MAX_WORKER_BYTES)


class EngineSettings(Settings):
    """What finds and encodes faces."""

    engine: Literal["centerface", "classic", "onnx"] = Field(
        "centerface",
        description="centerface: the detector CenterFace before dlib's encodings; classic: dlib, as"
        " the face_recognition package, slower and for larger faces; onnx: CenterFace before the"
        " model in EMBEDDER_FILE.",
    )
    embedder_file: FilePath | None = Field(
        None,
        validate_default=True,
        description="ONNX model of a face's 112 x 112 pixels, aligned by five points; for ENGINE"
        " onnx.",
    )
    embedder_mean: float = Field(
        127.5, description="Its input is (pixel - mean) / scale, a pixel being 0 to 255."
    )
    embedder_scale: float = Field(127.5, gt=0, description="See EMBEDDER_MEAN.")
    embedder_colours: Literal["RGB", "BGR"] = Field(
        "RGB", description="The order of its input's channels."
    )
    embedder_size: int = Field(512, ge=2, le=MAX_NUMBERS, description="Numbers in its encodings.")
    embedder_distance: float = Field(
        1.1,
        gt=0,
        lt=1.4,
        description="Distance up to which two of its encodings, scaled to length 1, are of one"
        " person.",
    )

    @field_validator("embedder_file")
    @classmethod
    def _check_embedder(cls, file: Path | None, known: ValidationInfo) -> Path | None:
        if file is None and known.data.get("engine") == "onnx":
            raise ValueError("it is what ENGINE onnx runs")
        return file

    @property
    def choice(self) -> EngineChoice:
        """The engine, with all that its models depend on."""
        if self.engine != "onnx":
            return self.engine
        assert self.embedder_file  # noqa: S101, it was checked
        return Embedder(
            file=self.embedder_file,
            mean=self.embedder_mean,
            scale=self.embedder_scale,
            colours=self.embedder_colours,
            size=self.embedder_size,
            distance=self.embedder_distance,
        )

    @property
    def tails(self) -> Tails:
        """How alike strangers are to the engine."""
        if self.engine != "onnx":
            return DLIB
        return tails_within(self.embedder_distance)


class FaceRecogSettings(EngineSettings, ObjectStoreSettings, TlsSettings):
    """What the face recogniser is told from outside."""

    port: Port = Field(50051, description="Port of gRPC.")
    probe_port: Port = Field(9102, description="Port of probes and metrics.")
    pool_size: int = Field(
        default_factory=usable_cpus,
        ge=1,
        description="Worker processes; one per usable CPU. Fewer to leave some to others.",
    )
    queue_size: int = Field(
        default_factory=lambda known: QUEUE_PER_WORKER * known["pool_size"],
        ge=1,
        description=f"Requests that wait for a worker, more are refused; {QUEUE_PER_WORKER} per"
        " worker. Fewer where people wait too long for an answer, more with more image_processors"
        " than that.",
    )
    work_seconds: Seconds = Field(
        15.0,
        description="Longest time of one step at a picture; then its worker is replaced. More on a"
        " slow machine, where many pictures are done twice.",
    )
    long_seconds: Seconds = Field(
        120.0,
        description="Longest time of a step that was too slow once, in a process beside the"
        " others; a picture that needs longer is rejected. More for huge pictures on a slow"
        " machine, and then of image_processor's FACE_RECOG_TIMEOUT_SECONDS, too.",
    )
    worker_memory_bytes: int = Field(
        default_factory=lambda known: worker_memory(known["pool_size"], memory_limit()),
        ge=64 * 1024**2,
        description="Address space that a picture may take in a worker: an equal part of what the"
        " container may use. The largest that are taken need 0.8 GB.",
    )
    stop_seconds: Seconds = Field(
        20.0,
        description="Longest time to finish what is in flight after the drain; the rest is refused"
        " as busy, so that another replica takes it. With DRAIN_SECONDS it must fit into what"
        " Kubernetes waits.",
    )
    connection_age_seconds: Seconds = Field(
        60.0,
        description="Age at which clients reconnect, and so find new replicas: less where their"
        " number changes often.",
    )
    false_names: float = Field(
        DEFAULT_FALSE_NAMES,
        gt=0,
        lt=1,
        description="The share of strangers who may get the name of somebody known, at any number"
        " of known people: with less, fewer of those are found.",
    )
    watch_seconds: Seconds = Field(
        2.0,
        description="How often the known people are listed at most: more where the store takes"
        " money for listings; who is enrolled is recognised that much later.",
    )

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.work_seconds > self.long_seconds:
            raise ValueError(
                f"WORK_SECONDS {self.work_seconds:g} is longer than LONG_SECONDS"
                f" {self.long_seconds:g}, which is for what takes longer than that: raise"
                " LONG_SECONDS or lower WORK_SECONDS"
            )
        return self

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        # What follows from the limit is as much as fits, or what a picture needs at least.
        if "worker_memory_bytes" not in self.model_fields_set:
            return self
        needed = _SERVICE_BYTES + self.pool_size * (self.worker_memory_bytes + _QUEUE_BYTES)
        if needed > (limit := memory_limit()):
            raise PydanticCustomError(
                "memory",
                "POOL_SIZE {workers} times WORKER_MEMORY_BYTES {each}, with what the queue and the"
                " service need, is {needed} MiB, and there are {limit}: lower either or raise the"
                " memory limit",
                {
                    "workers": self.pool_size,
                    "each": self.worker_memory_bytes,
                    "needed": needed >> 20,
                    "limit": limit >> 20,
                },
            )
        return self

"""The worker's side of the pool, and what a picture's steps come to: one after the other.

A step is a request and its answer, and each is a message: its length (four bytes, big-endian), the
length of its head (four bytes), the head, which is JSON, so that a worker that a hostile picture
took over can send no objects that run code, and bytes.

The first step is given a picture file. It finds the faces, cuts them out and encodes as many as it
can in the time of a slice. If that is not all, it answers with those that are left, and every
further step is given what is left then: nothing is decoded or searched twice, and any worker may go
on.
"""

import ctypes
import dataclasses
import json
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.common.errors import RecogniserFailedError, RecogniserUnavailableError
from services.common.faces import Box
from services.common.quality import Quality
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.recognition import encode, find
from services.face_recog.domain.engines import Engine, EngineChoice
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import DetectedFace, Encoding, Recognition

NUMBER: Final = struct.Struct(">I")

_LARGE_PIXELS: Final = 2_000_000
"""What a larger picture took in memory is given back. With every picture that would cost 4 ms: a
tenth of the time of a small one, a fiftieth of that of a large one."""


def serve(connection: socket.socket, choice: EngineChoice, memory_bytes: int) -> None:
    """Answer until the other side closes the connection; the first message is the engine.

    Pictures may make the address space larger by ``memory_bytes``. One that wants more fails
    alone, where the kernel would end whatever it chose of the container.
    """
    # Ctrl-C reaches the whole process group; the parent finishes what is in flight, then closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with connection:
        try:
            models = load_models(choice)
        except OSError as error:
            connection.sendall(_message({"failure": str(error)}))
            return
        _limit_growth(memory_bytes)
        connection.sendall(_message({"name": models.engine.name, "size": models.engine.size}))
        requests = connection.makefile("rb")
        while len(length := requests.read(NUMBER.size)) == NUMBER.size:
            [size] = NUMBER.unpack(length)
            if len(request := requests.read(size)) < size:
                return
            connection.sendall(answer(request, models))


def read_engine(message: bytes) -> Engine:
    """Read a worker's first message, or raise ``RecogniserUnavailableError``."""
    head, _ = _unpack(message)
    if "failure" in head:
        raise RecogniserUnavailableError(head["failure"])
    return Engine(head["name"], head["size"])


class Steps:
    """The steps at one picture; the faces of each slice take ``seconds``, or one face its time.

    ``request`` is the next step's message, with its length.
    """

    def __init__(
        self,
        engine: Engine,
        picture: bytes,
        max_faces: int,
        seconds: float,
        boxes: Sequence[Box] = (),
    ) -> None:
        self._engine = engine
        self._seconds = seconds
        self._first: dict[str, Any] = {}
        self._chips = b""
        self._encodings: list[Encoding] = []
        asked = [dataclasses.astuple(box) for box in boxes]
        head = {"max_faces": max_faces, "boxes": asked, "seconds": seconds}
        self.request = _message(head, picture)

    def take(self, answer: bytes) -> Recognition | None:
        """Note a step's answer; return what was found when it is the last.

        Raises ``RejectedError`` or ``RecogniserFailedError``.
        """
        try:
            return self._take(answer)
        except (ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
            raise RecogniserFailedError(f"the worker's answer makes no sense: {error!r}") from error

    def _take(self, answer: bytes) -> Recognition | None:
        head, content = _unpack(answer)
        if "failure" in head:
            raise RecogniserFailedError(head["failure"])
        if "rejection" in head:
            raise RejectedError(head["reason"], Rejection(head["rejection"]))
        if not self._first:
            self._first, self._chips = head, content
        self._encodings += [self._encoding(numbers) for numbers in head["encodings"]]
        left = len(self._first["faces"]) - len(self._encodings)
        if left > 0:
            if not head["encodings"]:
                raise RecogniserFailedError("a step encoded no face")
            self._chips = self._chips[-left * self._first["chip_bytes"] :]
            self.request = _message({"faces": left, "seconds": self._seconds}, self._chips)
            return None
        faces = []
        for face, encoding in zip(self._first["faces"], self._encodings, strict=True):
            parts = {"box": Box(**face["box"]), "quality": Quality(**face["quality"])}
            faces.append(DetectedFace(**{**face, **parts, "encoding": encoding}))
        return Recognition(self._first["width"], self._first["height"], faces)

    def _encoding(self, numbers: Any) -> Encoding:
        encoding: Encoding = np.array(numbers, dtype=np.float64)
        if encoding.shape != (self._engine.size,) or not np.isfinite(encoding).all():
            raise ValueError(f"an encoding of the shape {encoding.shape}")
        return encoding


def answer(request: bytes, models: Models) -> bytes:
    """Do a step; the request comes without its length, and the answer with it."""
    try:
        head, content = _unpack(request)
        if "faces" in head:
            shape = head["faces"], models.side, models.side, 3
            chips = np.frombuffer(content, dtype=np.uint8).reshape(shape)
            encodings = encode(models, chips, head["seconds"])
            return _message({"encodings": [encoding.tolist() for encoding in encodings]})
        boxes = [Box(*sides) for sides in head["boxes"]]
        found = find(models, content, head["max_faces"], boxes)
        if found.width * found.height > _LARGE_PIXELS:
            ctypes.CDLL(None).malloc_trim(0)
        encodings = encode(models, found.chips, head["seconds"])
    except RejectedError as error:
        return _message({"rejection": error.rejection, "reason": str(error)})
    except MemoryError:
        return _message({"failure": "the picture needs more memory than a worker may take"})
    except Exception as error:  # noqa: BLE001, whatever it is, it is this picture's failure
        return _message({"failure": f"{type(error).__name__}: {error}"})
    return _message(
        {
            "width": found.width,
            "height": found.height,
            "faces": [dataclasses.asdict(face) for face in found.faces],
            "chip_bytes": models.side**2 * 3,
            "encodings": [encoding.tolist() for encoding in encodings],
        },
        found.chips[len(encodings) :].tobytes(),
    )


def _message(head: dict[str, Any], content: bytes = b"") -> bytes:
    """Return a message with its length; a large picture is copied only once."""
    encoded = json.dumps(head).encode()
    size = NUMBER.size + len(encoded) + len(content)
    return b"".join((NUMBER.pack(size), NUMBER.pack(len(encoded)), encoded, content))


def _unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    [size] = NUMBER.unpack_from(message)
    end = NUMBER.size + size
    return json.loads(message[NUMBER.size : end]), message[end:]


def _limit_growth(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

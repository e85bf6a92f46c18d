"""The worker's side of the pool: one picture after the other over a socket.

A message is its length (four bytes, big-endian) and that many bytes. A request is the number of
faces wanted (four bytes) and the picture file; an answer is JSON, so that a worker that a hostile
picture took over can send no objects that run code.
"""

import json
import resource
import signal
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.face_recog.adapters.recognition import load_models, recognise
from services.face_recog.domain import (
    Box,
    DetectedFace,
    Problem,
    RecogniserFaultError,
    Recognition,
    RejectedError,
)

NUMBER: Final = struct.Struct(">I")


def serve(connection: socket.socket, memory_bytes: int) -> None:
    """Answer until the other side closes the connection; the first message is the engine.

    Pictures may make the address space larger by ``memory_bytes``. One that wants more fails
    alone, where the kernel would end whatever it chose of the container.
    """
    # Ctrl-C reaches the whole process group; the parent finishes what is in flight, then closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with connection:
        engine = load_models().engine
        _limit_growth(memory_bytes)
        _send(connection, engine.encode())
        while (request := _receive(connection)) is not None:
            _send(connection, json.dumps(_answer(request)).encode())


def encode_request(picture: bytes, max_faces: int) -> bytes:
    """Return the whole message, with its length."""
    return NUMBER.pack(NUMBER.size + len(picture)) + NUMBER.pack(max_faces) + picture


def decode_answer(answer: bytes) -> Recognition:
    """Return what was found, or raise ``RejectedError`` or ``RecogniserFaultError``."""
    content: Mapping[str, Any] = json.loads(answer)
    if "failure" in content:
        raise RecogniserFaultError(content["failure"])
    if "problem" in content:
        raise RejectedError(Problem(content["problem"]), content["reason"])
    return Recognition(
        content["width"],
        content["height"],
        [
            DetectedFace(Box(*face["box"]), face["score"], np.array(face["encoding"]))
            for face in content["faces"]
        ],
    )


def _answer(request: bytes) -> dict[str, Any]:
    try:
        [max_faces] = NUMBER.unpack_from(request)
        found = recognise(request[NUMBER.size :], max_faces)
    except RejectedError as error:
        return {"problem": error.problem, "reason": str(error)}
    except Exception as error:  # noqa: BLE001, whatever it is, it is this picture's failure
        return {"failure": f"{type(error).__name__}: {error}"}
    return {
        "width": found.width,
        "height": found.height,
        "faces": [
            {
                "box": [face.box.left, face.box.top, face.box.right, face.box.bottom],
                "score": face.score,
                "encoding": face.encoding.tolist(),
            }
            for face in found.faces
        ],
    }


def _limit_growth(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(NUMBER.pack(len(message)) + message)


def _receive(connection: socket.socket) -> bytes | None:
    """Return the next message, or None when the other side has gone."""
    length = connection.recv(NUMBER.size, socket.MSG_WAITALL)
    if len(length) < NUMBER.size:
        return None
    [size] = NUMBER.unpack(length)
    message = bytearray(size)
    view = memoryview(message)
    while view:
        received = connection.recv_into(view)
        if not received:
            return None
        view = view[received:]
    return bytes(message)

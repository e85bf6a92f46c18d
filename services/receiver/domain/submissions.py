"""Pictures that clients name or send, to be recognised."""

import re
from typing import Final, NamedTuple

from services.common.object_keys import CONTROL, UPLOADS, check_path
from services.receiver.domain.objects import digest, unique_name

MAX_BATCH: Final = 1000
"""Paths in one bulk submission."""

MAX_FILES: Final = 20
"""Files in one upload."""

MAX_FILE_NAME_LENGTH: Final = 255
"""Characters that are kept of an uploaded file's name: the end, which holds the extension."""


class Submission(NamedTuple):  # a tuple: bulk submissions make many
    """A picture to recognise: its key below ``pictures/`` and the name that people see."""

    path: str
    name: str


class Upload(NamedTuple):
    """A picture that is stored under a key that nobody else ever writes, and by its content."""

    path: str
    name: str
    content_digest: str


class Accepted(NamedTuple):
    """A durable row for a submission, and whether it was there before.

    ``sent_back``: it was rejected or dead and is looked at again. ``tag`` is that of the picture
    that its result is about, where somebody may have replaced it since, else None.
    """

    id: int
    path: str
    status: str
    duplicate: bool
    sent_back: bool = False
    tag: str | None = None


def submission_of_path(path: str) -> Submission:
    """Return the submission of a picture that is in the store already.

    One leading slash is taken away, which a client may write that thinks of the pictures as a file
    system. Raises ``InvalidPathError``.
    """
    path = check_path(path.removeprefix("/"))
    return Submission(path, path[-MAX_FILE_NAME_LENGTH:])


_UNPRINTABLE: Final = re.compile(rf"[{CONTROL}\ud800-\udfff]")


def upload_of(filename: str, content: bytes) -> Upload:
    """Return the upload of a file, to be stored under a path that was never used."""
    name = _UNPRINTABLE.sub("", filename)[-MAX_FILE_NAME_LENGTH:]
    content_digest = digest(content)
    return Upload(f"{UPLOADS}{unique_name(content_digest)}", name or "picture", content_digest)

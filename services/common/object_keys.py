"""The keys of the object store: their prefixes, the rule for a picture's path, people's folders."""

import re
import unicodedata
from typing import Final

from services.common.errors import RefusedError

PICTURES: Final = "pictures/"
"""The prefix of the object store under which a path is a key."""

UPLOADS: Final = "uploads/"
"""The beginning of an upload's path: ``uploads/<SHA-256 of its content>…``."""

KNOWN_PEOPLE: Final = "known_people/"
"""The prefix of known pictures: ``known_people/<person>/<picture>``. Receiver, redeemer, people and
face_recog go by it alike, so it is no setting of one of them."""

MAX_PATH_LENGTH: Final = 512
"""Characters; a unique key of InnoDB holds 3072 bytes, four for each of these and room to spare."""

MAX_PART_BYTES: Final = 200
"""File systems hold names of 255 bytes, and stores append up to 26 while they write."""

MAX_PATH_BYTES: Final = 1024 - len(PICTURES)
"""S3 takes keys of 1,024 bytes in UTF-8
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""


class InvalidPathError(RefusedError, ValueError):
    """The path cannot name a picture; the message says why."""


CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
"""Control characters, as a set of a regular expression lists them."""

# Lone surrogates, too, and what XML cannot hold, in which S3 lists its keys.
_FORBIDDEN: Final = re.compile(rf"[{CONTROL}\ud800-\udfff\ufffe\uffff]")
# What a folder store calls a file that it is still writing.
_UNFINISHED: Final = re.compile(r"#\d+$")
_BAD_PART: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


def check_path(path: str) -> str:
    """Return the path if it is a relative object key, else raise :class:`InvalidPathError`.

    Whatever passes can be put, read, listed and deleted below :data:`PICTURES`, in a folder as in
    S3.
    """
    if not path:
        raise InvalidPathError("path is empty")
    if len(path) > MAX_PATH_LENGTH:
        raise InvalidPathError(f"path has {len(path)} characters, the limit is {MAX_PATH_LENGTH}")
    if path.startswith("/"):
        raise InvalidPathError("path must be relative to the pictures folder, without a leading /")
    if "://" in path:
        raise InvalidPathError("path must be a key in the picture store, not a URL")
    if _FORBIDDEN.search(path):
        raise InvalidPathError("path contains a control character or is not valid Unicode")
    if _UNFINISHED.search(path):
        raise InvalidPathError("path must not end in # and digits")
    if _BAD_PART.search(path):
        raise InvalidPathError("path must not contain empty, . or .. parts")
    # A character has up to four bytes, so short paths need no closer look.
    if len(path) * 4 > MAX_PATH_BYTES and (size := len(path.encode())) > MAX_PATH_BYTES:
        raise InvalidPathError(f"path has {size} bytes in UTF-8, the limit is {MAX_PATH_BYTES}")
    if len(path) * 4 > MAX_PART_BYTES and any(
        len(part.encode()) > MAX_PART_BYTES for part in path.split("/")
    ):
        raise InvalidPathError(f"path has a part of more than {MAX_PART_BYTES} bytes")
    return path


# A part is anything but . and .., without / and control characters.
_CHARACTER: Final = rf"[^/{CONTROL}]"
_FIRST: Final = rf"[^/.{CONTROL}]"
_PART: Final = (
    rf"(?:{_FIRST}{_CHARACTER}{{0,{MAX_PART_BYTES - 1}}}"
    rf"|\.{_FIRST}{_CHARACTER}{{0,{MAX_PART_BYTES - 2}}}"
    rf"|\.\.{_CHARACTER}{{1,{MAX_PART_BYTES - 2}}})"
)
PATH_PATTERN: Final = rf"^/?{_PART}(?:/{_PART})*$"
"""What of :func:`check_path` a regular expression can say to clients; they may write one slash
before it."""


def folder_of(image_name: str) -> str:
    """Return the folder in a known picture's name, in the form in which it is kept."""
    return unicodedata.normalize("NFC", image_name.partition("/")[0])


def forms_of(folder: str) -> frozenset[str]:
    """Return as what a folder of known pictures may be there: by hand it may be decomposed."""
    return frozenset(unicodedata.normalize(form, folder) for form in ("NFC", "NFD"))

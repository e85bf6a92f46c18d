"""What a backup is, and which are kept."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, Self

from services.common.errors import RefusedError
from services.common.object_info import ObjectInfo

NAME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
"""How a backup is called: when it began, in UTC."""

DUMP: Final = "dump.gz.age"
"""The rows: what ``mariadb-dump`` writes, or a file of SQLite."""
MANIFEST: Final = "manifest.gz.age"
"""A line of JSON for each object: its key, tag and size, and the name of its copy."""
COPIES: Final = "copies.gz"
"""The names of all copies, a line each, for whoever has no key: they say nothing of the objects."""
FILES: Final = (DUMP, MANIFEST, COPIES)
"""What a backup has beside its summary."""

WANTED: Final = ("pictures/", "known_people/")
"""What is copied: all else in the store is made anew."""

ABANDONED_SECONDS: Final = 86_400
"""When what a backup has left that did not end may be removed: none takes a day."""


class BackupError(RefusedError):
    """It cannot be done as asked, or not with this backup; the message says what to do."""


class DamagedBackupError(BackupError):
    """What lies in the backup is not what was written."""


@dataclass(frozen=True)
class StoredFile:
    """What was written: its size in bytes and its SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Summary:
    """What can be read of a backup without its key; it is written last, so there is no half one.

    ``database`` is the dialect of its dump, ``revision`` that of its schema; ``bytes`` are those of
    all objects.
    """

    name: str
    database: str
    revision: str
    objects: int
    bytes: int
    files: Mapping[str, StoredFile]

    @classmethod
    def read(cls, content: Mapping[str, object]) -> Self:
        """Return what :meth:`written` gave; raises ``KeyError``, ``TypeError``, ``ValueError``."""
        values = dict(content)
        files = values.pop("files")
        if not isinstance(files, dict) or not files.keys() >= set(FILES):
            raise TypeError(f"it does not name {', '.join(FILES)}")
        return cls(**values, files={name: StoredFile(**one) for name, one in files.items()})  # type: ignore[arg-type]

    def written(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """A line of the manifest: an object, and the name of its copy."""

    key: str
    tag: str
    size: int
    copy: str


def object_id(info: ObjectInfo) -> str:
    """Return what the copy of an object with this content is found by.

    It tells nobody the key. An object that changes has another tag, and another copy.
    """
    return hashlib.sha256(f"{info.key}\0{info.tag}".encode()).hexdigest()


def kept(names: Iterable[str], *, days: int, weeks: int) -> set[str]:
    """Return which backups are kept: of each of the last days and weeks that have one, the newest.

    They are counted by the backups that there are, so that nothing goes only because time passes.
    """
    newest = sorted(names, reverse=True)
    found: set[str] = set()
    for count, period in ((days, "%Y-%j"), (weeks, "%G-%V")):
        # The first of a period is its newest, as the newest come first.
        of_period: dict[str, str] = {}
        for name in newest:
            begun = datetime.strptime(name, NAME_FORMAT)  # noqa: DTZ007, its form says UTC
            of_period.setdefault(begun.strftime(period), name)
        found.update(list(of_period.values())[:count])
    return found

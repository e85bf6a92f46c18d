"""Markers that say whose known pictures changed, so that nobody need list all of them to see it.

A marker is the empty object ``changes/<8 hex digits><person>.``. Its name says all, so that one
listing tells every change, and each change has its own; it ends in a dot, because a name may end as
no key does (:func:`check_path`). It only makes a change show sooner: who misses one finds the
change by listing all known pictures. So it is written after the change, and one that cannot be
written, as for a name that leaves no room for the rest, fails nothing.
"""

import re
import secrets
from typing import Final, Protocol

import structlog

from services.common.errors import ObjectStoreError
from services.common.object_keys import KNOWN_PEOPLE, InvalidPathError, check_path, folder_of

log = structlog.get_logger(__name__)

CHANGES: Final = "changes/"
"""The prefix of markers."""

_TOKEN_BYTES: Final = 4
"""Enough to tell the changes of one person within a minute apart."""

_MARKER: Final = re.compile(rf"{CHANGES}[0-9a-f]{{{2 * _TOKEN_BYTES}}}([^/]+)\.")


class Store(Protocol):
    """What of the object store is used."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""


async def mark_changed(store: Store, key: str) -> None:
    """Say that the known picture with this key, ``known_people/<person>/…``, came or went."""
    person = folder_of(key.removeprefix(KNOWN_PEOPLE))
    try:
        name = check_path(f"{secrets.token_hex(_TOKEN_BYTES)}{person}.")
        await store.put(CHANGES + name, b"")
    except (InvalidPathError, ObjectStoreError) as error:
        log.warning("a change of known people may show later", key=key, reason=str(error))


def changed_person(marker: str) -> str | None:
    """Return whose pictures changed by the marker's key; None when it is no marker's."""
    if not (found := _MARKER.fullmatch(marker)):
        return None
    try:
        check_path(f"{found[1]}/1")  # a picture of theirs: the name alone may end as no key does
    except InvalidPathError:
        return None
    return found[1]

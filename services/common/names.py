"""The names by which services still import what is in the modules below."""

from services.common.person_names import (
    MAX_NAME_LENGTH,
    NAME_PATTERN,
    NO_SLASH,
    InvalidNameError,
    as_kept,
    by_id,
    check_name,
    check_who,
    id_of,
    known_name,
)

__all__ = [
    "MAX_NAME_LENGTH",
    "NAME_PATTERN",
    "NO_SLASH",
    "InvalidNameError",
    "as_kept",
    "by_id",
    "check_name",
    "check_who",
    "id_of",
    "known_name",
]

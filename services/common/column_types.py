"""What columns hold beyond SQL's types, and what is read of a value that is damaged."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import mysql

from services.common.faces import MAX_NUMBERS, check_encoding
from services.common.quality import Quality

log = structlog.get_logger(__name__)

# SQLite numbers rows only in INTEGER columns.
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def exact(length: int) -> sa.types.TypeEngine[str]:
    """Return a type of text that is compared exactly, also in trailing spaces: keys may end so."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


class Candidates(sa.TypeDecorator[list[dict[str, Any]]]):
    """Who a face may be; of what is no such list, only the entries that are sound.

    One damaged value would otherwise take a whole page of images with it. The face's own person
    and distance are columns of their own.
    """

    impl = sa.JSON
    cache_ok = True

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], list[dict[str, Any]]]:
        """Return what reads a value of the database."""
        read = super().result_processor(dialect, coltype)

        def candidates(value: Any) -> list[dict[str, Any]]:
            if value is None:  # the row of an image without faces
                return []
            content = _content(read, value)
            entries: list[Any] = content if isinstance(content, list) else [None]
            sound = [entry for entry in entries if _is_candidate(entry)]
            if len(sound) < len(entries):
                log.warning("candidates of a face are damaged and left out")
            return sound

        return candidates


def _is_candidate(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("person"), str)
        and isinstance(entry.get("image_name"), str)
        and type(entry.get("distance")) in {int, float}
    )


class QualityColumn(sa.TypeDecorator[Quality]):
    """A face's quality; None where it was not measured, or is damaged."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Quality | None, _: sa.Dialect) -> dict[str, Any] | None:
        """Return what is stored."""
        return asdict(value) if value else None

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], Quality | None]:
        """Return what reads a value of the database."""
        read = super().result_processor(dialect, coltype)

        def quality(value: Any) -> Quality | None:
            if value is None:
                return None
            content = _content(read, value)
            try:
                return Quality(**{field.name: content[field.name] for field in fields(Quality)})
            except (ValueError, TypeError, LookupError):
                log.warning("quality of a face is damaged and left out", value=str(value)[:200])
                return None

        return quality


class EncodingColumn(sa.TypeDecorator[bytes]):
    """A face's encoding, as ``common/faces.py`` describes it; None where it is damaged."""

    impl = sa.LargeBinary().with_variant(mysql.VARBINARY(4 * MAX_NUMBERS), "mysql", "mariadb")
    cache_ok = True

    def result_processor(self, *_: object) -> Callable[[Any], bytes | None]:
        """Return what reads a value of the database."""

        def encoding(value: Any) -> bytes | None:
            try:
                return check_encoding(value)
            except ValueError as error:
                log.warning("encoding of a face is damaged and left out", reason=str(error))
                return None

        return encoding


def _content(read: Callable[[Any], Any] | None, value: Any) -> Any:
    """Return what is stored as JSON; None when it is damaged."""
    try:
        return read(value) if read else value
    except (ValueError, TypeError, RecursionError):
        return None

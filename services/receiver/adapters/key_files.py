"""Keys that lie in files, as Secrets do that are mounted."""

from functools import partial
from pathlib import Path

import structlog

from services.common.settings import read_passwords
from services.receiver.ports import KeyFile

log = structlog.get_logger(__name__)


def key_file(file: Path | None) -> KeyFile | None:
    """Return what reads the file; ``None`` without one."""
    return None if file is None else partial(_read, file)


def _read(file: Path) -> list[bytes]:
    try:
        return [key.encode() for key in read_passwords(file) if key]
    except (OSError, UnicodeDecodeError) as error:
        log.warning("a key cannot be read, so nobody has it", file=str(file), error=str(error))
        return []

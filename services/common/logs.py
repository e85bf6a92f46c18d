"""JSON logs on standard output, or lines for people on a terminal.

Nobody's name stands in them, not even in a key: who is forgotten would live on in old logs.

The id of the image at hand is bound once with
``structlog.contextvars.bound_contextvars(image_id=42)`` and then stands in every line below.
"""

import logging
import re
import sys
from typing import Final

import structlog
from structlog.typing import Processor

from services.common.object_keys import KNOWN_PEOPLE

_NAMES: Final = re.compile(
    rf"({KNOWN_PEOPLE})[^/\n]+(?=/)|(changes/[0-9a-f]{{8}}).+?\.(?=:|$)", re.MULTILINE
)
"""What of a key is a person's name: the folder of known pictures, and the rest of a marker."""


def configure(service: str, level: str) -> None:
    """Send structlog and the standard library's logging through one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stdout.isatty()

    def name_service_and_nobody(
        _: object, __: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {
            key: _NAMES.sub(r"\1\2…", value) if isinstance(value, str) else value
            for key, value in {"service": service, **event}.items()
        }

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if terminal else [structlog.processors.format_exc_info]),
                name_service_and_nobody,
                # With the values of variables it would show names, pictures and passwords.
                structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
                if terminal
                else structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # One line per request of a library says nothing that our own metrics do not.
    for noisy in ("httpx", "httpcore", "aiosqlite", "tornado.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It repeats what the server notes, such as each row that INSERT IGNORE left out.
    logging.getLogger("asyncmy").setLevel(logging.ERROR)

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from services.common import logs

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # basicConfig(force=True) closes the handlers that it replaces; pytest's are still needed.
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    logs.configure("receiver", "INFO")
    return lambda: [json.loads(line) for line in output.getvalue().splitlines()]


def test_every_line_is_json_and_names_service_level_time_and_logger(lines: Lines) -> None:
    structlog.get_logger("services.receiver.app").info("accepted", path="a.jpg")
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "service": "receiver",
        "level": "info",
        "logger": "services.receiver.app",
        "event": "accepted",
        "path": "a.jpg",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("known_people/Zoë Łątka/1.jpg", "known_people/…/1.jpg"),
        (
            "/srv/store/known_people/A. B: C/1.jpg: not there",
            "/srv/store/known_people/…/1.jpg: not there",
        ),
        ("changes/0a1b2c3dDr. Zoë: one.", "changes/0a1b2c3d…"),
        (
            "object store: changes/0a1b2c3dZoë.: no space",
            "object store: changes/0a1b2c3d…: no space",
        ),
        ("pictures/known/Zoë.jpg", "pictures/known/Zoë.jpg"),
    ],
)
def test_no_name_of_a_person_is_in_a_line(lines: Lines, text: str, shown: str) -> None:
    log = structlog.get_logger("services.redeemer")
    log.info("removed", key=text)
    logging.getLogger("a.library").warning("%s", text)
    log.error("unexpected error", exc_info=OSError(text))
    removed, warned, failed = lines()
    assert (removed["key"], warned["event"]) == (shown, shown)
    assert f"OSError: {shown}" in failed["exception"]


def test_the_image_id_is_bound_once_and_stands_in_every_line_below(lines: Lines) -> None:
    log = structlog.get_logger("services.image_processor")
    with structlog.contextvars.bound_contextvars(image_id=42):
        log.info("claimed")
        logging.getLogger("some.library").warning("odd picture")
    log.info("waiting")
    assert [(line["event"], line.get("image_id")) for line in lines()] == [
        ("claimed", 42),
        ("odd picture", 42),
        ("waiting", None),
    ]


def test_an_exception_is_one_line(lines: Lines) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger("x").exception("failed")
    (line,) = lines()
    assert line["level"] == "error"
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_a_line_break_in_a_name_cannot_forge_a_line(lines: Lines) -> None:
    structlog.get_logger("x").info("accepted", path='a.jpg\n{"event": "forged"}')
    (line,) = lines()
    assert line["path"] == 'a.jpg\n{"event": "forged"}'


def test_what_is_below_the_level_is_left_out(lines: Lines) -> None:
    structlog.get_logger("x").debug("detail")
    logging.getLogger("some.library").debug("detail")
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert lines() == []


def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    output = Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    logs.configure("receiver", "INFO")
    structlog.get_logger("x").info("accepted", path="a.jpg")
    assert "accepted" in output.getvalue()
    assert not output.getvalue().lstrip().startswith("{")

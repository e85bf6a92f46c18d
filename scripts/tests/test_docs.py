"""What the pages say that no other test follows: their links, and the code for endpoints."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from standardwebhooks import Webhook

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_address_that_is_named_is_one_of_the_api() -> None:
    code = "".join(
        file.read_text() for file in ROOT.glob("services/receiver/adapters/http/**/*.py")
    )
    routes = {unnamed(path) for path in re.findall(r'"(/[^"\s]*)"', code)}
    for page in PAGES:
        named = re.findall(r"`(?:GET|POST|PUT|PATCH|DELETE) (/[^`?\s]*)", page.read_text())
        assert {unnamed(path) for path in named} <= routes, page.name


def unnamed(path: str) -> str:
    """Return an address without the names of what is to be filled in."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_the_code_for_an_endpoint_takes_what_is_signed_and_nothing_else() -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text()
    [make] = re.findall(r"`(echo [^`]+)`", page)
    [code] = re.findall(r"^```python\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    secret = subprocess.check_output(["bash", "-c", make], text=True).strip()
    given: dict[str, Any] = {}
    exec(code, given)
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", now, "{}"),
    }
    assert given["is_genuine"](secret, headers, b"{}")
    assert not given["is_genuine"](secret, headers, b"[]")
    assert not given["is_genuine"](secret, headers | {"webhook-timestamp": "1732752000"}, b"{}")


def test_what_is_called_tested_names_its_test() -> None:
    table = (ROOT / "docs/tested.md").read_text().partition("## Tested")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"\]\(\.\./([\w/.-]+/test_\w+\.py)\)", row.split("|")[3])
        assert named, row
        assert all((ROOT / file).is_file() for file in named), row

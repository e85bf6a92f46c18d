"""Logging in, in a real browser, at a real receiver: what each role does and sees."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.frontend.tests.browser import EILEEN, as_file, card, jpeg, keep_screenshot, photo
from services.testing.processes import Service

PASSWORD: Final = "correct horse battery"
WRITES: Final = 'form[method="post"]:not([action="/search"], [action="/log-out"])'


@pytest.fixture
def page_url(
    sqlite_settings: DatabaseSettings, folder_store_settings: ObjectStoreSettings, tmp_path: Path
) -> Iterator[str]:
    """The pages of a receiver that knows ada, an editor, and grace, a viewer."""
    administrator, frontend = tmp_path / "administrator", tmp_path / "frontend"
    administrator.write_text("the administrator's key")
    frontend.write_text("the key of the frontend")
    receiver = Service(
        "services.receiver",
        tmp_path / "receiver.log",
        database_url=sqlite_settings.database_url,
        object_store_url=folder_store_settings.object_store_url,
        face_recog_target="dns:///127.0.0.1:1",
        access="keys",
        administrator_key_file=administrator,
        frontend_key_file=frontend,
    )
    with receiver:
        for name, role in (("ada", "editor"), ("grace", "viewer"), ("root", "administrator")):
            httpx.post(
                f"{receiver.url}/users",
                json={"name": name, "role": role, "password": PASSWORD},
                headers={"Authorization": f"Bearer {administrator.read_text()}"},
            ).raise_for_status()
        pages = Service(
            "services.frontend",
            tmp_path / "frontend.log",
            receiver_url=receiver.url,
            receiver_key_file=frontend,
        )
        with pages:
            yield pages.url


def log_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill in the form."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def log_out(page: Page) -> None:
    """Log out by the menu."""
    page.locator(".account summary").click()
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/log-in$"))


def test_people_do_what_their_role_lets_them(browser: Browser, page_url: str) -> None:
    with browser.new_context(base_url=page_url) as context:
        page = context.new_page()
        page.goto("/?status=pending")
        expect(page.get_by_role("navigation")).to_have_count(0)
        log_in(page, "ada", "a wrong password")
        expect(page.get_by_role("alert")).to_contain_text("is wrong")
        log_in(page, "ada")
        expect(page).to_have_url(f"{page_url}/?status=pending")
        [cookie] = context.cookies()
        assert (cookie["name"], cookie["httpOnly"]) == ("__Host-session", True)

        # An editor, with scripts: their requests show that they are ours.
        page.locator("#files").set_input_files(as_file(jpeg(photo(EILEEN))))
        expect(card(page, "chosen.jpg")).to_be_visible()
        page.get_by_role("button", name="Close the list of uploads").click()
        expect(page.locator(".account summary")).to_have_text("ada")
        keep_screenshot(page, "logged-in")
        page.goto("/")
        log_out(page)
        page.go_back()
        expect(page).to_have_url(re.compile("/log-in"))

        log_in(page, "grace")
        expect(card(page, "chosen.jpg")).to_be_visible()
        for path in ("/", "/images/1", "/people", "/who", "/search"):
            page.goto(path)
            expect(page.locator(WRITES)).to_have_count(0)
        assert page.goto("/users").status == 403  # type: ignore[union-attr]
        log_out(page)

        # An administrator, and a session that ends while a page is open.
        log_in(page, "root")
        page.goto("/users")
        grace = page.locator(".person", has_text="grace")
        grace.get_by_role("button", name="Disable grace").click()
        expect(grace.get_by_text("Disabled")).to_be_visible()
        page.goto("/")
        delete = page.get_by_role("button", name="Delete: chosen.jpg")
        delete.click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(card(page, "chosen.jpg")).to_have_count(0)
        page.goto("/audit")
        expect(page.get_by_role("row", name="root").filter(has_text="Delete image")).to_be_visible()
        page.goto("/")
        context.clear_cookies()
        expect(page.get_by_text("You are logged out")).to_be_visible()

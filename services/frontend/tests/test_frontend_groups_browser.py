"""What people do with unknown faces, in a real browser on the real pipeline."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from playwright.sync_api import Page, expect

from services.frontend.tests.browser import (
    EILEEN,
    GRACE,
    PHONE,
    Site,
    assert_not_reloaded,
    jpeg,
    keep_screenshot,
    mark,
    photo,
    wait_for,
)

expect.set_options(timeout=20_000)


def meet(site: Site, person: str, *, times: int) -> list[int]:
    """Upload so many pictures of somebody whom nobody knows; return them when they are a group."""
    pictures = [
        site.submit(f"{person} {number}.jpg", jpeg(photo(person))) for number in range(times)
    ]
    wait_for(lambda: group_of(site, pictures))
    return pictures


def group_of(site: Site, pictures: list[int]) -> int | None:
    """Return the group that shows exactly these pictures, if there is one."""
    for group in site.call("GET", "/groups")["groups"]:
        if sorted(face["image_id"] for face in group["faces"]) == sorted(pictures):
            return int(group["id"])
    return None


def face_of(site: Site, picture: int) -> dict[str, Any]:
    """Return the only face of a picture."""
    (face,) = site.call("GET", f"/images/{picture}")["faces"]
    return dict(face)


@contextmanager
def asked(site: Site, first: list[int], second: list[int]) -> Iterator[None]:
    """Ask whether two groups are one; nobody takes that question back."""
    people = site.pipeline.services["people"]
    people.stop()
    question = sorted((group_of(site, first) or 0, group_of(site, second) or 0))
    with closing(sqlite3.connect(site.store.parent / "facestack.db", timeout=30)) as rows, rows:
        rows.execute("DELETE FROM group_questions")
        rows.execute(
            "INSERT INTO group_questions (group_id, other_group_id, likeness, created_at)"
            " VALUES (?, ?, 0.5, 0)",
            question,
        )
    try:
        yield
    finally:
        people.start()
        people.wait_ready()


def answer_of(site: Site) -> str | None:
    """Return what was answered to the only question."""
    with closing(sqlite3.connect(site.store.parent / "facestack.db", timeout=30)) as rows:
        (answer,) = rows.execute("SELECT answer FROM group_questions").fetchone()
    return None if answer is None else str(answer)


def say(page: Page, text: str) -> None:
    """The page says so, also to who cannot see it."""
    expect(page.get_by_role("alert").filter(has_text=text)).to_be_visible()


def test_where_nobody_is_unknown_the_page_leads_to_the_pictures(site: Site) -> None:
    with site.open() as page:
        page.get_by_role("link", name="Who is this?").click()
        expect(page.get_by_role("heading", name="Nobody to name")).to_be_visible()
        page.get_by_role("link", name="Upload more pictures").click()
        expect(page.locator("#files")).to_be_attached()


def test_somebody_names_a_whole_group_with_one_field_having_left_out_one_face(
    site: Site,
) -> None:
    pictures = meet(site, EILEEN, times=3)
    with site.open("/who") as page:
        page.get_by_role("link", name="3 faces").click()
        mark(page)
        faces = page.get_by_role("checkbox", name="Does not belong")
        expect(faces).to_have_count(3)
        expect(page.get_by_role("img", name="Face in picture")).to_have_count(3)
        left_out = int((faces.nth(1).get_attribute("value") or "").partition("-")[0])
        faces.nth(1).check()
        page.get_by_label("Name").fill(EILEEN)
        page.get_by_role("button", name="Save name").click()
        say(page, f"2 faces are {EILEEN} now.")
        expect(page.get_by_role("link", name="Go on with the next group")).to_be_focused()
        assert_not_reloaded(page)
    for picture in pictures:
        face = face_of(site, picture)
        by_hand = (face["person"], face["decided_by"]) == (EILEEN, "hand")
        assert by_hand is (picture != left_out), face


def test_a_group_shows_up_grows_and_goes_while_somebody_looks(site: Site) -> None:
    with site.open("/who") as page:
        mark(page)
        pictures = meet(site, EILEEN, times=2)
        expect(page.get_by_role("link", name="2 faces")).to_be_visible()
        group = group_of(site, pictures)
        pictures.append(site.submit("more.jpg", jpeg(photo(EILEEN))))
        expect(page.get_by_role("link", name="3 faces")).to_be_visible()
        assert group_of(site, pictures) == group
        for picture in pictures:
            site.call("DELETE", f"/images/{picture}")
        expect(page.get_by_role("heading", name="Nobody to name")).to_be_visible()
        assert_not_reloaded(page)


def test_the_keyboard_suffices_to_answer_and_to_name_one_group_after_the_other(
    site: Site,
) -> None:
    first, second = meet(site, EILEEN, times=3), meet(site, GRACE, times=2)
    with asked(site, first, second), site.open("/who") as page:
        mark(page)
        expect(page.get_by_role("heading", name="Same person?")).to_be_visible()
        no = page.get_by_role("group", name="Same person: ").get_by_role("button", name="No")
        no.focus()
        page.keyboard.press("Enter")
        say(page, "No, two people.")
        expect(page.get_by_role("heading", name="Same person?")).to_have_count(0)
        assert answer_of(site) == "no"
        largest, other = (
            page.locator(f"#name-{group_of(site, pictures)}") for pictures in (first, second)
        )
        expect(largest).to_be_focused()
        page.keyboard.type(EILEEN)
        page.keyboard.press("Enter")
        say(page, f"3 faces are {EILEEN} now.")
        expect(other).to_be_focused()
        page.keyboard.type(GRACE)
        page.keyboard.press("Enter")
        say(page, f"2 faces are {GRACE} now.")
        expect(page.get_by_role("heading", name="Nobody to name")).to_be_visible()
        assert_not_reloaded(page)
    assert [face_of(site, picture)["person"] for picture in (*first, *second)] == [EILEEN] * 3 + [
        GRACE
    ] * 2


def test_somebody_chooses_whom_a_name_means_that_two_people_bear(site: Site) -> None:
    for _ in range(2):
        site.call(
            "POST",
            "/people/Alex/pictures?another=true&insist=true",
            files={"file": ("alex.jpg", jpeg(photo(GRACE)))},
        )
    _, other = site.call("GET", "/people?person=Alex")["people"]
    pictures = meet(site, EILEEN, times=2)
    with site.open("/who") as page:
        mark(page)
        page.get_by_role("combobox", name="Who is this?").fill("Alex")
        page.keyboard.press("Enter")
        say(page, "2 people are called")
        expect(page.get_by_role("button", name="Somebody else called Alex")).to_be_visible()
        page.get_by_role("button", name=f"~{other['id']}").click()
        say(page, "2 faces are Alex now.")
        assert_not_reloaded(page)
    assert {face_of(site, picture)["person_id"] for picture in pictures} == {other["id"]}
    assert len(site.complaints) == 1  # the browser reports the status 409
    site.complaints.clear()


def test_everything_works_without_script(site: Site) -> None:
    first, second = meet(site, EILEEN, times=3), meet(site, GRACE, times=2)
    with asked(site, first, second), site.open("/who", java_script_enabled=False) as page:
        page.get_by_role("button", name="Later").click()
        expect(page.get_by_role("heading", name="Same person?")).to_have_count(0)
        assert answer_of(site) == "later"
    with site.open("/who", java_script_enabled=False) as page:
        page.get_by_role("link", name="3 faces").click()
        page.get_by_role("checkbox").first.check()
        page.get_by_label("Name").fill(" . ")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("alert").first).to_contain_text("dot")
        expect(page.get_by_role("checkbox").first).to_be_checked()
        page.get_by_role("button", name="Leave out ticked").click()
        expect(page.get_by_role("checkbox")).to_have_count(2)
        page.get_by_label("Name").fill(EILEEN)
        page.get_by_role("button", name="Save name").click()
        page.locator(f"#name-{group_of(site, second)}").fill(GRACE)
        page.get_by_role("button", name="Save name of 2 faces").click()
        expect(page.get_by_role("link", name="2 faces")).to_have_count(0)
    by_hand = [face_of(site, picture)["decided_by"] == "hand" for picture in (*first, *second)]
    assert by_hand.count(True) == 4
    assert all(by_hand[3:])
    assert len(site.complaints) == 1  # the browser reports the status 422
    site.complaints.clear()


def test_it_looks_right_on_a_desk_and_on_a_phone(site: Site) -> None:
    first, second = meet(site, EILEEN, times=5), meet(site, GRACE, times=3)
    group = group_of(site, first)
    with asked(site, first, second):
        for name, path in (("groups", "/who"), ("group", f"/who/{group}")):
            with site.open(path) as page:
                keep_screenshot(page, name)
            with site.open(path, color_scheme="dark") as page:
                keep_screenshot(page, f"{name}-dark")
            with site.open(path, **PHONE) as page:
                widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert widths == [360, 360]
                keep_screenshot(page, f"{name}-phone")
            with site.open(path, viewport={"width": 320, "height": 600}) as page:
                assert page.evaluate("document.documentElement.scrollWidth") == 320

"""Looking for a face, as a person does it in a browser, on the whole pipeline."""

import io
import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from services.frontend.tests.browser import (
    EILEEN,
    FACES,
    GRACE,
    PHOTOS,
    Gate,
    Site,
    as_file,
    chromium,
    drop,
    jpeg,
    keep_screenshot,
    mirrored,
    photo,
    wait_for,
)
from services.testing.pipeline import Pipeline
from services.testing.samples import sample

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def site(pipeline: Pipeline, browser: Browser) -> Iterator[Site]:
    """The pages, with Grace known and on one picture, and Eileen unknown on two."""
    site = Site(pipeline, browser)
    site.clear()
    site.call(
        "POST",
        f"/people/{GRACE}/pictures",
        files={"file": (PHOTOS[GRACE], sample(PHOTOS[GRACE]).read_bytes())},
    )
    site.wait_known(pictures=1)
    ids = [
        site.submit("grace.jpg", jpeg(photo(GRACE))),
        site.submit("eileen.jpg", jpeg(photo(EILEEN))),
        site.submit("mirrored.jpg", mirrored(EILEEN)),
    ]
    for picture_id in ids:
        site.wait_status(picture_id, "processed")
    asked = {"image_id": ids[0], "face_index": 0}
    wait_for(lambda: len(_found(site, asked)) == 2)
    yield site
    assert site.complaints == []


def _found(site: Site, asked: dict[str, int]) -> list[object]:
    found: list[object] = site.call("POST", "/search", json=asked)["found"]
    return found


def both() -> bytes:
    """Return a picture of both, Grace larger."""
    grace, eileen = photo(GRACE), photo(EILEEN)
    picture = Image.new("RGB", (grace.width + eileen.width, grace.height), "white")
    picture.paste(grace, (0, 0))
    picture.paste(eileen, (grace.width, 0))
    return jpeg(picture)


def likely(page: Page) -> list[str | None]:
    shown = page.locator("#results .found-part > .found .found-face")
    return [link.get_attribute("href") for link in shown.all()]


def pictures(site: Site, *names: str) -> list[str]:
    images = site.call("GET", "/images")["images"]
    return [f"/images/{image['id']}" for name in names for image in images if image["name"] == name]


def test_somebody_is_found_by_a_picture_and_nothing_of_it_is_kept(site: Site) -> None:
    before = sorted(site.store.rglob("*"))
    with site.open() as page:
        page.get_by_role("link", name="Search").click()
        page.set_input_files("#file", as_file(mirrored(GRACE)))
        title = "1 face of the same person, as far as can be told"
        expect(page.get_by_role("heading", name=title)).to_be_focused()
        assert likely(page) == pictures(site, "grace.jpg")
        found = page.locator("#results .found-part > .found li")
        expect(found.locator(".name")).to_have_text(GRACE)
        expect(found).to_contain_text("the same person")
        page.get_by_text("2 others that look similar").click()
        expect(page.locator("#results details .found-face")).to_have_count(2)
        keep_screenshot(page, "search")
    assert len(site.call("GET", "/images")["images"]) == 3
    left = {file for file in set(site.store.rglob("*")) - set(before) if file.is_file()}
    assert {file for file in left if "thumbnails" not in str(file)} == set()


def test_another_face_of_the_picture_is_chosen_where_it_is(site: Site) -> None:
    with site.open("/search") as page:
        drop(page, ("both.jpg", both()))
        expect(page.locator(".on-picture .button")).to_have_count(2)
        assert likely(page) == pictures(site, "grace.jpg")
        second = page.get_by_role("button", name="Look for face 2 of 2")
        drawn = second.evaluate(
            """(button) => {
                const canvas = document.querySelector(".searched canvas").getBoundingClientRect();
                const box = button.getBoundingClientRect();
                const [left, top] = [box.left - canvas.left, box.top - canvas.top];
                return [left / canvas.width, top / canvas.height];
            }"""
        )
        left, top, *_ = FACES[EILEEN]
        width = photo(GRACE).width
        assert drawn[0] == pytest.approx((left + width) / (width + photo(EILEEN).width), abs=0.03)
        assert drawn[1] == pytest.approx(top / photo(GRACE).height, abs=0.05)
        second.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="2 faces of the same person")).to_be_focused()
        assert set(likely(page)) == set(pictures(site, "eileen.jpg", "mirrored.jpg"))
        expect(second).to_have_attribute("aria-pressed", "true")
        keep_screenshot(page, "search-two-faces")


def test_everything_that_a_face_of_a_picture_appears_in_is_one_click_away(site: Site) -> None:
    [eileen, other] = pictures(site, "eileen.jpg", "mirrored.jpg")
    with site.open(eileen) as page:
        page.get_by_role("link", name="Find this face").click()
        expect(page.get_by_role("heading", name="1 face of the same person")).to_be_visible()
        assert likely(page) == [other]
        page.locator("#results .found-part > .found").get_by_role(
            "link", name="Find the face in"
        ).click()
        expect(page.locator("#results .found-part > .found .found-face")).to_have_attribute(
            "href", eileen
        )
        page.set_input_files("#file", as_file(jpeg(photo(GRACE))))
        expect(page).to_have_url(re.compile("/search$"))
        assert likely(page) == pictures(site, "grace.jpg")


def test_it_works_without_javascript(site: Site) -> None:
    with site.open("/search", java_script_enabled=False) as page:
        page.set_input_files("#file", as_file(both()))
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("heading", name="1 face of the same person")).to_be_visible()
        page.set_input_files("#file", as_file(both()))
        page.get_by_role("button", name="Look for face 2 of 2").click()
        expect(page.get_by_role("heading", name="2 faces of the same person")).to_be_visible()


def test_why_a_picture_cannot_be_looked_for_stands_there(site: Site) -> None:
    empty = io.BytesIO()
    Image.new("RGB", (300, 300), "white").save(empty, "JPEG")
    with site.open("/search") as page:
        page.set_input_files("#file", as_file(empty.getvalue()))
        expect(page.get_by_role("alert").filter(has_text="No face was found")).to_be_visible()
        keep_screenshot(page, "search-refused")
        page.set_input_files("#file", as_file(b"no picture"))
        expect(page.get_by_role("alert").filter(has_text="cannot be used")).to_be_visible()
    # The browser reports the refusals themselves.
    site.complaints[:] = [
        complaint for complaint in site.complaints if "status of 422" not in complaint
    ]


def test_a_search_that_another_one_overtakes_shows_nothing(site: Site) -> None:
    with site.open("/search") as page:
        gate = Gate(page, "**/search")
        for person in (EILEEN, GRACE):
            with page.expect_request("**/search"):
                page.set_input_files("#file", as_file(jpeg(photo(person))))
        gate.open()
        expect(page.get_by_role("heading", name="1 face of the same person")).to_be_visible()
        assert likely(page) == pictures(site, "grace.jpg")


def test_it_can_be_used_on_a_phone_and_in_the_dark(site: Site) -> None:
    phone = {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
        "color_scheme": "dark",
    }
    with site.open("/search", **phone) as page:
        page.set_input_files("#file", as_file(both()))
        expect(page.locator("#results .found-part > .found .found-face")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        keep_screenshot(page, "search-phone-dark")

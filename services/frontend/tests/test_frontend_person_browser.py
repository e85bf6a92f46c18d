"""What people do on the page of a person, in a real browser on the real pipeline."""

import json
import re

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from services.frontend.tests.browser import (
    EILEEN,
    GRACE,
    PHONE,
    PHOTOS,
    Site,
    as_file,
    card,
    jpeg,
    keep_screenshot,
    mirrored,
    photo,
    wait_for,
)
from services.testing.samples import sample

expect.set_options(timeout=20_000)


def enrol(site: Site, name: str, photo_of: str | None = None) -> str:
    """Make somebody known by a photograph; return what they are known by."""
    file = PHOTOS[photo_of or name]
    known = site.call(
        "POST", f"/people/{name}/pictures", files={"file": (file, sample(file).read_bytes())}
    )
    return f"~{known['person_id']}"


def submit(site: Site, name: str, content: bytes) -> int:
    picture_id = site.submit(name, content)
    site.wait_status(picture_id, "processed")
    return picture_id


def together() -> bytes:
    """Return a picture of both."""
    picture = Image.new("RGB", (949, 512))
    picture.paste(photo(EILEEN), (0, 0))
    picture.paste(photo(GRACE).resize((437, 512)), (512, 0))
    return jpeg(picture)


def change(page: Page, picture: str) -> Locator:
    """Open what may be changed on a picture's card, and return it."""
    shown = card(page, picture)
    shown.get_by_text("Change").click()
    return shown.locator(".change")


def refused(site: Site, *statuses: int) -> None:
    """Forget that the browser has reported these refusals."""
    reported = [
        int(found)
        for complaint in site.complaints
        for found in re.findall("status of (4..)", complaint)
    ]
    assert reported == list(statuses), site.complaints
    site.complaints.clear()


def test_somebody_looks_at_all_pictures_of_a_person(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    site.wait_known(pictures=1)
    submit(site, "alone.jpg", mirrored(EILEEN))
    submit(site, "both.jpg", together())
    submit(site, "grace.jpg", mirrored(GRACE))
    with site.open("/people") as page:
        page.get_by_role("link", name=EILEEN, exact=True).click()
        expect(page).to_have_url(re.compile(f"/people/{eileen}$"))
        expect(page.get_by_role("heading", name=EILEEN, exact=True)).to_be_visible()
        expect(page.locator(".profile")).to_contain_text("2 pictures · 1 known picture")
        names = page.locator(".card h2")
        expect(names).to_have_text(["both.jpg", "alone.jpg"])
        # Of two faces, hers is marked.
        expect(card(page, "both.jpg").locator(".overlay .label")).to_have_text([EILEEN])
        # What others do shows without a reload.
        submit(site, "later.jpg", jpeg(photo(EILEEN)))
        expect(names).to_have_text(["later.jpg", "both.jpg", "alone.jpg"])
        expect(page.locator(".profile")).to_contain_text("3 pictures")
        page.get_by_role("link", name="3 pictures").click()
        expect(page.get_by_label("Person")).to_have_value(eileen)
        expect(page.locator(".card")).to_have_count(3)


def test_somebody_gives_a_second_person_a_name_that_is_taken_and_tells_them_apart(
    site: Site,
) -> None:
    first = enrol(site, "Ada", EILEEN)
    site.wait_known(pictures=1)
    picture = submit(site, "grace.jpg", mirrored(GRACE))
    with site.open(f"/images/{picture}") as page:
        face = page.locator(".face-card")
        face.get_by_label("Who is this?").fill("Ada")
        face.get_by_role("button", name="Save name").click()
        expect(face.get_by_role("alert")).to_contain_text("does not look like")
        another = face.get_by_role("button", name="Somebody else called Ada")
        another.focus()
        keep_screenshot(page, "another-of-a-name")
        another.press("Enter")
        expect(face).to_have_attribute("data-kind", "known")
        expect(face.get_by_role("link", name="Ada")).to_be_focused()
    refused(site, 422)
    site.wait_known(pictures=2)
    people = site.call("GET", "/people?person=Ada")["people"]
    assert [person["name"] for person in people] == ["Ada", "Ada"]
    second = next(f"~{person['id']}" for person in people if f"~{person['id']}" != first)

    # From now on the name alone does not say who it is.
    both = submit(site, "both.jpg", together())
    with site.open(f"/images/{both}") as page:
        its = page.locator(".face-card", has=page.locator(f'a[href="/people/{second}"]'))
        face = page.locator(f".face-card[data-face='{its.get_attribute('data-face')}']")
        face.get_by_role("button", name="Not Ada").click()
        expect(face).to_have_attribute("data-kind", "unknown")
        face.get_by_label("Who is this?").fill("Ada")
        face.get_by_label("Who is this?").press("Enter")
        choices = face.locator(".choice")
        expect(choices).to_have_count(3)
        keep_screenshot(page, "which-one")
        # Another name is typed: what was offered is none for that.
        face.get_by_label("Who is this?").fill("Adam")
        expect(choices).to_have_count(0)
        face.get_by_label("Who is this?").fill("Ada")
        face.get_by_label("Who is this?").press("Enter")
        face.get_by_role("button", name=second).press("Enter")
        expect(face.get_by_role("link", name="Ada")).to_have_attribute("href", f"/people/{second}")
    refused(site, 409, 409)

    with site.open("/people") as page:
        expect(page.locator(".person .number")).to_have_text(sorted([first, second]))
        keep_screenshot(page, "people-of-one-name")
    with site.open("/people/Ada") as page:
        page.get_by_role("link", name=second).click()
        expect(page.locator(".profile")).to_contain_text("2 known pictures")
    with site.open("/?person=Ada") as page:
        expect(page.get_by_role("heading", name="Several people are called Ada")).to_be_visible()
        page.locator(".choice", has_text=second).click()
        expect(page.locator(".card")).to_have_count(2)
    refused(site, 409)


def test_somebody_moves_a_face_to_whom_it_belongs_and_denies_another(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    enrol(site, GRACE)
    site.wait_known(pictures=2)
    mistaken = submit(site, "mistaken.jpg", mirrored(GRACE))
    wrong = submit(site, "wrong.jpg", jpeg(photo(GRACE)))
    # By hand, too: with faces of somebody else among hers, no machine is sure of it.
    right = submit(site, "right.jpg", mirrored(EILEEN))
    for picture in (right, mistaken, wrong):
        site.call(
            "POST",
            f"/people/{eileen}/pictures?insist=true",
            json={"image_id": picture, "face_index": 0},
        )
    with site.open(f"/people/{eileen}") as page:
        expect(page.locator(".card")).to_have_count(3)
        expect(page.locator(".profile")).to_contain_text("4 known pictures")
        moving = change(page, "mistaken.jpg")
        keep_screenshot(page, "change-a-face")
        moving.get_by_label("This is somebody else").fill("a/b")
        moving.get_by_label("This is somebody else").press("Enter")
        expect(moving.get_by_role("alert").last).to_contain_text("must not contain /")
        moving.get_by_label("This is somebody else").fill(GRACE)
        moving.get_by_role("button", name="Save name").click()
        expect(card(page, "mistaken.jpg")).to_have_count(0)
        # The keyboard stays where it was.
        expect(page.locator(".card :focus")).to_have_count(1)
        denying = change(page, "wrong.jpg")
        denying.get_by_role("button", name=f"Not {EILEEN}").click()
        expect(card(page, "wrong.jpg")).to_have_count(0)
        expect(card(page, "right.jpg")).to_be_visible()
        expect(page.locator(".profile")).to_contain_text("2 known pictures")
    [face] = site.call("GET", f"/images/{mistaken}")["faces"]
    assert (face["person"], face["decided_by"]) == (GRACE, "hand")
    [face] = site.call("GET", f"/images/{wrong}")["faces"]
    assert face["denials"] == [EILEEN]
    refused(site, 422)


def test_somebody_merges_two_people_and_takes_it_back(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    enrol(site, "Colonel", GRACE)
    site.wait_known(pictures=2)
    submit(site, "eileen.jpg", mirrored(EILEEN))
    submit(site, "colonel.jpg", mirrored(GRACE))
    with site.open(f"/people/{eileen}") as page:
        expect(page.locator(".card h2")).to_have_text(["eileen.jpg"])
        page.get_by_role("link", name="Same as somebody else").click()
        expect(page.get_by_label("Find somebody")).to_be_focused()
        page.keyboard.type("colo")
        page.keyboard.press("Enter")
        # Who it is can be seen before.
        other = page.locator(".person")
        expect(other).to_contain_text("1 known picture")
        expect(other.locator("img")).to_have_js_property("complete", value=True)
        keep_screenshot(page, "merge-found")
        same = page.get_by_role("button", name=f"Colonel is the same person as {EILEEN}")
        same.press("Enter")
        expect(page).to_have_url(re.compile(f"/people/{eileen}$"))
        expect(page.locator(".card h2")).to_have_text(["colonel.jpg", "eileen.jpg"])
        expect(page.locator(".profile")).to_contain_text("2 pictures · 2 known pictures")
        expect(page.locator(".merges")).to_contain_text("Colonel was found to be the same person")
        keep_screenshot(page, "merged")

        page.get_by_role("button", name="Undo: Colonel is somebody else").press("Enter")
        expect(page.locator(".merges")).to_have_count(0)
        expect(page.locator(".card h2")).to_have_text(["eileen.jpg"])
        page.get_by_role("link", name="All people").click()
        page.get_by_role("link", name="Colonel", exact=True).click()
        expect(page.locator(".card h2")).to_have_text(["colonel.jpg"])
        expect(page.locator(".profile")).to_contain_text("1 known picture")


def test_somebody_chooses_the_face_that_stands_for_a_person(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    site.wait_known(pictures=1)
    pictures = {
        f"/images/{submit(site, name, content)}/faces/": name
        for name, content in (("alone.jpg", mirrored(EILEEN)), ("both.jpg", together()))
    }
    with site.open(f"/people/{eileen}") as page:
        portrait = page.locator(".profile .portrait")
        before = portrait.get_attribute("src") or ""
        [(address, other)] = [item for item in pictures.items() if not before.startswith(item[0])]
        change(page, other).get_by_role("button", name="Use as portrait").press("Enter")
        expect(portrait).to_have_attribute("src", re.compile(f"^{address}"))
        expect(portrait).to_have_js_property("complete", value=True)
        assert portrait.evaluate("image => image.naturalWidth") > 50
        keep_screenshot(page, "portrait")
        page.goto("/people")
        shown = page.locator(".person .portrait")
        expect(shown).to_have_attribute("src", re.compile(f"^{address}"))


def test_somebody_is_renamed_to_a_name_that_is_taken_only_when_that_is_meant(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    enrol(site, GRACE)
    with site.open(f"/people/{eileen}") as page:
        page.get_by_text("Rename").click()
        field = page.get_by_label(f"{EILEEN} is to be called")
        field.fill(GRACE)
        field.press("Enter")
        expect(page.locator(".profile").get_by_role("alert")).to_contain_text("somebody else")
        expect(field).to_have_value(GRACE)
        page.get_by_role("button", name=f"Call both {GRACE}").press("Enter")
        expect(page.get_by_role("heading", name=GRACE, exact=True)).to_be_visible()
        expect(page.locator(".profile :focus")).to_have_count(1)
    refused(site, 409)


def test_somebody_who_is_hidden_is_found_behind_a_link_and_shown_again(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    with site.open(f"/people/{eileen}") as page:
        page.get_by_role("button", name="Hide").press("Enter")
        expect(page.locator(".profile .badge")).to_have_text("Hidden")
        expect(page.get_by_role("button", name="Show among the people")).to_be_focused()
        page.goto("/people")
        expect(page.get_by_role("heading", name="Nobody is known yet")).to_be_visible()
        page.get_by_role("link", name="Hidden people").click()
        page.get_by_role("link", name=EILEEN, exact=True).click()
        page.get_by_role("button", name="Show among the people").click()
        expect(page.locator(".profile .badge")).to_have_count(0)
        page.goto("/people")
        expect(page.get_by_role("link", name=EILEEN, exact=True)).to_be_visible()


NAMES = {
    "arabic": "نور الهدى عبد الرحمن",
    "thai": "สมชาย ใจดี",
    "quotes": 'O\'Neil "Bob" <b>&amp; Co #1 %2e?',
    "decomposed": "Zoe\u0308 A\u030angstro\u0308m",
    "long": "Maximiliane-Alexandra-Konstantinopolitanska " * 2,
    "unbroken": "x" * 100,
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_in_any_script_is_given_shown_and_fits_a_small_phone(site: Site, kind: str) -> None:
    name = NAMES[kind]
    picture = submit(site, "eileen.jpg", jpeg(photo(EILEEN)))
    with site.open(f"/images/{picture}") as page:
        page.get_by_role("combobox", name="Who is this?").fill(name)
        page.get_by_role("button", name="Save name").click()
        expect(page.locator(".face-card")).to_have_attribute("data-kind", "known")
    [person] = site.call("GET", "/people")["people"]
    address = f"/people/~{person['id']}"
    with site.open(address, viewport={"width": 320, "height": 700}) as page:
        shown = page.get_by_role("heading", name=person["name"], exact=True)
        expect(shown).to_be_visible()
        change(page, "eileen.jpg")
        page.get_by_text("Rename").click()
        field = page.locator(".profile input[name=person]")
        assert field.input_value() == person["name"]
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        keep_screenshot(page, f"name-{kind}")
        field.fill(f"{name.strip()[:98]} 2")
        field.press("Enter")
        expect(page.get_by_role("heading", name=re.compile(" 2$"))).to_be_visible()
        page.goto("/people")
        expect(page.locator(".person .grow h2")).to_contain_text(re.compile(r"2\s*$"))
        assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_persons_page_works_without_script(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    enrol(site, GRACE)
    site.wait_known(pictures=2)
    submit(site, "eileen.jpg", mirrored(EILEEN))
    with site.open(f"/people/{eileen}", java_script_enabled=False) as page:
        page.get_by_text("Rename").click()
        page.locator(".profile input[name=person]").fill(GRACE)
        page.get_by_role("button", name="Save name").first.click()
        expect(page.locator(".profile [role=alert]")).to_contain_text("somebody else")
        page.get_by_role("button", name=f"Call both {GRACE}").click()
        expect(page.get_by_role("heading", name=GRACE, exact=True)).to_be_visible()
        page.get_by_role("button", name="Hide").click()
        expect(page.locator(".profile .badge")).to_have_text("Hidden")
        page.get_by_label(f"Add a picture of {GRACE}").set_input_files(as_file(jpeg(photo(EILEEN))))
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator(".profile")).to_contain_text("2 known pictures")
        changing = change(page, "eileen.jpg")
        changing.get_by_role("button", name=f"Not {GRACE}").click()
        expect(page.get_by_role("heading", name="No picture yet")).to_be_visible()
    refused(site, 409)


@pytest.mark.parametrize("script", [True, False])
def test_somebody_takes_away_what_is_kept_and_is_forgotten_for_good(
    site: Site, *, script: bool
) -> None:
    eileen = enrol(site, EILEEN)
    enrol(site, GRACE)
    site.wait_known(pictures=2)
    alone = submit(site, "alone.jpg", mirrored(EILEEN))
    both = submit(site, "both.jpg", together())
    with site.open(f"/people/{eileen}", java_script_enabled=script) as page:
        page.get_by_role("link", name="Forget for good").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Export first").click()
        assert download.value.suggested_filename == f"person-{eileen[1:]}.json"
        kept = json.loads(download.value.path().read_text())
        assert kept["person"]["name"] == EILEEN
        assert len(kept["known_pictures"]) == 1
        assert sorted(picture["id"] for picture in kept["pictures"]) == [alone, both]

        page.get_by_label("I know that nobody can bring this back").check()
        page.get_by_role("button", name="Forget for good").click()
        expect(page.get_by_role("heading", name="Forgotten for good")).to_be_visible()
        expect(
            page.get_by_text("1 known picture, 2 faces and 0 submitted pictures")
        ).to_be_visible()
        page.goto(f"/images/{both}")
        expect(page.get_by_role("link", name=GRACE, exact=True)).to_be_visible()
        page.goto("/people")
        expect(page.locator(".person .grow h2")).to_have_text([GRACE])
    # Their name is shown nowhere from the first moment; their faces are erased after it.
    wait_for(lambda: not site.call("GET", f"/images/{alone}")["faces"])
    with site.open(f"/images/{alone}", java_script_enabled=script) as page:
        expect(page.locator(".face-card")).to_have_count(0)
        expect(page.get_by_text(EILEEN)).to_have_count(0)
    assert httpx.get(f"{site.pipeline.page_url}/people/{eileen}", trust_env=False).is_client_error


def test_somebody_is_forgotten_with_the_pictures_that_show_them(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    site.wait_known(pictures=1)
    submit(site, "alone.jpg", mirrored(EILEEN))
    submit(site, "grace.jpg", mirrored(GRACE))
    with site.open(f"/people/{eileen}/erase") as page:
        page.get_by_label(f"Delete the picture that shows {EILEEN}").press("Space")
        page.get_by_label("I know that nobody can bring this back").press("Space")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Forgotten for good")).to_be_visible()
        keep_screenshot(page, "erased")
        page.get_by_role("link", name="Go to the pictures").click()
        expect(page.locator(".card-head h2 a")).to_have_text(["grace.jpg"])


def test_a_persons_page_looks_right_on_a_desk_and_on_a_phone(site: Site) -> None:
    eileen = enrol(site, EILEEN)
    site.wait_known(pictures=1)
    grace = submit(site, "grace.jpg", mirrored(GRACE))
    site.call("POST", f"/people/{GRACE}/pictures", json={"image_id": grace, "face_index": 0})
    site.wait_known(pictures=2)
    for number in range(3):
        submit(site, f"eileen-{number}.jpg", mirrored(EILEEN))
    submit(site, "two-pioneers.jpg", together())
    for name, path in (
        ("person", f"/people/{eileen}"),
        ("merge", f"/people/{eileen}/merge"),
        ("erase", f"/people/{eileen}/erase"),
        ("people-cards", "/people"),
    ):
        with site.open(path) as page:
            keep_screenshot(page, name)
        with site.open(path, color_scheme="dark") as page:
            if name == "person":
                change(page, "eileen-2.jpg")
            keep_screenshot(page, f"{name}-dark")
        with site.open(path, **PHONE) as page:
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths == [360, 360]
            last = page.get_by_role("navigation", name="Pages").get_by_role("link").last
            expect(last).to_have_text("Search")
            expect(last).to_be_in_viewport(ratio=1)
            keep_screenshot(page, f"{name}-phone")

import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Dialog, expect

from services.common.picture_formats import FORMATS, media_type
from services.frontend.tests.browser import (
    EILEEN,
    FACES,
    GRACE,
    PHONE,
    PHOTOS,
    Gate,
    Site,
    as_file,
    assert_not_reloaded,
    card,
    drawn_in_pixels,
    drop,
    drop_from_disk,
    jpeg,
    keep_screenshot,
    mark,
    mirrored,
    photo,
    wait_for,
)
from services.testing.damaged_pictures import save
from services.testing.samples import sample

expect.set_options(timeout=20_000)

# How much of the page moved since it was opened, without anybody's doing.
LAYOUT_SHIFT = """() => new Promise((resolve) => {
    new PerformanceObserver((list) => {
        resolve(list.getEntries().reduce((sum, entry) => sum + entry.value, 0));
    }).observe({ type: "layout-shift", buffered: true });
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => resolve(0))));
})"""
# Every pair of the number on the chip "All" and of the cards that was ever to be seen.
RECORD_COUNTERS = """() => {
    window.counters = [];
    new MutationObserver(() => window.counters.push([
        Number(document.querySelector("#chip-all .count").textContent),
        document.querySelectorAll("li.card").length,
    ])).observe(document.getElementById("main"), { subtree: true, childList: true });
}"""
NASTY = "<img src=x onerror=1>.jpg"


def enrol(site: Site, person: str) -> None:
    site.call(
        "POST",
        f"/people/{person}/pictures",
        files={"file": (PHOTOS[person], sample(PHOTOS[person]).read_bytes())},
    )


def assert_over_the_face(drawn: list[float], person: str) -> None:
    for is_at, face in zip(drawn, FACES[person], strict=True):
        assert is_at == pytest.approx(face, abs=24)


def test_an_empty_page_says_what_to_do(site: Site) -> None:
    with site.open() as page:
        expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
        keep_screenshot(page, "empty")


def test_a_dropped_picture_is_processed_without_a_reload_and_its_face_is_framed(
    site: Site,
) -> None:
    with site.open() as page:
        mark(page)
        drop(
            page,
            ("eileen.png", sample(PHOTOS[EILEEN]).read_bytes()),
            ("grace.jpg", sample(PHOTOS[GRACE]).read_bytes()),
        )
        for name, person, size in (
            ("eileen.png", EILEEN, (512, 512)),
            ("grace.jpg", GRACE, (512, 600)),
        ):
            shown = card(page, name)
            expect(shown.locator(".badge")).to_have_text("Processed")
            expect(shown.locator(".overlay .face.unknown")).to_have_count(1)
            expect(shown.locator(".label")).to_have_text("Unknown")
            box = shown.locator(".overlay .box")
            assert_over_the_face(drawn_in_pixels(box, picture=size, fit="cover"), person)
        expect(page.locator("#uploads li.done")).to_have_count(2)
        assert_not_reloaded(page)
        card(page, "grace.jpg").get_by_role("link", name="grace.jpg").click()
        expect(page.get_by_role("heading", name="grace.jpg")).to_be_visible()
        box = page.locator(".stage .box")
        for width in (1280, 700, 360):  # boxes scale with the picture
            page.set_viewport_size({"width": width, "height": 900})
            drawn = drawn_in_pixels(box, picture=(512, 600), fit="contain")
            assert_over_the_face(drawn, GRACE)


def test_a_named_face_becomes_a_known_picture_and_the_next_upload_finds_the_person(
    site: Site,
) -> None:
    first = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(first, "processed")
    with site.open(f"/images/{first}") as page:
        mark(page)
        face = page.locator(".face-card")
        expect(face).to_have_attribute("data-kind", "unknown")
        face.get_by_label("Who is this?").fill(EILEEN)
        face.get_by_role("button", name="Save name").click()
        expect(face).to_have_attribute("data-kind", "known")
        expect(page.locator(".stage .face.known .label")).to_have_text(EILEEN)
        assert_not_reloaded(page)
        page.get_by_role("link", name="People").click()
        person = page.locator(".person", has_text=EILEEN)
        expect(person).to_contain_text("1 known picture")
        expect(person.locator(".portraits img")).to_have_js_property("complete", value=True)
        assert person.locator(".portraits img").evaluate("image => image.naturalWidth") > 50
    site.wait_known(pictures=1)
    with site.open() as page:
        drop(page, ("mirrored.jpg", mirrored(EILEEN)))
        expect(card(page, "mirrored.jpg").locator(".names")).to_have_text(EILEEN)
        card(page, "mirrored.jpg").get_by_role("link", name="mirrored.jpg").click()
        expect(page.locator(".face-card")).to_contain_text(re.compile("very close|close"))


def test_a_refused_name_says_why_beside_the_face_and_keeps_what_was_typed(site: Site) -> None:
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open(f"/images/{picture}") as page:
        face = page.locator(".face-card")
        face.get_by_label("Who is this?").fill("a/b")
        with page.expect_response("**/name") as refused:
            face.get_by_role("button", name="Save name").click()
        assert refused.value.status == 422
        expect(face.get_by_role("alert")).to_contain_text("must not contain /")
        expect(face.get_by_label("Who is this?")).to_have_value("a/b")
    assert len(site.complaints) == 1  # the browser reports the status 422
    site.complaints.clear()


def in_the_dark(person: str) -> bytes:
    """Return a picture in which every engine finds a face, and hardly anything else."""
    return jpeg(ImageEnhance.Brightness(photo(person)).enhance(0.07))


def test_a_face_in_doubt_is_refused_and_enrolled_when_somebody_insists(site: Site) -> None:
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    picture = site.submit("dark.jpg", in_the_dark(GRACE))
    site.wait_status(picture, "processed")
    [found] = site.call("GET", f"/images/{picture}")["faces"]
    assert found["quality"]["flaw"] == "dark"
    assert found["quality"]["score"] == found["quality"]["light"] < 0.5
    with site.open(f"/images/{picture}") as page:
        mark(page)
        face = page.locator(".face-card")
        expect(face).to_contain_text("Quality: dark")
        insist = face.get_by_role("button", name="Enrol it anyway")
        expect(insist).to_have_count(0)
        face.get_by_label("Who is this?").fill(GRACE)
        face.get_by_role("button", name="Save name").click()
        expect(face.get_by_role("alert")).to_have_text(
            "The face is dark: choose one with more light."
        )
        assert [person["name"] for person in site.call("GET", "/people")["people"]] == [EILEEN]
        insist.focus()
        keep_screenshot(page, "doubt")
        insist.press("Enter")
        expect(face).to_have_attribute("data-kind", "known")
        assert_not_reloaded(page)

        # Somebody else's picture, at a click on a person's tile.
        page.get_by_role("link", name="People").click()
        person = page.locator(".person", has=page.get_by_role("heading", name=EILEEN, exact=True))
        other = as_file(mirrored(GRACE))
        person.get_by_label(f"Add a picture of {EILEEN}").set_input_files(other)
        expect(person.get_by_role("alert")).to_contain_text(
            f"The face does not look like the other pictures of '{EILEEN}'"
        )
        expect(person).to_contain_text("1 known picture")
        person.get_by_role("button", name="Enrol it anyway").click()
        expect(person).to_contain_text("2 known pictures")
        expect(person.get_by_role("button", name="Enrol it anyway")).to_have_count(0)
    assert len(site.complaints) == 2  # the browser reports the status 422
    site.complaints.clear()


def test_a_face_is_said_not_to_be_who_the_machine_says_and_that_is_taken_back(site: Site) -> None:
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    picture_id = site.submit("eileen.jpg", mirrored(EILEEN))
    site.wait_status(picture_id, "processed")
    with site.open(f"/images/{picture_id}") as page:
        mark(page)
        face = page.locator("li.face-card").first
        expect(face).to_contain_text(f"{EILEEN} known")
        face.get_by_role("button", name=f"Not {EILEEN}").click()
        expect(face).to_contain_text("Unknown")
        expect(face).to_contain_text(f"Not {EILEEN}, as you said.")
        expect(page.get_by_role("button", name="Look again")).to_have_count(0)
        keep_screenshot(page, "denied")
        face.get_by_role("button", name="Undo").click()
        expect(face).not_to_contain_text("as you said")
        expect(page.get_by_role("button", name="Look again")).to_be_visible()
        assert_not_reloaded(page)


def test_a_person_gets_another_name_and_pictures_show_it(site: Site) -> None:
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    picture_id = site.submit("eileen.jpg", mirrored(EILEEN))
    site.wait_status(picture_id, "processed")
    with site.open("/people") as page:
        mark(page)
        page.get_by_text("Rename").click()
        page.get_by_label(f"{EILEEN} is to be called").fill("Colonel Collins")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("heading", name="Colonel Collins")).to_be_visible()
        expect(page.get_by_role("heading", name=EILEEN)).to_have_count(0)
        keep_screenshot(page, "renamed")
        assert_not_reloaded(page)
    with site.open(f"/images/{picture_id}") as page:
        expect(page.locator("li.face-card").first).to_contain_text("Colonel Collins known")


def test_who_insists_without_script_ticks_a_box(site: Site) -> None:
    with site.open("/people", java_script_enabled=False) as page:
        page.get_by_label("Name").fill(GRACE)
        dark = as_file(in_the_dark(GRACE))
        page.get_by_label("A picture with no other face").set_input_files(dark)
        page.get_by_label("Enrol it whatever it looks like").check()
        page.get_by_role("button", name="Add person").click()
        expect(page.locator(".person")).to_contain_text("1 known picture")


def test_the_focus_stays_while_the_page_changes(site: Site) -> None:
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open() as page:
        link = page.get_by_role("link", name="astronaut.png", exact=True)
        link.focus()
        site.submit("other.jpg", mirrored(GRACE))
        expect(card(page, "other.jpg").locator(".badge")).to_have_text("Processed")
        expect(link).to_be_focused()
        # The card itself changes as well.
        site.call("POST", f"/people/{EILEEN}/pictures", json={"image_id": picture, "face_index": 0})
        expect(card(page, "astronaut.png").locator(".names")).to_have_text(EILEEN)
        expect(page.get_by_role("link", name="astronaut.png", exact=True)).to_be_focused()


def test_what_is_typed_stays_until_it_is_saved(site: Site) -> None:
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open(f"/images/{picture}") as page:
        typed = page.get_by_role("combobox", name="Who is this?")
        typed.fill("Eil")
        # Somebody else is faster: the picture shows it, and the form is left alone.
        site.call("POST", f"/people/{EILEEN}/pictures", json={"image_id": picture, "face_index": 0})
        expect(page.locator(".stage .label")).to_have_text(EILEEN)
        expect(typed).to_have_value("Eil")
        typed.fill("")
        expect(page.locator(".face-card")).to_have_attribute("data-kind", "known")


def test_new_pictures_of_others_appear_on_top(site: Site) -> None:
    site.submit("first.txt", b"no picture 1")
    with site.open() as page:
        mark(page)
        expect(page.locator(".card-head > h2")).to_have_text(["first.txt"])
        site.submit("second.txt", b"no picture 2")
        expect(page.locator(".card-head > h2")).to_have_text(["second.txt", "first.txt"])
        assert_not_reloaded(page)


def test_the_counters_change_together_with_the_cards(site: Site) -> None:
    site.wait_status(site.submit("first.txt", b"no picture 7"), "rejected")
    with site.open() as page:
        page.evaluate(RECORD_COUNTERS)
        page.locator("#files").set_input_files(as_file(mirrored(GRACE)))
        expect(card(page, "chosen.jpg").locator(".badge")).to_have_text("Processed")
        expect(page.locator("#chip-processed")).to_have_text("Processed 1")
        card(page, "chosen.jpg").get_by_role("button", name="Delete: chosen.jpg").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(card(page, "chosen.jpg")).to_have_count(0)
        seen = page.evaluate("window.counters")
        # What another client does.
        site.submit("second.txt", b"no picture 8")
        expect(card(page, "second.txt")).to_be_visible()
        expect(page.locator("#chip-all")).to_have_text("All 2")
    assert [2, 2] in seen
    assert all(counter == cards for counter, cards in seen), seen


def test_dialogs_take_the_focus_keep_it_and_give_it_back(site: Site) -> None:
    for number in range(3):
        site.submit(f"{number}.txt", b"no picture 60%d" % number)
    wait_for(lambda: site.call("GET", "/status")["images"]["rejected"] == 3)
    with site.open() as page:
        delete = page.get_by_role("button", name="Delete: 1.txt")
        dialog = page.get_by_role("dialog")
        cancel = dialog.get_by_role("button", name="Cancel")
        confirm = dialog.get_by_role("button", name="Delete")
        for leave in ("Escape", "Enter"):
            delete.focus()
            page.keyboard.press("Enter")
            expect(cancel).to_be_focused()
            for stop in (confirm, cancel):
                page.keyboard.press("Tab")
                expect(stop).to_be_focused()
            page.keyboard.press("Shift+Tab")
            expect(confirm).to_be_focused()
            page.keyboard.press("Tab")
            page.keyboard.press(leave)
            expect(dialog).to_have_count(0)
            expect(delete).to_be_focused()
        # The page changes below an open dialog, and even what it asks about goes away.
        delete.click()
        expect(cancel).to_be_focused()
        site.submit("4.txt", b"no picture 604")
        expect(card(page, "4.txt").locator(".badge")).to_have_text("Rejected")
        site.call("DELETE", f"/images/{card(page, '1.txt').get_attribute('data-id')}")
        expect(page.locator("#chip-all")).to_have_text("All 3")
        expect(dialog).to_be_visible()
        expect(cancel).to_be_focused()
        # That somebody else was faster is no failure, and the focus goes to what is next.
        confirm.click()
        expect(card(page, "1.txt")).to_have_count(0)
        expect(page.get_by_role("link", name="0.txt", exact=True)).to_be_focused()
        retry = page.get_by_role("button", name="Try again: 0.txt")
        retry.focus()
        page.keyboard.press("Enter")
        expect(card(page, "0.txt").locator(":focus")).to_have_count(1)


def test_suggestions_and_filters_know_who_was_added_since(site: Site) -> None:
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open("/?person=Zoe%CC%88") as pictures, site.open(f"/images/{picture}") as one:
        mark(pictures)
        person = pictures.get_by_label("Person")
        expect(person.locator("option")).to_have_text(["Everybody", "Zo\u00eb"])
        enrol(site, GRACE)
        expect(one.locator(f'#names option[value="{GRACE}"]')).to_have_count(1)
        expect(person.locator("option")).to_have_text(["Everybody", GRACE, "Zo\u00eb"])
        site.call("POST", "/people/Zoe%CC%88/pictures", json={"image_id": picture, "face_index": 0})
        expect(card(pictures, "astronaut.png")).to_be_visible()
        # Who was forgotten can still be asked for.
        site.call("DELETE", "/people/Zo%C3%AB")
        expect(one.locator("#names option")).to_have_count(1)
        expect(person).to_have_value("Zo\u00eb")
        expect(card(pictures, "astronaut.png")).to_have_count(0)
        assert_not_reloaded(pictures)


def test_one_of_many_people_is_found_by_typing(site: Site) -> None:
    with closing(sqlite3.connect(site.store.parent / "facestack.db", timeout=30)) as rows, rows:
        names = [(f"Aaron {number:03}",) for number in range(120)]
        rows.executemany("INSERT INTO persons (name, created_at) VALUES (?, 0)", names)
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open("/people") as page:
        person = page.locator(".person")
        expect(person).to_have_count(24)
        page.get_by_role("link", name="Next").click()
        expect(person.first).to_contain_text("Aaron 024")
        # Who is new is behind all of these.
        page.get_by_label("Name").fill(GRACE)
        page.get_by_label("A picture with no other face").set_input_files(sample(PHOTOS[GRACE]))
        page.get_by_role("button", name="Add person").click()
        expect(person).to_have_count(1)
        expect(person).to_contain_text("1 known picture")
        page.get_by_role("searchbox", name="Find somebody").fill("003")
        page.get_by_role("button", name="Find").click()
        expect(person.get_by_role("heading")).to_have_text("Aaron 003")
        keep_screenshot(page, "people-found")

        page.goto(f"/images/{picture}")
        suggested = page.locator("#names option")
        expect(suggested).to_have_count(100)
        page.get_by_role("combobox", name="Who is this?").press_sequentially("hop")
        expect(suggested).to_have_count(1)
        expect(suggested).to_have_attribute("value", GRACE)

        page.goto("/")
        page.get_by_label("Person").press_sequentially("Aaron 11")
        expect(suggested).to_have_count(10)
        keep_screenshot(page, "pictures-of-one-of-many")
        # Who leaves the field in the middle of a name is not shown that nobody has it.
        page.evaluate("addEventListener('submit', () => { window.submitted = true; })")
        page.get_by_label("Person").blur()
        assert page.evaluate("window.submitted") is None
        page.get_by_label("Person").fill("Aaron 119")
        page.get_by_label("Person").press("Enter")
        expect(page.get_by_role("heading", name="No picture matches")).to_be_visible()
        expect(page.get_by_label("Person")).to_have_value("Aaron 119")
        page.get_by_label("Person").fill("")
        page.get_by_label("Person").press("Enter")
        expect(card(page, "astronaut.png")).to_be_visible()


def test_who_becomes_known_is_named_on_earlier_pictures(site: Site) -> None:
    picture = site.submit("eileen.jpg", mirrored(EILEEN))
    site.wait_status(picture, "processed")
    with site.open(f"/images/{picture}") as page:
        mark(page)
        expect(page.locator(".face-card h2")).to_contain_text("Unknown")
        enrol(site, EILEEN)
        expect(page.locator(".face-card h2")).to_contain_text(EILEEN)
        before = site.call("GET", f"/images/{picture}")["processed_at"]
        page.get_by_role("button", name="Look again").click()
        wait_for(lambda: (site.call("GET", f"/images/{picture}")["processed_at"] or "") > before)
        expect(page.locator(".face-card h2")).to_contain_text(EILEEN)
        expect(page.get_by_role("button", name="Look again")).to_be_visible()
        assert_not_reloaded(page)
        keep_screenshot(page, "look-again")


def test_a_picture_that_is_deleted_elsewhere_leaves_what_was_typed(site: Site) -> None:
    picture = site.submit("astronaut.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    with site.open(f"/images/{picture}") as page:
        page.get_by_role("combobox", name="Who is this?").fill("Somebody with a long na")
        site.call("DELETE", f"/images/{picture}")
        expect(page.get_by_text("This picture was deleted.")).to_be_visible()
        expect(page.get_by_role("combobox", name="Who is this?")).to_have_value(
            "Somebody with a long na"
        )
        page.get_by_role("link", name="Go to the pictures").click()
        expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
    assert all("404" in complaint for complaint in site.complaints), site.complaints
    site.complaints.clear()


def test_people_are_added_and_removed(site: Site) -> None:
    with site.open("/people") as page:
        mark(page)
        expect(page.get_by_role("heading", name="Nobody is known yet")).to_be_visible()
        page.get_by_label("Name").fill(GRACE)
        page.get_by_label("A picture with no other face").set_input_files(sample(PHOTOS[GRACE]))
        page.get_by_role("button", name="Add person").click()
        person = page.locator(".person", has=page.get_by_role("heading", name=GRACE, exact=True))
        expect(person).to_contain_text("1 known picture")
        expect(page.get_by_label("Name")).to_have_value("")

        second = as_file(mirrored(GRACE))
        person.get_by_label(f"Add a picture of {GRACE}").set_input_files(second)
        expect(person).to_contain_text("2 known pictures")

        person.get_by_role("button", name=f"Delete: this picture of {GRACE}").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(person).to_contain_text("1 known picture")

        person.get_by_role("button", name=f"Delete: {GRACE}", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(f"Delete {GRACE}?")
        dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_have_count(0)
        expect(person).to_be_visible()
        person.get_by_role("button", name=f"Delete: {GRACE}", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(person).to_have_count(0)
        assert_not_reloaded(page)


def test_a_picture_without_a_face_is_no_known_picture(site: Site) -> None:
    with site.open("/people") as page:
        page.get_by_label("Name").fill("Nobody")
        empty = as_file(jpeg(Image.new("RGB", (400, 300), "grey")))
        page.get_by_label("A picture with no other face").set_input_files(empty)
        page.get_by_role("button", name="Add person").click()
        expect(page.get_by_role("alert").filter(has_text="face")).to_be_visible()
        expect(page.get_by_label("Name")).to_have_value("Nobody")
    assert len(site.complaints) == 1  # the browser reports the status 422
    site.complaints.clear()


def test_filters(site: Site) -> None:
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    site.wait_status(site.submit("eileen.jpg", mirrored(EILEEN)), "processed")
    site.wait_status(site.submit("grace.jpg", mirrored(GRACE)), "processed")
    site.wait_status(site.submit("notes.txt", b"no picture 3"), "rejected")
    with site.open() as page:
        names = page.locator(".card-head > h2")
        expect(names).to_have_text(["notes.txt", "grace.jpg", "eileen.jpg"])
        chips = page.get_by_role("navigation", name="Status")
        expect(chips.get_by_role("link", name="All 3")).to_be_visible()
        chips.get_by_role("link", name="Rejected 1").click()
        expect(names).to_have_text(["notes.txt"])
        expect(chips.get_by_role("link", name="Rejected")).to_have_attribute("aria-current", "true")
        chips.get_by_role("link", name="All").click()
        page.get_by_label("Person").select_option(EILEEN)
        expect(names).to_have_text(["eileen.jpg"])
        # The counters are of the person, too.
        expect(chips.get_by_role("link")).to_have_text(
            [
                "All 1",
                "Waiting 0",
                "Processing 0",
                "Processed 1",
                "Retrying 0",
                "Rejected 0",
                "Gave up 0",
            ]
        )
        chips.get_by_role("link", name="Rejected").click()
        expect(page.get_by_role("heading", name="No picture matches")).to_be_visible()
        page.goto("/people")
        page.get_by_role("link", name="Show submitted pictures").click()
        expect(names).to_have_text(["eileen.jpg"])


def test_paging_over_200_pictures(site: Site) -> None:
    paths = [f"absent/{number:03}.jpg" for number in range(210)]
    site.call("POST", "/images/post", json={"paths": [{"path": path} for path in paths]})
    wait_for(lambda: site.call("GET", "/status")["images"]["rejected"] == 210, seconds=60)
    seen: list[str] = []
    with site.open() as page:
        for number in range(9):
            names = page.locator(".card-head > h2")
            expect(names).to_have_count(24 if number < 8 else 18)
            seen += names.all_inner_texts()
            older = page.get_by_role("link", name="Older")
            if number < 8:
                older.click()
                expect(page).to_have_url(re.compile("cursor="))
                expect(page.get_by_text(seen[-1], exact=True)).to_have_count(0)
        expect(older).to_have_count(0)
        assert seen == paths[::-1]
        page.get_by_role("link", name="Newest").click()
        expect(page.locator(".card-head > h2").first).to_have_text(paths[-1])
        expect(page.get_by_role("link", name="Newest")).to_have_count(0)


def test_retry_and_delete_where_they_are_allowed(site: Site) -> None:
    picture = site.submit("notes.txt", b"no picture 4")
    site.wait_status(picture, "rejected")
    done = site.submit("grace.jpg", mirrored(GRACE))
    site.wait_status(done, "processed")
    before = site.call("GET", f"/images/{picture}")["updated_at"]
    with site.open() as page:
        mark(page)
        shown = card(page, "notes.txt")
        expect(shown.locator(".who")).to_have_attribute("title", re.compile("cannot be used"))
        expect(card(page, "grace.jpg").get_by_role("button", name="Try again")).to_have_count(0)
        shown.get_by_role("button", name="Try again").click()
        wait_for(lambda: site.call("GET", f"/images/{picture}")["updated_at"] != before)
        expect(shown.locator(".badge")).to_have_text("Rejected")

        shown.get_by_role("button", name="Delete: notes.txt").click()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(shown).to_be_visible()
        shown.get_by_role("button", name="Delete: notes.txt").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(shown).to_have_count(0)
        assert_not_reloaded(page)
        page.goto(f"/images/{done}")
        page.get_by_role("button", name="Delete", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()


def test_a_name_with_markup_is_text(site: Site) -> None:
    with site.open() as page:
        page.evaluate("window.onerror = () => { window.attacked = true; }")
        drop(page, (NASTY, mirrored(GRACE)))
        expect(card(page, NASTY).locator(".badge")).to_have_text("Processed")
        expect(page.locator("#uploads")).to_contain_text(NASTY)
        card(page, NASTY).get_by_role("link", name=NASTY).click()
        expect(page.get_by_role("heading", name=NASTY)).to_be_visible()
        assert page.locator('img[src="x"]').count() == 0
        assert page.evaluate("window.attacked") is None


def test_bad_files_are_named_with_the_reason(site: Site) -> None:
    with site.open() as page:
        drop(page, ("empty.jpg", b""), ("large.jpg", 20 * 2**20 + 1), ("good.txt", b"5"))
        failed = page.locator("#uploads li.failed")
        expect(failed).to_have_count(2)
        expect(failed.filter(has_text="empty.jpg")).to_contain_text("The file is empty.")
        expect(failed.filter(has_text="large.jpg")).to_contain_text("Larger than 20 MB.")
        expect(card(page, "good.txt")).to_be_visible()
        # What the page let through the receiver refuses, and its words are shown.
        page.evaluate("document.getElementById('upload').dataset.maxBytes = 1e9")
        drop(page, ("large.jpg", 20 * 2**20 + 1))
        expect(failed).to_have_count(3)
        expect(failed.first).to_contain_text(re.compile("larger|limit|MB|bytes|large"))
    assert len(site.complaints) == 1  # the browser reports the status 413
    site.complaints.clear()


def test_the_pictures_of_a_dropped_folder_are_uploaded(site: Site, tmp_path: Path) -> None:
    album = tmp_path / "album"
    inner = album / "1984 #1 %20?" / "صور"
    inner.mkdir(parents=True)
    odd = ["Zoë's best 100 %.JPG", "صورة.png", f"{'long' * 50}.webp", "a&b;c=d.jpeg"]
    many = [f"{number}.jpg" for number in range(105)]  # readEntries gives 100 at a time
    for number, name in enumerate(many):
        (album / name).write_bytes(b"no picture 100%d" % number)
    for number, name in enumerate(odd):
        (inner / name).write_bytes(b"no picture 200%d" % number)
    for name in (".DS_Store", "Thumbs.db", ".hidden.jpg", "notes.txt"):
        (album / name).write_bytes(b"other")
    (album / "again").symlink_to(album)
    (tmp_path / "beside.txt").write_bytes(b"no picture 9")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "letter.doc").write_bytes(b"other")
    with site.open() as page:
        names = ("album", "beside.txt", "empty", "words")
        drop_from_disk(page, *(tmp_path / name for name in names))
        lines = page.locator("#uploads-list li")
        expect(lines.filter(has_text="empty")).to_contain_text("The folder is empty.")
        letters = "No pictures in this folder, 1 other file skipped."
        expect(lines.filter(has_text="words")).to_contain_text(letters)
        expect(lines.filter(has_text="album")).to_contain_text("4 other files skipped.")
        expect(page.locator("#uploads-title")).to_have_text("110 uploaded")
    images = site.call("GET", "/images?limit=200")["images"]
    assert sorted(image["name"] for image in images) == sorted([*many, *odd, "beside.txt"])


def test_leaving_during_an_upload_asks(site: Site) -> None:
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    with site.open() as page:
        page.on("dialog", stay)
        gate = Gate(page, "**/upload")
        drop(page, *((f"{number}.txt", b"no picture 30%d" % number) for number in range(4)))
        expect(page.locator("#uploads-title")).to_have_text("Uploading 1 of 4")
        page.get_by_role("link", name="People").click()
        wait_for(lambda: asked == ["beforeunload"])
        page.locator("#chip-dead").click()
        wait_for(lambda: asked == ["beforeunload"] * 2)
        gate.open()
        expect(page.locator("#uploads-title")).to_have_text("4 uploaded")
        page.get_by_role("link", name="People").click()
        expect(page.get_by_role("heading", name="People", exact=True)).to_be_visible()
        assert len(asked) == 2
    assert len(site.call("GET", "/images")["images"]) == 4


def test_a_failed_upload_is_shown_to_somebody_who_closed_the_list(site: Site) -> None:
    with site.open() as page:
        gate = Gate(page, "**/upload")
        drop(page, ("late.txt", b"no picture 40"))
        expect(page.locator("#uploads li")).to_have_count(1)
        page.get_by_role("button", name="Close the list of uploads").click()
        expect(page.locator("#uploads")).to_be_hidden()
        gate.held.pop().fulfill(status=503, json={"message": "Something is away."})
        failed = page.locator("#uploads li.failed")
        expect(failed).to_be_visible()
        expect(failed).to_contain_text("Something is away.")
        expect(page.locator("#uploads-title")).to_have_text("1 failed")
        gate.open()
        again = page.locator("#uploads-again")
        again.click()
        expect(page.locator("#uploads-title")).to_have_text("1 uploaded")
        expect(again).to_be_hidden()
        expect(failed).to_have_count(0)
    assert all("503" in complaint for complaint in site.complaints), site.complaints
    site.complaints.clear()


def test_an_upload_that_is_known_already_leads_to_the_picture(site: Site) -> None:
    known = site.submit("first.txt", b"no picture 41")
    with site.open() as page:
        drop(page, ("second.txt", b"no picture 41"))
        item = page.locator("#uploads li")
        expect(item).to_contain_text("Known already: the same picture was uploaded before.")
        item.get_by_role("link", name="Show second.txt").click()
        expect(page).to_have_url(re.compile(f"/images/{known}$"))
        expect(page.get_by_role("heading", name="first.txt")).to_be_visible()


def test_uploads_wait_for_the_connection_and_tell_what_became_of_the_files(
    site: Site, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("same.txt", "gone.txt")]
    for number, file in enumerate(files):
        file.write_bytes(b"no picture 50%d" % number)
    with site.open() as page:
        page.context.set_offline(True)
        page.locator("#files").set_input_files(files)
        expect(page.locator("#uploads-title")).to_have_text(
            "Waiting for the connection, 0 of 2 uploaded"
        )
        files[1].unlink()
        page.context.set_offline(False)
        expect(page.locator("#uploads-title")).to_have_text("1 uploaded, 1 failed")
        failed = page.locator("#uploads li.failed")
        expect(failed).to_contain_text("gone.txt")
        expect(failed).to_contain_text("The file was changed or removed")
        expect(page.locator("#uploads-again")).to_be_hidden()
        expect(card(page, "same.txt")).to_be_visible()
    assert all("ERR_" in complaint for complaint in site.complaints), site.complaints
    site.complaints.clear()


def test_the_receiver_goes_away_and_comes_back(site: Site) -> None:
    site.wait_status(site.submit("grace.jpg", mirrored(GRACE)), "processed")
    receiver = site.pipeline.services["receiver"]
    with site.open() as page:
        mark(page)
        expect(page.get_by_text("All parts working")).to_be_visible()
        receiver.stop()
        try:
            expect(page.locator(".problems")).to_contain_text("The receiver does not answer")
            expect(page.get_by_text("1 part away")).to_be_visible()
            expect(card(page, "grace.jpg")).to_be_visible()
            with site.open() as other:
                expect(other.locator(".problems")).to_contain_text("The receiver does not answer")
                drop(other, ("late.jpg", b"late"))
                failed = other.locator("#uploads li.failed")
                expect(failed).to_contain_text("Try again in a moment.")
                receiver.start()
                expect(card(other, "grace.jpg")).to_be_visible()
                expect(other.locator(".problems")).to_have_count(0)
        finally:
            receiver.stop()
            receiver.start()
        receiver.wait_ready()
        expect(page.get_by_text("All parts working")).to_be_visible()
        assert_not_reloaded(page)
    assert all("503" in complaint for complaint in site.complaints), site.complaints
    site.complaints.clear()


def test_everything_works_without_script(site: Site) -> None:
    with site.open(java_script_enabled=False) as page:
        page.locator("#files").set_input_files(as_file(mirrored(EILEEN)))
        page.get_by_role("button", name="Upload").click()
        picture = int(page.locator(".card").get_attribute("data-id") or 0)
        site.wait_status(picture, "processed")
        page.goto(f"/images/{picture}")
        page.get_by_role("combobox", name="Who is this?").fill(" . ")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("alert").first).to_contain_text("dot")
        expect(page.get_by_role("combobox", name="Who is this?")).to_have_value(".")
        page.get_by_role("combobox", name="Who is this?").fill(EILEEN)
        page.get_by_role("button", name="Save name").click()
        expect(page.locator(".face-card")).to_have_attribute("data-kind", "known")
        page.get_by_role("link", name="People").click()
        page.get_by_role("button", name=f"Delete: {EILEEN}", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="Nobody is known yet")).to_be_visible()
    assert len(site.complaints) == 1  # the browser reports the status 422
    site.complaints.clear()


def test_nothing_is_wider_than_a_small_phone(site: Site) -> None:
    name = "Maximiliane-Alexandra-Konstantinopolitanska " * 2
    picture = site.submit(f"{'x' * 200}.png", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    site.submit("y" * 150, b"no picture 61")
    site.call(
        "POST",
        f"/people/{name.strip()}/pictures",
        json={"image_id": picture, "face_index": 0},
    )
    small = {"viewport": {"width": 320, "height": 600}}
    for path in ("/", f"/?person={name.strip()}", f"/images/{picture}", "/people"):
        with site.open(path, **small) as page:
            expect(page.locator(".card, .person, .face-card").first).to_be_visible()
            drop(page, (f"{'z' * 200}.txt", b""))
            for button in page.get_by_role("button", name=re.compile("^Delete")).all():
                button.click()
                assert page.evaluate("document.documentElement.scrollWidth") == 320
                page.keyboard.press("Escape")
            keep_screenshot(page, f"small-{path.strip('/').partition('/')[0][:6] or 'pictures'}")


def test_it_looks_right_on_a_desk_and_on_a_phone(site: Site) -> None:
    eileen, grace = photo(EILEEN), photo(GRACE)
    together = Image.new("RGB", (949, 512))
    together.paste(eileen, (0, 0))
    together.paste(grace.resize((437, 512)), (512, 0))
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    both = site.submit("two-pioneers.jpg", jpeg(together))
    site.wait_status(both, "processed")
    enrol(site, GRACE)
    site.wait_known(pictures=2)
    site.submit("shuttle-model.jpg", jpeg(eileen.crop((300, 0, 512, 160)).resize((848, 640))))
    site.submit("holiday-notes.txt", b"no picture 6")
    site.submit("portrait-1984.jpg", jpeg(ImageOps.grayscale(grace)))
    site.submit("IMG_2041.jpg", mirrored(EILEEN))
    site.submit("grace-mirrored.jpg", mirrored(GRACE))
    site.submit("eileen-collins.jpg", jpeg(eileen.crop((60, 0, 400, 300)).resize((1020, 900))))
    wait_for(lambda: site.call("GET", "/status")["images"]["processed"] == 6)
    for name, path in (("pictures", "/"), ("picture", f"/images/{both}"), ("people", "/people")):
        height = 956 if name == "pictures" else 700
        with site.open(path, viewport={"width": 1200, "height": height}) as page:
            keep_screenshot(page, name, published=name != "people")
            assert page.evaluate(LAYOUT_SHIFT) < 0.01
        with site.open(path, color_scheme="dark") as page:
            keep_screenshot(page, f"{name}-dark")
        with site.open(path, **PHONE) as page:
            # A phone would zoom out to show what is wider than its screen.
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths == [360, 360]
            phone = "phone" if name == "pictures" else f"{name}-phone"
            keep_screenshot(page, phone, published=phone == "phone")
            assert page.evaluate(LAYOUT_SHIFT) < 0.01


@pytest.mark.parametrize("kind", [known.kind for known in FORMATS])
def test_a_picture_of_every_format_is_recognised_and_shown(site: Site, kind: str) -> None:
    enrol(site, EILEEN)
    site.wait_known(pictures=1)
    original = ImageOps.mirror(photo(EILEEN))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    content = save(original.quantize() if kind == "GIF" else original, kind, **options)
    uploaded = site.submit("holiday.jpg", content)  # whatever its name says
    by_path = site.store / "pictures" / "by hand" / f"{kind}.bin"
    by_path.parent.mkdir(exist_ok=True, parents=True)
    by_path.write_bytes(content)
    submitted = site.call("POST", "/image/post", json={"path": f"by hand/{kind}.bin"})["id"]
    left, top, right, bottom = FACES[EILEEN]
    for picture in (uploaded, submitted):
        site.wait_status(picture, "processed")
        found = site.call("GET", f"/images/{picture}")
        assert (found["width"], found["height"]) == original.size
        [face] = found["faces"]
        assert face["person"] == EILEEN
        for side, place in zip(
            ("left", "top", "right", "bottom"), (512 - right, top, 512 - left, bottom), strict=True
        ):
            assert face["box"][side] == pytest.approx(place, abs=24)
        kept = site.get(site.pipeline.api_url, f"/images/{picture}/picture")
        assert kept.content == content
        assert kept.headers["content-type"] == media_type(content)
        for small, size in (("thumbnail", 512), ("preview", 512)):
            made = site.get(site.pipeline.page_url, f"/images/{picture}/{small}")
            assert made.headers["content-type"] == "image/jpeg"
            with Image.open(io.BytesIO(made.content)) as image:
                shown = np.asarray(image).astype(int)
                assert image.size == (size, size)
            assert np.abs(shown - np.asarray(original).astype(int)).mean() < 7


def test_a_picture_that_no_browser_knows_is_shown_upright_with_its_face_and_enrolled(
    site: Site,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo(GRACE).transpose(Image.Transpose.ROTATE_90)
    content = save(stored, "HEIF", quality=90, exif=exif.tobytes())
    with site.open() as page:
        drop(page, ("IMG_0001.HEIC", content))
        shown = card(page, "IMG_0001.HEIC")
        expect(shown.locator(".badge")).to_have_text("Processed")
        drawn = drawn_in_pixels(shown.locator(".overlay .box"), picture=(512, 600), fit="cover")
        assert_over_the_face(drawn, GRACE)
        assert shown.locator("img").evaluate(_SIZE) == [512, 600]
        keep_screenshot(page, "heic")
        shown.get_by_role("link", name="IMG_0001.HEIC").click()
        large = page.locator(".stage img")
        expect(large).to_have_js_property("complete", value=True)
        assert large.evaluate(_SIZE) == [512, 600]
        drawn = drawn_in_pixels(page.locator(".stage .box"), picture=(512, 600), fit="contain")
        assert_over_the_face(drawn, GRACE)
        face = page.locator(".face-card")
        face.get_by_label("Who is this?").fill(GRACE)
        face.get_by_role("button", name="Save name").click()
        expect(face).to_have_attribute("data-kind", "known")
        page.get_by_role("link", name="People").click()
        adding = page.locator(".person", has_text=GRACE).locator("input[type=file]")
        adding.set_input_files({"name": "g.HEIC", "mimeType": "", "buffer": content})
        portraits = page.locator(".portraits img")
        expect(portraits).to_have_count(2)
        for portrait in portraits.all():
            expect(portrait).to_have_js_property("complete", value=True)
            assert portrait.evaluate("image => image.naturalWidth") > 50
    [person] = site.call("GET", "/people")["people"]
    assert {Path(picture["image_name"]).suffix for picture in person["pictures"]} == {
        ".jpg",
        ".heic",
    }


_SIZE = (
    "async (image) => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }"
)


def test_pictures_in_a_dropped_folder_are_known_by_their_names_too(
    site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    (folder / "IMG_1.HEIC").write_bytes(save(photo(EILEEN), "HEIF"))
    (folder / "notes.txt").write_text("no picture")
    with site.open() as page:
        drop_from_disk(page, folder)
        expect(card(page, "IMG_1.HEIC").locator(".badge")).to_have_text("Processed")
        expect(page.locator("#uploads li.note")).to_contain_text("1 other file skipped")

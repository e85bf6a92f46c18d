"""Somebody draws a face that was missed, or says that one is none, on a picture's page."""

from typing import Any

import httpx
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Page, expect

from services.frontend.tests.browser import (
    EILEEN,
    FACES,
    GRACE,
    PHONE,
    Site,
    assert_not_reloaded,
    jpeg,
    keep_screenshot,
    mark,
    mirrored,
    photo,
)

SIZE = (812, 600)
MISSED = (620, 370, 706, 476)
"""Where the face is that no machine sees."""


def with_one_out_of_focus() -> Image.Image:
    """Return a picture of two, of which one is far too blurred for any detector."""
    picture = Image.new("RGB", SIZE, "#8899aa")
    picture.paste(photo(GRACE), (0, 0))
    other = photo(EILEEN).crop((70, 0, 370, 300)).filter(ImageFilter.GaussianBlur(16))
    picture.paste(other, (512, 300))
    return picture


def submitted(site: Site, content: bytes) -> int:
    picture = site.submit("two.jpg", content)
    site.wait_status(picture, "processed")
    assert len(site.call("GET", f"/images/{picture}")["faces"]) == 1, "one is missed"
    return picture


def on_screen(page: Page, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Return where a pixel of the picture is on the screen."""
    found: list[float] = page.locator(".stage img").evaluate(
        """(image, [x, y, width, height]) => {
            const area = image.getBoundingClientRect();
            const scale = Math.min(area.width / width, area.height / height);
            return [
                area.left + (area.width - width * scale) / 2 + x * scale,
                area.top + (area.height - height * scale) / 2 + y * scale,
            ];
        }""",
        [x, y, *size],
    )
    return found[0], found[1]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at a pixel of the picture and let it go at another."""
    page.mouse.move(*on_screen(page, *start))
    page.mouse.down()
    page.mouse.move(*on_screen(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*on_screen(page, *end))
    page.mouse.up()


def box_of(face: dict[str, Any]) -> tuple[int, ...]:
    return tuple(face["box"][side] for side in ("left", "top", "right", "bottom"))


def drawn_face(site: Site, picture: int) -> dict[str, Any]:
    [face] = [face for face in site.call("GET", f"/images/{picture}")["faces"] if face["drawn"]]
    return dict(face)


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned by its EXIF data"])
def test_somebody_draws_a_face_that_was_missed_with_the_mouse_and_names_it(
    site: Site, turned: bool
) -> None:
    image = with_one_out_of_focus()
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned to the right
        image.transpose(Image.Transpose.ROTATE_90).save(
            path := site.store.parent / "turned.jpg", exif=exif.tobytes(), quality=90
        )
        content = path.read_bytes()
    else:
        content = jpeg(image)
    picture = submitted(site, content)
    with site.open(f"/images/{picture}") as page:
        mark(page)
        page.locator("summary", has_text="Add a face").click()
        drag(page, MISSED[:2], MISSED[2:])
        keep_screenshot(page, "draw")
        page.get_by_label("Who did you draw?").fill(EILEEN)
        page.get_by_role("button", name="Save face").click()
        new = page.locator(".face-card", has_text="You drew this face.")
        expect(new.get_by_role("link", name=EILEEN)).to_be_visible()
        expect(page.locator("#canvas")).to_be_hidden()
        expect(page.locator(".stage:not(.canvas) .face")).to_have_count(2)
        expect(page.locator("summary", has_text="Add a face")).to_be_visible()
        assert_not_reloaded(page)
        keep_screenshot(page, "drawn")
    face = drawn_face(site, picture)
    assert box_of(face) == pytest.approx(MISSED, abs=3)
    assert (face["person"], face["decided_by"]) == (EILEEN, "hand")


def test_a_box_is_put_right_before_it_is_saved(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}") as page:
        page.locator("summary", has_text="Add a face").click()
        drag(page, (590, 360), (670, 440))
        drag(page, (630, 400), (660, 410))  # in the box: it moves
        drag(page, (700, 450), MISSED[2:])  # a corner: its opposite stays
        drag(page, MISSED[:2], (900, 900))  # beyond the others: it is turned, and ends at the edge
        drag(page, MISSED[2:], MISSED[2:])
        page.get_by_role("button", name="Save face").click()
        expect(page.locator(".face-card")).to_have_count(2)
    left, top, right, bottom = box_of(drawn_face(site, picture))
    assert (left, top) == pytest.approx(MISSED[2:], abs=4)
    assert (right, bottom) == SIZE


def test_somebody_draws_a_face_with_the_keyboard_alone(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}") as page:
        summary = page.locator("summary", has_text="Add a face")
        summary.focus()
        page.keyboard.press("Enter")
        canvas = page.get_by_role("application", name="Box around a face")
        expect(canvas).to_be_focused()
        page.keyboard.press("ArrowRight")
        said = page.locator("#draw-said")
        expect(said).to_have_text(
            "150 by 150 pixels, 331 from the left and 225 from the top of 812 by 600."
        )
        for _ in range(24):
            page.keyboard.press("ArrowRight")
        for _ in range(12):
            page.keyboard.press("ArrowDown")
        for _ in range(5):
            page.keyboard.press("Shift+ArrowLeft")
        for _ in range(4):
            page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Alt+ArrowRight")
        expect(said).to_contain_text("90 by 102 pixels, 620 from the left and 369 from the top")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Who did you draw?")).to_be_focused()
        page.keyboard.type("Ada")
        page.keyboard.press("Enter")
        expect(page.locator(".face-card", has_text="Ada")).to_be_visible()
        expect(summary).to_be_focused()
    assert box_of(drawn_face(site, picture)) == (620, 369, 710, 471)


def test_escape_gives_a_box_up(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}") as page:
        summary = page.locator("summary", has_text="Add a face")
        for where in ("#canvas", "#draw-name"):
            summary.click()
            drag(page, MISSED[:2], MISSED[2:])
            page.get_by_label("Who did you draw?").fill("Ada")
            page.locator(where).press("Escape")
            expect(page.locator("#canvas")).to_be_hidden()
            expect(summary).to_be_focused()
        summary.click()
        expect(page.get_by_label("Who did you draw?")).to_have_value("")
        page.get_by_role("button", name="Save face").click()
        refusal = page.locator(".draw-panel [data-message]")
        expect(refusal).to_have_text("Draw a box around the face first.")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#canvas")).to_be_hidden()
    assert len(site.call("GET", f"/images/{picture}")["faces"]) == 1
    assert len(site.complaints) == 1  # the browser reports the status 422
    site.complaints.clear()


def test_a_box_on_a_face_that_is_there_is_refused_with_its_number_and_kept(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    [face] = site.call("GET", f"/images/{picture}")["faces"]
    left, top, right, bottom = box_of(face)
    with site.open(f"/images/{picture}") as page:
        page.locator("summary", has_text="Add a face").click()
        drag(page, (left, top), (right, bottom))
        page.get_by_label("Who did you draw?").fill(GRACE)
        page.get_by_role("button", name="Save face").click()
        refusal = page.locator(".draw-panel [data-message]")
        expect(refusal).to_contain_text(f"That is face 0 of image {picture}")
        expect(page.locator("#canvas.drawn")).to_be_visible()
        expect(page.get_by_label("Who did you draw?")).to_have_value(GRACE)
    assert len(site.complaints) == 1
    site.complaints.clear()


def test_who_draws_somebody_of_two_who_bear_one_name_says_which_one(site: Site) -> None:
    first = submitted(site, jpeg(with_one_out_of_focus()))
    elsewhere = {"left": 0, "top": 400, "right": 90, "bottom": 490}
    site.call("POST", f"/images/{first}/faces", json={"box": elsewhere, "name": "Ada"})
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    other = {"box": elsewhere, "name": "Ada", "another": True}
    document = site.call("POST", f"/images/{picture}/faces", json=other)
    who = f"~{document['faces'][1]['person_id']}"
    with site.open(f"/images/{picture}") as page:
        page.locator("summary", has_text="Add a face").click()
        drag(page, MISSED[:2], MISSED[2:])
        page.get_by_label("Who did you draw?").fill("Ada")
        page.get_by_role("button", name="Save face").click()
        choices = page.locator(".draw-panel .choice")
        expect(choices).to_have_count(3)
        # Enter asks again, and takes none of them.
        with page.expect_response("**/faces") as refused:
            page.get_by_label("Who did you draw?").press("Enter")
        assert refused.value.status == 409
        expect(choices).to_have_count(3)
        keep_screenshot(page, "draw-which-one")
        choices.filter(has_text=who).click()
        expect(page.locator(".face-card", has_text="You drew this face.")).to_have_count(2)
    named = [face["person_id"] for face in site.call("GET", f"/images/{picture}")["faces"][1:]]
    assert [f"~{person_id}" for person_id in named] == [who, who]
    assert len(site.complaints) == 2  # the browser reports the status 409
    site.complaints.clear()


def test_somebody_draws_a_face_on_a_phone(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}", color_scheme="dark", **PHONE) as page:
        page.locator("summary", has_text="Add a face").tap()
        touch = page.context.new_cdp_session(page)
        start, end = on_screen(page, *MISSED[:2]), on_screen(page, *MISSED[2:])
        between = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        for kind, at in (
            ("touchStart", start),
            ("touchMove", between),
            ("touchMove", end),
            ("touchEnd", None),
        ):
            points = [{"x": at[0], "y": at[1]}] if at else []
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        expect(page.locator("#canvas.drawn")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        keep_screenshot(page, "draw-phone")
        page.get_by_label("Who did you draw?").fill(EILEEN)
        page.get_by_role("button", name="Save face").tap()
        expect(page.locator(".face-card", has_text=EILEEN)).to_be_visible()
    assert box_of(drawn_face(site, picture)) == pytest.approx(MISSED, abs=6)


def test_what_is_no_face_is_struck_out_and_taken_back(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}") as page:
        mark(page)
        page.get_by_role("button", name="This is no face").click()
        expect(page.locator(".face-card")).to_have_count(0)
        expect(page.locator(".stage .face")).to_have_count(0)
        expect(page.locator(".summary")).to_have_text("No face in this picture.")
        struck_out = page.locator(".struck-out")
        expect(struck_out).to_contain_text("No face, as you said.")
        undo = struck_out.get_by_role("button", name="Undo")
        expect(undo).to_be_focused()
        expect(page.get_by_role("button", name="Look again")).to_have_count(0)
        keep_screenshot(page, "struck-out")
        undo.click()
        expect(page.locator(".face-card")).to_have_count(1)
        expect(struck_out).to_have_count(0)
        assert_not_reloaded(page)


def test_without_script_the_numbers_are_typed(site: Site) -> None:
    picture = submitted(site, jpeg(with_one_out_of_focus()))
    with site.open(f"/images/{picture}", java_script_enabled=False) as page:
        page.locator("summary", has_text="Add a face").click()
        for side, value in zip(("Left", "Top", "Right", "Bottom"), MISSED, strict=True):
            page.get_by_label(side).fill(str(value))
        page.get_by_label("Who did you draw?").fill(EILEEN)
        page.get_by_role("button", name="Save face").click()
        expect(page.locator(".face-card", has_text="You drew this face.")).to_be_visible()
        page.locator(".face-card", has_text="You drew").get_by_role(
            "button", name="This is no face"
        ).click()
        page.locator(".struck-out").get_by_role("button", name="Undo").click()
        expect(page.locator(".struck-out")).to_have_count(0)
    assert box_of(drawn_face(site, picture)) == MISSED


def test_who_is_drawn_clearly_is_known_from_then_on_and_named_by_the_machine_when_restored(
    site: Site,
) -> None:
    """As if no machine had seen a face that is as good as any: a box of before is struck out."""
    picture = site.submit("astronaut.jpg", jpeg(photo(EILEEN)))
    site.wait_status(picture, "processed")
    site.call("DELETE", f"/images/{picture}/faces/0")
    box = dict(zip(("left", "top", "right", "bottom"), FACES[EILEEN], strict=True))
    drawn = {"box": box, "name": EILEEN}
    document = site.call("POST", f"/images/{picture}/faces", json=drawn)
    assert [(face["index"], face["person"]) for face in document["faces"]] == [(1, EILEEN)]
    site.wait_known(pictures=1)
    other = site.submit("mirrored.jpg", mirrored(EILEEN))
    site.wait_status(other, "processed")
    [found] = site.call("GET", f"/images/{other}")["faces"]
    assert (found["person"], found["decided_by"]) == (EILEEN, "machine")
    site.call("DELETE", f"/images/{other}/faces/0")
    assert site.call("GET", "/images", params={"person": EILEEN})["images"] == [document]
    [restored] = site.call("POST", f"/images/{other}/faces/0/restore")["faces"]
    assert restored["distance"] == pytest.approx(found["distance"], abs=1e-6)
    assert (restored["person"], restored["decided_by"]) == (EILEEN, "machine")
    # The box that was struck out first is in the way of the one that was drawn.
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        site.call("POST", f"/images/{picture}/faces/0/restore")

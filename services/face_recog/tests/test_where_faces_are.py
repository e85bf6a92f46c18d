"""Faces are found wherever they are, however large the picture is and however it lies."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.common.faces import Box
from services.face_recog.adapters import classic, recognition
from services.face_recog.adapters.centerface import _OVERLAP, _TILE, square
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.recognition import SearchedPicture, encode, find
from services.face_recog.adapters.tiles import (
    along,
    distinct,
    smaller,
    turn,
    turn_points,
    turn_rectangles,
)
from services.face_recog.domain.faces import Encoding
from services.testing.damaged_pictures import save
from services.testing.samples import sample

Spot = tuple[int, int, int]
"""A face's centre, across and down, and its width, in pixels of the picture as it is shown."""


@pytest.fixture(scope="module", params=["classic", "centerface"])
def models(request: pytest.FixtureRequest) -> Models:
    return load_models(request.param)


@pytest.fixture(scope="module")
def centerface() -> Models:
    return load_models("centerface")


def portraits() -> list[Image.Image]:
    """Both faces with little around them; each is half as wide as its picture."""
    astronaut, hopper = (
        Image.open(sample(name)).convert("RGB") for name in ("astronaut.png", "grace_hopper.jpg")
    )
    return [astronaut.crop((132, 28, 322, 218)), hopper.crop((81, 47, 449, 415))]


def smallest(models: Models, size: tuple[int, int]) -> int:
    """The smallest width of a face that docs/recognition.md promises to find, and a tenth more."""
    detector = 90 if models.engine.name.startswith("dlib") else 20
    return math.ceil(1.1 * detector / models.scale(size[0] * size[1]))


def drawn(size: tuple[int, int], spots: Sequence[Spot]) -> Image.Image:
    picture = Image.new("RGB", size, (120, 130, 125))
    for (x, y, width), face in zip(spots, itertools.cycle(portraits()), strict=False):
        picture.paste(face.resize((2 * width, 2 * width)), (x - width, y - width))
    return picture


def scattered(size: tuple[int, int], widths: Sequence[int], seed: int) -> list[Spot]:
    """Put faces, the largest first, at random places where none is yet."""
    chance = random.Random(seed)
    spots: list[Spot] = []
    for width in sorted(widths, reverse=True):
        for _ in range(10_000):
            x, y = (chance.randint(width, side - width) for side in size)
            apart = (max(abs(x - a), abs(y - b)) > width + other for a, b, other in spots)
            if all(apart):
                spots.append((x, y, width))
                break
    return spots


def assert_each_once(boxes: Sequence[Box], spots: Sequence[Spot]) -> None:
    left = list(boxes)
    for x, y, width in spots:
        near = [
            box
            for box in left
            if abs(box.left + box.right - 2 * x) < 0.5 * width
            and abs(box.top + box.bottom - 2 * y) < 0.5 * width
            and 0.6 * width < box.right - box.left < 1.5 * width
        ]
        assert len(near) == 1, ((x, y, width), near, boxes)
        left.remove(near[0])
    assert not left


def encodings(models: Models, found: SearchedPicture) -> list[Encoding]:
    return encode(models, found.chips, math.inf)


# Large pictures


@pytest.mark.parametrize("size", [(20_000, 1_500), (16_382, 3_628), (900, 12_000), (4_000, 3_000)])
def test_the_smallest_face_is_found_wherever_it_is(models: Models, size: tuple[int, int]) -> None:
    width = smallest(models, size)
    spots = scattered(size, [width, width, 2 * width, 3 * width, 3 * width, 4 * width], seed=1)
    assert len(spots) == 6
    assert_each_once(
        [face.box for face in find(models, save(drawn(size, spots), quality=92), 0).faces], spots
    )


def test_a_large_face_hides_no_small_ones(models: Models) -> None:
    size = 4000, 3000
    small = [(2000 + 300 * number, 1900, smallest(models, size)) for number in range(6)]
    spots = [(900, 1000, 800), *small]
    boxes = [face.box for face in find(models, save(drawn(size, spots), quality=90), 0).faces]
    assert_each_once(boxes, spots)
    assert boxes[0].left < 1000, "the largest comes first"


def test_a_group_of_a_hundred_is_found_whole_and_everybody_is_who_they_are(models: Models) -> None:
    size = 4000, 3000
    width = smallest(models, size)
    spots = [
        (200 + 396 * column + 7 * row, 180 + 288 * row, width)
        for row in range(10)
        for column in range(10)
    ]
    found = find(models, save(drawn(size, spots), quality=92), 0)
    assert_each_once([face.box for face in found.faces], spots)
    one, other = (encodings(models, find(models, save(face, "PNG"), 0))[0] for face in portraits())
    for box, encoding in zip(
        [face.box for face in found.faces], encodings(models, found), strict=True
    ):
        number = (round((box.left + box.right) / 2) - 100) // 396
        mine, theirs = (one, other) if number % 2 == 0 else (other, one)
        assert np.linalg.norm(encoding - mine) < np.linalg.norm(encoding - theirs)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    width=st.integers(1_200, 9_000),
    megapixels=st.floats(1, 12),
    factors=st.lists(st.floats(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_faces_of_any_size_are_found_in_pictures_of_any_form(
    centerface: Models, width: int, megapixels: float, factors: list[float], seed: int
) -> None:
    size = width, max(300, round(megapixels * 1e6 / width))
    least = smallest(centerface, size)
    widths = [round(least * factor) for factor in factors]
    spots = scattered(size, [width for width in widths if 2 * width < min(size)], seed)
    assert_each_once(
        [face.box for face in find(centerface, save(drawn(size, spots), quality=92), 0).faces],
        spots,
    )


def test_of_very_many_faces_the_largest_are_answered(
    centerface: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "MOST_FACES", 3)
    spots = [(200 + 250 * number, 200, 50 + 10 * number) for number in range(5)]
    content = save(drawn((1500, 400), spots), quality=92)
    for wanted, number in ((0, 3), (2, 2), (9, 3)):
        boxes = [face.box for face in find(centerface, content, wanted).faces]
        assert_each_once(boxes, spots[::-1][:number])


# Pictures that lie on their side, and do not say so


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_picture_that_lies_shows_the_same_people(models: Models, quarters: int) -> None:
    for name in ("astronaut.png", "grace_hopper.jpg"):
        photo = Image.open(sample(name)).convert("RGB")
        upright = find(models, save(photo, "PNG"), 0)
        pixels = turn(np.asarray(photo), quarters)
        lying = find(models, save(Image.fromarray(pixels), "PNG"), 0)
        assert (lying.width, lying.height) == (pixels.shape[1], pixels.shape[0])
        [box], [as_it_was] = ([face.box for face in found.faces] for found in (lying, upright))
        sides = np.array([as_it_was.left, as_it_was.top, as_it_was.right, as_it_was.bottom])
        expected = turn_rectangles(sides, quarters, *photo.size)
        assert np.abs(expected - (box.left, box.top, box.right, box.bottom)).max() <= 1
        [one], [other] = encodings(models, upright), encodings(models, lying)
        assert np.linalg.norm(one - other) < 0.05


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_group_that_lies_is_found_whole(models: Models, quarters: int) -> None:
    size = 2400, 1800
    least = 2 * smallest(models, size)
    spots = scattered(size, [least, least, least, 2 * least, 3 * least], seed=quarters)
    pixels = turn(np.asarray(drawn(size, spots)), quarters)
    shown = [
        (*turn_points(np.array([x, y]), quarters, *size).tolist(), width) for x, y, width in spots
    ]
    assert_each_once(
        [face.box for face in find(models, save(Image.fromarray(pixels), quality=92), 0).faces],
        shown,
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_one_who_lies_beside_one_who_stands_is_found_and_known(
    centerface: Models, quarters: int
) -> None:
    standing, lying = portraits()
    picture = Image.new("RGB", (1200, 700), "gray")
    picture.paste(standing.resize((300, 300)), (100, 200))
    picture.paste(lying.resize((300, 300)).rotate(90 * quarters), (700, 250))
    found = find(centerface, save(picture, quality=95), 0)
    by_place = sorted(
        zip([face.box for face in found.faces], encodings(centerface, found), strict=True),
        key=_left,
    )
    assert_each_once([box for box, _ in by_place], [(250, 350, 150), (850, 400, 150)])
    for (_, encoding), face in zip(by_place, (standing, lying), strict=True):
        [alone] = encodings(centerface, find(centerface, save(face, "PNG"), 0))
        assert np.linalg.norm(encoding - alone) < 0.4


def _left(face: tuple[Box, Encoding]) -> int:
    return face[0].left


def test_no_turn_makes_faces_of_what_is_none(models: Models) -> None:
    noise = Image.effect_noise((1500, 1000), 80).convert("RGB")
    stripes = Image.linear_gradient("L").resize((900, 1300)).convert("RGB")
    for picture in (noise, stripes, Image.new("RGB", (640, 480), "white")):
        assert not find(models, save(picture, quality=90), 0).faces


def test_a_picture_with_a_face_that_stands_is_searched_once(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    detect: Callable[..., object] = models.detect

    def count(*arguments: object) -> object:
        searched.append(arguments)
        return detect(*arguments)

    monkeypatch.setattr(models, "detect", count)
    find(models, sample("astronaut.png").read_bytes(), 0)
    assert len(searched) == 1
    find(models, save(Image.new("RGB", (300, 300))), 0)
    assert len(searched) == 1 + 4


# What tiles and turns are made of


@pytest.mark.parametrize("quarters", range(-4, 5))
def test_places_turn_with_the_pixels(quarters: int) -> None:
    pixels = np.zeros((5, 8, 3), np.uint8)
    pixels[1:3, 2:6] = 255
    turned = turn(pixels, quarters)
    left, top, right, bottom = turn_rectangles(np.array([2, 1, 6, 3]), quarters, 8, 5).tolist()
    assert (turned[top:bottom, left:right] == 255).all()
    assert (turned == 255).sum() == 3 * (bottom - top) * (right - left)


@pytest.mark.parametrize("scale", [1.5, 1, 2 / 3, 1 / 2, 0.4, 1 / 4, 1 / 7])
def test_what_is_scaled_shows_the_same_in_the_same_place(scale: float) -> None:
    pixels = np.zeros((420, 560, 3), np.uint8)
    pixels[70:210, 350:420] = 210
    scaled = smaller(pixels, scale)
    assert scaled.shape == (round(420 * scale), round(560 * scale), 3)
    light = scaled[:, :, 0] / (210 * 140 * 70 * scale**2)
    assert light.sum() == pytest.approx(1, abs=0.03)
    rows, columns = light.sum(axis=1), light.sum(axis=0)
    down = (rows * (np.arange(len(rows)) + 0.5)).sum() / rows.sum()
    across = (columns * (np.arange(len(columns)) + 0.5)).sum() / columns.sum()
    assert down == pytest.approx(140 * scale, abs=0.5)
    assert across == pytest.approx(385 * scale, abs=0.5)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4])
def test_no_pixel_is_skipped_where_a_picture_becomes_much_smaller(scale: float) -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:, :: round(1 / scale)] = 200
    assert np.abs(smaller(pixels, scale) - 200 * scale).max() <= 1


@pytest.mark.parametrize(
    ("tile", "overlap"), [(_TILE, _OVERLAP), (classic._TILE, classic._OVERLAP)]
)
@given(length=st.integers(1, 20_000))
def test_a_face_as_wide_as_the_overlap_is_whole_in_a_tile(
    tile: int, overlap: int, length: int
) -> None:
    parts = along(length, tile, overlap)
    assert parts[0][0] == 0
    assert parts[-1][1] == length
    assert all(stop - start <= tile for start, stop in parts)
    assert all(one[1] - other[0] >= overlap for one, other in itertools.pairwise(parts))


@pytest.mark.parametrize("quarters", range(4))
def test_the_square_of_a_face_that_lies_is_that_of_the_same_face_when_it_stands(
    quarters: int,
) -> None:
    standing = np.array([100.0, 200.0, 180.0, 300.0])
    lying = turn_rectangles(standing, quarters, 800, 600)
    left, top, right, bottom = standing.tolist()
    expected = turn_rectangles(
        np.array(list(square(left, top, right, bottom, 0))), quarters, 800, 600
    )
    left, top, right, bottom = lying.tolist()
    found = square(left, top, right, bottom, -quarters % 4)
    assert np.abs(expected - found).max() <= 1


def test_of_one_face_seen_twice_the_better_stays() -> None:
    rectangles = np.array([(0, 0, 10, 10), (1, 1, 11, 11), (2, 2, 5, 5), (30, 0, 40, 10)])
    assert distinct(rectangles, np.array([0.7, 0.9, 0.8, 0.6])).tolist() == [1, 3]
    assert distinct(np.empty((0, 4)), np.empty(0)).tolist() == []


def test_a_better_face_is_not_hidden_by_a_worse_one_around_it() -> None:
    rectangles = np.array([(10, 10, 20, 20), (0, 0, 40, 40)])
    assert distinct(rectangles, np.array([0.8, 0.4])).tolist() == [0, 1]
    assert distinct(rectangles, np.array([0.4, 0.8])).tolist() == [1]

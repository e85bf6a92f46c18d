"""What a face's quality says, by every engine that finds one in real photographs."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from services.common.quality import FIT, Flaw, Quality
from services.face_recog.adapters.centerface import CenterFace
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.quality import measure
from services.face_recog.adapters.recognition import find
from services.testing.damaged_pictures import save

Change = Callable[[Image.Image, float], Image.Image]


@pytest.fixture(scope="module", params=["classic", "centerface"])
def models(request: pytest.FixtureRequest) -> Models:
    return load_models(request.param)


def smaller(image: Image.Image, scale: float) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def brighter(image: Image.Image, times: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(times)


def paler(image: Image.Image, times: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(times)


def turned(image: Image.Image, by: float) -> Image.Image:
    """Make one half of a picture narrower, as a head that turns shows one of its sides."""
    bent = np.linspace(-1, 1, image.width)
    bent = np.where(bent < 0, bent * (1 + by), bent * (1 - by)).clip(-1, 1)
    columns = ((bent + 1) / 2 * (image.width - 1)).round().astype(int)
    return Image.fromarray(np.asarray(image)[:, columns])


def quality(models: Models, image: Image.Image) -> Quality:
    found = find(models, save(image, "PNG"), 1)
    [one] = found.faces
    assert one.quality
    return one.quality


@pytest.fixture
def faces(astronaut: Image.Image, hopper: Image.Image) -> list[Image.Image]:
    """Both faces, each half as wide as its picture of 190 pixels."""
    return [astronaut.crop((132, 28, 322, 218)), hopper.resize((190, 190), box=(81, 47, 449, 415))]


def test_good_photographs_are_fit(
    models: Models, astronaut: Image.Image, hopper: Image.Image
) -> None:
    for picture in (astronaut, hopper, hopper.convert("L").convert("RGB")):
        for scale in (1, 0.75, 4):
            rating = quality(models, smaller(picture, scale))
            assert rating.flaw is None
            assert rating.score > 0.8


@pytest.mark.parametrize(
    ("part", "change", "steps", "flaw"),
    [
        ("size", smaller, (0.4, 0.3, 0.23), Flaw.SMALL),
        ("sharpness", blurred, (3, 4.5, 6), Flaw.BLURRED),
        ("pose", turned, (0.2, 0.4, 0.6), None),
        ("light", brighter, (0.2, 0.12, 0.07), Flaw.DARK),
        ("light", brighter, (1.5, 3, 5), Flaw.OVEREXPOSED),
        ("light", paler, (0.2, 0.12, 0.06), Flaw.PALE),
    ],
)
def test_what_is_made_worse_is_rated_lower(
    faces: list[Image.Image],
    part: str,
    change: Change,
    steps: Sequence[float],
    flaw: Flaw | None,
) -> None:
    models = load_models("centerface")  # it finds them whatever they look like
    for face in faces:
        rated = [quality(models, change(face, step)) for step in steps]
        before = quality(models, face)
        parts = [getattr(rating, part) for rating in (before, *rated)]
        assert all(one >= later for one, later in itertools.pairwise(parts)), parts
        assert parts[-1] < parts[0] - 0.2
        if flaw:
            assert rated[-1].flaw == flaw
            assert rated[-1].score == parts[-1] < FIT


def looks_at(turn: float) -> tuple[complex, complex, complex]:
    """Eyes and a nose that a head has turned by so much of the distance between them, lying."""
    return 10 + 10j, 10 + 50j, complex(-10, 30 + 40 * turn)


def test_a_head_that_turns_is_rated_lower_however_it_lies() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 60, 3), np.uint8)
    whole = (0.0, 0.0, 60.0, 60.0)
    for sign in (1, -1):
        rated = [measure(pixels, whole, looks_at(sign * turn)) for turn in (0, 0.2, 0.4, 0.8)]
        assert [rating.pose for rating in rated] == pytest.approx(
            [1, 1 - 0.2 / 0.7, 1 - 0.4 / 0.7, 0]
        )
        assert [rating.flaw for rating in rated] == [None, None, Flaw.TURNED, Flaw.TURNED]


def test_centerface_rates_the_pose_by_its_own_points(faces: list[Image.Image]) -> None:
    models, detector = load_models("centerface"), CenterFace()
    for face in faces:
        picture = turned(face, 0.4)
        [points] = detector.find(np.asarray(picture), 1.0).points
        eye, other, nose = (complex(*point) for point in points[:3].tolist())
        expected = measure(np.asarray(picture), (0.0, 0.0, *picture.size), (eye, other, nose)).pose
        assert 0.6 < expected < 0.8
        assert quality(models, picture).pose == pytest.approx(expected)
        on_its_head = quality(models, picture.rotate(180))
        assert on_its_head.pose == pytest.approx(expected, abs=0.1)


def test_dark_skin_in_good_light_is_not_dark() -> None:
    # As bright as a face can be of which no part has more than a third of the light.
    shades = np.linspace(10, 80, 60).astype(np.uint8)
    pixels = np.repeat(np.tile(shades, (60, 1))[:, :, None], 3, axis=2)
    assert measure(pixels, (0.0, 0.0, 60.0, 60.0), looks_at(0)).light == 1


sides = st.floats(-1e4, 1e4)
places = st.complex_numbers(max_magnitude=1e5, allow_nan=False)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    shade=st.sampled_from([0, 3, 255, None]),
    rectangle=st.tuples(sides, sides, sides, sides).map(
        lambda four: (*map(min, four[:2], four[2:]), *map(max, four[:2], four[2:]))
    ),
    points=st.tuples(places, places, places),
)
def test_any_pixels_have_a_quality(
    size: tuple[int, int],
    shade: int | None,
    rectangle: tuple[float, float, float, float],
    points: tuple[complex, complex, complex],
) -> None:
    pixels = np.full((*size, 3), shade or 0, np.uint8)
    if shade is None:
        pixels = np.random.default_rng(0).integers(0, 255, pixels.shape, np.uint8)
    found = measure(pixels, rectangle, points)  # which checks that all is from 0 to 1
    assert found.score == min(found.size, found.sharpness, found.pose, found.light)
    assert (found.flaw is None) == (found.score >= FIT)
    if shade is not None:
        assert (found.sharpness, found.light) == (0, 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "1", None, True])
def test_a_quality_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Quality(0.5, None, 0.5, value, 0.5, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="flaw"):
        Quality(0.5, 7, 0.5, 0.5, 0.5, 0.5)  # type: ignore[arg-type]

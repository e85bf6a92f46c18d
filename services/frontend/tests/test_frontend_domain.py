import pytest
from pydantic import TypeAdapter

from services.frontend.domain.faces import Face
from services.frontend.domain.frames import Frame, card_frame, marks, whole_frame
from services.frontend.domain.pictures import SubmittedPicture
from services.frontend.tests.fake_receiver import face_json, image_json

ASPECT = 4 / 3


def picture(width: int, height: int, *boxes: tuple[int, int, int, int]) -> SubmittedPicture:
    faces = [
        face_json(i, box=dict(zip(("left", "top", "right", "bottom"), box, strict=True)))
        for i, box in enumerate(boxes)
    ]
    return SubmittedPicture.model_validate(image_json(1, width=width, height=height, faces=faces))


def face(**values: object) -> Face:
    its: Face = TypeAdapter(Face).validate_python(face_json(0, **values))
    return its


def test_a_card_shows_the_part_with_the_faces() -> None:
    low = card_frame(picture(300, 1200, (100, 1000, 200, 1100)), ASPECT)
    assert low == Frame(0, 926.25, 300, 225, "cover at-95")
    right = card_frame(picture(1600, 600, (1200, 100, 1400, 300)), ASPECT)
    assert right == Frame(800, 0, 800, 600, "cover at-100")
    middle = card_frame(picture(1600, 600), ASPECT)
    assert middle == Frame(400, 0, 800, 600, "cover at-50")
    exact = card_frame(picture(400, 300, (0, 0, 400, 300)), ASPECT)
    assert exact == Frame(0, 0, 400, 300, "cover at-50")


def test_a_card_shows_all_of_it_where_faces_would_be_cut() -> None:
    wide = card_frame(picture(1600, 600, (0, 100, 100, 200), (1500, 100, 1600, 200)), ASPECT)
    assert wide == Frame(0, -300, 1600, 1200, "contain")


def test_every_face_is_inside_the_frame() -> None:
    for left in range(0, 1500, 37):
        shown = picture(1600, 300, (left, 10, left + 100, 110))
        frame = card_frame(shown, ASPECT)
        assert frame is not None
        (mark,) = marks(shown.faces, frame)
        assert mark.left >= 0
        assert mark.left + mark.width <= 100


def test_boxes_are_in_percent_of_the_frame() -> None:
    shown = picture(400, 400, (100, 100, 200, 300))
    frame = whole_frame(shown, 2.0)
    assert frame == Frame(-200, 0, 800, 400, "contain")
    (mark,) = marks(shown.faces, frame)
    assert (mark.left, mark.top, mark.width, mark.height) == (37.5, 25, 12.5, 50)
    assert mark.label_class == "above start"


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 50, 50), "below start"),
        ((0, 0, 50, 300), "below start"),
        ((300, 200, 400, 300), "above end"),
    ],
)
def test_a_label_stays_inside(box: tuple[int, int, int, int], place: str) -> None:
    shown = picture(400, 300, box)
    frame = whole_frame(shown, ASPECT)
    assert frame is not None
    (mark,) = marks(shown.faces, frame)
    assert mark.label_class == place
    assert mark.label_left + mark.label_width <= 100
    assert mark.label_top < 100


def test_labels_end_before_other_faces_and_their_labels() -> None:
    """Rows of faces, each as high as the others, a bit lower, or one below the other."""
    for columns in range(2, 8):
        step = 1200 // columns
        boxes = [
            (column * step + 40, 250 + 20 * (column % 3), column * step + 110, 330)
            for column in range(columns)
        ]
        shown = picture(1200, 900, *boxes, (40, 700, 110, 780))
        frame = whole_frame(shown, ASPECT)
        assert frame is not None
        *row, alone = marks(shown.faces, frame)
        labels = [(mark.label_left, mark.label_left + mark.label_width) for mark in row]
        for number, (left, right) in enumerate(labels):
            assert left <= row[number].left
            assert right >= row[number].left + row[number].width - 0.01
            for other in range(number + 1, columns):
                assert right <= row[other].left + 0.01  # they are rounded
                assert right <= labels[other][0] + 0.01
        # Nobody is beside it: its name may be as long as the picture is wide.
        assert alone.label_left + alone.label_width == pytest.approx(100)


def test_a_picture_of_unknown_size_has_no_frame() -> None:
    unknown = SubmittedPicture.model_validate(image_json(1, width=None, height=None))
    assert card_frame(unknown, ASPECT) is None
    assert whole_frame(unknown, ASPECT) is None


def candidate(person: str, distance: float) -> dict[str, object]:
    return {"person": person, "image_name": f"{person}/1.jpg", "distance": distance}


@pytest.mark.parametrize(
    ("shown", "kind", "label", "explanation"),
    [
        (face(), "unknown", "Unknown", "Nobody known looks like this face."),
        (face(person="Ada", distance=0.4), "known", "Ada", "The match is very close."),
        (face(person="Ada", distance=0.5), "known", "Ada", "The match is close."),
        (face(person="Ada"), "known", "Ada", "Named by hand."),
        (
            face(person="Ada", distance=0.55, ambiguous=True),
            "ambiguous",
            "Ada?",
            "The match is uncertain: the faces are alike, but not much.",
        ),
        (
            face(
                person="Ada",
                distance=0.45,
                ambiguous=True,
                candidates=[candidate("Ada", 0.45), candidate("Bea", 0.47)],
            ),
            "ambiguous",
            "Ada?",
            "The match is close, but Bea is nearly as close.",
        ),
        (
            face(ambiguous=True, candidates=[candidate("Ada", 0.5), candidate("Bea", 0.4)]),
            "ambiguous",
            "Ada?",
            "It may be somebody known, but others look as much alike: please say who it is.",
        ),
        (face(ambiguous=True), "unknown", "Unknown", "Nobody known looks like this face."),
    ],
)
def test_a_face_in_words(shown: Face, kind: str, label: str, explanation: str) -> None:
    assert (shown.kind, shown.label, shown.explanation) == (kind, label, explanation)


@pytest.mark.parametrize(
    ("people", "summary"),
    [
        ([], "No face in this picture."),
        ([None], "1 face, unknown."),
        ([None, None], "2 faces: 2 unknown."),
        (["Ada", None], "2 faces: 1 known, 1 unknown."),
        (["Ada"], "1 face, known."),
    ],
)
def test_a_result_in_words(people: list[str | None], summary: str) -> None:
    faces = [face_json(i, person=person) for i, person in enumerate(people)]
    assert SubmittedPicture.model_validate(image_json(1, faces=faces)).summary == summary


def test_a_new_field_of_a_newer_receiver_is_ignored() -> None:
    assert SubmittedPicture.model_validate(image_json(1, novelty=True)).id == 1


def test_the_content_of_an_upload_never_changes_and_that_of_a_path_may() -> None:
    def version(path: str, processed_at: str | None) -> str:
        values = image_json(1, path=path, processed_at=processed_at)
        return SubmittedPicture.model_validate(values).content_version

    first, second = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    assert version("uploads/ab", first) == version("uploads/ab", second)
    assert version("camera/1.jpg", first) != version("camera/1.jpg", second)
    assert version("camera/1.jpg", None) == ""

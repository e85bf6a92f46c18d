import pytest

from services.common.object_keys import (
    MAX_PART_BYTES,
    MAX_PATH_LENGTH,
    InvalidPathError,
    check_path,
)


@pytest.mark.parametrize(
    "path",
    [
        "a.jpg",
        "unknown_people/unknown220.jpg",
        ".hidden/...",
        "..a/b..",
        "a b/ü/日本.png",
        "<img src=x onerror=1>.jpg",
        "back\\slash",
        "photo#1.jpg",
        "#1/photo",
        "x" * MAX_PART_BYTES,
        "/".join(["日" * 60] * 5),
        "x" * 115 + ("/" + "日" * 66 + "x") * 4 + "/" + "日" * 33,
    ],
)
def test_a_relative_key_is_a_path(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/etc/passwd", "relative"),
        ("..", "parts"),
        ("../secret", "parts"),
        ("a/../b", "parts"),
        ("a/..", "parts"),
        ("a/./b", "parts"),
        ("a//b", "parts"),
        ("a/", "parts"),
        ("https://example.com/a.jpg", "URL"),
        ("file:///etc/passwd", "URL"),
        ("photo#1", "digits"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x85b", "control"),
        ("a\ud800b", "Unicode"),
        ("a\uffffb", "Unicode"),
        ("/".join(["日" * 60] * 6), "bytes in UTF-8"),
        ("a/b/" * (MAX_PATH_LENGTH // 4) + "c", "characters"),
        ("x" * (MAX_PART_BYTES + 1), "bytes"),
        ("日" * 67, "bytes"),
    ],
)
def test_anything_else_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(InvalidPathError, match=reason):
        check_path(path)

"""The pictures show what they are given, and one that is old is noticed."""

import pytest

from scripts import pictures
from scripts.manifests.rules.network import Edge


def test_every_connection_is_a_dot_and_every_port_a_line() -> None:
    boxes = {
        name: pictures.Box(0, 52 * i, 200, "service", [name])
        for i, name in enumerate(["page", "api", "rows"])
    }
    asked = [Edge("page", "api", 80), Edge("page", "rows", 3306), Edge("api", "rows", 3306)]
    drawn = "\n".join(pictures._rails(asked, boxes))
    assert drawn.count("<circle") == 3
    assert (drawn.count(">80<"), drawn.count(">3306<")) == (1, 1)


def test_who_ask_one_another_are_drawn_all_the_same() -> None:
    depths = pictures._depths({"first": [], "one": ["first", "other"], "other": ["one"]})
    assert depths == {"first": 0, "one": 1, "other": 2}


def test_an_old_picture_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def kubernetes() -> str:
        return "<svg/>"

    monkeypatch.setattr(pictures, "kubernetes", kubernetes)
    monkeypatch.setattr("sys.argv", ["pictures", "--check"])
    with pytest.raises(SystemExit, match=r"kubernetes\.svg is old: run 'make pictures'"):
        pictures.main()

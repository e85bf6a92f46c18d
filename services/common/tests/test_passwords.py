from pathlib import Path

import pytest

from services.common.settings import read_passwords


def test_what_may_do_is_read_late_and_once(tmp_path: Path) -> None:
    file, previous = tmp_path / "password", tmp_path / "previous-password"
    file.write_text("one\n")
    assert list(read_passwords(file)) == ["one"]
    previous.write_text("zero\n")
    assert list(read_passwords(file)) == ["one", "zero"]
    previous.write_text("one\n")
    assert list(read_passwords(file)) == ["one"]


def test_a_file_that_changes_meanwhile_is_read_again(tmp_path: Path) -> None:
    """As when a rotation is reverted: the new password is refused, and then there is no other."""
    file, previous = tmp_path / "password", tmp_path / "previous-password"
    file.write_text("two")
    previous.write_text("one")
    passwords = read_passwords(file)
    assert next(passwords) == "two"
    file.write_text("one")
    previous.unlink()
    assert list(passwords) == ["one"]


def test_a_missing_file_is_an_error_and_a_missing_previous_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(read_passwords(tmp_path / "password"))

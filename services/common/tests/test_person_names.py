import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.person_names import InvalidNameError, by_id, check_name, check_who, id_of


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Ada",
            "Zoë",
            "名前",
            "山田\u3000太郎",
            "<b>x",
            "a.b c",
            "100% & more?#",
            "'",
            "Sammy Davis Jr.",
        ),
        *("x" * 100, "null", "%2F", "\\", "a..", "O\u2019Brien"),
        *("👨\u200d👩\u200d👧", "❤\ufe0f", "❤\ufe0f\u200d🔥", "葛\U000e0100"),
        # Persian and Hindi names that need a joiner.
        *("\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0915\u094d\u200d\u0937"),
    ],
)
def test_a_name_is_kept_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (" Ada ", "Ada"),
        ("\u00a0Ada\u3000", "Ada"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("\u212b", "\u00c5"),
        ("\u1112\u1161\u11ab", "\ud55c"),
    ],
)
def test_a_name_is_kept_in_one_form(name: str, kept: str) -> None:
    assert check_name(name) == kept


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "must not be empty") for name in ("", " ", "\u00a0", "\u3000 ")),
        *((name, "start with a dot") for name in (".", "..", ".hidden", " ..")),
        *((name, "must not contain /") for name in ("/", "AC/DC", "a/", "/a")),
        *((name, "control characters") for name in ("a\tb", "a\n", "\0", "a\x7f", "a\x85")),
        *(
            (f"{before}{character}{after}", "cannot be seen")
            for character in "\u00ad\u034f\u200b\u200e\u202e\u2028\u2060\u2066\u3164\ufeff\uffff"
            for before, after in (("An", "n"), ("Ann", ""), ("名", "前"))
        ),
        *(
            (name, "cannot be seen")
            for name in ("An\u200dn", "\u200d", "名\u200d", "a\ufe0f", "名\ufe0f\ufe0f")
        ),
        *((name, "a mark that belongs") for name in ("\u0301", "\u0301\u0302", "\u20dda")),
        ("x" * 101, "at most 100 characters, this has 101"),
        ("😀" * 51, "at most 200 bytes in UTF-8, this has 204"),
        ("a\ud800", "valid Unicode"),
    ],
)
def test_anything_else_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InvalidNameError, match=reason):
        check_name(name)


@given(st.text(max_size=120))
def test_what_is_kept_is_one_visible_part_of_a_key(name: str) -> None:
    try:
        kept = check_name(name)
    except InvalidNameError as error:
        assert str(error).startswith("a person's name ")  # noqa: PT017
        return
    assert check_name(kept) == kept
    assert check_name(unicodedata.normalize("NFD", name)) == kept
    assert 1 <= len(kept.encode()) <= 200
    assert "/" not in kept
    assert kept not in {".", ".."}
    assert any(unicodedata.category(one)[0] in "LNPSC" for one in kept)


@pytest.mark.parametrize("person_id", [1, 42, 10**18 - 1])
def test_an_id_stands_where_a_name_may(person_id: int) -> None:
    assert id_of(by_id(person_id)) == person_id
    assert check_who(by_id(person_id)) == by_id(person_id)
    with pytest.raises(InvalidNameError, match="is an id"):
        check_name(by_id(person_id))


@given(st.text(max_size=20) | st.from_regex("[~0-9 .\u0660]{0,5}"))
def test_no_name_is_taken_for_an_id(text: str) -> None:
    """Whatever says who is meant is a name as it is kept, or an id, and stays that."""
    try:
        who = check_who(text)
    except InvalidNameError:
        return
    assert check_who(who) == who
    person_id = id_of(who)
    if person_id is None:
        assert who == check_name(text)
    else:
        assert who == by_id(person_id)


@given(st.text(min_size=1, max_size=100))
def test_a_name_is_the_same_in_any_form_of_unicode(text: str) -> None:
    try:
        kept = check_name(text)
    except InvalidNameError:
        return
    assert check_name(unicodedata.normalize("NFD", kept)) == kept
    assert "/" not in kept
    assert quote(kept, safe="") not in (".", "..")  # which an address cannot end in
    assert unquote(quote(kept, safe="")) == kept

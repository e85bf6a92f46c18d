"""The rule for a person's name, and the one form in which it is kept.

A name is a part of an object key and of an address, and people tell each other apart by it: so it
holds nothing that means something else there, and nothing that cannot be seen.
"""

import re
import sys
import unicodedata
from typing import Final

from services.common.errors import RefusedError
from services.common.object_keys import CONTROL, MAX_PART_BYTES

MAX_NAME_LENGTH: Final = 100
"""Characters, in the form in which a name is kept."""

_BY_ID: Final = re.compile("~([0-9]{1,18})")

NO_SLASH: Final = "a person's name must not contain /"


class InvalidNameError(RefusedError, ValueError):
    """The name cannot be a person's; the message says why."""


def by_id(person_id: int) -> str:
    """Return what stands for a person where a name may stand, too, though others bear it."""
    return f"~{person_id}"


def id_of(who: str) -> int | None:
    """Return the id that :func:`by_id` was given; None for a name."""
    found = _BY_ID.fullmatch(who)
    return int(found[1]) if found else None


def known_name(name: str | None) -> str | None:
    """Return a person's name as it stands in a row; None of somebody who is being forgotten.

    Their name is their id, which :func:`check_name` lets nobody else have.
    """
    return None if name is None or id_of(name) is not None else name


_SPACES: Final = "".join(
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(character) == "Zs"
)
_CONTROL: Final = "Cc"
_MARK: Final = "M"
# Formats such as the zero-width space and marks of direction; separators of lines and paragraphs.
_INVISIBLE: Final = frozenset({"Cf", "Zl", "Zp"})
# Without a shape although their categories say otherwise: fillers of Hangul, Khmer's inherent
# vowels, the grapheme joiner, an empty Braille cell; and what XML cannot hold.
_SHAPELESS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffe\uffff")
_JOINERS: Final = frozenset("\u200c\u200d")
_VARIANTS: Final = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_FIRST_JOINED: Final = "\u0600"
"""From here on are the scripts that join letters, and emoji. Before it are Latin, Greek and
Cyrillic, where a joiner would only make a second name that looks like the first."""


def check_who(who: str) -> str:
    """Return what says who is meant: an id as :func:`by_id` writes it, else as :func:`check_name`.

    Raises :class:`InvalidNameError`.
    """
    person_id = id_of(who)
    return check_name(who) if person_id is None else by_id(person_id)


# Of what cannot be seen, the well-known ones.
_UNSEEN: Final = rf"{CONTROL}\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
NAME_PATTERN: Final = rf"^[^/.{_UNSEEN}][^/{_UNSEEN}]*$"
"""What of :func:`check_name` a regular expression can say to clients."""


def as_kept(text: str) -> str:
    """Return a text in the form of names: composed as Unicode's NFC, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip(_SPACES)


def check_name(name: str) -> str:
    """Return the name :func:`as_kept`, or raise :class:`InvalidNameError`."""
    name = as_kept(name)
    if not name:
        raise InvalidNameError("a person's name must not be empty")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidNameError(
            f"a person's name has at most {MAX_NAME_LENGTH} characters, this has {len(name)}"
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidNameError("a person's name must be valid Unicode") from None
    if size > MAX_PART_BYTES:
        raise InvalidNameError(
            f"a person's name has at most {MAX_PART_BYTES} bytes in UTF-8, this has {size}"
        )
    if "/" in name:
        raise InvalidNameError(NO_SLASH)
    if name[0] == ".":
        raise InvalidNameError("a person's name must not start with a dot")
    if id_of(name) is not None:
        raise InvalidNameError(f"a person's name must not be ~ and a number: {name} is an id")
    _check_visible(name)
    return name


def _check_visible(name: str) -> None:
    if name.isascii() and name.isprintable():
        return
    if unicodedata.category(name[0])[0] == _MARK and name[0] not in _SHAPELESS:
        raise InvalidNameError(
            "a person's name must not start with a mark that belongs to a character before it"
        )
    for place, character in enumerate(name):
        category = unicodedata.category(character)
        if category == _CONTROL:
            raise InvalidNameError(
                "a person's name must not contain control characters, such as tabs and line ends"
            )
        if character in _JOINERS or character in _VARIANTS:
            visible = _is_joined(name, place)
        else:
            visible = category not in _INVISIBLE and character not in _SHAPELESS
        if not visible:
            known = unicodedata.name(character, "")
            raise InvalidNameError(
                "a person's name must not contain characters that cannot be seen, such as"
                f" U+{ord(character):04X}" + (f" ({known.lower()})" if known else "")
            )


def _is_joined(name: str, place: int) -> bool:
    """Tell whether a joiner or a variant of a character stands where scripts and emoji need it."""
    before = name[place - 1 : place]
    if before < _FIRST_JOINED or before in _JOINERS:
        return False
    if name[place] in _VARIANTS:
        return before not in _VARIANTS
    return name[place + 1 : place + 2] >= _FIRST_JOINED

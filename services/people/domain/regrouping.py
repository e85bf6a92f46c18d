"""What changes in groups when faces come, go, or are said to be elsewhere."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.people.domain.grouping import GroupChanges, Groups, end_of

FaceId = tuple[int, int]
"""An image's id, and the index of a face in it."""


@dataclass(frozen=True)
class GroupingClaim:
    """The right to make groups, ours until the lease ends; of the encodings of this engine."""

    token: str
    engine: str | None


@dataclass(frozen=True)
class Regrouped:
    """What has changed in groups; whoever writes it twice has written it once.

    ``gone`` are faces in no group any more, ``placed`` those in another, ``new`` the groups that
    were not there before, ``merged`` says in which one the faces of a group are that is gone, and
    ``touched`` are those of another size. ``answered`` are questions that need not be kept.
    """

    gone: Collection[FaceId] = ()
    placed: Mapping[FaceId, int] = field(default_factory=dict)
    new: Collection[int] = ()
    merged: Mapping[int, int] = field(default_factory=dict)
    touched: Collection[int] = ()
    answered: Collection[int] = ()


@dataclass(frozen=True)
class AskedPair:
    """A group, and another group or a person, who may be the same; of two groups the older first.

    ``is_open`` unless a person has answered it for now, or for good.
    """

    id: int
    group: int
    other: int
    is_person: bool
    answer: str | None
    is_open: bool


def regroup(
    groups: Groups[FaceId],
    gone: Sequence[FaceId],
    moved: Sequence[FaceId],
    new: Sequence[FaceId],
    *,
    encodings: Mapping[FaceId, bytes],
    denied: Mapping[FaceId, Collection[int]],
    apart: Sequence[tuple[Collection[FaceId], Collection[FaceId]]],
) -> Regrouped:
    """Take faces out of their groups, and put others, or the same again, into some."""
    was = {key: groups.group_of(key) for key in [*gone, *moved]}
    struck = [key for key in moved if was[key] in denied.get(key, ())]
    again = [key for key in moved if key not in struck]
    fitting = [key for key in [*again, *new] if len(encodings.get(key, b"")) == 4 * groups.size]
    groups.remove([*gone, *again])
    changes: list[GroupChanges[FaceId]] = []
    for group, faces in _by_group(struck, denied).items():
        now = end_of(group, _merged(changes))
        if groups.members(now):
            changes.append(groups.bar(faces, now))
    merged = _merged(changes)
    # Whoever is apart from one face of a group is apart from the group.
    barred = [
        (faces, groups.members(end_of(group, merged))[:1])
        for group, faces in _by_group(fitting, denied).items()
    ]
    vectors = matrix([encodings[key] for key in fitting], groups.size)
    changes.append(groups.add(fitting, vectors, apart=[*barred, *apart]))
    before = {group for group in was.values() if group is not None}
    left_out = [key for key in again if key not in groups]
    return regrouped_by(groups, [*struck, *fitting], changes, before, [*gone, *left_out])


def _by_group(
    keys: Iterable[FaceId], denied: Mapping[FaceId, Collection[int]]
) -> Mapping[int, Sequence[FaceId]]:
    """Return which of these faces are not to be in each group."""
    found = defaultdict[int, list[FaceId]](list)
    for key in keys:
        for group in sorted(denied.get(key, ())):
            found[group].append(key)
    return found


def _merged(changes: Iterable[GroupChanges[FaceId]]) -> dict[int, int]:
    return {gone: kept for change in changes for gone, kept in change.merged.items()}


def regrouped_by(
    groups: Groups[FaceId],
    keys: Iterable[FaceId],
    changes: Sequence[GroupChanges[FaceId]],
    before: Collection[int],
    gone: Collection[FaceId] = (),
) -> Regrouped:
    """Return what has changed by all these calls, which were about those faces."""
    merged = _merged(changes)
    placed = {key: group for key in keys if (group := groups.group_of(key)) is not None}
    return Regrouped(
        gone=gone,
        placed=placed,
        merged={group: end_of(group, merged) for group in merged},
        touched={end_of(group, merged) for group in before},
    )


def size_of(encodings: Iterable[bytes]) -> int:
    """Return how many numbers most encodings have; what has another size is left out."""
    sizes = Counter(
        len(encoding) // 4 for encoding in encodings if encoding and not len(encoding) % 4
    )
    return max(sizes, key=sizes.__getitem__, default=0)


def matrix(encodings: Sequence[bytes], size: int) -> NDArray[np.float32]:
    """Return encodings of so many numbers in the rows of a matrix."""
    return np.frombuffer(b"".join(encodings), "<f4").reshape(len(encodings), size)

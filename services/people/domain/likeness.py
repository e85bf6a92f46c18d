"""How alike two faces, or two groups of faces, are, and from where on they are of one person.

Two faces are as alike as the product of their encodings stands out from the products that each of
them has with faces of others. Two groups are as alike as their faces are on average, over all pairs
(average linkage), and more so the more faces they have, since strangers are less alike on average.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.strangers import PairsOfStrangers
from services.people.domain.vector_table import Rows, Vectors

_FEW: Final = 1000
"""Up to so many groups, and from a cohort of so many on, the same likeness joins two."""

_RIDGE: Final = 40.0
"""So many mean variances are added to the variance of each direction, over the faces that a cohort
has for each number of an encoding: 5 with 1,000 of dlib's. Without, directions in which few faces
were seen would count for too much. With dlib's as they are, 1 of 7 pairs less is found."""

_NEAREST: Final = (0.01, 0.35)
"""The shares of a cohort, those most alike, between which it is held against. The first ones may be
the face itself, or its person's other pictures."""

_LASTING: Final = 0.9
"""What is left of the squared length of a mean of very many faces of length 1.

One person's whitened faces have products of 0.6 to 0.7, and means of three strangers' faces are
less alike than single ones by as much as that makes of their lengths. But a group may hold a
stranger, of whom 0.7 makes too much: where 1 % are wrong, 1 to 4 % fewer of one person's pairs are
found by dlib's encodings than with plain means; with 0.9, 1 to 3 % more by any."""

BLOCK: Final = 256
"""Faces at a time that are compared with all groups."""

TINY: Final = 1e-12
"""No vector is shorter but one of no length."""

_LEAST_SPREAD: Final = 1e-3


@dataclass(frozen=True)
class Demand:
    """The likeness from which two groups are joined, and how much more the next ``decade`` asks.

    A tenth as many pairs of strangers are more alike by that.
    """

    likeness: float
    decade: float


@dataclass(frozen=True)
class Kind:
    """What is asked of an engine's encodings: of bare products, and of how far they stand out."""

    product: Demand
    standing: Demand


_OF_DLIB: Final = Demand(6.3, 1.07)
"""How far dlib's encodings are to stand out, whoever finds the faces, from Labeled Faces in the
Wild: of the pairs joined from there on, 1 to 2 % are wrong, of 1,764 faces of 1,000 people; 0.1
more and 1 to 2 % fewer of the right ones are found."""

_OF_OTHERS: Final = Demand(8.1, 1.5)
"""Those of any other model: measured with the one that tests bring, so that 1 % are wrong."""


def kind_of(engine: str, strangers: PairsOfStrangers) -> Kind:
    """Return what to ask of an engine's encodings, by its name and what face_recog says of it.

    The product is what one pair of strangers in 10,000 reaches.
    """
    standing = _OF_DLIB if "dlib" in engine else _OF_OTHERS
    return Kind(Demand(strangers.product, strangers.decade), standing)


class Likeness:
    """How alike faces are: the product of a vector of one and the :func:`turned` one of another.

    Such a vector is the whitened face over the square root of the spread of its products with the
    cohort, and two numbers more, by which the product of two is that of their faces, less the mean
    of what either has with the cohort, in spreads (adaptive symmetric score normalisation). As it
    is a product, the means of faces' vectors give the mean of their likenesses.
    """

    def __init__(self, kind: Kind, cohort: Vectors, rows: Rows) -> None:
        """Fit it to faces of length 1, which are in those ``rows``; to none, products count."""
        self._cohort, self._rows, self._enough = cohort, rows, len(rows) / 2
        self.demand = kind.standing if len(rows) else kind.product
        if not len(rows):
            return
        self._centre = cohort.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(cohort.T.astype(np.float64)))
        ridge = _RIDGE * cohort.shape[1] / len(cohort) * variances.mean()
        self._axes = (axes / np.sqrt(np.maximum(variances, 0) + ridge + TINY)).astype(np.float32)
        self._cohort = self.white(cohort)

    @property
    def faces(self) -> int:
        """How many faces likenesses are held against."""
        return len(self._rows)

    @property
    def is_worn(self) -> bool:
        """Whether more than half of them were dropped."""
        return self.faces < self._enough

    def drop(self, rows: Rows) -> None:
        """Forget the faces of these rows."""
        kept = ~np.isin(self._rows, rows)
        self._cohort, self._rows = self._cohort[kept], self._rows[kept]

    def white(self, faces: Vectors) -> Vectors:
        """Return faces of length 1 in which what all faces vary by counts for less."""
        return units((faces - self._centre) @ self._axes) if self.faces else faces

    def vectors(self, faces: Vectors) -> Vectors:
        """Return what faces of length 1 are compared by; shape (faces, size + 2)."""
        made = np.zeros((len(faces), faces.shape[1] + 2), np.float32)
        made[:, :-2], made[:, -2] = self.white(faces), 1
        if not self.faces:
            return made
        last, first = (self.faces - 1 - round(share * self.faces) for share in _NEAREST)
        for start in range(0, len(faces), BLOCK):
            rows = made[start : start + BLOCK]
            products = rows[:, :-2] @ self._cohort.T
            products.partition([max(0, first), last], axis=1)
            nearest = products[:, max(0, first) : max(1, last)]
            rows /= np.sqrt(np.maximum(nearest.std(axis=1), _LEAST_SPREAD))[:, None]
            rows[:, -1] = rows[:, -2] * nearest.mean(axis=1)
        return made

    @property
    def lasting(self) -> float:
        """What is left of the squared length of a mean of very many; of products as they are, 1."""
        return _LASTING if self.faces else 1

    def lengths(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long the sums of so many faces' vectors are taken to be, in those of a face.

        Divided by it they are as long as one face's, so that the likeness of two groups counts for
        as much as that of two faces: the more faces, the less alike are the means of strangers.
        """
        lengths: NDArray[np.float64] = np.sqrt(self.lasting * sizes**2 + (1 - self.lasting) * sizes)
        return lengths

    def needed(self, groups: int) -> float:
        """Return the likeness from which two of so many groups are joined.

        There are more strangers among more groups. A small cohort is rough: one of a hundredth asks
        for a decade more.
        """
        more = math.log10(max(groups, _FEW) / _FEW)
        rough = math.log10(_FEW / min(self.faces or _FEW, _FEW)) / 2
        return self.demand.likeness + self.demand.decade * (more + rough)


def turned(vectors: Vectors) -> Vectors:
    """Return what the product with another vector gives the likeness of the two."""
    other = vectors.copy()
    other[..., -2:] = vectors[..., [-1, -2]] * np.float32(-0.5)
    return other


def units(vectors: NDArray[np.floating]) -> Vectors:
    """Return them scaled to length 1, those of no length as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    scaled: Vectors = (vectors / np.where(lengths > TINY, lengths, 1)[:, None]).astype(np.float32)
    return scaled

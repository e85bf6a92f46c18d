"""What strangers look like to an engine, so that a likeness can be held against theirs.

A stranger's face and a known person's are compared with many faces of nobody: a likeness counts for
as much as it stands out from those. They are drawn from a model of what faces there are, fitted to
faces that the installation has seen. Until there are enough of those, a likeness counts as it is.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.strangers import PairsOfStrangers, product_at

FITTED: Final = (250, 1000)
"""Faces seen to which a model is fitted: the first one, and the last. Fitted to 200, it finds 1 to
3 of 100 people less than fitted to 300; with 150, hardly more are found than without one."""

DRAWN: Final = 4000
"""Faces of nobody. With 8,000, about as many known people are found, and a start with 100,000 of
them takes twice as long; with 2,000, 1 to 2 of 100 are found less."""

_NEAREST: Final = 0.1
"""The share of them, those most alike, that a likeness is held against; less asks for more."""

_BLOCK: Final = 1000
"""Vectors at a time, so that their products with all faces take 16 MB."""

_FAR_BELOW: Final = 3
"""How many times as far below the middle as that of any face of nobody the least product is.

Of 6,500 pairs of a face of Labeled Faces in the Wild and one of 45 people whom it would be named
after or asked about, with 10 to 100,000 known people and any engine, 3 are less alike; as far below
as any, 107 are. By dlib's encodings 14 % of all pairs are more alike with 10 known people, 3 % with
1,000 and 0.4 % with 100,000; by others 1 %."""

KINDS: Final = 12
"""With 6, 1 of 100 people less is found; with 20, as many. With one, fewer than without a model:
dlib's encodings of people who look alike to it lie close together."""

_KIND_DIMENSIONS: Final = 10
"""Kinds differ in the directions in which faces differ most; in the others too few are seen."""

DIMENSIONS: Final = 128
"""Directions of the spread at most, so that a model is no larger for longer encodings."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Tail:
    """How often a stranger reaches a likeness.

    With one known person, a share of ``10 ** ((base - likeness) / decade)`` of strangers do: each
    ``decade`` more is reached by a tenth of them.
    """

    base: float
    decade: float

    @property
    def pairs(self) -> PairsOfStrangers:
        """The same, as others are told it."""
        return PairsOfStrangers(self.likeness_of(1e-4, 1), self.decade)

    def likeness_of(self, share: float, people: int) -> float:
        """Return the likeness that a share of strangers reach with the nearest of so many people.

        That is, to be reached with each of them by less: ``1 - (1 - share) ** (1 / people)``.
        """
        each = -math.expm1(math.log1p(-share) / max(1, people))
        return self.base - self.decade * math.log10(each)

    def share_of(self, likeness: float, people: int) -> float:
        """Return the share of strangers who reach a likeness with the nearest of so many people."""
        each = 10 ** min(0.0, (self.base - likeness) / self.decade)
        return 1.0 if each == 1 else -math.expm1(max(1, people) * math.log1p(-each))


@dataclass(frozen=True)
class Tails:
    """Those of an engine: of products of faces of length 1, and of how far these stand out."""

    product: Tail
    standing: Tail


DLIB: Final = Tails(Tail(0.875, 0.0166), Tail(0.35, 1.07))
"""Of dlib's encodings, whoever finds the faces, from Labeled Faces in the Wild. Products: a line
through those that one in 1,000 to 10,000 of the 44,253 pairs of 298 people reach, as the accuracy
benchmark prints it. Standing: chosen so that about 1 % of either half of the strangers are named
where the other half was seen, with 100 and with 391 known people; 0.2 to 1.4 % are."""


def tails_within(distance: float) -> Tails:
    """Return what to expect of a model that tells people apart at this distance, of length 1.

    One in 1,000 pairs of strangers is taken to be nearer, and one in 10,000 to be more alike by a
    quarter of that. Likenesses that were normal around 0 would be so by a fifth; those of the model
    that tests bring are by 0.23, and one of its 5,000 pairs is nearer. How they stand out was
    measured with that model, as for :data:`DLIB`.
    """
    quarter = product_at(distance) / 4
    return Tails(Tail(quarter, quarter), Tail(0.3, 1.5))


@dataclass(frozen=True, eq=False)
class Model:
    """Kinds of faces, how frequent each is, and the spread around all of them: nobody's face.

    Shapes: weights (kinds,), means (kinds, size), spread (dimensions, size). It was fitted to so
    many faces that were ``seen``, or to none of them but to known people's.
    """

    seen: int
    weights: Vectors
    means: Vectors
    spread: Vectors

    @classmethod
    def of(cls, faces: Vectors, *, seen: int) -> "Model":
        """Fit it to faces of length 1, of shape (number, size); always the same one."""
        drawing = np.random.default_rng(1)
        whole = faces.astype(np.float64)
        centre = whole.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(whole.T))
        variances, directions = variances[::-1][:DIMENSIONS], directions[:, ::-1][:, :DIMENSIONS]
        used = variances > variances[0] * 1e-3
        scale, directions = np.sqrt(variances[used]), directions[:, used]
        white = (whole - centre) @ directions / scale
        low = white[:, :_KIND_DIMENSIONS]
        kinds = low[drawing.choice(len(low), KINDS, replace=False)]
        weights = np.full(KINDS, 1 / KINDS)
        for _ in range(30):
            fits = np.log(weights) - 0.75 * ((low[:, None] - kinds) ** 2).sum(axis=2)
            shares = np.exp(fits - fits.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            sizes = shares.sum(axis=0) + 1e-9
            weights = sizes / sizes.sum()
            # A kind of few faces is drawn to the centre.
            kinds = shares.T @ low / (sizes[:, None] + 3)
        means = shares.T @ white / (sizes[:, None] + 3)
        covariance = np.atleast_2d(np.cov((white - shares @ means).T))
        round_one = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
        spread = np.linalg.cholesky(0.9 * covariance + 0.1 * round_one).T
        return cls(
            seen,
            weights.astype(np.float32),
            (centre + (means * scale) @ directions.T).astype(np.float32),
            ((spread * scale) @ directions.T).astype(np.float32),
        )

    def draw(self) -> Vectors:
        """Return ``DRAWN`` faces of nobody, of length 1; always the same ones."""
        drawing = np.random.default_rng(1)
        shares = self.weights / self.weights.sum(dtype=np.float64)
        kinds = drawing.choice(len(shares), DRAWN, p=shares)
        faces = self.means[kinds] + drawing.normal(size=(DRAWN, len(self.spread))) @ self.spread
        unit: Vectors = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
        return unit


class Strangers:
    """Faces of nobody, none without a model, and how likenesses of real strangers are spread."""

    def __init__(self, tails: Tails, model: Model | None = None) -> None:
        self._tails = tails
        self._model = model
        self._faces = None if model is None else model.draw()

    def know(self, model: Model | None) -> "Strangers":
        """Return those of this model, these when it is theirs."""
        return self if model is self._model else Strangers(self._tails, model)

    @property
    def tail(self) -> Tail:
        """How often strangers reach what :meth:`likenesses` says."""
        return self._tails.product if self._faces is None else self._tails.standing

    def standing(self, vectors: Vectors) -> tuple[Vectors, Vectors]:
        """Return mean and spread, each of shape (rows,), of the products with the nearest faces.

        Where there are no faces, such that products count as they are.
        """
        means, spreads = np.zeros(len(vectors), np.float32), np.ones(len(vectors), np.float32)
        if self._faces is None:
            return means, spreads
        nearest = round(_NEAREST * len(self._faces))
        for start in range(0, len(vectors), _BLOCK):
            rows = slice(start, start + _BLOCK)
            products = vectors[rows] @ self._faces.T
            products.partition(-nearest, axis=1)
            means[rows] = products[:, -nearest:].mean(axis=1)
            spreads[rows] = products[:, -nearest:].std(axis=1)
        return means, spreads

    def likenesses(
        self, faces: Vectors, people: Vectors, of_people: tuple[Vectors, Vectors]
    ) -> Vectors:
        """Return how alike faces and people are, of shape (faces, people).

        Faces, of shape (faces, size), have length 1; people are means of such, of shape (people,
        size); ``of_people`` is what :meth:`standing` says of them. A product counts by how far it
        stands out from those of the face with faces of nobody, and from those of the person with
        them (adaptive symmetric score normalisation).
        """
        products = faces @ people.T
        mean, spread = self.standing(faces)
        likenesses = (products - mean[:, None]) / spread[:, None]
        means, spreads = of_people
        products -= means
        products /= spreads
        likenesses += products
        likenesses /= 2
        return np.asarray(likenesses, np.float32)

    def least_product(self, likeness: float, of_person: tuple[float, float]) -> float:
        """Return the product below which hardly any face is so alike to a person.

        ``of_person`` is what :meth:`standing` says of the person. How a face stands is known only
        when it has been compared with all faces of nobody; so, how these stand tells.
        """
        if self._faces is None:
            return likeness
        means, spreads = self._own_standing
        mean, spread = of_person
        least = (2 * likeness + means / spreads + mean / spread) / (1 / spreads + 1 / spread)
        middle = float(np.median(least))
        return middle - _FAR_BELOW * (middle - float(least.min()))

    @functools.cached_property
    def _own_standing(self) -> tuple[Vectors, Vectors]:
        assert self._faces is not None  # noqa: S101, asked for with a model alone
        return self.standing(self._faces)


class Seen:
    """Faces that got no name, each of somebody else, to fit a model to; at most ``FITTED[-1]``.

    They are in memory and nowhere else: no stranger's encoding is kept.
    """

    def __init__(self, size: int, tails: Tails) -> None:
        self._faces = np.empty((FITTED[-1], size), np.float32)
        self._held = 0
        self._tails = tails
        # Two that are so alike would be one person to whoever knows a thousand.
        self._same = tails.product.likeness_of(0.01, FITTED[-1])

    @property
    def faces(self) -> Vectors:
        """Those that are held, of length 1; shape (number, size)."""
        return self._faces[: self._held]

    def add(self, encoding: NDArray[np.floating]) -> None:
        """Note a face, unless one is held that is as alike as one person's, or enough are."""
        face = encoding / np.linalg.norm(encoding)
        if self._held < len(self._faces) and not (self.faces @ face >= self._same).any():
            self._faces[self._held] = face
            self._held += 1

    def fit(self, known: Iterable[Vectors], before: Model | None) -> Model | None:
        """Return a model that is better than the one before; None while there is none.

        ``known`` are faces of known people, one of each. They serve only until enough others were
        seen: whoever is part of the model stands out less from it.
        """
        faces, reached = self.faces, before.seen if before else 0
        if any(reached < number <= len(faces) for number in FITTED):
            return Model.of(faces, seen=len(faces))
        if before is not None:
            return None
        others = Seen(faces.shape[1], self._tails)
        for face in known:
            others.add(face)
        return Model.of(others.faces, seen=0) if len(others.faces) >= FITTED[0] else None

"""How alike two strangers are to an engine, as face_recog says of its own."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PairsOfStrangers:
    """Of two encodings of length 1, the ``product`` that one pair of strangers in 10,000 reaches.

    Each ``decade`` more is reached by a tenth as many.
    """

    product: float
    decade: float

    def in_a_million(self, distance: float) -> float:
        """Return how many of a million pairs are as near as this Euclidean distance, of length 1.

        It is a line through what one in 1,000 to 10,000 reach: far beyond, an estimate.
        """
        return 100 * math.pow(10, min(4, (self.product - product_at(distance)) / self.decade))


def product_at(distance: float) -> float:
    """Return the product of two encodings of length 1 that are so far apart."""
    return 1 - distance**2 / 2

"""Much in batches."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield so many items at a time, in their order."""
    every = list(items)
    for start in range(0, len(every), most):
        yield every[start : start + most]

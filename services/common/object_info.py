"""What a listing of the object store says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of an object.

    Its key, its size in bytes, a tag that changes with its content, and when it was written, in
    seconds since the epoch by the store's clock.
    """

    key: str
    size: int
    tag: str
    modified: float

"""What finds and encodes faces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Embedder:
    """A model from a file, and how it wants the 112 x 112 pixels of a face.

    Its input is (pixel - ``mean``) / ``scale``; its output has ``size`` numbers. Scaled to length
    1, those of two faces of one person are nearer than ``distance``.
    """

    file: Path
    mean: float
    scale: float
    colours: Literal["RGB", "BGR"]
    size: int
    distance: float


EngineChoice = Literal["classic", "centerface"] | Embedder
"""What may be chosen to find and encode faces; an embedder stands behind CenterFace."""


@dataclass(frozen=True)
class Engine:
    """What makes encodings: those of two engines are never compared.

    ``name`` stands in answers and before what is kept: it names the models, their versions and the
    version of the rules around them, in at most 64 characters. ``size`` is the number of numbers in
    an encoding.
    """

    name: str
    size: int

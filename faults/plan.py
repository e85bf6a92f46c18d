"""Which faults strike when: drawn from a seed, so that the same seed gives the same ones again."""

import random
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "killed"
    TERM = "told to end"
    PAUSE = "stopped for less than a lease"
    LONG_PAUSE = "stopped for longer than a lease"
    CUT = "connection cut"
    SLOW = "connection slow"
    HALF_OPEN = "connection half-open"
    RESET = "connections reset"
    DISK_FULL = "disk full"
    CLOCK_APART = "clock 5 minutes off"
    CLOCK_STEPS = "clock stepping"
    POWER_LOSS = "power lost"


NETWORK: Final = frozenset({Kind.CUT, Kind.SLOW, Kind.HALF_OPEN, Kind.RESET})
CLOCKS: Final = frozenset({Kind.CLOCK_APART, Kind.CLOCK_STEPS})

_LEASE_SECONDS: Final = 30.0
_SECONDS: Final[dict[Kind, tuple[float, float]]] = {
    Kind.KILL: (0.0, 3.0),
    Kind.TERM: (0.0, 3.0),
    Kind.PAUSE: (1.0, 15.0),
    Kind.LONG_PAUSE: (_LEASE_SECONDS + 2, _LEASE_SECONDS + 8),
    Kind.CUT: (1.0, 10.0),
    Kind.SLOW: (3.0, 10.0),
    Kind.HALF_OPEN: (3.0, 15.0),
    Kind.RESET: (1.0, 5.0),
    Kind.DISK_FULL: (3.0, 10.0),
    Kind.CLOCK_APART: (5.0, 20.0),
    Kind.CLOCK_STEPS: (5.0, 15.0),
    Kind.POWER_LOSS: (0.0, 3.0),
}
"""How long each lasts; until it is started again, for a process that was ended."""

_PAUSE_SECONDS: Final = (2.0, 7.0)
"""Between the beginnings of two faults; most last longer, so that several strike at once."""


@dataclass(frozen=True)
class Targets:
    """What can be struck here."""

    processes: Sequence[str]
    links: Sequence[str]
    disks: Sequence[str]
    synced: Sequence[str]
    """Disks of those who promise to have written what they acknowledge, or need not."""
    clocks: Sequence[str]

    def of(self, kind: Kind) -> Sequence[str]:
        """Return what a fault of this kind can strike."""
        if kind in NETWORK:
            return self.links
        if kind is Kind.DISK_FULL:
            return self.disks
        if kind is Kind.POWER_LOSS:
            return self.synced
        if kind in CLOCKS:
            return self.clocks
        return self.processes

    def only(self, names: Collection[str] | None) -> "Targets":
        """Return those of these names; all without names."""
        if names is None:
            return self
        return Targets(*([name for name in part if name in names] for part in astuple(self)))


@dataclass(frozen=True)
class Fault:
    """One fault; ``number`` counts from 1, ``rest`` is the time until the next one begins.

    ``upstream`` and ``ahead`` say in which direction a connection is spoilt or a clock is off.
    """

    number: int
    kind: Kind
    target: str
    seconds: float
    rest: float
    upstream: bool
    ahead: bool

    def __str__(self) -> str:
        """Say it to a person."""
        if self.kind in {Kind.SLOW, Kind.HALF_OPEN}:
            way = ", away from the first" if self.upstream else ", towards the first"
        elif self.kind is Kind.CLOCK_APART:
            way = ", ahead" if self.ahead else ", behind"
        else:
            way = ""
        return f"{self.target}: {self.kind}{way} ({self.seconds:.1f} s)"


def draw(seed: int, count: int, targets: Targets, kinds: Collection[Kind]) -> list[Fault]:
    """Return ``count`` faults: every kind once before one comes again, and every target too.

    None at all where nothing can be struck.
    """
    generator = random.Random(seed)  # noqa: S311, it has to repeat
    order = [kind for kind in Kind if kind in kinds and targets.of(kind)]
    decks: dict[object, list[str]] = {}
    kinds_left: list[Kind] = []
    faults = []
    for number in range(1, count + 1 if order else 1):
        if not kinds_left:
            kinds_left = generator.sample(order, len(order))
        kind = kinds_left.pop()
        deck = decks.setdefault(tuple(targets.of(kind)), [])
        if not deck:
            deck.extend(generator.sample(targets.of(kind), len(targets.of(kind))))
        faults.append(
            Fault(
                number=number,
                kind=kind,
                target=deck.pop(),
                seconds=round(generator.uniform(*_SECONDS[kind]), 1),
                rest=round(generator.uniform(*_PAUSE_SECONDS), 1),
                upstream=generator.random() < 0.5,  # noqa: PLR2004
                ahead=generator.random() < 0.5,  # noqa: PLR2004
            )
        )
    return faults

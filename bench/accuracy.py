"""How true names are: known people and strangers, through the recogniser and the rule.

``LFW=folder`` names a folder of pictures, ``NAME/NAME_0001.jpg``, each of one person or with that
person's face as the largest. The strangers that the rule has seen before, and by whom a distance is
chosen, are others than those that are counted.
"""

import asyncio
import hashlib
import math
import os
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console
from rich.table import Column, Table

from bench.pictures import write_variants
from services.common.cgroups import usable_cpus
from services.common.objects import ObjectStore
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.settings import ObjectStoreSettings
from services.face_recog.adapters.pool import Pool
from services.face_recog.domain.calibration import (
    ASKED_ABOUT,
    DEFAULT_FALSE_NAMES,
    Calibration,
    Rule,
)
from services.face_recog.domain.errors import RejectedError
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE, KnownPeople, Portraits
from services.face_recog.domain.matching import Outcome, decide, match
from services.face_recog.domain.parts import GalleryPicture, PictureFaces
from services.face_recog.domain.strangers import Seen, Strangers, Tail, Tails
from services.face_recog.service.kept_encodings import KeptEncodings
from services.face_recog.settings import EngineSettings

_KEPT: Final = Path("var/accuracy").absolute()
_EMBEDDER: Final = Path("var/models/embedder.onnx").absolute()
_KNOWN: Final = (10, 30, 100, 400)
_PICTURES: Final = (1, 3)
_PROBES: Final = 400
"""At least so many known faces a row: with few people known, other people take turns."""

_ALLOWED: Final = 0.01
"""The share of strangers with a name at which rules are compared."""

_SIGMAS: Final = 4
"""More strangers with a name than chance makes of the promise, by so many deviations, is wrong."""

_DEVIATIONS: Final = 1.96
"""Around a share, within which 95 of 100 normally distributed shares lie."""

_MEASURED: Final = 10.0 ** -np.array([3, 3.25, 3.5, 3.75, 4])
"""Of pairs of strangers, those through whose products a tail is drawn as a straight line."""


@dataclass(frozen=True)
class _Setting:
    """So many people known by so many pictures each, or by as many as there are."""

    known: int
    pictures: int


@dataclass(frozen=True)
class _Answer:
    """Whom a rule takes somebody's face for, and how far off that is; infinitely when for nobody.

    ``far`` is the distance to the nearest picture, or the share of strangers that are as alike.
    ``asked`` is so, too, where another person is nearly as alike, and the face gets no name.
    """

    somebody: str
    true: bool = False
    far: float = math.inf
    asked: float = math.inf


@dataclass
class _Answers:
    """To the faces of known people and of strangers, half of whom serve to choose a tolerance."""

    known: list[_Answer] = field(default_factory=list)
    tuning: list[_Answer] = field(default_factory=list)
    strangers: list[_Answer] = field(default_factory=list)


@dataclass(frozen=True)
class _Rules:
    """What is compared: the rule, the rule before there is a model, and the nearest picture."""

    rule: _Answers = field(default_factory=_Answers)
    early: _Answers = field(default_factory=_Answers)
    nearest: _Answers = field(default_factory=_Answers)
    checked: int = 1
    """How many strangers were asked about, however often."""


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print a table for each engine and draw found against false; short with a few people."""
    given = os.environ.get("LFW")
    people, kept = whom(folder, short=short)
    curves: dict[str, dict[_Setting, list[tuple[float, float]]]] = {}
    wrong = []
    for settings in engines(console):
        encodings = asyncio.run(encode(console, people, kept, settings))
        measured = {one: _ask(encodings, one, settings.tails) for one in _settings(encodings)}
        if not all(all(vars(rules.rule).values()) for rules in measured.values()):
            raise SystemExit("too few people: some need two pictures, and some must be strangers")
        console.print(_named(settings.engine, measured))
        if settings.engine == "classic":
            console.print(_nearest(measured))
        if given and not short:
            tail = _tail(encodings)
            console.print(
                f"Products of strangers: base {tail.base:.4f}, decade {tail.decade:.4f};"
                f" {settings.tails.product} is used."
            )
        curves[settings.engine] = {
            setting: _curve(rules.rule) for setting, rules in measured.items()
        }
        wrong += [
            f"{settings.engine}, {setting}: {share:.1%}"
            for setting, rules in measured.items()
            if given and (share := _share(rules.rule.strangers, DEFAULT_FALSE_NAMES)) > _most(rules)
        ]
    _draw(curves, kept / "accuracy.svg")
    console.print(f"Drawn: {kept / 'accuracy.svg'}")
    if wrong:
        raise SystemExit(f"too many strangers are named: {'; '.join(wrong)}")


def whom(folder: Path, *, short: bool) -> tuple[dict[str, list[Path]], Path]:
    """Return everybody's pictures, and where their encodings are kept."""
    given = os.environ.get("LFW")
    if not given and not short:
        raise SystemExit("LFW=folder with pictures NAME/NAME_0001.jpg is to be named")
    if given and not Path(given).is_dir():
        raise SystemExit(f"LFW={given} is no folder")
    people = _people(Path(given)) if given else _samples(folder / "samples")
    kept = _KEPT if given else folder / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    return _some(people) if given and short else people, kept


def engines(console: Console) -> list[EngineSettings]:
    """Return every engine; that with the model that tests bring when it is there."""
    every = [EngineSettings(engine="classic"), EngineSettings(engine="centerface")]
    if not _EMBEDDER.exists():
        console.print(f"{_EMBEDDER} is not there, 'make servers' gets it: ENGINE=onnx is left out.")
        return every
    every.append(
        EngineSettings(
            engine="onnx", embedder_file=_EMBEDDER, embedder_mean=127, embedder_scale=128
        )
    )
    return every


def _most(rules: _Rules) -> float:
    """Return the share of strangers with a name that chance may make of the promised one."""
    return DEFAULT_FALSE_NAMES + _SIGMAS * math.sqrt(DEFAULT_FALSE_NAMES / rules.checked)


def _named(engine: str, measured: Mapping[_Setting, _Rules]) -> Table:
    table = Table(
        "known people",
        "pictures each",
        *(
            Column(title, no_wrap=True)
            for title in ("found", "somebody\nelse's name", "strangers\nnamed")
        ),
        "known not unknown",
        "strangers not unknown",
        "found, no model",
        "strangers named, no model",
        title=f"ENGINE={engine}, FALSE_NAMES={DEFAULT_FALSE_NAMES}",
    )
    for setting, rules in measured.items():
        asked = [
            statistics.fmean(answer.asked <= ASKED_ABOUT for answer in group)
            for group in (rules.rule.known, rules.rule.strangers)
        ]
        early = _shares(rules.early, DEFAULT_FALSE_NAMES)
        table.add_row(
            str(setting.known),
            str(setting.pictures),
            *_shares(rules.rule, DEFAULT_FALSE_NAMES, bounds=True),
            *(f"{share:.1%}" for share in asked),
            early[0],
            early[2],
        )
    return table


def _nearest(measured: Mapping[_Setting, _Rules]) -> Table:
    table = Table(
        "known people",
        "pictures each",
        "found",
        "somebody else's name",
        "strangers named",
        "distance for 1 %",
        "found there",
        "strangers named there",
        title=f"Instead the nearest picture, within a distance of {DEFAULT_TOLERANCE}",
    )
    for setting, rules in measured.items():
        distance = _allowing(rules.nearest.tuning)
        there = _shares(rules.nearest, distance)
        table.add_row(
            str(setting.known),
            str(setting.pictures),
            *_shares(rules.nearest, DEFAULT_TOLERANCE),
            f"{distance:.2f}",
            there[0],
            there[2],
        )
    return table


def _tail(encodings: dict[str, list[Encoding]]) -> Tail:
    """Measure how alike strangers are by the product alone, of pairs of those for tuning."""
    people = KnownPeople(
        {
            f"{name}/1": faces[0]
            for name, faces in encodings.items()
            if len(faces) == 1 and _is_for_tuning(name)
        }
    )
    pairs = (people.means() @ people.means().T)[np.triu_indices(people.people, 1)]
    reached = np.quantile(pairs, 1 - _MEASURED)
    decade, base = np.polyfit(-np.log10(_MEASURED), reached, 1)
    return Tail(float(base), float(decade))


def _people(folder: Path) -> dict[str, list[Path]]:
    """Return everybody's pictures, in the order of their names."""
    return {
        person.name: pictures
        for person in sorted(folder.iterdir())
        if person.is_dir() and (pictures := sorted(person.iterdir()))
    }


def _some(people: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Return 30 people with the most pictures and 60 with one, which take a minute to encode."""
    most = sorted(people, key=lambda name: -len(people[name]))[:30]
    single = [name for name in people if len(people[name]) == 1][:60]
    return {name: people[name] for name in [*most, *single]}


def _samples(folder: Path) -> dict[str, list[Path]]:
    """Return two people with a few pictures each, and the same two as strangers."""
    files = write_variants(folder, 16, largest=300)
    strangers = {f"stranger {number}": [file] for number, file in enumerate(files[8:])}
    return {"Eileen": files[:8:2], "Grace": files[1:8:2], **strangers}


async def encode(
    console: Console, people: dict[str, list[Path]], kept_in: Path, settings: EngineSettings
) -> dict[str, list[Encoding]]:
    """Return the encoding of the largest face of every picture that shows one.

    They are kept as the recogniser keeps them, so that another run need not encode again.
    """
    workers = usable_cpus()
    pool = Pool(
        engine=settings.choice,
        size=workers,
        queue_size=2 * workers,
        work_seconds=60,
        long_seconds=60,
        memory_bytes=2 * 1024**3,
    )
    await pool.start()
    kept = KeptEncodings(
        ObjectStore(ObjectStoreSettings(object_store_url=f"file://{kept_in}")), pool.engine
    )
    known = await kept.read()
    turns = asyncio.Semaphore(2 * workers)

    async def read(file: Path) -> Encoding | None:
        async with turns:
            content = await asyncio.to_thread(file.read_bytes)
            key, digest = str(file), hashlib.sha256(content).digest()
            one = known.get(key)
            if one is None or one.digest != digest:
                try:
                    found = await pool.recognise(content[:MAX_PICTURE_BYTES], max_faces=1)
                except RejectedError as error:
                    console.print(f"{file} is left out: {error}")
                    return None
                largest = found.faces[0].encoding.astype(np.float32) if found.faces else None
                one = known[key] = GalleryPicture(
                    "", digest, PictureFaces(len(found.faces), largest)
                )
                kept.note_changed(key)
            return None if one.encoding is None else one.encoding.astype(np.float64)

    try:
        pictures = [(name, file) for name, files in people.items() for file in files]
        console.print(f"Encoding {len(pictures)} pictures with {pool.engine.name} …")
        found = await asyncio.gather(*(read(file) for _, file in pictures))
    finally:
        await kept.write(known)
        await pool.close()
    encodings: dict[str, list[Encoding]] = {}
    for (name, _), encoding in zip(pictures, found, strict=True):
        if encoding is not None:
            encodings.setdefault(name, []).append(encoding)
    console.print(f"{sum(map(len, encodings.values()))} of them show a face.")
    return encodings


def _settings(encodings: dict[str, list[Encoding]]) -> list[_Setting]:
    """Return what is measured; of fewer people than asked for, all of them are known."""
    known = sum(len(faces) > 1 for faces in encodings.values())
    numbers = dict.fromkeys(min(number, known) for number in _KNOWN)
    return [_Setting(number, pictures) for number in numbers for pictures in _PICTURES]


def _ask(encodings: dict[str, list[Encoding]], setting: _Setting, tails: Tails) -> _Rules:
    """Put known people's first pictures and strangers to every rule.

    People take turns at being known, with pictures that are not the first. Whoever has too few
    is known only when all are. The strangers for tuning are seen first.
    """
    drawing = random.Random(1)  # noqa: S311, the same people in each run
    several = sorted(name for name, faces in encodings.items() if len(faces) > 1)
    strangers = sum(not _is_for_tuning(name) for name in encodings)
    found = _Rules(checked=max(1, strangers))
    for _ in range(-(-_PROBES // setting.known) if setting.known < len(several) else 1):
        shuffled = drawing.sample(several, len(several))
        shuffled.sort(key=lambda name: len(encodings[name]) <= setting.pictures)
        chosen = set(shuffled[: setting.known])
        people = KnownPeople(
            {
                f"{name}/{number}": encoding
                for name in chosen
                for number, encoding in enumerate(encodings[name][1 : setting.pictures + 1])
            }
        )
        tuning = [name for name in encodings if name not in chosen and _is_for_tuning(name)]
        early = Portraits(people, Strangers(tails))
        seen = Seen(len(next(iter(encodings.values()))[0]), tails)
        for name in tuning:
            answer = _by_rule(early, name, encodings[name][0])
            if answer.far > DEFAULT_FALSE_NAMES:
                seen.add(encodings[name][0])
        model = seen.fit(people.faces(setting.known), None)
        portraits = Portraits(people, early.strangers.know(model))
        for name, [face, *_] in encodings.items():
            group = "known" if name in chosen else "tuning" if name in tuning else "strangers"
            for answers, answer in (
                (found.rule, _by_rule(portraits, name, face)),
                (found.early, _by_rule(early, name, face)),
                (found.nearest, _by_distance(people, name, face)),
            ):
                getattr(answers, group).append(answer)
    return found


def _is_for_tuning(name: str) -> bool:
    """Tell whether somebody may be tuned by; whoever may not is a stranger for checking."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def _by_rule(portraits: Portraits, name: str, face: Encoding) -> _Answer:
    # Named whatever the likeness is, so that one answer tells what any FALSE_NAMES comes to.
    calibration, tail = Calibration.after(None, portraits.people.people), portraits.strangers.tail
    rule = Rule.of(calibration, tail, DEFAULT_FALSE_NAMES)
    any_likeness = Rule(named=-math.inf, unsure=-math.inf, margin=rule.margin)
    [found] = decide(portraits, [face], any_likeness, max_candidates=1)
    if not found.candidates:
        return _Answer(name)
    [best] = found.candidates
    assert best.likeness is not None  # noqa: S101, the rule measures it
    share = tail.share_of(best.likeness, calibration.people)
    far = share if found.outcome is Outcome.NAMED else math.inf
    return _Answer(name, best.folder == name, far, share)


def _by_distance(people: KnownPeople, name: str, face: Encoding) -> _Answer:
    [found] = match(people, [face], tolerance=1.0, max_candidates=1)
    if not found.candidates:
        return _Answer(name)
    [best] = found.candidates
    return _Answer(name, best.folder == name, best.distance)


def _allowing(strangers: Sequence[_Answer]) -> float:
    """Return the distance within which ``_ALLOWED`` of the strangers would get a name."""
    return float(np.quantile([answer.far for answer in strangers], _ALLOWED, method="lower"))


def _share(answers: Sequence[_Answer], far: float, *, true: bool | None = None) -> float:
    """Return how many are taken for somebody within that, truly or not, in 1."""
    return statistics.fmean(
        answer.far <= far and (true is None or answer.true is true) for answer in answers
    )


def _shares(answers: _Answers, far: float, *, bounds: bool = False) -> tuple[str, ...]:
    """Return who of the known is found or misnamed, and who of the strangers is named, in %."""
    shares = (
        (answers.known, _share(answers.known, far, true=True)),
        (answers.known, _share(answers.known, far, true=False)),
        (answers.strangers, _share(answers.strangers, far)),
    )
    return tuple(
        f"{share:.1%}" + (_bounds(share, len({one.somebody for one in asked})) if bounds else "")
        for asked, share in shares
    )


def _bounds(share: float, people: int) -> str:
    """Return between what the share of all people may be, of whom so many were asked about.

    That is Wilson's interval for 95 %, with everybody counted once, however often at their turn.
    """
    spread = _DEVIATIONS**2 / people
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return f"\n{max(0, middle - reach) * 100:.1f}-{min(1, middle + reach) * 100:.1f}"


def _curve(answers: _Answers) -> list[tuple[float, float]]:
    """Return found against strangers named, for every share of strangers from 0.1 % on."""
    far = [min(answer.far, 1) for answer in answers.strangers]
    return [
        (share, _share(answers.known, float(np.quantile(far, share)), true=True))
        for share in np.geomspace(0.001, 1, 61)
    ]


def _draw(engines: dict[str, dict[_Setting, list[tuple[float, float]]]], file: Path) -> None:
    # The same curves make the same file, whose words can be searched and selected.
    mpl.rcParams |= {"svg.hashsalt": file.name, "svg.fonttype": "none"}
    figure = Figure(figsize=(7, 3.2 * len(engines)), layout="constrained")
    every = figure.subplots(len(engines), sharex=True, squeeze=False)
    for [axes], (engine, curves) in zip(every, engines.items(), strict=True):
        colours = {known: f"C{turn}" for turn, known in enumerate({one.known: 0 for one in curves})}
        for setting, curve in curves.items():
            axes.plot(
                *zip(*curve, strict=True),
                linestyle="-" if setting.pictures > 1 else ":",
                color=colours[setting.known],
                label=f"{setting.known} people, {setting.pictures} each",
            )
        axes.axvline(_ALLOWED, color="grey", linewidth=0.8)
        axes.set(title=f"ENGINE={engine}", xscale="log", ylabel="known people found")
        axes.set(ylim=(0, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(visible=True, alpha=0.3)
    every[0][0].legend()
    every[-1][0].set(xlabel="strangers named")
    figure.savefig(file, metadata={"Date": None})

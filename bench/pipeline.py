"""Pictures a second through the whole local pipeline against the bare loop."""

import asyncio
import shutil
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench import bare
from bench.pictures import write_variants
from services.common.image_states import RETRIABLE
from services.common.settings import load
from services.face_recog.settings import EngineSettings
from services.testing.pipeline import Pipeline

_PICTURES: Final = 60
_ROUNDS: Final = 3
_LARGEST: Final = 1024
_PEOPLE: Final = ("Eileen Collins", "Grace Hopper")


async def _submit(client: httpx.AsyncClient, names: list[str]) -> float:
    """Submit the pictures in one request and return pictures a second until all are processed."""
    start = time.time()
    answer = await client.post("/images/post", json={"paths": [{"path": name} for name in names]})
    answer.raise_for_status()
    ids = {image["id"] for image in answer.json()["images"]}
    while True:
        page = (await client.get("/images", params={"limit": len(names)})).json()["images"]
        ours = [image for image in page if image["id"] in ids]
        if all(image["status"] == "processed" for image in ours):
            break
        states = {image["status"] for image in ours}
        if states & RETRIABLE:
            raise SystemExit(f"pipeline: not every picture was processed: {sorted(states)}")
        await asyncio.sleep(0.25)
    unnamed = [image["id"] for image in ours if not any(face["person"] for face in image["faces"])]
    if unnamed:
        raise SystemExit(f"images {unnamed} show nobody known: the figures would mean nothing")
    end = max(datetime.fromisoformat(image["processed_at"]).timestamp() for image in ours)
    return len(names) / (end - start)


def _peak_mebibytes(process: psutil.Process) -> float:
    """Return the highest resident memory so far of a process and its children, added up."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        for line in Path(f"/proc/{one.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) / 1024
    return total


async def _measure(
    console: Console, folder: Path, pictures: int, rounds: int, largest: int
) -> None:
    pipeline = Pipeline(folder / "run")
    submitted = pipeline.store / "pictures"
    submitted.mkdir(parents=True)
    files = write_variants(folder / "pictures", pictures, largest=largest)
    known_files = write_variants(folder / "known", len(_PEOPLE), largest=500)
    known = [bare.encode(file)[0] for file in known_files]
    for name, file in zip(_PEOPLE, known_files, strict=True):
        target = pipeline.store / "known_people" / name
        target.mkdir(parents=True)
        shutil.copy(file, target)
    bare_rates, our_rates = [], []
    try:
        pipeline.start()
        async with httpx.AsyncClient(
            base_url=pipeline.api_url, timeout=30, trust_env=False
        ) as client:
            for turn in range(rounds):
                names = []
                for file in files:
                    names.append(f"{turn}-{file.name}")
                    shutil.copy(file, submitted / names[-1])
                console.print(
                    f"round {turn + 1} of {rounds}: {pictures} pictures in the bare loop …"
                )
                bare_rates.append(await asyncio.to_thread(bare.pictures_per_second, files, known))
                console.print(f"round {turn + 1} of {rounds}: the same through the pipeline …")
                our_rates.append(await _submit(client, names))
        peaks = {
            name: _peak_mebibytes(psutil.Process(service.pid))
            for name, service in pipeline.services.items()
        }
    finally:
        pipeline.stop()

    table = Table(
        "pictures/s",
        "bare loop, pictures/s",
        "ratio",
        title=f"{pictures} pictures of up to {largest} px, engine {load(EngineSettings).engine}, as"
        " many recogniser processes as CPUs",
    )
    pairs = list(zip(our_rates, bare_rates, strict=True))
    for ours, theirs in pairs:
        table.add_row(f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")
    table.add_section()
    median: Any = statistics.median(ours / theirs for ours, theirs in pairs)
    table.add_row("", "median", f"{median:.2f}")
    console.print(table)
    memory = Table("process", "peak memory, MiB", title="Peak memory, with worker processes")
    for name, peak in peaks.items():
        memory.add_row(name, f"{peak:.0f}")
    console.print(memory)


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the tables; bare loop and pipeline take turns."""
    how = (4, 1, 400) if short else (_PICTURES, _ROUNDS, _LARGEST)
    asyncio.run(_measure(console, folder, *how))

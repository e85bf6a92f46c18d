"""Writes the pictures of one person into a folder, with what is known about each."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from services.client import files
from services.client.receiver import (
    ClientError,
    Receiver,
    RefusedError,
    kept_who,
    known_pictures,
)
from services.client.report import Report
from services.client.submitting import each
from services.common.names import by_id


async def export(
    receiver: Receiver, report: Report, person: str, folder: Path, *, sidecars: bool = False
) -> None:
    """Write every picture with a face of the person, their known pictures, and ``person.json``.

    With ``sidecars``, an XMP file beside each picture with all named faces that it shows.

    Files are named after ids, so a second export into the folder writes the same ones again. What
    cannot be fetched is reported, and its ``file`` is null in the JSON.
    """
    person = kept_who(person)
    images = [one async for page in receiver.pages("images", person=person) for one in page]
    people = [one async for page in receiver.pages("people", person=person) for one in page]
    # Receivers that do not know the filter give everybody.
    theirs = [one for one in people if person in (one["name"], by_id(one["id"]))]
    known = [one for other in theirs for one in other["pictures"]]
    if not images and not known:
        raise RefusedError(f"there is nobody called {person!r}; 'facestack people' lists everybody")

    async def fetch(one: dict[str, Any]) -> None:
        if "image_name" in one:
            address = f"{known_pictures(person)}/{one['id']}"
            name = f"known-{one['id']}-{_clean(one['image_name'])}"
        else:
            address = f"/images/{one['id']}/picture"
            name = f"{one['id']}-{_clean(one['name'])}"
        one["file"] = None
        with report.trying(name, one):
            content = (await receiver.ask("GET", address)).content
            await asyncio.to_thread(_write, folder / name, content)
            one["file"] = name
            if sidecars and "image_name" not in one:
                beside = (await receiver.ask("GET", f"/images/{one['id']}/sidecar")).content
                await asyncio.to_thread(_write, folder / f"{name}.xmp", beside)
        step()

    with report.progress("fetching", len(images) + len(known)) as step:
        await each([*images, *known], fetch)
    name_of = theirs[0]["name"] if theirs else person
    document = {"person": name_of, "images": images, "known_pictures": known}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # A lone surrogate is no UTF-8; Python's escape of it is JSON's, too.
    content = text.encode(errors="backslashreplace")
    # Last: where it is, the pictures are.
    await asyncio.to_thread(_write, folder / "person.json", content)
    number = sum(one["file"] is not None for one in [*images, *known])
    report.result(
        f"{number} pictures of {name_of} are in {folder}, and person.json says what is in each",
        {"person": name_of, "folder": str(folder), "pictures": number},
    )


async def about(
    receiver: Receiver, report: Report, person: str, file: Path, *, pictures: Path | None = None
) -> None:
    """Write all that the server keeps about a person to a file, and the pictures to a folder.

    A picture that cannot be fetched is reported.
    """
    answer = await receiver.about(person)
    await asyncio.to_thread(_write, file, answer.content)
    said: dict[str, Any] = {"person": person, "file": str(file)}
    found = ""
    if pictures is not None:
        account = answer.json()
        wanted = [*account["known_pictures"], *account["pictures"]]
        done = list[Path]()

        async def fetch(one: dict[str, Any]) -> None:
            kind = "known-" if "image_name" in one else ""
            name = f"{kind}{one['id']}-{_clean(one.get('image_name') or one['name'])}"
            with report.trying(name, one):
                if one["address"] is None:
                    raise RefusedError("it was put into the store by hand: copy it from there")
                content = (await receiver.ask("GET", one["address"])).content
                await asyncio.to_thread(_write, pictures / name, content)
                done.append(pictures / name)
            step()

        with report.progress("fetching", len(wanted)) as step:
            await each(wanted, fetch)
        found = f", and {len(done)} pictures are in {pictures}"
        said |= {"folder": str(pictures), "pictures": len(done)}
    report.result(f"what is kept about {person} is in {file}{found}", said)


def _clean(name: str) -> str:
    """Return the end of a name without what means something to a file system."""
    return re.sub(r"[^\w.-]", "_", name.rpartition("/")[2])[-50:]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, or raise :class:`ClientError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise ClientError(f"{path}: {files.reason(error)}") from None

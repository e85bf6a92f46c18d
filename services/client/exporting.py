"""Writes the pictures of one person into a folder, with what is known about each."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from services.client import files
from services.client.api import FacestackApi, address_of, kept_who
from services.client.errors import ItemRefusedError, NotWrittenError
from services.client.report import Report
from services.client.submitting import each
from services.common.person_names import by_id


async def export(
    api: FacestackApi, report: Report, person: str, folder: Path, *, sidecars: bool = False
) -> None:
    """Write every picture with a face of the person, their known pictures, and ``person.json``.

    With ``sidecars``, an XMP file beside each picture with all named faces that it shows.

    Files are named after ids, so a second export into the folder writes the same ones again. What
    cannot be fetched is reported, and its ``file`` is null in the JSON.
    """
    person = kept_who(person)
    images = [image async for page in api.pages("images", person=person) for image in page]
    people = [other async for page in api.pages("people", person=person) for other in page]
    # Receivers that do not know the filter give everybody.
    theirs = [other for other in people if person in (other["name"], by_id(other["id"]))]
    known = [picture for other in theirs for picture in other["pictures"]]
    if not images and not known:
        raise ItemRefusedError(
            f"there is nobody called {person!r}; 'facestack people' lists everybody"
        )

    async def fetch(picture: dict[str, Any]) -> None:
        is_known = "image_name" in picture
        folder_of = f"{address_of(person)}/pictures" if is_known else "/images"
        address = f"{folder_of}/{picture['id']}"
        name = _file_name(picture)
        picture["file"] = None
        with report.trying(name, picture):
            await _save(api, address if is_known else f"{address}/picture", folder / name)
            picture["file"] = name
            if sidecars and not is_known:
                await _save(api, f"{address}/sidecar", folder / f"{name}.xmp")
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
    number = sum(picture["file"] is not None for picture in [*images, *known])
    report.result(
        f"{number} pictures of {name_of} are in {folder}, and person.json says what is in each",
        {"person": name_of, "folder": str(folder), "pictures": number},
    )


async def about(
    api: FacestackApi, report: Report, person: str, file: Path, *, pictures: Path | None = None
) -> None:
    """Write all that the server keeps about a person to a file, and the pictures to a folder.

    A picture that cannot be fetched is reported.
    """
    answer = await api.about(person)
    await asyncio.to_thread(_write, file, answer.content)
    said: dict[str, Any] = {"person": person, "file": str(file)}
    found = ""
    if pictures is not None:
        account = answer.json()
        wanted = [*account["known_pictures"], *account["pictures"]]
        done = list[Path]()

        async def fetch(picture: dict[str, Any]) -> None:
            name = _file_name(picture)
            with report.trying(name, picture):
                if picture["address"] is None:
                    raise ItemRefusedError("it was put into the store by hand: copy it from there")
                await _save(api, picture["address"], pictures / name)
                done.append(pictures / name)
            step()

        with report.progress("fetching", len(wanted)) as step:
            await each(wanted, fetch)
        found = f", and {len(done)} pictures are in {pictures}"
        said |= {"folder": str(pictures), "pictures": len(done)}
    report.result(f"what is kept about {person} is in {file}{found}", said)


def _file_name(picture: dict[str, Any]) -> str:
    """Return a file's name of an id, and of its own what means nothing to a file system."""
    kind, own = ("known-", "image_name") if "image_name" in picture else ("", "name")
    own_name = re.sub(r"[^\w.-]", "_", picture[own].rpartition("/")[2])[-50:]
    return f"{kind}{picture['id']}-{own_name}"


async def _save(api: FacestackApi, address: str, path: Path) -> None:
    content = (await api.ask("GET", address)).content
    await asyncio.to_thread(_write, path, content)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, or raise :class:`NotWrittenError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise NotWrittenError(f"{path}: {files.reason(error)}") from None

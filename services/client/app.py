"""The command line: arguments, and what each command does."""

import argparse
import asyncio
import io
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx

from services.client import files
from services.client.api import DEFAULT_URL, FacestackApi, Image, kept_who
from services.client.errors import ItemRefusedError
from services.client.exporting import about, export
from services.client.regions import RegionReader
from services.client.report import Report, who, whose
from services.client.submitting import Submitter
from services.common.errors import AwayError, RefusedError
from services.common.image_states import Status
from services.common.person_names import by_id, check_name

_FAILED: Final = 1
_WRONG_USE: Final = 2
_AWAY: Final = 3
_INTERRUPTED: Final = 128 + signal.SIGINT

_EPILOG: Final = """\
The server is the one of --url, else of the variable FACESTACK_URL, else of 'make run'.
Where it asks who calls, the variable FACESTACK_KEY holds the key.

exit codes:
  0    all went well
  1    something was refused or failed; each such thing is said
  2    the command was used wrongly
  3    no Facestack answers at the address
  130  interrupted
"""
_PICTURES: Final = (
    "In folders and those below them pictures are taken, by their extensions; hidden files and"
    " folders never."
)
_BESIDE: Final = (
    "Pictures that the server lacks are sent first. The regions of PICTURE.jpg are those of its XMP"
    " sidecar PICTURE.jpg.xmp or PICTURE.xmp, else its own."
)
_WHO: Final = "WHO is a name, or an id such as ~42: 'facestack people' lists both."
_AGAIN: Final = "What the server has is not sent twice: repeat the command if it was interrupted."


async def _submit(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    await _send(args, Submitter(api, report, wait=args.wait), report)


async def _send(args: argparse.Namespace, submitter: Submitter, report: Report) -> None:
    found = await asyncio.to_thread(files.find, args.paths, every=args.all)
    for path, reason in found.problems.items():
        report.failed(str(path), reason, {"file": str(path)})
    if found.left_out:
        report.note(f"{found.left_out} files are no pictures by their names; --all sends them too")
    await submitter.submit(list(found.files))


async def _watch(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    if not args.folder.is_dir():
        raise ItemRefusedError(f"{args.folder} is no folder")
    submitter = Submitter(api, report)
    await submitter.learn(1)  # rather say now than at the first file that nothing answers
    report.note(f"watching {args.folder}; Ctrl-C ends it")
    await submitter.watch(args.folder, every=args.all)


async def _images(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    filters = {"person": args.person, "status": args.status}
    given = {key: value for key, value in filters.items() if value}
    async for page in api.pages("images", **given):
        for image in page:
            report.result(_line(image), image)


async def _show(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    image = await api.image("GET", f"/images/{args.id}")
    report.result(_line(image), image)
    for face in image["faces"]:
        box = "{left},{top} to {right},{bottom}".format(**face["box"])
        size = f"{image['width']} x {image['height']} pixels"
        report.say(f"  face {face['index']}: {whose(face)}, at {box} of {size}")


async def _search(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    with report.trying(str(args.file), {"file": str(args.file)}):
        content = await asyncio.to_thread(files.read, args.file)
        form = {"file": (files.sent_name(args.file), content)}
        answer = await api.search(face=args.face, limit=args.limit, files=form)
        if args.face is None and len(answer["faces"]) > 1:
            report.note(
                f"looked for face 0 of {len(answer['faces'])}, the largest; --face says another"
            )
        for face in answer["found"]:
            name = face["person"] or "somebody unknown"
            where = f"image {face['image_id']}, face {face['face_index']}"
            report.result(f"{where}: {name}, distance {face['distance']:.2f}", face)


async def _people(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    async for page in api.pages("people", **({"hidden": "true"} if args.hidden else {})):
        for person in page:
            line = f"{_called(person)}, known pictures: {len(person['pictures'])}"
            report.result(line, person)


def _called(person: dict[str, Any]) -> str:
    return f"{person['name']} ({by_id(person['id'])})"


async def _enrol(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    for path in args.files:
        about = {"file": str(path)}
        with report.trying(str(path), about):
            form = {"file": (files.sent_name(path), await asyncio.to_thread(files.read, path))}
            known = await api.enrol(args.name, insist=args.insist, files=form)
            report.result(f"{path}: a known picture of {known['person']}", about | known)


async def _name(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    face = {"image_id": args.image, "face_index": args.face}
    known = await api.enrol(args.name, insist=args.insist, json=face)
    report.result(f"face {args.face} of image {args.image} is {known['person']}", face | known)


async def _regions(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    regions = RegionReader(api, report, name=args.name, insist=args.insist)
    await _send(args, Submitter(api, report, then=regions.of), report)


async def _deny(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    face = {"image_id": args.image, "face_index": args.face, "person": args.name}
    await api.deny(args.image, args.face, args.name, undo=args.undo)
    said = "may be" if args.undo else "is not"
    report.result(f"face {args.face} of image {args.image} {said} {args.name}", face)


async def _rename(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    new = kept_who(args.new, check_name)
    person = await api.change(args.name, name=new, another=args.another)
    report.result(f"{args.name} is called {person['name']} now", person)


async def _hide(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    person = await api.change(args.name, hidden=not args.undo)
    report.result(f"{person['name']} is {'shown' if args.undo else 'hidden'} now", person)


async def _merge(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    person = await api.merge(args.name, args.other)
    report.result(f"{args.other} is {_called(person)} now", person)


async def _unmerge(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    merge = await api.unmerge(args.name, args.merge)
    report.result(f"{merge['name']} is not {args.name} any more", merge)


async def _retry(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    for image_id in args.ids:
        with report.trying(f"image {image_id}", {"id": image_id}):
            image = await api.retry(f"/images/{image_id}")
            report.result(_line(image), image)


async def _delete(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    for image_id in args.ids:
        with report.trying(f"image {image_id}", {"id": image_id}):
            await api.delete(f"/images/{image_id}")
            report.result(f"image {image_id} is deleted", {"id": image_id})


async def _export(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    await export(api, report, args.person, args.folder, sidecars=args.sidecars)


async def _about(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    await about(api, report, args.person, args.file, pictures=args.pictures)


async def _erase(args: argparse.Namespace, api: FacestackApi, report: Report) -> None:
    gone = await api.erase(args.person, pictures=args.pictures)
    much = ", ".join(
        f"{number} {what.replace('_', ' ')}" for what, number in gone.items() if number
    )
    said = f"{args.person} is being forgotten" + (f": {much}" if much else "")
    report.result(said, {"person": args.person, **gone})


def _line(image: Image) -> str:
    return f"image {image['id']}, {image['name']}: {who(image)}"


_Command = Callable[..., Callable[..., argparse.Action]]


def _parser() -> argparse.ArgumentParser:
    # Both before and after the command's name; what is not given must not overwrite what is.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--url", help="where the API is")
    common.add_argument("--json", action="store_true", help="a JSON document a line, for scripts")
    parser = argparse.ArgumentParser(
        prog="facestack",
        description="Send pictures to a Facestack, and see who is in them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        run: Callable[[argparse.Namespace, FacestackApi, Report], Awaitable[None]],
        about: str,
        *more: str,
    ) -> Callable[..., argparse.Action]:
        added = commands.add_parser(
            run.__name__[1:],
            help=about,
            description=" ".join((f"{about[0].upper()}{about[1:]}.", *more)),
            parents=[common],
        )
        added.set_defaults(run=run)
        return added.add_argument

    _add_images(command)
    _add_people(command)
    return parser


def _add_images(command: _Command) -> None:
    add = command(_submit, "send files and folders", _PICTURES, _AGAIN)
    add("paths", type=Path, nargs="+", metavar="FILE|FOLDER")
    add("--all", action="store_true", help="files of any extension in folders")
    add("--wait", action="store_true", help="until all are recognised, and say who is in them")
    grown = "A file is sent when it has stopped growing."
    add = command(_watch, "send what is in a folder and what comes there", _PICTURES, grown, _AGAIN)
    add("folder", type=Path, metavar="FOLDER")
    add("--all", action="store_true", help="files of any extension")
    add = command(_images, "list images, newest first")
    add("--person", metavar="WHO", help="only those with a face of this person")
    add("--status", choices=[*Status], help="only those that stand so")
    command(_show, "show one image and its faces")("id", type=number, metavar="ID")
    add = command(
        _search, "find the faces that are nearest to one of a picture", "The picture is not kept."
    )
    add("file", type=Path, metavar="FILE")
    add("--face", type=number, metavar="FACE", help="which one, 0 the largest")
    add("--limit", type=number, metavar="N", default=50, help="so many at most, up to 200")
    add = command(_retry, "have rejected or dead images looked at again")
    add("ids", type=number, nargs="+", metavar="ID")
    add = command(_delete, "remove images, their faces and their pictures")
    add("ids", type=number, nargs="+", metavar="ID")


def _add_people(command: _Command) -> None:
    add = command(_people, "list who is known")
    add("--hidden", action="store_true", help="those who are hidden instead")
    add = command(_enrol, "make somebody known by pictures that show only them", _WHO)
    add("name", metavar="WHO")
    add("files", type=Path, nargs="+", metavar="FILE")
    add("--insist", action="store_true", help="though the face is poor or like somebody else's")
    numbers = "'facestack show ID' has the numbers of faces."
    add = command(_name, "say who a face is", numbers, _WHO)
    add("image", type=number, metavar="ID")
    add("face", type=number, metavar="FACE")
    add("name", metavar="WHO")
    add("--insist", action="store_true", help="though the face is poor or like somebody else's")
    add = command(_deny, "say who a face is not", "No machine names it so any more.", _WHO)
    add("image", type=number, metavar="ID")
    add("face", type=number, metavar="FACE")
    add("name", metavar="WHO")
    add("--undo", action="store_true", help="take that back")
    add = command(_rename, "give somebody another name", _WHO)
    add("name", metavar="WHO")
    add("new", metavar="NEW")
    add("--another", action="store_true", help="though somebody else has that name")
    add = command(_hide, "leave somebody out where people are listed", _WHO)
    add("name", metavar="WHO")
    add("--undo", action="store_true", help="list them again")
    merged = "OTHER's faces, known pictures and denials become WHO's."
    add = command(_merge, "say that two people are one", merged, _WHO)
    add("name", metavar="WHO")
    add("other", metavar="OTHER")
    add = command(_unmerge, "take back that two people are one", _WHO)
    add("name", metavar="WHO")
    add("merge", type=number, nargs="?", metavar="MERGE", help="which one, if there are several")
    add = command(
        _regions, "read the names that Lightroom, digiKam and the like wrote", _BESIDE, _PICTURES
    )
    add("paths", type=Path, nargs="+", metavar="FILE|FOLDER")
    add("--all", action="store_true", help="files of any extension in folders")
    add("--name", action="store_true", help="name the faces by them, as 'facestack name' does")
    add("--insist", action="store_true", help="though a face is poor or like somebody else's")
    add = command(_export, "write somebody's pictures and what is known about each")
    add("person", metavar="WHO")
    add("folder", type=Path, metavar="FOLDER")
    add("--sidecars", action="store_true", help="an XMP file beside each with its named faces")
    add = command(
        _about, "write all that the server keeps about somebody to a file", "As JSON.", _WHO
    )
    add("person", metavar="WHO")
    add("file", type=Path, metavar="FILE")
    add("--pictures", type=Path, metavar="FOLDER", help="their pictures, too, to a folder")
    add = command(
        _erase, "forget somebody for good", "No machine looks at faces of theirs any more.", _WHO
    )
    add("person", metavar="WHO")
    add("--pictures", action="store_true", help="also the pictures they are in, with all others")


def number(text: str) -> int:
    """Return the number of an image or a face that an argument is."""
    if not (text.isascii() and text.isdigit() and len(text) < len(str(2**63))):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of an image or a face")
    return int(text)


def check_url(text: str) -> str:
    """Return the address without a slash at its end, or raise ``ValueError``."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{text!r} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"{text!r} is no address of a server; it looks like {DEFAULT_URL}")
    return text.rstrip("/")


def check_key(text: str) -> str:
    """Return a key without space around it, or raise ``ValueError``, which does not repeat it."""
    key = text.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("FACESTACK_KEY holds no key, which has neither spaces nor accents")
    return key


async def _run(args: argparse.Namespace, url: str, key: str, report: Report) -> None:
    api = FacestackApi(url, report.note, key=key)
    async with api.http:
        await args.run(args, api, report)


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args()
    report = Report(as_json="json" in args)
    try:
        given = getattr(args, "url", None) or os.environ.get("FACESTACK_URL") or DEFAULT_URL
        url = check_url(given)
        key = check_key(os.environ.get("FACESTACK_KEY", ""))
    except ValueError as error:
        report.note(str(error))
        raise SystemExit(_WRONG_USE) from None
    try:
        asyncio.run(_run(args, url, key, report))
        code = _FAILED if report.failures else 0
    except (AwayError, RefusedError) as error:
        report.note(str(error))
        code = _AWAY if isinstance(error, AwayError) else _FAILED
    except KeyboardInterrupt:
        report.note("interrupted")
        code = _INTERRUPTED
    raise SystemExit(code)

"""The installed command against a real pipeline."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx
import pytest
from PIL import Image

from services.client.tests.conftest import PATIENCE, Run, without_waiting
from services.common.picture_formats import TITLES
from services.local.processes import free_port
from services.testing.pipeline import Pipeline
from services.testing.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Forty pictures that no other test has, in folders."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number in range(40):
        name = f"{request.node.name}-{number}.png"
        picture = Image.new("RGB", (40 + number, 40), "red")
        picture.putpixel((0, 0), (hash(request.node.name) % 256, number, 0))
        picture.putpixel((1, 0), tuple(os.urandom(3)))
        picture.save((folder / "below" if number % 2 else folder) / name)
    return folder


@contextmanager
def started(environment: dict[str, str], *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test, and end it with the test; its pipes hold little.

    Ctrl-C ends it, also where the tests themselves were started in the background.
    """
    with subprocess.Popen(
        ("env", "--default-signal=INT", *arguments),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=4096,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def uploads(pipeline: Pipeline) -> int:
    """How many files came to the receiver."""
    text = httpx.get(f"{pipeline.services['receiver'].probe_url}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if 'total{endpoint="/images",' in line]
    assert len(lines) == 2
    return sum(int(float(line.split()[1])) for line in lines)


def known_pictures(pipeline: Pipeline) -> int:
    """How many known pictures face_recog compares with."""
    text = httpx.get(pipeline.face_recog_metrics_url, trust_env=False).text
    [line] = [line for line in text.splitlines() if line.startswith("facestack_gallery_pictures ")]
    return int(float(line.split()[1]))


@pytest.fixture
def empty(pipeline: Pipeline) -> None:
    """Nothing is left of other tests, which show and name the same people."""
    headers = {"Authorization": f"Bearer {pipeline.administrator_key}"}
    with httpx.Client(
        base_url=pipeline.api_url, headers=headers, trust_env=False, timeout=60
    ) as client:
        for image in client.get("/images?limit=200").json()["images"]:
            client.delete(f"/images/{image['id']}").raise_for_status()
        for person in client.get("/people").json()["people"]:
            client.delete(f"/people/{person['name']}").raise_for_status()
    asyncio.run(eventually(lambda: known_pictures(pipeline) == 0, seconds=PATIENCE))


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_folder_is_sent_once(facestack: Run, pipeline: Pipeline, folder: Path) -> None:
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"hidden")
    (folder / "below" / "loop").symlink_to(folder)
    before = uploads(pipeline)
    first = facestack("submit", folder, "--json")
    assert (first.returncode, len(documents(first))) == (0, 40)
    assert {sent["duplicate"] for sent in documents(first)} == {False}
    again = facestack("submit", folder, "--json", "--wait")
    assert again.returncode == 0
    assert {sent["duplicate"] for sent in documents(again)} == {True}
    assert {sent["status"] for sent in documents(again)} == {"processed"}
    ids = {sent["file"]: sent["id"] for sent in documents(first)}
    assert {sent["file"]: sent["id"] for sent in documents(again)} == ids
    assert uploads(pipeline) == before + 40
    # By its content the server knows what the client does not.
    [one, *_] = ids.values()
    assert facestack("delete", str(one)).stdout == f"image {one} is deleted\n"
    assert facestack("submit", folder).stdout.endswith(
        "40 of 40 files are at the server, 39 of them were there before\n"
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_what_was_interrupted_is_repeated(
    signum: signal.Signals,
    facestack: Run,
    pipeline: Pipeline,
    environment: dict[str, str],
    folder: Path,
) -> None:
    folder = folder.rename(folder.with_name("long" * 50))
    before = uploads(pipeline)
    with started(environment, "facestack", "submit", folder) as process:
        assert process.stdout
        os.read(process.stdout.fileno(), 1)  # the rest fills the pipe, so it cannot end before
        process.send_signal(signum)
        output, errors = process.communicate(timeout=PATIENCE)
    if signum == signal.SIGINT:
        assert process.returncode == 130
        assert " of 40 files are at the server" in output
        assert without_waiting(errors) == "facestack: interrupted\n"
    again = facestack("submit", folder, "--json")
    assert (again.returncode, len(documents(again))) == (0, 40)
    # What was in flight may have arrived, and comes twice.
    assert before + 40 <= uploads(pipeline) <= before + 48


def test_a_server_that_goes_away_in_the_middle_is_waited_for(
    pipeline: Pipeline, environment: dict[str, str], folder: Path
) -> None:
    receiver, processor = (pipeline.services[name] for name in ("receiver", "image_processor"))
    before = uploads(pipeline)
    processor.stop()  # so it is not done before
    with started(environment, "facestack", "submit", "--wait", folder) as process:
        assert process.stderr
        deadline = time.monotonic() + PATIENCE
        while uploads(pipeline) == before:
            assert time.monotonic() < deadline
        receiver.stop()
        said = process.stderr.readline()
        assert said.startswith(f"facestack: {pipeline.api_url} does not answer: ")
        assert said.endswith("Waiting for it\n")
        for service in (receiver, processor):
            service.start()
            service.wait_ready()
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, without_waiting(errors)) == (0, "")
    assert output.splitlines()[-1].startswith("40 of 40 files are at the server")
    assert output.count(", nobody\n") == 40


def test_no_facestack_at_the_address(facestack: Run, pipeline: Pipeline) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    away = facestack("people", "--url", nobody)
    assert (away.returncode, away.stdout) == (3, "")
    assert away.stderr.startswith(f"facestack: {nobody} does not answer: ")
    assert "FACESTACK_URL" in away.stderr
    page = facestack("--url", pipeline.page_url, "images")
    assert page.returncode == 3
    assert f"{pipeline.page_url} is not the API of a Facestack" in page.stderr
    for wrong in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://a:b", "http://a?b"):
        done = facestack("people", FACESTACK_URL=wrong)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert wrong in done.stderr
    for arguments in (("submit",), ("show", "x"), ("nonsense",), ("images", "--status", "lost")):
        assert facestack(*arguments).returncode == 2


def test_who_shows_no_valid_key_is_told_once_how_to(
    facestack: Run, pipeline: Pipeline, folder: Path
) -> None:
    for key in ("", "wrong", "fsk_aaaaaaaaaaaa_wrong", "x" * 1000):
        done = facestack("submit", folder, FACESTACK_KEY=key)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stdout.startswith("0 of 40 files are at the server")
        assert "set the variable FACESTACK_KEY to a key" in done.stderr
    for key in ("two words", "schl\u00fcssel", "a\tb"):
        done = facestack("people", FACESTACK_KEY=key)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert key not in done.stderr
    assert facestack("people", FACESTACK_KEY=f" {pipeline.administrator_key}\n").returncode == 0


def test_a_bad_file_is_said_and_all_others_are_sent(
    facestack: Run, tmp_path: Path, grace: Image.Image
) -> None:
    grace.resize((400, 480)).save(tmp_path / "good.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "away.jpg").symlink_to("nowhere")
    with (tmp_path / "large.jpg").open("wb") as large:
        large.truncate(20 * 2**20 + 1)
    (tmp_path / "no-picture.jpg").write_text("I am none")
    os.mkfifo(tmp_path / "pipe.jpg")
    # Linux takes any bytes for a name, a terminal obeys some of them, and HTTP needs Unicode.
    odd = tmp_path / os.fsdecode(b"\xff\x1b[2J\n.jpg")
    grace.resize((300, 360)).save(odd, "JPEG")
    done = facestack("submit", "--wait", ".", "missing.jpg", "pipe.jpg")
    assert done.returncode == 1
    assert sorted(without_waiting(done.stderr).splitlines()) == [
        "facestack: away.jpg: cannot be used: No such file or directory",
        "facestack: empty.jpg: the file is empty",
        "facestack: large.jpg: the file has more than 20 MiB",
        "facestack: missing.jpg: cannot be used: No such file or directory",
        f"facestack: no-picture.jpg: rejected: this is no picture; send {TITLES}",
        "facestack: pipe.jpg: is neither a file nor a folder",
    ]
    assert "\ngood.jpg: image " in f"\n{done.stdout}"
    assert "\n\\udcff\\x1b[2J\\n.jpg: image " in f"\n{done.stdout}"
    told = documents(facestack("submit", "--json", ".", "missing.jpg"))
    assert {str(result["file"]) for result in told if result.get("error")} == {
        *("away.jpg", "empty.jpg", "large.jpg", "missing.jpg")
    }
    [rejected] = [result for result in told if result["file"] == "no-picture.jpg"]
    assert rejected["duplicate"] is True
    retried = facestack("retry", str(rejected["id"]), "999999")
    assert retried.returncode == 1
    assert "there is no image 999999" in retried.stderr


@contextmanager
def growing_until(whole: threading.Event, path: Path) -> Iterator[None]:
    """Append to a file again and again."""

    def grow() -> None:
        with path.open("wb", buffering=0) as file:
            while not whole.wait(0.01):
                file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        whole.set()
        thread.join()


def test_a_folder_is_watched(
    pipeline: Pipeline, environment: dict[str, str], folder: Path, grace: Image.Image
) -> None:
    finished = sorted(map(str, folder.rglob("*.png")))
    growing = folder / "growing.png"
    whole = threading.Event()
    with (
        growing_until(whole, growing),
        started(environment, "facestack", "watch", "--json", folder) as process,
    ):
        assert process.stdout
        assert process.stderr
        assert process.stderr.readline() == f"facestack: watching {folder}; Ctrl-C ends it\n"
        first = [json.loads(process.stdout.readline())["file"] for _ in finished]
        assert sorted(first) == finished
        whole.set()
        assert json.loads(process.stdout.readline())["file"] == str(growing)
        grace.resize((200, 240)).save(folder / "new.jpg")
        new = json.loads(process.stdout.readline())
        assert new["file"] == str(folder / "new.jpg")
        grace.resize((220, 264)).save(folder / "new.jpg")
        changed = json.loads(process.stdout.readline())
        assert (changed["file"], changed["id"] > new["id"]) == (new["file"], True)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, "")
    assert without_waiting(errors) == "facestack: interrupted\n"


@pytest.mark.usefixtures("empty")
def test_people_are_made_known_and_exported(
    facestack: Run,
    pipeline: Pipeline,
    tmp_path: Path,
    grace: Image.Image,
    eileen: Image.Image,
) -> None:
    grace.save(tmp_path / "grace.jpg")
    eileen.save(tmp_path / "../eileen.png")
    both = Image.new("RGB", (1100, 600))
    both.paste(grace, (0, 0))
    both.paste(eileen, (560, 0))
    both.save(tmp_path / "both.jpg")
    refused = facestack("enrol", "Grace", "both.jpg", "grace.jpg", "away.jpg")
    assert refused.returncode == 1
    assert "both.jpg: 2 faces found: crop the picture to one" in refused.stderr
    assert refused.stdout == "grace.jpg: a known picture of Grace\n"
    bad = facestack("enrol", "a/b", "grace.jpg")
    assert (bad.returncode, "must not contain /, got 'a/b'" in bad.stderr) == (1, True)
    # face_recog looks at the known people every two seconds, or later on a busy machine.
    asyncio.run(eventually(lambda: known_pictures(pipeline) == 1, seconds=PATIENCE))
    unlike = facestack("enrol", "Grace", "../eileen.png")
    assert "does not look like the other pictures of 'Grace'" in unlike.stderr
    assert unlike.stderr.endswith("(--insist overrules it)\n")
    assert facestack("enrol", "--insist", "Grace", "../eileen.png").returncode == 0
    [image] = documents(facestack("submit", "--json", "--wait", "both.jpg"))
    assert facestack("name", str(image["id"]), "0", "Grace", "--insist").returncode == 0
    nobody = facestack("export", "Nobody", "nobody")
    assert (nobody.returncode, (tmp_path / "nobody").exists()) == (1, False)
    for _ in range(2):
        done = facestack("export", "Grace", "out")
        assert done.returncode == 0
    about = json.loads((tmp_path / "out" / "person.json").read_text())
    assert [image["id"] for image in about["images"]] == [image["id"]]
    assert len(about["images"][0]["faces"]) == 2
    written = {picture["file"] for picture in [*about["images"], *about["known_pictures"]]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*written, "person.json"}
    assert len(written) == 4
    copy = tmp_path / "out" / about["images"][0]["file"]
    assert copy.read_bytes() == (tmp_path / "both.jpg").read_bytes()


XMP_HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    ' xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'
    ' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"><rdf:Description rdf:about="">'
    "<mwg-rs:Regions><rdf:Description><mwg-rs:RegionList><rdf:Bag>"
)
XMP_END = (
    "</rdf:Bag></mwg-rs:RegionList></rdf:Description></mwg-rs:Regions></rdf:Description></rdf:RDF>"
    "</x:xmpmeta>"
)


def xmp(*regions: tuple[str, float, float, float, float]) -> bytes:
    """Names with shares of the picture: the middle from the left and the top, width, height."""
    return "".join(
        (
            XMP_HEAD,
            *(
                f'<rdf:li><rdf:Description mwg-rs:Type="Face" mwg-rs:Name={quoteattr(name)}>'
                f"<mwg-rs:Area"
                f' stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}"/></rdf:Description>'
                "</rdf:li>"
                for name, x, y, w, h in regions
            ),
            XMP_END,
        )
    ).encode()


@pytest.fixture
def both(grace: Image.Image, eileen: Image.Image) -> Image.Image:
    """Two people beside each other."""
    image = Image.new("RGB", (1140, 640), "white")
    image.paste(grace, (20, 20))
    image.paste(eileen, (580, 20))
    return image


def place(face: dict[str, dict[str, float]]) -> tuple[float, float, float, float]:
    """A face of ``both`` as somebody draws it, a bit larger."""
    left, top, right, bottom = (face["box"][side] for side in ("left", "top", "right", "bottom"))
    return (
        (left + right) / 2 / 1140,
        (top + bottom) / 2 / 640,
        (right - left) * 1.3 / 1140,
        (bottom - top) * 1.3 / 640,
    )


def sent_with_faces(facestack: Run, both: Image.Image, path: Path) -> tuple[int, list[Any]]:
    """Send the picture and wait; return its id and its faces from left to right."""
    both.save(path)
    [image] = documents(facestack("submit", "--json", "--wait", path))
    faces: list[Any] = image["faces"]  # type: ignore[assignment]
    return int(str(image["id"])), sorted(faces, key=lambda face: face["box"]["left"])


@pytest.mark.usefixtures("empty")
def test_a_face_is_found_by_a_picture_of_it(
    facestack: Run, tmp_path: Path, grace: Image.Image, eileen: Image.Image
) -> None:
    for name, picture in (("grace", grace), ("eileen", eileen)):
        picture.save(tmp_path / f"{name}.png")
    [of_grace] = documents(facestack("submit", "--json", "--wait", "grace.png"))
    [of_eileen] = documents(facestack("submit", "--json", "--wait", "eileen.png"))
    assert facestack("name", str(of_grace["id"]), "0", "Grace").returncode == 0
    both = Image.new("RGB", (1100, 600))
    both.paste(grace, (0, 0))
    both.paste(eileen, (560, 0))
    both.save(tmp_path / "both.jpg")
    Image.new("RGB", (90, 90)).save(tmp_path / "nobody.png")

    async def both_are_found() -> bool:
        return len(facestack("search", "both.jpg").stdout.splitlines()) == 2

    asyncio.run(eventually(both_are_found, seconds=PATIENCE))
    done = facestack("search", "both.jpg", "--limit", "1")
    assert (done.returncode, done.stdout.partition(", distance 0.")[0]) == (
        0,
        f"image {of_grace['id']}, face 0: Grace",
    )
    assert done.stderr == "facestack: looked for face 0 of 2, the largest; --face says another\n"
    [nearest, _] = documents(facestack("search", "both.jpg", "--face", "1", "--json"))
    assert (nearest["image_id"], nearest["person"]) == (of_eileen["id"], None)
    for arguments, code, words in (
        (["nobody.png"], 1, "no face was found in this picture"),
        (["both.jpg", "--face", "2"], 1, "they are 0 to 1"),
        (["away.png"], 1, "away.png"),
        (["both.jpg", "--face", "x"], 2, "is no number"),
    ):
        refused = facestack("search", *arguments)
        assert (refused.returncode, refused.stdout) == (code, ""), refused.stderr
        assert words in refused.stderr


@pytest.mark.usefixtures("empty")
def test_names_of_other_programs_become_names_of_faces(
    facestack: Run, tmp_path: Path, both: Image.Image
) -> None:
    _, faces = sent_with_faces(facestack, both, tmp_path / "both.jpg")
    left = faces[0]["index"]
    whole = xmp(
        ("Rear Admiral & Co", *place(faces[0])),
        ("a/b", *place(faces[1])),
        ("Nobody", 0.5, 0.99, 0.02, 0.02),
        ("", 0.5, 0.01, 0.02, 0.02),
    )
    both.save(tmp_path / "both.jpg", quality=91, xmp=whole)
    read = facestack("regions", "both.jpg")
    number = documents(facestack("submit", "--json", "both.jpg"))[0]["id"]
    nobody = "Nobody is at 559,627 to 581,640, where no face was found"
    no_name = "a person's name must not contain /, got 'a/b'"
    assert (read.returncode, read.stdout.splitlines()[:-1]) == (
        0,
        [
            f"both.jpg: face {left} of image {number} is Rear Admiral & Co",
            f"both.jpg: {no_name}",
            f"both.jpg: {nobody}",
            "both.jpg: somebody without a name is at 559,0 to 581,13, where no face was found",
        ],
    )
    named = facestack("regions", "--name", "--insist", "both.jpg")
    assert named.returncode == 1
    assert f"both.jpg: face {left} of image {number} is Rear Admiral & Co\n" in named.stdout
    assert without_waiting(named.stderr) == (
        f"facestack: both.jpg: {no_name}\nfacestack: both.jpg: {nobody}\n"
    )
    again = documents(facestack("regions", "--name", "--json", "both.jpg"))
    assert [result.get("error") for result in again] == [None, no_name, nobody]
    assert (again[0]["face_index"], again[0]["name"]) == (left, "Rear Admiral & Co")
    # A sidecar comes before what is in the file; what a hand said is not overwritten.
    (tmp_path / "both.xmp").write_bytes(xmp(("Somebody", *place(faces[0]))))
    (tmp_path / "both.jpg.xmp").write_bytes(xmp())
    other = facestack("regions", "--name", "--insist", "both.jpg")
    assert other.returncode == 1
    assert without_waiting(other.stderr) == (
        f"facestack: both.jpg: face {left} of image {number} stays Rear Admiral & Co, as somebody"
        " said by hand; the file says Somebody\n"
    )
    (tmp_path / "both.jpg.xmp").write_bytes(b"<x>")
    damaged = facestack("regions", "both.jpg")
    assert damaged.returncode == 1
    assert (
        "both.jpg: both.jpg.xmp: the regions cannot be read: the XMP is damaged" in damaged.stderr
    )
    # What is exported can be read again, and the picture is as it was sent.
    for path in tmp_path.glob("*.xmp"):
        path.unlink()
    assert facestack("export", "--sidecars", "Rear Admiral & Co", "out").returncode == 0
    copy = tmp_path / "out" / f"{number}-both.jpg"
    assert copy.read_bytes() == (tmp_path / "both.jpg").read_bytes()
    assert (tmp_path / "out" / f"{number}-both.jpg.xmp").exists()
    written = [
        region for region in documents(facestack("regions", "--json", copy)) if region["name"]
    ]
    assert [(region["name"], region["face_index"], region["problem"]) for region in written] == [
        ("Rear Admiral & Co", left, None)
    ]


@pytest.mark.usefixtures("empty")
def test_a_name_that_a_file_gives_is_refused_like_any_other(
    facestack: Run, pipeline: Pipeline, tmp_path: Path, both: Image.Image
) -> None:
    before = known_pictures(pipeline)
    both.putpixel((0, 0), (1, 2, 3))
    number, faces = sent_with_faces(facestack, both, tmp_path / "both.png")
    done = facestack("name", "--insist", str(number), str(faces[0]["index"]), "Dr Hopper")
    assert done.returncode == 0
    right = faces[1]["index"]
    # Whoever is unlike the known pictures is not named, unless somebody insists.
    asyncio.run(eventually(lambda: known_pictures(pipeline) > before, seconds=PATIENCE))
    (tmp_path / "both.xmp").write_bytes(xmp(("Dr Hopper", *place(faces[1]))))
    unlike = facestack("regions", "--name", "both.png")
    words = "does not look like the other pictures of 'Dr Hopper'"
    assert (unlike.returncode, words in unlike.stderr) == (1, True)
    assert f"both.png: face {right} is not named Dr Hopper: " in unlike.stderr
    assert unlike.stderr.endswith("(--insist overrules it)\n")
    insisted = facestack("regions", "--name", "--insist", "both.png")
    assert insisted.returncode == 0
    assert f"both.png: face {right} of image {number} is Dr Hopper\n" in insisted.stdout


def test_a_terminal_sees_a_bar_and_no_routine(environment: dict[str, str], folder: Path) -> None:
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        ["facestack", "submit", folder],
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(screen, 65536):
                shown += piece
        except OSError:  # Linux's way of saying that nobody has the terminal any more
            pass
    os.close(screen)
    assert process.returncode == 0
    assert b"sending" in shown
    assert b"/40" in shown
    assert b", new" not in shown
    assert b"40 of 40 files are at the server" in shown


def test_a_reader_that_leaves_is_no_fault(facestack: Run, environment: dict[str, str]) -> None:
    del facestack
    done = subprocess.run(
        "facestack --help | head --lines=1; facestack images --json | true",
        shell=True,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

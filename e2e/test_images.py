"""What is in the services' images, seen from outside and at work."""

import asyncio
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from e2e import kind
from e2e.client import SAMPLES
from e2e.cluster import ROOT, output, run
from e2e.waiting import wait_until
from scripts import sbom
from services.common.facerecog.client import RecogniserClient
from services.common.facerecog.face_pb2 import IdentifyResponse

SERVICES: Final = output(ROOT / "scripts" / "images", "--list").split()
ARGUMENTS: Final = {"backup": ["list"], "credentials": ["mariadb-admin=password"]}
"""What services that do not start without arguments are given."""

# An identity that the image has never heard of, without rights; and as the pods run it.
NOBODY: Final = ("--rm", "--user=12345:12345", "--cap-drop=ALL", "--network=none")
LIKE_A_POD: Final = (
    *NOBODY[:-1],
    "--security-opt=no-new-privileges",
    "--read-only",
    "--tmpfs=/tmp",
)

# Run with a root that could be written to, so that it shows what only its modes protect.
LOOK: Final = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil
tools = "pip pip3 easy_install cc gcc c++ g++ clang make cmake ld git"
modules = "pip ensurepip setuptools pkg_resources wheel pytest face_recognition"
os.chdir("/app")
files = [file for file in pathlib.Path().rglob("*") if file.is_file()]
paths = [
    path
    for top in ("/app", "/opt", "/usr", "/etc", "/root", "/home", "/var")
    for folder, _, names in os.walk(top)
    for path in (folder, *(f"{folder}/{name}" for name in names))
    if not os.path.islink(path)
]
print(json.dumps({
    "tools": [tool for tool in tools.split() if shutil.which(tool)],
    "modules": [module for module in modules.split() if importlib.util.find_spec(module)],
    "packers": [path for path in paths if os.path.basename(path) in modules.split()[:4]],
    "tests": [path for path in paths if path.startswith(("/app", "/opt")) and "/tests/" in path],
    "writable": [path for path in paths if os.access(path, os.W_OK)],
    "setuid": [
        path for path in paths if os.path.isfile(path) and os.stat(path).st_mode & 0o6000
    ],
    "services": [path.name for path in pathlib.Path("services").iterdir()],
    "files": [str(file) for file in files if file.suffix != ".pyc"],
    "compiled": [
        str(file.parent.parent / file.name.split(".")[0]) + ".py"
        for file in files if file.suffix == ".pyc"
    ],
    "installed": [one.name for one in importlib.metadata.distributions()],
}))
"""

# What the processes of face_recog have loaded and how many threads they run.
PROCESSES: Final = """
import json, os, pathlib
found = []
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    maps = (folder / "maps").read_text()
    # The first process serves gRPC, with threads of its own.
    if int(folder.name) not in (1, os.getpid()) and "_dlib_pybind11" in maps:
        found.append({
            "onnxruntime": "/onnxruntime/" in maps,
            "threads": len(list((folder / "task").iterdir())),
        })
print(json.dumps(found))
"""


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def locked(service: str) -> set[str]:
    """Return the names of what an image's lock file has; all of it is for Linux."""
    return {PackageURL.from_string(purl).name for purl in sbom.locked(service)}


@functools.cache
def look(image: str) -> dict[str, Any]:
    done = docker("run", *NOBODY, "--entrypoint=python", image, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def tag(request: pytest.FixtureRequest) -> str:
    """Build the images where they are not there yet."""
    if request.config.getoption("--kubeconfig"):
        if not shutil.which("docker") or docker("info").returncode != 0:
            pytest.skip("no Docker engine here to look at images with")
        run(ROOT / "scripts" / "images")
    else:
        kind.prepare()
    return output(ROOT / "scripts" / "image-tag")


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(service: str, tag: str) -> str:
    return f"facestack/{service}:{tag}"


@pytest.fixture
def content(image: str) -> dict[str, Any]:
    return look(image)


def test_how_an_image_starts_and_what_it_says_of_itself(service: str, image: str, tag: str) -> None:
    [inspected] = json.loads(docker("image", "inspect", image).stdout)
    config = inspected["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["service"]
    assert not config.get("Cmd")
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert labels["version"] == tag
    assert labels["revision"] == tag.rpartition("-")[2]
    # Its wheel brings x265 and libheif.
    heif = " AND GPL-2.0-only AND LGPL-3.0-only" if "pillow-heif" in locked(service) else ""
    assert labels["licenses"] == f"MIT{heif}"
    assert labels["title"].startswith("Facestack: ")
    assert labels["description"]


def test_an_image_has_nothing_to_install_or_build_with(content: dict[str, Any]) -> None:
    assert content["tools"] == []
    assert content["modules"] == []
    assert content["packers"] == []


def test_an_image_holds_its_service_and_no_other(service: str, content: dict[str, Any]) -> None:
    own = service.replace("-", "_")
    assert set(content["services"]) == {"__init__.py", "__pycache__", "common", own}
    assert content["tests"] == []


def test_an_image_holds_exactly_the_locked_packages(service: str, content: dict[str, Any]) -> None:
    installed = sorted(canonicalize_name(name) for name in content["installed"])
    assert installed == sorted(locked(service))


def test_a_bill_of_materials_names_all_that_an_image_holds(tag: str) -> None:
    run(sys.executable, "-m", "scripts.sbom", "--images")
    bill = json.loads((sbom.FOLDER / "face-recog.cdx.json").read_text())
    named = {component["purl"].partition("@")[0] for component in bill["components"]}
    assert {purl for purl in named if purl.startswith("pkg:pypi/")} == {
        f"pkg:pypi/{canonicalize_name(name)}"
        for name in look(f"facestack/face-recog:{tag}")["installed"]
    }
    assert named >= {"pkg:generic/python", "pkg:deb/debian/libc6", "pkg:deb/debian/bash"}


def test_face_recog_has_the_models_of_every_engine(tag: str) -> None:
    load = (
        "from services.face_recog.adapters.models import load_models;"
        " load_models('classic'); load_models('centerface')"
    )
    image = f"facestack/face-recog:{tag}"
    done = docker("run", *NOBODY, "--entrypoint=python", image, "-c", load)
    assert done.returncode == 0, done.stderr


def test_nothing_in_an_image_gives_the_rights_of_another_user(content: dict[str, Any]) -> None:
    assert content["setuid"] == []


def test_nobody_can_write_into_an_image(content: dict[str, Any]) -> None:
    scratch = ("/var/tmp", "/var/lock", "/var/mail")
    assert [path for path in content["writable"] if not path.startswith(scratch)] == []


def test_an_image_carries_its_bytecode(content: dict[str, Any]) -> None:
    sources = {file for file in content["files"] if file.endswith(".py")}
    assert sources <= set(content["compiled"])


def test_a_wrong_setting_ends_the_container_with_one_line(service: str, image: str) -> None:
    ended = docker(
        "run",
        *LIKE_A_POD,
        "--network=none",
        "--env=LOG_LEVEL=LOUD",
        image,
        *ARGUMENTS.get(service, ()),
    )
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"{service.replace('-', '_')}: wrong settings: ")
    assert "LOG_LEVEL: " in line
    assert "'LOUD'" in line


def test_the_tag_is_made_of_what_is_in_the_images(tag: str) -> None:
    hashed = set(output(ROOT / "scripts" / "image-tag", "--files").splitlines())
    services = {file for file in hashed if file.startswith("services/")}
    held: set[str] = set()
    for service in SERVICES:
        held |= set(look(f"facestack/{service}:{tag}")["files"])
    assert held - {"requirements.txt"} == services - {
        "services/Dockerfile",
        "services/install",
    }


@pytest.fixture
def recogniser(tag: str, tmp_path: Path) -> Iterator[str]:
    """Start face_recog with one known person, and give the id of its container."""
    known = tmp_path / "known_people" / "Grace Hopper"
    known.mkdir(parents=True)
    (known / "1.jpg").write_bytes((SAMPLES / "grace_hopper.jpg").read_bytes())
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777)
    started = docker(
        "run",
        "--detach",
        *LIKE_A_POD,
        f"--volume={tmp_path}:/store",
        "--env=OBJECT_STORE_URL=file:///store",
        "--publish=127.0.0.1::50051",
        "--publish=127.0.0.1::9102",
        f"facestack/face-recog:{tag}",
    )
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        yield container
    finally:
        docker("rm", "--force", container)


def test_face_recog_names_a_face_by_onnx_runtime(recogniser: str) -> None:
    def address(port: int) -> str:
        return docker("port", recogniser, str(port)).stdout.strip()

    def ready() -> bool:
        url = f"http://{address(9102)}/readyz"
        return httpx.get(url, trust_env=False).is_success

    async def identify(picture: bytes) -> IdentifyResponse:
        client = RecogniserClient(address(50051), timeout=30)
        try:
            return await client.identify(picture)
        finally:
            await client.close()

    try:
        wait_until(ready, 60, "face_recog to be ready")
    except AssertionError:
        print(docker("logs", recogniser).stderr)
        raise
    answer = asyncio.run(identify((SAMPLES / "grace_hopper.jpg").read_bytes()))
    [face] = answer.faces
    assert face.candidates[0].person == "Grace Hopper"
    assert face.candidates[0].distance < 0.01

    processes = json.loads(docker("exec", recogniser, "python", "-c", PROCESSES).stdout)
    assert len(processes) >= 2  # the fork server and a worker
    for process in processes:
        # More would mean that BLAS computes in its own, or that a library reports from one.
        assert process == {"onnxruntime": True, "threads": 1}

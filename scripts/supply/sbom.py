"""Bills of materials (CycloneDX 1.6, JSON) of the images and of the Python tree."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.supply import locks
from scripts.supply.licences import LicenceError, licence

FOLDER: Final = locks.ROOT / "var/sbom"

# Run in an image, prints all that it holds as purls. Python is no package of Debian where the
# official image has built it; Debian tells of vulnerabilities by source package, here upstream.
_LOOK: Final = r"""
import importlib.metadata, platform, re, subprocess
print("pkg:generic/python@" + platform.python_version())
for one in importlib.metadata.distributions():
    print("pkg:pypi/%s@%s" % (re.sub("[-_.]+", "-", one.name).lower(), one.version))
purl = "pkg:deb/debian/${Package}@${Version}?arch=${Architecture}&upstream=${source:Package}"
purl += "&distro=" + platform.freedesktop_os_release()["VERSION_CODENAME"]
line = "${db:Status-Status} " + purl + r"\n"
subprocess.run(["dpkg-query", "--show", "--showformat=" + line], check=True)
"""


class SbomError(Exception):
    """An image that is not there, or holds something else than its lock file says."""


def names() -> Sequence[str]:
    """Return what has a bill: each image, and ``python``, the tree of all that is locked."""
    return [*locks.images(), "python"]


def write(wanted: Sequence[str], *, images: bool) -> Iterator[Path]:
    """Write a file for each name that is wanted, and yield each.

    With ``images``, what is in the built images is looked at: Debian's packages are listed, too.
    The same input gives the same bytes. Raises SbomError.
    """
    if unknown := set(wanted) - set(names()):
        problem = f"no image is called {min(unknown)}: choose from {', '.join(names())}"
        raise SbomError(problem)
    tag = subprocess.check_output([locks.ROOT / "scripts/image-tag"], text=True).strip()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        is_image = name != "python"
        pins = locks.image_pins(name) if is_image else locks.pins("dev")
        bom = Bom(components=map(_distribution, pins))
        if images and is_image:
            bom.components |= set(_inside(f"facestack/{name}:{tag}", pins))
        bom.metadata.component = subject = Component(
            name=f"facestack/{name}" if is_image else "facestack",
            version=tag,
            type=ComponentType.CONTAINER if is_image else ComponentType.APPLICATION,
            bom_ref=name,
        )
        bom.register_dependency(subject, bom.components)
        file = FOLDER / f"{name}.cdx.json"
        file.write_text(_reproducible(bom), "utf-8")
        yield file


def _distribution(pin: locks.Pin) -> Component:
    component = _component(PackageURL("pypi", None, pin.name, pin.version))
    component.hashes = [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in pin.hashes]
    with suppress(LicenceError):  # what an image may hold, `make licences` says
        component.licenses = [LicenseExpression(licence(pin.name))]
    return component


def _inside(image: str, pins: Sequence[locks.Pin]) -> Iterator[Component]:
    """Yield what an image holds beside the distributions of its lock file."""
    look = ["docker", "run", "--rm", "--network=none", "--entrypoint=python", image, "-c", _LOOK]
    try:
        done = subprocess.run(look, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SbomError("Docker is missing, and only it can look into an image") from None
    if done.returncode:
        raise SbomError(f"cannot look into {image}, run 'make images': {done.stderr.strip()}")
    lines = [line.removeprefix("installed ") for line in done.stdout.splitlines()]
    held = [PackageURL.from_string(line) for line in lines if line.startswith("pkg:")]
    distributions = {(one.name, one.version) for one in held if one.type == "pypi"}
    if distributions != {(pin.name, pin.version) for pin in pins}:
        raise SbomError(f"{image} holds other distributions than its lock file: run 'make images'")
    yield from (_component(one) for one in held if one.type != "pypi")


def _component(purl: PackageURL) -> Component:
    kind = ComponentType.PLATFORM if purl.type == "generic" else ComponentType.LIBRARY
    return Component(
        name=purl.name, version=purl.version, type=kind, purl=purl, bom_ref=purl.to_string()
    )


def _reproducible(bom: Bom) -> str:
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # A time and a random number are all that would differ from one run to the next.
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["serialNumber"] = uuid5(NAMESPACE_OID, json.dumps(document)).urn
    return json.dumps(document, indent=1) + "\n"

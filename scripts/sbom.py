"""Write bills of materials (CycloneDX 1.6, JSON) of the images and of the Python tree."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from packageurl import PackageURL
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "var/sbom"

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


def main(arguments: list[str] | None = None) -> None:
    """Write a file for each image, and one for ``python``: all that ``.venv`` holds.

    With ``--images``, what the built images hold is looked at: Debian's packages are listed, too.
    The same input gives the same bytes.
    """
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__)
    parser.add_argument("--images", action="store_true", help="look into the built images, too")
    options = parser.parse_args(arguments)
    images = subprocess.check_output([ROOT / "scripts/images", "--list"], text=True).split()
    tag = subprocess.check_output([ROOT / "scripts/image-tag"], text=True).strip()
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    bill = json.loads(subprocess.check_output([*tool, "--no-validate", sys.executable]))
    # purls keep a dot in a name; lock files do not.
    installed = {_purl(one["name"], one["version"]): one for one in bill["components"]}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in [*images, "python"]:
        subject = {"bom-ref": name, "type": "application", "name": "facestack", "version": tag}
        purls: Sequence[str] = list(installed)
        if name in images:
            subject |= {"type": "container", "name": f"facestack/{name}"}
            purls = [purl for purl in locked(name) if purl in installed]  # else for other machines
            if options.images:
                purls = _look(f"facestack/{name}:{tag}", purls)
        components = [installed.get(purl) or _component(purl) for purl in purls]
        bill["metadata"]["component"] = subject
        bill["components"] = components
        bill["dependencies"] = [{"ref": name, "dependsOn": [one["bom-ref"] for one in components]}]
        file = FOLDER / f"{name}.cdx.json"
        file.write_text(json.dumps(bill, indent=1) + "\n", "utf-8")
        print(os.path.relpath(file))


def locked(image: str) -> Sequence[str]:
    """Return the purls of an image's lock file, for all machines."""
    file = ROOT / f"requirements/{image}.txt"
    lock = (file if file.exists() else file.with_stem("common")).read_text()
    # setuptools builds what comes as source, and stays out of the images.
    pins = re.findall(r"^(?!setuptools=)(\S+)==(\S+)", lock, re.MULTILINE)
    return [_purl(name, version) for name, version in pins]


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{canonicalize_name(name)}@{version}"


def _look(image: str, expected: Sequence[str]) -> Sequence[str]:
    """Return the purls of all that an image holds, if its distributions are those of its lock."""
    docker = ["docker", "run", "--rm", "--interactive", "--network=none", "--entrypoint=python"]
    try:
        said = subprocess.check_output([*docker, image, "-"], input=_LOOK, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"sbom: cannot look into {image}, run 'make images': {error}")
    lines = [line.removeprefix("installed ") for line in said.splitlines()]
    purls = sorted(str(PackageURL.from_string(line)) for line in lines if line.startswith("pkg:"))
    if [purl for purl in purls if purl.startswith("pkg:pypi/")] != sorted(expected):
        sys.exit(f"sbom: {image} holds other distributions than its lock file: run 'make images'")
    return purls


def _component(purl: str) -> Mapping[str, str | None]:
    found = PackageURL.from_string(purl)
    kind = "platform" if found.type == "generic" else "library"
    about = {"type": kind, "name": found.name, "version": found.version}
    return about | {"purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    main()

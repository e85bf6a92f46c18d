"""Other versions of the images under test, and the roll-outs from one to another.

Every version is made from the images under test by the Dockerfile in ``image``.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.cluster import ROOT, STATE, Cluster, build_image, phase
from e2e.waiting import wait_until

ROLLOUT_SECONDS: Final = 300
"""How long a roll-out may take; it ends when the last old pod has ended."""

_CONTEXT: Final = Path(__file__).parent / "image"
_RELEASE: Final = STATE / "release"
_IMAGES: Final = "base/components/images/kustomization.yaml"

Patch = list[dict[str, Any]] | dict[str, Any]
"""A JSON patch, or a strategic merge patch."""


@dataclass(frozen=True)
class Version:
    """A name for people, such as 0.2.0, and the stage of the Dockerfile that makes its images."""

    number: str
    stage: str


NEWER: Final = Version("0.2.0", "newer")
NEWER_SCHEMA: Final = Version("0.2.0", "newer-migrations")
NEWER_REVISION: Final = "9999"
"""Of the schema that its migrations make."""
OLDER: Final = Version("0.0.9", "older-receiver")
CRASHING: Final = Version("0.3.0", "crashing")


class Versions:
    """The tag of the images in the cluster's overlay, and those of images made from them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.current = _current_tag()

    def tag(self, workload: str, version: Version) -> str:
        """Return the tag of a workload's image in another version.

        Jobs are named by the part after the dash, so every version has its own.
        """
        seed = f"{self.current} {workload} {version.number}".encode()
        return f"{version.number}-{sha256(seed).hexdigest()[:12]}"

    def make(self, wanted: Iterable[tuple[str, Version]]) -> None:
        """Build images of workloads and load them into the nodes."""
        with phase("images of other versions"):
            names = [self._build(workload, version) for workload, version in wanted]
            if missing := self._cluster.missing_images(names):
                self._cluster.load_image(*missing)

    def _build(self, workload: str, version: Version) -> str:
        name = f"facestack/{workload}:{self.tag(workload, version)}"
        build_image(
            name,
            _CONTEXT,
            f"--target={version.stage}",
            f"--build-arg=IMAGE=facestack/{workload}:{self.current}",
            f"--build-arg=VERSION={version.number}",
        )
        return name

    def release(
        self, versions: Mapping[str, Version], *, patches: Mapping[str, Patch] | None = None
    ) -> None:
        """Apply the overlay with other versions of some workloads, and patched Deployments.

        As in a real release, the tags change in the base.
        """
        for part in ("base", "overlays/kind"):
            shutil.copytree(ROOT / part, _RELEASE / part, dirs_exist_ok=True)
        write_tags(_RELEASE, {name: self.tag(name, one) for name, one in versions.items()})
        changes = {
            "resources": ["overlays/kind"],
            "patches": [
                {"target": {"kind": "Deployment", "name": name}, "patch": yaml.safe_dump(patch)}
                for name, patch in (patches or {}).items()
            ],
        }
        (_RELEASE / "kustomization.yaml").write_text(yaml.safe_dump(changes))
        self._cluster.kubectl("apply", "-k", str(_RELEASE))

    def wait_rolled_out(self, workloads: Iterable[str], version: Version | None = None) -> None:
        """Return when the version runs, by default the current one, and nothing older."""
        for workload in workloads:
            tag = self.tag(workload, version) if version else self.current
            self._cluster.kubectl(
                "rollout", "status", f"deployment/{workload}", f"--timeout={ROLLOUT_SECONDS - 10}s"
            )
            wait_until(
                lambda workload=workload, tag=tag: (  # type: ignore[misc]
                    {image for _, image in self.pods(workload)} == {f"facestack/{workload}:{tag}"}
                ),
                ROLLOUT_SECONDS,
                f"the old pods of {workload} to end",
            )

    def pods(self, workload: str) -> list[tuple[str, str]]:
        """Return name and image of each pod, also of those that are ending."""
        found = self._cluster.get("pods", "-l", f"app.kubernetes.io/name={workload}")["items"]
        return sorted(
            (pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]) for pod in found
        )


def write_tags(folder: Path, tags: Mapping[str, str]) -> None:
    """Write tags of some workloads' images into a checkout, behind the one that all have."""
    file = folder / _IMAGES
    content = yaml.safe_load(file.read_text())
    content["images"] += [
        {"name": f"facestack/{workload}", "newTag": tag} for workload, tag in tags.items()
    ]
    file.write_text(yaml.safe_dump(content))


def _current_tag() -> str:
    images = yaml.safe_load((ROOT / _IMAGES).read_text())["images"]
    [tag] = [image["newTag"] for image in images if image["name"].startswith("facestack/")]
    return str(tag)

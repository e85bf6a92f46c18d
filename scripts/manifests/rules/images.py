"""Which images run."""

import re
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.design import IMAGE_OF, OWN_IMAGES, REGISTRIES, THIRD_PARTY_IMAGES
from scripts.manifests.model import Finding, Manifests, at

OWN_TAG: Final = re.compile(r"\d+\.\d+\.\d+-[0-9a-f]{12}")


def split(image: Any) -> tuple[str, str, str]:
    """Return an image's registry, name and tag; a digest behind the tag is fine and left out.

    What stands before the last two parts of a name belongs to the registry: ghcr.io/OWNER.
    """
    name, _, tag = str(image).partition("@")[0].rpartition(":")
    first, _, _ = name.partition("/")
    if not ("." in first or ":" in first):
        return "", name, tag
    registry, *parts = name.rsplit("/", 2)
    return registry, "/".join(parts), tag


def is_own(container: Any) -> bool:
    """Tell whether a container runs an image of ours."""
    return split(at(container, "image"))[1] in OWN_IMAGES


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that every image is on the list and pinned, and that ours are of one build."""
    builds = set()
    for workload in manifests.workloads:
        for container in workload.containers:
            field = f"{container.field}.image"
            image = container.spec.get("image")
            registry, name, tag = split(image)
            own = f"facestack/{IMAGE_OF.get(workload.name, workload.name)}"
            wanted = f"{own}:VERSION-GITHASH"
            if name in OWN_IMAGES:
                if OWN_TAG.fullmatch(tag):
                    builds.add(f"{registry} {tag}".strip())
                if name != own or not OWN_TAG.fullmatch(tag):
                    yield workload.finding(field, f"is {image}: use {wanted}")
                if registry and not re.fullmatch(REGISTRIES, registry):
                    yield workload.finding(field, f"is {image}: {registry} is not our registry")
            elif registry or name not in THIRD_PARTY_IMAGES:
                known = ", ".join(sorted(OWN_IMAGES | THIRD_PARTY_IMAGES.keys()))
                yield workload.finding(field, f"is {image}: only these may run: {known}")
            elif tag != THIRD_PARTY_IMAGES[name]:
                right = f"{name}:{THIRD_PARTY_IMAGES[name]}"
                yield workload.finding(field, f"is {image}: use {right}")
    if len(builds) > 1:
        advice = f"are of several builds, {', '.join(sorted(builds))}: run 'make images'"
        yield Finding("facestack images", "tag", advice)

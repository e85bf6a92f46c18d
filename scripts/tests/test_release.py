"""A release does all of it in order, on the tag's commit alone, and stops where something fails."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTRY = "ghcr.io/owner/facestack"
TAG = "0.1.0-0123456789ab"

# Notes how it was called, and fails where it shall. Each image has a digest of its own.
STUB = r"""#!/usr/bin/env bash
call="$(basename "$0") $*"
echo "$call" >>"$CALLS"
[ -z "$BREAK" ] || [[ $call != *"$BREAK"* ]] || exit 9
case $call in
  image-tag*) [ ! -e old ] || { echo "it has another" >&2; exit 1; }; echo 0.1.0-0123456789ab ;;
  "images --list") printf 'credentials\nwebhooks\n' ;;
  "docker version"*) echo arm64 ;;
  "docker buildx imagetools inspect"*) image=${*: -1}; printf 'sha256:%064d\n' ${#image} ;;
  *slsaprovenance1*) while [ "$1" != --predicate ]; do shift; done; cp "$2" "$CALLS.json" ;;
esac
"""
# Variables of a run on GitHub.
RUN = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "owner/facestack",
    "GITHUB_REF": "refs/tags/v0.1.0",
    "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
    "GITHUB_WORKFLOW_REF": "owner/facestack/.github/workflows/release.yaml@refs/tags/v0.1.0",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
}


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a repository whose every other program is a stub, tagged v0.1.0."""
    folder = tmp_path / "repository"
    for name in (
        "scripts/image-tag",
        "scripts/images",
        ".venv/bin/python",
        "bin/docker",
        "bin/cosign",
    ):
        stub = folder / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
    shutil.copy(ROOT / "scripts" / "release", folder / "scripts")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    git(folder, "tag", "--annotate", "--message=release", "v0.1.0")
    return folder


def release(
    folder: Path, tag: str = "v0.1.0", *architectures: str, breaks: str = ""
) -> tuple[int, str, list[str]]:
    """Return the exit status, what it said of what is wrong, and which programs it called."""
    calls = folder.parent / "calls"
    calls.touch()
    environment = {
        **os.environ,
        **RUN,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "BREAK": breaks,
    }
    done = subprocess.run(
        [folder / "scripts/release", tag, REGISTRY, *architectures],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, calls.read_text().splitlines()


LOOK = "docker buildx imagetools inspect --format {{.Manifest.Digest}}"


def steps(name: str) -> list[str]:
    """Return the calls for one image, in order."""
    image = f"{REGISTRY}/{name}:{TAG}-arm64"
    digest = f"{REGISTRY}/{name}@sha256:{len(image):064d}"
    return [
        f"docker tag facestack/{name}:{TAG} {image}",
        f"docker push --quiet {image}",
        f"{LOOK} {image}",
        f"cosign sign --yes {digest}",
        f"cosign attest --yes --type cyclonedx --predicate var/sbom/{name}.cdx.json {digest}",
        f"cosign attest --yes --type slsaprovenance1 --predicate PROVENANCE {digest}",
    ]


def expected() -> list[str]:
    return [
        "image-tag --check",
        "images --list",
        "images ",
        "python -m scripts.sbom --images",
        "docker version --format {{.Server.Arch}}",
        *steps("credentials"),
        *steps("webhooks"),
    ]


def joins(name: str) -> list[str]:
    """Return the calls that make one image for two architectures."""
    image = f"{REGISTRY}/{name}:{TAG}"
    digest = f"{REGISTRY}/{name}@sha256:{len(image):064d}"
    return [
        f"docker buildx imagetools create --tag {image} {image}-amd64 {image}-arm64",
        f"{LOOK} {image}",
        f"cosign sign --yes {digest}",
        f"cosign attest --yes --type slsaprovenance1 --predicate PROVENANCE {digest}",
    ]


def without_folder(calls: list[str]) -> list[str]:
    """Return the calls with the temporary file of the provenance under a fixed name."""
    return [
        " ".join(
            "PROVENANCE" if one.endswith("/provenance.json") else one for one in call.split(" ")
        )
        for call in calls
    ]


def test_each_image_is_pushed_then_signed_and_attested_by_its_digest(repository: Path) -> None:
    status, said, calls = release(repository)
    assert (status, said) == (0, "")
    assert without_folder(calls) == expected()


def test_the_provenance_says_repository_commit_workflow_and_run(repository: Path) -> None:
    release(repository)
    assert json.loads((repository.parent / "calls.json").read_text()) == {
        "buildDefinition": {
            "buildType": "https://actions.github.io/buildtypes/workflow/v1",
            "externalParameters": {
                "workflow": {
                    "ref": "refs/tags/v0.1.0",
                    "repository": "https://github.com/owner/facestack",
                    "path": ".github/workflows/release.yaml",
                }
            },
            "resolvedDependencies": [
                {
                    "uri": "git+https://github.com/owner/facestack@refs/tags/v0.1.0",
                    "digest": {"gitCommit": RUN["GITHUB_SHA"]},
                }
            ],
        },
        "runDetails": {
            "builder": {"id": f"https://github.com/{RUN['GITHUB_WORKFLOW_REF']}"},
            "metadata": {
                "invocationId": "https://github.com/owner/facestack/actions/runs/42/attempts/2"
            },
        },
    }


def test_outside_of_a_run_nothing_is_built(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(RUN, "GITHUB_SHA")
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    status, said, calls = release(repository)
    assert status != 0
    assert "GITHUB_SHA: is not set: only a run of a workflow can say where an image is from" in said
    assert calls == expected()[:2]


def test_one_tag_is_for_all_machines_once_each_has_its_image(repository: Path) -> None:
    status, said, calls = release(repository, "v0.1.0", "amd64", "arm64")
    assert (status, said) == (0, "")
    assert without_folder(calls) == [
        *expected()[:2],
        *joins("credentials"),
        *joins("webhooks"),
    ]


@pytest.mark.parametrize(
    "breaks",
    [
        "images ",
        "sbom --images",
        "push --quiet ghcr.io/owner/facestack/credentials",
        "cosign sign",
        "--type cyclonedx",
        "--type slsaprovenance1",
    ],
)
def test_what_fails_is_the_last_that_is_done(repository: Path, breaks: str) -> None:
    status, _, calls = release(repository, breaks=breaks)
    assert status != 0
    assert breaks in calls[-1]
    assert without_folder(calls) == expected()[: len(calls)]


def dirty(folder: Path) -> None:
    (folder / "new").write_text("new")


def later(folder: Path) -> None:
    git(folder, "commit", "--quiet", "--allow-empty", "--message=later")


def other_tag(folder: Path) -> None:
    (folder / "old").touch()
    git(folder, "add", "old")
    git(folder, "commit", "--quiet", "--message=old")
    git(folder, "tag", "--force", "v0.1.0")


def another_version(folder: Path) -> None:
    git(folder, "tag", "v0.2.0")


@pytest.mark.parametrize(
    ("change", "tag", "reason"),
    [
        (dirty, "v0.1.0", "these files are not what v0.1.0 has:\n?? new"),
        (later, "v0.1.0", "HEAD is not v0.1.0: check out "),
        (other_tag, "v0.1.0", "it has another"),
        (another_version, "v0.2.0", "pyproject.toml says version 0.1.0, and the tag is v0.2.0"),
        (dirty, "v9.9.9", "git has no tag v9.9.9"),
    ],
)
def test_nothing_is_built_that_is_not_the_commit_of_the_tag(
    repository: Path, change: Callable[[Path], None], tag: str, reason: str
) -> None:
    change(repository)
    status, said, calls = release(repository, tag)
    assert status == 1
    assert reason in said
    assert set(calls) <= {"image-tag --check"}

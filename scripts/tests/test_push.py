"""All images are pushed once, or it is said loudly what is not."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTRY = "registry.example.com/facestack"
TAG = "0.1.0-0123456789ab"
NAMES = ["people", "receiver", "webhooks"]

# An engine and a registry: a file for each image that they have, which says for which machines.
DOCKER = """\
#!/bin/sh
case "$1 $2" in
  "image inspect") cat "$FAKE/here/$(basename "$5")" ;;
  "manifest inspect")
    [ ! -e "$FAKE/away" ] || { echo "unauthorized: authentication required" >&2; exit 1; }
    cat "$FAKE/there/$(basename "$4")" 2>/dev/null && exit
    echo "no such manifest: $4" >&2; exit 1 ;;
  "tag "*) ;;
  "push --quiet")
    [ ! -e "$FAKE/full" ] || { echo denied >&2; exit 1; }
    case $3 in *people*) [ ! -e "$FAKE/nearly-full" ] || touch "$FAKE/full" ;; esac
    echo "{\\"architecture\\": \\"$(cat "$FAKE/here/$(basename "$3")")\\"}" >"$FAKE/there/${3##*/}"
    echo "$3" >>"$FAKE/pushed" ;;
  *) exit 9 ;;
esac
"""


class Repository:
    """A copy of the script, programs that it calls, and what they know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("here", "there", "bin", "scripts"):
            (folder / name).mkdir()
        shutil.copy(ROOT / "scripts" / "push", folder / "scripts")
        self.program("scripts/image-tag", f'#!/bin/sh\n[ "$1" = --check ] && echo {TAG}\n')
        self.program("scripts/images", f"#!/bin/sh\nprintf '%s\\n' {' '.join(NAMES)}\n")
        self.program("bin/docker", DOCKER)
        for name in NAMES:
            (folder / "here" / f"{name}:{TAG}").write_text("amd64")
        (folder / "pushed").touch()

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def push(self, registry: str = REGISTRY) -> tuple[str, list[str]]:
        """Return what went wrong, and which images have been pushed by now."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [self.folder / "scripts" / "push", registry],
            env={**os.environ, "PATH": path, "FAKE": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == (not done.stderr), done
        pushed = (self.folder / "pushed").read_text().split()
        return done.stderr, [image.removeprefix(f"{REGISTRY}/") for image in pushed]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


ALL = [f"{name}:{TAG}" for name in NAMES]


def test_all_are_pushed_once(repository: Repository) -> None:
    assert repository.push() == ("", ALL)
    assert repository.push() == ("", ALL)


def test_a_push_that_fails_ends_it_and_the_next_one_goes_on(repository: Repository) -> None:
    (repository.folder / "nearly-full").touch()
    said, pushed = repository.push()
    assert f"{REGISTRY}/receiver:{TAG} was not pushed" in said
    assert pushed == ALL[:1]
    for name in ("nearly-full", "full"):
        (repository.folder / name).unlink()
    assert repository.push() == ("", ALL)


def test_nothing_is_pushed_unless_all_are_built(repository: Repository) -> None:
    (repository.folder / "here" / f"webhooks:{TAG}").unlink()
    said, pushed = repository.push()
    assert f"facestack/webhooks:{TAG} is not here: run 'make images'" in said
    assert pushed == []


def test_nothing_is_pushed_that_the_manifests_do_not_name(repository: Repository) -> None:
    repository.program("scripts/image-tag", "#!/bin/sh\necho has another >&2; exit 1\n")
    said, pushed = repository.push()
    assert said == "has another\n"
    assert pushed == []


def test_an_image_for_other_machines_under_the_tag_is_no_success(repository: Repository) -> None:
    (repository.folder / "there" / f"people:{TAG}").write_text('{"architecture": "arm64"}')
    said, pushed = repository.push()
    assert f"{REGISTRY}/people:{TAG} is there, and not for amd64" in said
    assert pushed == []


@pytest.mark.parametrize("registry", ["", "facestack", "/facestack"])
def test_a_registry_must_be_named(repository: Repository, registry: str) -> None:
    said, pushed = repository.push(registry)
    assert "make push REGISTRY=" in said
    assert pushed == []


def test_nothing_is_pushed_over_what_cannot_be_seen(repository: Repository) -> None:
    (repository.folder / "away").touch()
    said, pushed = repository.push()
    assert f"cannot tell whether {REGISTRY}/people:{TAG} is there already: unauthorized" in said
    assert pushed == []


def test_nothing_to_push_is_no_success(repository: Repository) -> None:
    repository.program("scripts/images", "#!/bin/sh\n")
    said, pushed = repository.push()
    assert "there is nothing to push" in said
    assert pushed == []

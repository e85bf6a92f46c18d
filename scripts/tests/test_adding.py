"""docs/adding.md word for word: what it has one write and run, done in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

import pytest

from services.local.processes import Process, answers, free_port

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/adding.md").read_text()

STEP: Final = re.compile(
    r"^(?:`(\S+)`[^\n]*\n(?:[^\n]+\n)*\n)?```(\w+)\n(.+?)^```$", re.MULTILINE | re.DOTALL
)
"""A block of code; it is a file if the paragraph above begins with a name."""

BEYOND: Final = ("make images", "make bootstrap")
"""Commands that need an engine or a cluster: e2e has their tests."""

WRITTEN: Final = (
    "docs/settings.md",
    "docs/security.md",
    "docs/gitops.md",
    "docs/kubernetes.md",
    "README.md",
)
"""What `make settings pictures` writes."""

Follow = Callable[[str], Path]


@pytest.fixture
def follow(tool: Callable[[str], str], tmp_path: Path) -> Follow:
    """Return a function that does what a section of the page says, and returns in which copy."""
    for name in ("kubectl", "kubeconform", "kube-score", "sops", "age-keygen", "go"):
        tool(name)
    # The copy's are links to these, which a `make` there must find as it wants them.
    subprocess.run(["scripts/venv", "dev"], cwd=ROOT, check=True)
    copy = tmp_path / "facestack"
    # What Go has fetched and built is below the home, and is not to be fetched again.
    go = ("GOCACHE", "GOMODCACHE")
    kept = subprocess.check_output(["go", "env", *go], text=True).splitlines()
    variables = os.environ | {
        **dict(zip(go, kept, strict=True)),
        "HOME": str(tmp_path),
        "PATH": f"{_downloads(tmp_path / 'bin')}:{ROOT / '.tools/bin'}:{os.environ['PATH']}",
    }

    def run(script: str) -> None:
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            command, cwd=copy, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"

    def _follow(section: str) -> Path:
        _copy(copy)
        run("""
            git init --quiet --bare ../origin
            git init --quiet && printf '.venv\\n.tools\\n' >.git/info/exclude
            git config user.name test && git config user.email test@localhost
            git add --all && git commit --quiet --message=before && git tag before
            git remote add origin ../origin && git push --quiet --set-upstream origin HEAD
        """)
        [text] = re.findall(rf"^## {section}\n(.+?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        for name, language, content in STEP.findall(text):
            if name:
                file = copy / name
                file.parent.mkdir(parents=True, exist_ok=True)
                assert not file.exists(), name
                file.write_text(content)
            else:
                assert language == "sh"
                lines = content.splitlines(keepends=True)
                run("".join(line for line in lines if not line.startswith(BEYOND)))
        return copy

    return _follow


def _downloads(folder: Path) -> Path:
    """Make a curl that gives what the page downloads: podinfo's own files, in an archive."""
    folder.mkdir()
    with tarfile.open(folder / "podinfo.tar.gz", "w:gz") as archive:
        archive.add(Path(__file__).with_name("podinfo"), "podinfo-6.9.2/kustomize")
    (folder / "curl").write_text(f"#!/bin/sh\nexec cat {folder}/podinfo.tar.gz\n")
    (folder / "curl").chmod(0o755)
    return folder


def _copy(folder: Path) -> None:
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--exclude-standard"]
    listed = subprocess.check_output([*git, "--cached", "--others"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in (".venv", ".tools"):
        (folder / name).symlink_to(ROOT / name)


def _elsewhere(folder: Path, *own: str) -> Mapping[str, int]:
    """Return how many lines of each file are others now, but of those below ``own``."""
    numbers = subprocess.check_output(
        ["git", "diff", "--numstat", "before", "HEAD"], cwd=folder, text=True
    )
    lines = [line.split("\t") for line in numbers.splitlines()]
    assert lines
    return {
        file: int(added) + int(removed)
        for added, removed, file in lines
        if not file.startswith(own)
    }


@pytest.fixture
def receiver(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    """Answer as the receiver does, and give its URL."""

    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    return serve(Alive)


def test_a_service_is_two_folders_and_a_line(follow: Follow, receiver: str) -> None:
    copy = follow("A service")
    assert _elsewhere(copy, "services/hello/", "base/hello/", *WRITTEN) == {
        "base/layers/services/kustomization.yaml": 1
    }
    images = subprocess.check_output(["scripts/images", "--list"], cwd=copy, text=True).split()
    assert "hello" in images
    for linter in (
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["lint-imports", "--no-cache"],
    ):
        command = [str(ROOT / ".venv/bin" / linter[0]), *linter[1:]]
        subprocess.run(
            [*command, *(["services/hello"] if "ruff" in linter else [])], cwd=copy, check=True
        )

    port = free_port()
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "RECEIVER_URL": receiver,
        "PROBE_PORT": str(port),
        "HOST": "127.0.0.1",
    }
    hello = Process(
        [sys.executable, "-m", "services.hello"], environment, copy.with_name("log"), copy
    )
    hello.spawn()
    try:
        hello.wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "not ready")
    finally:
        hello.stop()
    assert hello.code == 0
    assert "hello, receiver" in hello.log.read_text()


def test_an_app_is_a_folder_and_a_line_for_each_cluster(follow: Follow) -> None:
    assert _elsewhere(follow("An app"), "apps/podinfo/", "apps/podinfo-chart/") == {
        "flux/clusters/kind/kustomization.yaml": 2,
        "flux/clusters/kind/cluster.yaml": 2,
    }


def test_a_cluster_is_a_folder(follow: Follow) -> None:
    copy = follow("A cluster")
    assert set(_elsewhere(copy, "flux/clusters/office/")) == {".sops.yaml"}
    pushed = subprocess.check_output(
        ["git", "-C", "../origin", "log", "--format=%s"], cwd=copy, text=True
    )
    assert pushed.splitlines()[0] == "A cluster for the office"

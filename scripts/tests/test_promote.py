"""What one cluster runs healthy becomes the version of another by a commit; else it is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
IDENTITY: Final = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
}
SPEC: Final = {
    "url": "ssh://git@example.com/facestack.git",
    "ref": {"branch": "main"},
    "interval": "1m0s",
    "timeout": "60s",
    "secretRef": {"name": "facestack-git"},
    "ignore": "/*\n!/apps/\n!/base/\n!/flux/\n!/overlays/\n",
}
# Tells what a file says it was asked for.
KUBECTL: Final = """\
#!/bin/sh
case "$*" in
  *configmap*) /bin/cat "$ANSWERS/follows" ;;
  *kustomizations*) /bin/cat "$ANSWERS/states" ;;
  *gitrepository*) /bin/cat "$ANSWERS/source" ;;
  *annotate*) PATH=${PATH#*:} exec kubectl "$@" ;;
  *config*view*) printf "trial at https://127.0.0.1:6443" ;;
  *) exit 9 ;;
esac
"""
HELLO: Final = """\
configMapGenerator:
- {name: hello, namespace: face, literals: [number=one], options: {disableNameSuffixHash: true}}
"""


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", f"safe.directory={folder}", *arguments]
    environment = {**os.environ, **IDENTITY}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@dataclass
class Trial:
    """A repository with the clusters staging and production, and what kubectl tells of staging."""

    folder: Path
    answers: Path
    follows: str = "staging"
    state: list[dict[str, Any]] = field(default_factory=list)

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return what it prints."""
        return git(self.folder, *arguments)

    def runs(self, commit: str) -> None:
        """Have staging run a commit, with all of it ready."""
        revision = f"main@sha1:{commit}"
        source = thing("GitRepository", "facestack", SPEC, artifact={"revision": revision})
        layers = [
            thing(
                "Kustomization",
                name,
                {"sourceRef": {"name": "facestack"}},
                lastAppliedRevision=revision,
            )
            for name in ("facestack", *LAYERS)
        ]
        self.state = [source, *layers]

    def promote(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run what `make promote` runs, where only what is needed is installed."""
        (self.answers / "follows").write_text(self.follows)
        (self.answers / "states").write_text("".join(map(row, self.state)))
        (self.answers / "source").write_text(json.dumps({"spec": SPEC}))
        path = f"{self.answers}:{ROOT / '.tools/bin'}"
        return subprocess.run(
            [sys.executable, "-m", "scripts.promote", *(arguments or ("staging", "production"))],
            cwd=self.folder,
            env={**os.environ, **IDENTITY, "PATH": path, "ANSWERS": str(self.answers)},
            capture_output=True,
            text=True,
            check=False,
        )


def thing(kind: str, name: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    """Return an object of Flux's that is ready."""
    ready = {"type": "Ready", "status": "True", "message": "is ready"}
    return {
        "kind": kind,
        "metadata": {"name": name, "generation": 1},
        "spec": deepcopy(spec),
        "status": {"observedGeneration": 1, "conditions": [ready], **status},
    }


def row(item: dict[str, Any]) -> str:
    """Return what kubectl prints of an object for scripts/flux-wait."""
    spec, status = item["spec"], item["status"]
    ready = status.get("conditions", [{}])[0]
    columns = [
        item["kind"],
        item["metadata"]["name"],
        item["metadata"]["generation"],
        status.get("observedGeneration"),
        str(spec["suspend"]).lower() if "suspend" in spec else None,
        spec.get("sourceRef", {}).get("name"),
        spec.get("ref", {}).get("commit"),
        status.get("lastAppliedRevision"),
        status.get("artifact", {}).get("revision"),
        None,
        ready.get("status"),
        ready.get("message"),
    ]
    return "   ".join("<none>" if one is None else str(one) for one in columns) + "\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout under test as a repository of its own, with two clusters more."""
    folder = tmp_path_factory.mktemp("repository")
    listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, git(ROOT, *listed).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name in ("staging", "production"):
        cluster = folder / "flux/clusters" / name
        shutil.copytree(folder / "flux/clusters/kind", cluster)
        replace(cluster / "cluster.yaml", "cluster: kind", f"cluster: {name}")
        # Little, so that it is rendered soon.
        replace(cluster / "cluster.yaml", "overlay: kind", "overlay: hello")
        units = cluster / "kustomization.yaml"
        units.write_text(re.sub(r"- \S+/apps/\S+\n", "", units.read_text()))
    for layer in ("setup", "stores", "services"):
        file = folder / "overlays/hello" / layer / "kustomization.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("resources: []\n" if layer != "services" else HELLO)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Two clusters")
    return folder


@pytest.fixture
def trial(repository: Path, tmp_path: Path) -> Trial:
    made = Trial(tmp_path / "repository", tmp_path / "answers")
    made.answers.mkdir()
    script(made.answers / "kubectl", KUBECTL)
    for name in ("git", "bash", "uname", "awk", "sort", "grep", "sleep", "env"):
        (made.answers / name).symlink_to(str(shutil.which(name)))
    git(tmp_path, "clone", "--quiet", str(repository), "repository")
    made.runs(made.git("rev-parse", "HEAD"))
    return made


def script(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def other_commit(trial: Trial, old: str = "one", new: str = "two") -> str:
    """Change what both clusters run; return the commit."""
    file = trial.folder / "overlays/hello/services/kustomization.yaml"
    replace(file, f"number={old}", f"number={new}")
    trial.git("commit", "--quiet", "--all", "--message=Another number")
    return trial.git("rev-parse", "HEAD")


def merge(trial: Trial, done: subprocess.CompletedProcess[str], commit: str) -> str:
    """Merge what was promoted; return its branch."""
    assert done.returncode == 0, done.stderr
    branch = f"promote/production-{commit[:12]}"
    trial.git("merge", "--quiet", branch)
    return branch


def tag(trial: Trial) -> str:
    """Return the tag of our images."""
    text = (trial.folder / "base/components/images/kustomization.yaml").read_text()
    [found] = re.findall(r"facestack/\.\*\n  newTag: (\S+)", text)
    return str(found)


@pytest.mark.usefixtures("flux_build")
def test_the_first_time_it_pins_the_cluster_and_the_docs_tell_how_to_undo_that(
    trial: Trial,
) -> None:
    commit = trial.git("rev-parse", "HEAD")
    done = trial.promote()
    assert (trial.git("branch", "--show-current"), trial.git("status", "--porcelain")) == (
        "main",
        "",
    )
    assert trial.git("rev-parse", "HEAD") == commit
    branch = merge(trial, done, commit)
    assert f"git push --set-upstream origin {branch}\n" in done.stdout
    assert f"gh pr create --base=main --head={branch} --fill\n" in done.stdout

    folder = trial.folder / "flux/clusters/production"
    text = (folder / "version.yaml").read_text()
    version = yaml.safe_load(text)
    assert version["spec"] == {**SPEC, "ref": {"commit": commit}, "interval": "1h"}
    assert "ignore: |\n" in text
    assert version["metadata"]["annotations"] == {
        "facestack.dev/images": tag(trial),
        "facestack.dev/promoted-from": "staging",
    }
    assert "- cluster.yaml\n- version.yaml\n" in (folder / "kustomization.yaml").read_text()
    assert "\n  source: version\n" in (folder / "cluster.yaml").read_text()
    message = trial.git("log", "-1", "--format=%B")
    title = f"Promote {tag(trial)} from staging to production, at {commit[:12]}"
    assert message.startswith(f"{title}\n\n")
    assert "facestack: ~ Kustomization flux-system/face-services" in message

    page = (ROOT / "docs/environments.md").read_text()
    [recipe] = re.findall(r"\*\*Follow the branch again\.\*\*.*?```\n(.*?)```", page, re.DOTALL)
    environment = {**os.environ, **IDENTITY}
    subprocess.run(["bash", "-euc", recipe], cwd=trial.folder, env=environment, check=True)
    assert trial.git("diff", "--name-only", commit, "HEAD") == ""


@pytest.mark.usefixtures("flux_build")
def test_later_it_changes_the_commit_alone_and_shows_the_diff(
    trial: Trial,
) -> None:
    merge(trial, trial.promote(), trial.git("rev-parse", "HEAD"))
    # Where production has the repository from is its own affair.
    mirror = "https://mirror.example.com/facestack.git"
    file = trial.folder / "flux/clusters/production/version.yaml"
    replace(file, str(SPEC["url"]), mirror)
    trial.git("commit", "--quiet", "--all", "--message=Another way to the repository")
    before = yaml.safe_load(file.read_text())
    commit = other_commit(trial)
    trial.runs(commit)
    done = trial.promote()
    merge(trial, done, commit)
    assert "+  number: two" in done.stdout
    assert (
        trial.git("diff", "--name-only", commit, "HEAD")
        == file.relative_to(trial.folder).as_posix()
    )
    before["spec"]["ref"] = {"commit": commit}
    assert yaml.safe_load(file.read_text()) == before
    assert trial.git("log", "-1", "--format=%b") == "face-services: ~ ConfigMap face/hello"

    done = trial.promote()
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing would change" in done.stderr
    assert (trial.git("branch", "--show-current"), trial.git("status", "--porcelain")) == (
        "main",
        "",
    )

    # What nothing names would not get to the cluster.
    entries = file.with_name("kustomization.yaml")
    replace(entries, "- version.yaml\n", "")
    commit = other_commit(trial, "two", "three")
    trial.runs(commit)
    merge(trial, trial.promote(), commit)
    assert "- cluster.yaml\n- version.yaml\n" in entries.read_text()


OLD: Final = f"main@sha1:{40 * '0'}"
LAYERS: Final = ("failed", "old", "changed", "new", "suspended")
NOT_READY: Final = """\
promote: staging is not ready, so nothing is promoted:
  GitRepository/facestack          dial tcp: i/o timeout
  Kustomization/changed            not looked at yet since it was changed
  Kustomization/facestack          ready
  Kustomization/failed             health check failed after 3m: [Deployment/face/hello]
  Kustomization/new                not looked at yet
  Kustomization/old                at {old}, not at main@sha1:{head} yet
  Kustomization/suspended          suspended: nothing is applied until it is resumed
flux-wait: not ready: GitRepository/facestack Kustomization/changed Kustomization/failed"""


def not_ready(trial: Trial) -> None:
    """Have one thing of every kind that is wrong, and one that is not."""
    away, _, failed, old, changed, new, suspended = trial.state
    message = "dial tcp: i/o timeout"
    away["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": message}]
    message = "health check failed after 3m:\n[Deployment/face/hello]"
    failed["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": message}]
    old["status"]["lastAppliedRevision"] = OLD
    changed["status"]["observedGeneration"] = 0
    new["status"] = {}
    suspended["spec"]["suspend"] = True


def elsewhere(trial: Trial) -> None:
    trial.follows = "kind"


def nowhere(trial: Trial) -> None:
    trial.follows = ""


def dirty(trial: Trial) -> None:
    (trial.folder / "base/new.yaml").touch()


def detached(trial: Trial) -> None:
    trial.git("switch", "--quiet", "--detach")


def unknown(trial: Trial) -> None:
    trial.runs(40 * "d")


def on_a_branch(trial: Trial) -> None:
    trial.git("switch", "--quiet", "--create=other")
    trial.runs(other_commit(trial))
    trial.git("switch", "--quiet", "main")


def without_fact(trial: Trial) -> None:
    replace(trial.folder / "flux/clusters/production/cluster.yaml", "  source: facestack\n", "")
    trial.git("commit", "--quiet", "--all", "--message=No source")


def nothing(_: Trial) -> None:
    """Change nothing: what is asked for is wrong."""


@pytest.mark.parametrize(
    ("change", "asked", "said"),
    [
        (not_ready, (), NOT_READY),
        (elsewhere, (), "trial at https://127.0.0.1:6443 follows flux/clusters/kind, not"),
        (nowhere, (), "trial at https://127.0.0.1:6443 follows no git: say with CONTEXT="),
        (dirty, (), "?? base/new.yaml"),
        (detached, (), "no branch is checked out"),
        (unknown, (), f"{40 * 'd'}, which is not in main: git pull, or merge it first"),
        (on_a_branch, (), "which is not in main: git pull, or merge it first"),
        (without_fact, (), "production/cluster.yaml has no line like 'source: version'"),
        (nothing, ("staging", "producton"), "'producton' (choose from 'aws', 'kind', 'minikube'"),
        (nothing, ("", "production"), "argument FROM: invalid choice: ''"),
        (nothing, ("staging", "staging"), "FROM and TO must differ"),
    ],
)  # fmt: skip
def test_it_refuses_says_why_and_leaves_everything_as_it_was(
    trial: Trial, change: Callable[[Trial], None], asked: tuple[str, ...], said: str
) -> None:
    change(trial)
    before = trial.git("status", "--branch", "--porcelain"), trial.git("branch", "--list")
    done = trial.promote(*asked)
    assert (done.returncode, done.stdout) == (2 if asked else 1, "")
    assert ("make promote: error: " if asked else "promote: ") in done.stderr
    untimed = re.sub(r"^ +\d+ s  ", "  ", done.stderr, flags=re.MULTILINE)
    assert said.format(old=OLD, head=trial.git("rev-parse", "main")) in untimed
    after = trial.git("status", "--branch", "--porcelain"), trial.git("branch", "--list")
    assert after == before

"""Make what one cluster has run healthy the version of another, as a commit on a branch."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import yaml

from scripts.gitops.diff import as_text, rendered
from scripts.gitops.flux import BRANCH, NAMESPACE, PINNED, BuildError
from scripts.gitops.source import CLUSTERS, commit, working_tree
from scripts.programs import ROOT, Kubectl, ProgramError, binary, git

IMAGES: Final = "base/components/images/kustomization.yaml"
_HEADER: Final = (
    "# The version of all but this folder. `make promote` writes it: docs/environments.md.\n"
)
_ENTRIES: Final = "- cluster.yaml\n- version.yaml"


class PromotionError(Exception):
    """Nothing is promoted; the message says why, and what to do."""


def running(kubectl: Kubectl, cluster: str) -> tuple[str, Mapping[str, Any]]:
    """Return the commit that a cluster runs healthy, and the spec of the GitRepository it follows.

    PromotionError, KubectlError: it is another cluster, or not all of it is ready.
    """
    if not kubectl.follows(cluster):
        where = kubectl.where()
        raise PromotionError(f"{where} follows no git: say with CONTEXT= which is {cluster}")
    context = {"KUBECTL": binary("kubectl"), "CONTEXT": kubectl.context or "", "TIMEOUT": "0"}
    done = subprocess.run(
        [ROOT / "scripts" / "flux-wait"],
        env={**os.environ, **context},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PromotionError(f"{cluster} is not ready, so nothing is promoted:\n{done.stdout}")
    # Last it says the revision of the branch or, where a commit is pinned, that.
    promoted = re.findall(r"\b[0-9a-f]{40}\b", done.stdout)[-1]
    which = ("gitrepository", BRANCH, f"--namespace={NAMESPACE}")
    return promoted, json.loads(kubectl.get("get", *which, "--output=json"))["spec"]


def write(to: str, source: str, promoted: str, spec: Mapping[str, Any]) -> str:
    """Pin a cluster to a commit in the working tree; return the tag of the images there.

    Where the cluster gets the repository from is kept if it is pinned already, and else as ``spec``
    has it.
    """
    images = yaml.safe_load(git("show", f"{promoted}:{IMAGES}"))["images"]
    tag: str = next(image["newTag"] for image in images if image["name"].startswith("facestack/"))
    folder = ROOT / CLUSTERS / to
    file = folder / "version.yaml"
    if file.exists():
        spec = yaml.safe_load(file.read_text())["spec"]
    for name, pattern, wanted in (
        ("kustomization.yaml", r"^- cluster\.yaml$(\n- version\.yaml$)?", _ENTRIES),
        ("cluster.yaml", r"^  source: \S+$", f"  source: {PINNED}"),
    ):
        text, count = re.subn(pattern, wanted, (folder / name).read_text(), flags=re.MULTILINE)
        if count != 1:
            line = wanted.split("\n")[0].strip()
            raise PromotionError(f"{CLUSTERS}/{to}/{name} has no line like '{line}': add it")
        (folder / name).write_text(text)
    version = {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {"name": PINNED, "namespace": NAMESPACE},
        # A commit does not change, so there is no hurry.
        "spec": {**spec, "ref": {"commit": promoted}, "interval": "1h"},
    }
    notes = (f"facestack.dev/images={tag}", f"facestack.dev/promoted-from={source}")
    command = ("annotate", "--local", "--filename=-", "--output=yaml", *notes)
    file.write_text(_HEADER + Kubectl().get(*command, given=json.dumps(version)))
    return tag


def promote(kubectl: Kubectl, source: str, to: str) -> None:
    """Make the commit; say what changes and what to do next.

    The checkout is afterwards as it was before.
    """
    base = git("branch", "--show-current").strip()
    if not base:
        raise PromotionError(f"no branch is checked out: git switch to the one that {to} follows")
    if dirty := git("status", "--porcelain").strip():
        raise PromotionError(f"commit or stash first what would not be promoted:\n{dirty}")
    promoted, spec = running(kubectl, source)
    try:
        git("merge-base", "--is-ancestor", promoted, base)
    except ProgramError:
        # Only what is in a branch stays findable.
        what = f"{source} runs {promoted}, which is not in {base}"
        raise PromotionError(f"{what}: git pull, or merge it first, not squashed") from None
    short = promoted[:12]
    branch = f"promote/{to}-{short}"
    try:
        tag = write(to, source, promoted, spec)
        with commit("HEAD") as before, working_tree() as after:
            found = rendered(before, after, to)
        # But for the name of the commit.
        changes = [one for one in found if one.title != f"GitRepository {NAMESPACE}/{PINNED}"]
        if not changes:
            raise PromotionError(f"nothing would change: {to} is pinned to what renders the same")
        title = f"Promote {tag} from {source} to {to}, at {short}"
        message = "\n".join([f"{title}\n", *(f"{one.layer}: {one}" for one in changes)])
        git("switch", "--quiet", "--detach")
        git("add", "--", f"{CLUSTERS}/{to}")
        git("commit", "--quiet", f"--message={message}")
        git("branch", branch)
    finally:
        git("reset", "--quiet", "--hard")
        git("clean", "--quiet", "--force", "--", f"{CLUSTERS}/{to}")
        git("switch", "--quiet", base)
    print(f"{as_text(to, changes)}\n\n{message}\n")
    print(f"This is on {branch}. {to} runs it when that is merged into {base}:\n")
    print(f"  git push --set-upstream origin {branch}")
    print(f"  gh pr create --base={base} --head={branch} --fill")


def main() -> None:
    """Promote; PromotionError: why not."""
    parser = argparse.ArgumentParser(prog="make promote", description=__doc__)
    names = sorted(path.parent.name for path in (ROOT / CLUSTERS).glob("*/cluster.yaml"))
    parser.add_argument("source", metavar="FROM", choices=names, help="the cluster that has run it")
    parser.add_argument("to", metavar="TO", choices=names, help="the cluster that is to run it")
    parser.add_argument("--context", help="of kubectl for FROM, when it is not the current one")
    arguments = parser.parse_args()
    if arguments.source == arguments.to:
        parser.error(f"{arguments.to} runs already what it runs: FROM and TO must differ")
    promote(Kubectl(arguments.context), arguments.source, arguments.to)


if __name__ == "__main__":
    try:
        main()
    except (PromotionError, ProgramError, BuildError) as error:
        sys.exit(f"promote: {error}")

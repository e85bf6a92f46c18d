"""Make what one cluster has run healthy the version of another, as a commit on a branch."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import yaml

from scripts.git import ROOT, GitError, git
from scripts.gitops.diff import Change, as_markdown, as_text, rendered
from scripts.gitops.flux import BRANCH, NAMESPACE, PINNED, BuildError
from scripts.gitops.source import CLUSTERS, commit, working_tree
from scripts.kubectl import Kubectl, KubectlError
from scripts.manifests import tools

IMAGES: Final = "base/components/images/kustomization.yaml"
_KINDS: Final = (
    "gitrepositories.source.toolkit.fluxcd.io,kustomizations.kustomize.toolkit.fluxcd.io"
)
_HEADER: Final = (
    "# The version of all but this folder. `make promote` writes it: docs/environments.md.\n"
)
_SHORT: Final = 12
_PIN: Final = f"GitRepository {NAMESPACE}/{PINNED}"


class PromotionError(Exception):
    """Nothing is promoted; the message says why, and what to do."""


def running(kubectl: Kubectl, cluster: str) -> tuple[str, Mapping[str, Any]]:
    """Return the commit that a cluster runs healthy, and the spec of the GitRepository it follows.

    PromotionError: it is another cluster, or not all of it is ready.
    """
    found = kubectl.get(
        "get", "configmap", "cluster", f"--namespace={NAMESPACE}", "--ignore-not-found", "-o=json"
    )
    facts = json.loads(found)["data"] if found else {}
    if facts.get("cluster") != cluster:
        follows = f"follows {CLUSTERS}/{facts['cluster']}" if facts else "follows no git"
        raise PromotionError(f"{kubectl.where()} {follows}: say with CONTEXT= which is {cluster}")
    items = json.loads(kubectl.get("get", _KINDS, f"--namespace={NAMESPACE}", "-o=json"))["items"]
    sources = {item["metadata"]["name"]: item for item in items if item["kind"] == "GitRepository"}
    revisions = {
        name: item.get("status", {}).get("artifact", {}).get("revision", "none")
        for name, item in sources.items()
    }
    reasons = [
        f"  {item['kind']} {item['metadata']['name']}: {reason}"
        for item in items
        if (reason := _not_ready(item, revisions))
    ]
    if reasons:
        raise PromotionError(
            "\n".join([f"{cluster} is not ready, so nothing is promoted:", *reasons])
        )
    _, _, promoted = revisions[facts["source"]].rpartition(":")
    return promoted, sources[BRANCH]["spec"]


def _not_ready(item: Mapping[str, Any], revisions: Mapping[str, str]) -> str | None:
    """Return why an object of Flux's is not ready at the revision of its source, if it is not."""
    spec, status = item["spec"], item.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    ready = conditions.get("Ready", {"status": "Unknown", "message": "not looked at yet"})
    if spec.get("suspend"):
        return "suspended: nothing is applied until it is resumed"
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        return "not looked at yet since it was changed"
    if ready["status"] != "True":
        return " ".join(str(ready["message"]).split())
    if item["kind"] == "Kustomization":
        wanted, applied = revisions[spec["sourceRef"]["name"]], status.get("lastAppliedRevision")
        if applied != wanted:
            return f"at {applied}, not at {wanted} yet"
    return None


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
    version = {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {
            "name": PINNED,
            "namespace": NAMESPACE,
            "annotations": {"facestack.dev/images": tag, "facestack.dev/promoted-from": source},
        },
        # A commit does not change, so there is no hurry.
        "spec": {**spec, "ref": {"commit": promoted}, "interval": "1h"},
    }
    file.write_text(_HEADER + yaml.dump(version, Dumper=_Dumper, sort_keys=False))
    for name, pattern, replacement in (
        (
            "kustomization.yaml",
            r"^- cluster\.yaml\n(- version\.yaml\n)?",
            "- cluster.yaml\n- version.yaml\n",
        ),
        ("cluster.yaml", r"^  source: \S+$", f"  source: {PINNED}"),
    ):
        text, count = re.subn(pattern, replacement, (folder / name).read_text(), flags=re.MULTILINE)
        if count != 1:
            line = replacement.split("\n")[0].strip()
            raise PromotionError(f"{CLUSTERS}/{to}/{name} has no line like '{line}': add it")
        (folder / name).write_text(text)
    return tag


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as it is read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _text)


def promote(kubectl: Kubectl, source: str, to: str, *, pull_request: bool) -> None:
    """Make the commit, and a pull request if that is wanted; say what changes and what to do next.

    The checkout is afterwards as it was before.
    """
    _check_asked(source, to, pull_request=pull_request)
    base = git("branch", "--show-current").strip()
    if not base:
        raise PromotionError(f"no branch is checked out: git switch to the one that {to} follows")
    if dirty := git("status", "--porcelain").strip():
        raise PromotionError(f"commit or stash first what would not be promoted:\n{dirty}")
    promoted, spec = running(kubectl, source)
    _check_is_in(base, promoted, source)
    short = promoted[:_SHORT]
    branch = f"promote/{to}-{short}"
    try:
        tag = write(to, source, promoted, spec)
        changes = _changes(to)
        title = f"Promote {tag} from {source} to {to}, at {short}"
        message = f"{title}\n\n{_listed(changes)}"
        git("switch", "--quiet", "--detach")
        git("add", "--", f"{CLUSTERS}/{to}")
        git("commit", "--quiet", f"--message={message}")
        git("branch", branch)
    finally:
        git("reset", "--quiet", "--hard")
        git("clean", "--quiet", "--force", "--", f"{CLUSTERS}/{to}")
        git("switch", "--quiet", base)
    print(f"{as_text({to: changes})}\n{message}\n")
    push = ["git", "push", "--set-upstream", "origin", branch]
    create = ["gh", "pr", "create", f"--base={base}", f"--head={branch}"]
    if pull_request:
        _run(push)
        _run([*create, f"--title={title}", "--body-file=-"], as_markdown({to: changes}))
    else:
        print(f"This is on {branch}. {to} runs it when that is merged into {base}:\n")
        print(f"  {' '.join(push)}\n  {' '.join([*create, '--fill'])}")


def _check_asked(source: str, to: str, *, pull_request: bool) -> None:
    """Raise PromotionError where what is asked for makes no sense here."""
    there = sorted(path.parent.name for path in (ROOT / CLUSTERS).glob("*/cluster.yaml"))
    for name in (source, to):
        if name not in there:
            raise PromotionError(f"there is no cluster '{name}', only {', '.join(there)}")
    if source == to:
        raise PromotionError(f"{source} runs already what it runs: FROM and TO must differ")
    if pull_request and not shutil.which("gh"):
        raise PromotionError(
            "PR=1 needs gh, https://cli.github.com: without PR=1 it is not asked for"
        )


def _changes(to: str) -> list[Change]:
    """Return what the working tree changes of a cluster, but for the name of the commit."""
    with commit("HEAD") as before, working_tree() as after:
        changes = [each for each in rendered(before, after, to) if each.title != _PIN]
    if not changes:
        raise PromotionError(f"nothing would change: {to} is pinned to what renders the same")
    return changes


def _check_is_in(base: str, promoted: str, source: str) -> None:
    """Raise PromotionError unless the commit is one of a branch, which keeps it from being lost."""
    try:
        contains = git("branch", "--list", base, f"--contains={promoted}").strip()
    except GitError:
        raise PromotionError(
            f"{source} runs {promoted}, which is not in this repository: git pull"
        ) from None
    if not contains:
        raise PromotionError(
            f"{source} runs {promoted}, which is not in {base}: merge it there first, not squashed"
        )


def _listed(changes: list[Change]) -> str:
    """Return a line for each object that changes."""
    return "\n".join(f"{each.sign} {each.kustomization}: {each.title}" for each in changes)


def _run(command: list[str], given: str = "") -> None:
    """Run a command whose words are for the terminal."""
    if subprocess.run(command, input=given, text=True, cwd=ROOT, check=False).returncode:
        raise PromotionError(f"'{' '.join(command)}' failed: see above")


def main() -> None:
    """Promote; PromotionError: why not."""
    parser = argparse.ArgumentParser(prog="make promote", description=__doc__)
    parser.add_argument(
        "source", metavar="FROM", help="the cluster that has run it: a folder of flux/clusters"
    )
    parser.add_argument("to", metavar="TO", help="the cluster that is to run it")
    parser.add_argument("--context", help="of kubectl for FROM, when it is not the current one")
    parser.add_argument(
        "--pr", action="store_true", help="push the branch and open a pull request with gh"
    )
    arguments = parser.parse_args()
    promote(Kubectl(arguments.context), arguments.source, arguments.to, pull_request=arguments.pr)


if __name__ == "__main__":
    try:
        main()
    except (PromotionError, GitError, KubectlError, BuildError, tools.MissingToolError) as error:
        sys.exit(f"promote: {error}")

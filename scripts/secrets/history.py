"""Looks for secrets that anybody can read: in every commit, and in the files as they are now."""

import json
import re
import subprocess
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, cast

import yaml

from scripts.secrets.errors import SecretsError

_FIXTURES: Final = {
    # Tests refuse manifests with these: in scripts/manifests/tests/broken and scripts/gitops/tests.
    "letmein",
    "dummy-for-the-test",
}
"""Values that open nothing; no other is let through."""

_AGE_KEY: Final = re.compile(rb"AGE-SECRET-KEY-(PQ-)?1[0-9A-Z]{50,}")
_PRIVATE_KEY: Final = re.compile(
    # In JSON, a line ends with a backslash and a letter.
    rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----(\s|\\[nr])+[A-Za-z0-9+/=]{40}"
)
# Whatever has one of these is looked at as YAML, of which JSON is a part.
_SUSPECT: Final = re.compile(rb"kind[\"']?\s*:\s*[^\n]{0,40}?\bSecret(List)?\b|secretGenerator")
_ENCRYPTED: Final = re.compile(r"ENC\[AES256_GCM,.*\]", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$\w+|\$\{\w+\}|\$\(.*\)", re.DOTALL)
_TEMPLATE_LINE: Final = re.compile(r"^[ \t]*\{\{.*\}\}[ \t]*$", re.MULTILINE)
_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}")
_YAML: Final = (".yaml", ".yml", ".json")
_SEPARATOR: Final = re.compile(r"^---.*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(?:---.*|\s*(?:```|~~~).*)$", re.MULTILINE)
_QUOTES: Final = re.compile(r"\"{3}\\?|'{3}\\?")
_KIND_LINE: Final = re.compile(
    r"[\s-]*(?:[\"']?kind[\"']?\s*:\s*[\"']?Secret(?:List)?\b|secretGenerator\s*:)"
)
_KEY: Final = re.compile(r"[\"']?[\w./-]+[\"']?\s*:(?:\s|$)|-(?:\s|$)|[]}#]")
_FIELD: Final = re.compile(r"^\s*(data|stringData|literals)\s*:", re.MULTILINE)
_SECRET: Final = re.compile(r"\bSecret\b")
_TEXTS: Final = ("data", "stringData")
_SHORT: Final = 12

_ADVICE: Final = (
    "whoever has the repository has it: change it where it is used (make secrets CLUSTER=..."
    " ROTATE=...), and encrypt what takes its place"
)
_NOT_YET: Final = "it is in no commit yet: encrypt it (make secrets CLUSTER=...) or take it away"


class _Loader(yaml.SafeLoader):
    """Reads every value as text, whatever its tag: only null and a merge have a meaning here."""


def _untagged(loader: _Loader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(cast("yaml.ScalarNode", node))


# Else 2024-99-99 would be a date, and an error that is not one of YAML.
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0].endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag and tag.endswith(":null")
}
_Loader.add_multi_constructor("", _untagged)


def check(root: Path) -> tuple[list[str], str]:
    """Return a line for each secret that can be read, and what was looked at."""
    if not (root / ".git").exists():
        return [], "looked at nothing, for this is no git repository"
    found = [
        f"{path}: {problem}: {_NOT_YET}"
        for path in _files(root)
        if (content := _content(root / path)) is not None
        for problem in _changed_problems(root, path, content)
    ]
    commits = 0
    for kind, name, path, content in _objects(root):
        commits += kind == "commit"
        seen = problems(path, content) if kind == "blob" else _key_problems(content)
        found += [f"{_where(root, kind, name, path)}: {problem}: {_ADVICE}" for problem in seen]
    looked_at = f"looked at {commits} commits and the files as they are"
    if _git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        looked_at += ", not at what came before: this clone is shallow (git fetch --unshallow)"
    return found, looked_at


def problems(path: str, content: bytes) -> Iterator[str]:
    """Yield what can be read in a file."""
    yield from _key_problems(content)
    if _SUSPECT.search(content):
        text = content.decode(errors="replace")
        if path.endswith(_YAML):
            yield from dict.fromkeys(_manifest_problems(text))
        else:
            yield from dict.fromkeys(_readable_text(text))


def _key_problems(content: bytes) -> Iterator[str]:
    if _AGE_KEY.search(content):
        yield "has a private age key"
    if _PRIVATE_KEY.search(content):
        yield "has a private key"


def _manifest_problems(text: str) -> Iterator[str]:
    # Each document on its own: one that is a template hides no other.
    for part in _SEPARATOR.split(text):
        try:
            yield from _readable(_parsed(part))
        except yaml.YAMLError:
            if _SUSPECT.search(part.encode()) and _FIELD.search(part):
                yield "looks like a Secret, and is no YAML that could be checked"


def _parsed(text: str) -> list[Any]:
    """Return the documents; what a template fills in is a variable in them."""
    text = _TEMPLATE.sub("${template}", _TEMPLATE_LINE.sub("", text))
    return list(yaml.load_all(text, Loader=_Loader))


def _readable(node: Any) -> Iterator[str]:
    """Yield what is not encrypted in a document, however deep it is."""
    if isinstance(node, str) and _SUSPECT.search(node.encode()):
        # A patch, a manifest in a ConfigMap, or a script that applies one.
        yield from _readable_text(node)
    elif isinstance(node, list):
        for child in node:
            yield from _readable(child)
    elif isinstance(node, dict):
        if node.get("kind") == "Secret":
            yield from _readable_secret(node)
        elif node.get("kind") == "SecretList":
            # The kind of each is known, so it may be left out.
            for secret in _mappings(node.get("items")):
                yield from _readable_secret(secret)
        yield from _readable_generators(node)
        yield from _readable_patch(node)
        for key, one in node.items():
            if not (node.get("kind") == "Secret" and key in _TEXTS):
                yield from _readable(one)


def _readable_text(text: str) -> Iterator[str]:
    """Yield what is not encrypted in the manifests that a text has among other things."""
    for part in (*_FENCE.split(text), *_blocks(text), *_blocks(text.replace("\\n", "\n"))):
        with suppress(yaml.YAMLError):
            yield from _readable(
                [document for document in _parsed(part) if not isinstance(document, str)]
            )


def _blocks(text: str) -> Iterator[str]:
    """Yield the lines around each that says it is a Secret, as YAML and as JSON."""
    lines = _QUOTES.sub("\n", text).splitlines()
    for number, line in enumerate(lines):
        if not _KIND_LINE.match(line):
            continue
        depth = _depth(line)
        first, last = number, number + 1
        while first and not _is_item(lines[first], depth) and _belongs(lines[first - 1], depth):
            first -= 1
        while (
            last < len(lines) and not _is_item(lines[last], depth) and _belongs(lines[last], depth)
        ):
            last += 1
        # Without the dash of a list: the other items do not matter.
        head = lines[first][:depth].replace("-", " ") + lines[first][depth:]
        block = textwrap.dedent("\n".join([head, *lines[first + 1 : last]]))
        yield block
        with suppress(ValueError):
            # Only what is JSON all over: the values of a dict in a program are names, mostly.
            yield json.dumps(json.loads(f"{{{block}}}"))


def _depth(line: str) -> int:
    """Return the column of the first character that is no dash of a list."""
    return len(line) - len(line.lstrip(" \t-"))


def _is_item(line: str, depth: int) -> bool:
    """Tell whether what is at this depth begins a new item of a list."""
    return _depth(line) == depth and "-" in line[:depth]


def _belongs(line: str, depth: int) -> bool:
    """Tell whether a line can be of the same manifest as a key at this depth."""
    if _is_item(line, depth) or not line.strip() or line.startswith("#"):
        return True
    indent = len(line) - len(line.lstrip())
    return indent > depth or (indent == depth and bool(_KEY.match(line, depth)))


def _readable_generators(node: dict[Any, Any]) -> Iterator[str]:
    for generator in _mappings(node.get("secretGenerator")):
        title = f"secretGenerator {generator.get('name')}"
        for literal in _listed(generator.get("literals")):
            key, _, text = str(literal).partition("=")
            if not _is_closed(text):
                yield f"{title} has {key} as it is"
        named = [*_listed(generator.get("files")), *_listed(generator.get("envs"))]
        for name in [*named, *_listed([generator.get("env")])]:
            yield f"{title} has what {name} names as it is"


def _readable_patch(node: dict[Any, Any]) -> Iterator[str]:
    """Yield what a patch that is for Secrets sets; one of JSON6902 says nowhere that it is."""
    target, patch = node.get("target"), node.get("patch")
    if not isinstance(target, dict) or not _SECRET.search(str(target.get("kind"))):
        return
    if isinstance(patch, str):
        with suppress(yaml.YAMLError):
            patch = _parsed(patch)
    for change in _mappings(_flat(patch)):
        _, field, key = (*str(change.get("path", "")).split("/", 2), "", "")[:3]
        value = change.get("value")
        texts = change if "op" not in change else {field: {key: value} if key else value}
        yield from _readable_secret({"metadata": target, **texts})


def _readable_secret(node: dict[Any, Any]) -> Iterator[str]:
    metadata = node.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    title = f"Secret {name or 'without a name'}"
    for field in _TEXTS:
        texts = node.get(field)
        if isinstance(texts, dict):
            for key, text in texts.items():
                if not _is_closed(text):
                    yield f"{title} has {field}.{key} that is not encrypted"
        elif not _is_closed(texts):
            yield f"{title} has {field} that is not encrypted"


def _is_closed(value: Any) -> bool:
    """Tell whether a value opens nothing: it is empty, encrypted, a fixture or to be filled in."""
    if isinstance(value, dict):
        # {name} in a string of Python.
        return not any(value.values())
    text = str(value or "")
    shapes = (_ENCRYPTED, _VARIABLE)
    return not text or text in _FIXTURES or any(shape.fullmatch(text) for shape in shapes)


def _mappings(node: Any) -> list[dict[Any, Any]]:
    return [entry for entry in _listed(node) if isinstance(entry, dict)]


def _flat(node: Any) -> list[Any]:
    """Return what is in lists of lists, or the one that is in none."""
    return [inner for part in node for inner in _flat(part)] if isinstance(node, list) else [node]


def _listed(node: Any) -> list[Any]:
    return [entry for entry in node if entry] if isinstance(node, list) else []


# What git has.


def _files(root: Path) -> list[str]:
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted({path for path in listed.split("\0") if path})


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() and not file.is_symlink() else None


def _changed_problems(root: Path, path: str, content: bytes) -> Iterable[str]:
    """Return what a file shows that no commit has: the others are told with their commit."""
    found = list(problems(path, content))
    if found:
        name = _git(root, "hash-object", "--no-filters", path).strip()
        if _arrivals(root, name):
            return []
    return found


def _objects(root: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield kind, name, path and content of every object that a commit, tag or branch leads to."""
    paths: dict[str, str] = {}
    for line in _git(root, "rev-list", "--objects", "--all", *_head(root)).splitlines():
        name, _, path = line.partition(" ")
        paths[name] = path
    kinds = _git(root, "cat-file", "--batch-check", text="\n".join(paths)).splitlines()
    wanted = [line.split()[0] for line in kinds if line.split()[1] in {"blob", "commit", "tag"}]
    with tempfile.TemporaryFile() as names:
        names.write("\n".join([*wanted, ""]).encode())
        names.seek(0)
        command = [*_command(root), "cat-file", "--batch", "--buffer"]
        with (
            subprocess.Popen(command, stdin=names, stdout=subprocess.PIPE) as process,
            cast("IO[bytes]", process.stdout) as answers,
        ):
            for name in wanted:
                _, kind, size = answers.readline().decode().split()
                content = answers.read(int(size))
                answers.read(1)
                yield kind, name, paths[name], content


def _head(root: Path) -> list[str]:
    """Return HEAD where there is one: it may be on no branch."""
    return ["HEAD"] if _git(root, "rev-parse", "--verify", "-q", "HEAD", check=False) else []


def _arrivals(root: Path, blob: str) -> list[tuple[str, str]]:
    """Return every commit that brought the content of a file, and its name there; newest first."""
    command = ("log", "--all", *_head(root), "-m", "--root", "--no-renames", "--diff-filter=AM")
    log = _git(root, *command, f"--find-object={blob}", "--format=>%H", "--name-only")
    found = []
    for entry in log.split(">")[1:]:
        commit, *names = entry.split("\n")
        found += [(commit, name) for name in names if name]
    return found


def _where(root: Path, kind: str, name: str, path: str) -> str:
    if kind != "blob":
        return f"{kind} {name[:_SHORT]}"
    arrivals = _arrivals(root, name)
    commit, path = arrivals[-1] if arrivals else ("", path)
    return f"commit {commit[:_SHORT]} {path}" if commit else f"object {name[:_SHORT]} {path}"


def _command(root: Path) -> list[str]:
    # As root in a folder of somebody else's git refuses without this.
    return ["git", "-C", str(root), "-c", f"safe.directory={root}"]


def _git(root: Path, *arguments: str, text: str = "", check: bool = True) -> str:
    done = subprocess.run(
        [*_command(root), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and check:
        raise SecretsError(f"git {arguments[0]} says: {done.stderr.strip()}")
    return done.stdout if done.returncode == 0 else ""

"""Secrets: who makes them, who reads them, and from which file."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from scripts.manifests.design import GIVEN_SECRETS, RIGHTS, TOKEN_FILES, TOKEN_FOLDER
from scripts.manifests.model import (
    Container,
    Document,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    mapping,
    title,
)
from scripts.manifests.rules.config_maps import ROOT_CERTIFICATE
from scripts.manifests.rules.settings import environment

CERTIFICATE_FILES: Final = ("ca.crt", "tls.crt", "tls.key")
Files: TypeAlias = dict[str, tuple[str, str]]  # a file's path: its Secret and key


def made_secrets(manifests: Manifests) -> dict[str, set[str]]:
    """Return the keys of every Secret that will exist: those of Jobs, of cert-manager, external."""
    made: dict[str, set[str]] = {}
    for workload in manifests.workloads:
        args = [str(word) for one in workload.containers for word in one.spec.get("args") or []]
        if workload.name == "credentials":
            for name, _, keys in (argument.partition("=") for argument in args):
                made.setdefault(name, set()).update(keys.split(","))
        if workload.name == "certificates":
            made |= {f"tls-{name}": set(CERTIFICATE_FILES) for name in args}
    for certificate in manifests.kind("Certificate"):
        if not at(certificate, "spec.isCA"):
            made[str(at(certificate, "spec.secretName"))] = set(CERTIFICATE_FILES)
    for external in manifests.kind("ExternalSecret"):
        target = at(external, "spec.target.name") or at(external, "metadata.name")
        found = {str(item.get("secretKey")) for item in items(external, "spec.data")}
        found |= mapping(external, "spec.target.template.data").keys()
        made.setdefault(str(target), set()).update(found)
    return made


def sources(volume: Document) -> Iterator[tuple[str, dict[str, str], bool]]:
    """Yield name and file-by-key (empty: all keys) of every Secret in a volume.

    Last comes whether its keys may be missing.
    """
    if found := at(volume, "secret"):
        yield str(found.get("secretName")), _items(found), found.get("optional") is True
    for source in items(volume, "projected.sources"):
        if found := at(source, "secret"):
            yield str(found.get("name")), _items(found), found.get("optional") is True


def _items(source: Document) -> dict[str, str]:
    return {str(item.get("key")): str(item.get("path")) for item in items(source, "items")}


def _references(workload: Workload) -> Iterator[tuple[str, str, list[str]]]:
    """Yield field, name and keys, which it cannot do without, of every Secret of a workload."""
    for volume in items(workload.pod, "volumes"):
        for name, files, optional in sources(volume):
            keys = [] if optional else list(files)
            yield f"spec.template.spec.volumes[{volume.get('name')}]", name, keys
    for container in workload.containers:
        for variable in items(container.spec, "env"):
            if reference := at(variable, "valueFrom.secretKeyRef"):
                field = f"{container.field}.env[{variable.get('name')}]"
                yield field, str(reference.get("name")), [str(reference.get("key"))]


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that every Secret that is used is made with that key, and the other way round."""
    made = made_secrets(manifests)
    used = set()
    for workload in manifests.workloads:
        for field, name, keys in _references(workload):
            used.add(name)
            if name not in made and name not in GIVEN_SECRETS:
                problem = f"nobody makes the Secret {name}: add it to the credentials Job"
                yield workload.finding(field, problem)
            for key in set(keys) - made.get(name, set(keys)):
                yield workload.finding(field, f"the Secret {name} has no {key}")
    for name in sorted(made.keys() - used):
        yield Finding(f"Secret/{name}", "metadata.name", "is made, and nobody uses it")
    for document in manifests.kind("Secret"):
        yield Finding(title(document), "kind", "take it away: no secret stands in git")


def optional_keys(manifests: Manifests) -> Iterator[Finding]:
    """Check that a previous password and what operators bring may be missing, and nothing else.

    Where others make the Secrets, each must be there all the same: nobody adds it later.
    """
    external = any(manifests.kind("ExternalSecret"))
    made = made_secrets(manifests)
    for workload in manifests.workloads:
        for volume in items(workload.pod, "volumes"):
            field = f"spec.template.spec.volumes[{volume.get('name')}]"
            for name, files, optional in sources(volume):
                previous = bool(files) and all(key.startswith("previous-") for key in files)
                may_be_missing = previous or name in GIVEN_SECRETS
                if optional != may_be_missing:
                    advice = "set" if may_be_missing else "take away"
                    yield workload.finding(field, f"{advice} optional: true of Secret {name}")
                if name in GIVEN_SECRETS and files.keys() != GIVEN_SECRETS[name]:
                    keys = ", ".join(sorted(GIVEN_SECRETS[name]))
                    yield workload.finding(field, f"name the keys of Secret {name}: {keys}")
                if external and previous and not files.keys() <= made.get(name, set()):
                    problem = f"the ExternalSecret {name} has no {', '.join(files)}"
                    yield workload.finding(field, problem)


def _files(workload: Workload, container: Container, made: Mapping[str, set[str]]) -> Files:
    """Return the files of all Secrets in a container."""
    found = {}
    volumes = {volume.get("name"): volume for volume in items(workload.pod, "volumes")}
    for mount in items(container.spec, "volumeMounts"):
        for name, files, _ in sources(volumes.get(mount.get("name"), {})):
            for key in files or made.get(name, set()):
                found[f"{mount.get('mountPath')}/{files.get(key, key)}"] = (name, key)
    return found


def files_of(manifests: Manifests, workload: Workload, container: Container) -> Files:
    """Return the files of all Secrets in a container, each with its Secret and key."""
    return _files(workload, container, made_secrets(manifests))


def _inside(files: Files, folder: str | None) -> Files:
    """Return the files in a folder, by name."""
    split = {path.rpartition("/"): secret for path, secret in files.items()}
    return {name: secret for (place, _, name), secret in split.items() if place == folder}


def files(manifests: Manifests) -> Iterator[Finding]:
    """Check that settings name the files of Secrets that are mounted, and all of them."""
    made = made_secrets(manifests)
    for workload in manifests.workloads:
        for container in workload.containers:
            there = _files(workload, container, made)
            named: set[str] = set()
            for variable, value in environment(manifests, container.spec).items():
                field = f"{container.field}.env[{variable}]"
                if variable.endswith("_FILE"):
                    # Services look for the password before this one beside it.
                    folder, _, name = value.rpartition("/")
                    named |= {value, f"{folder}/previous-{name}"}
                    if value not in there:
                        known = ", ".join(sorted(there)) or "none"
                        yield workload.finding(field, f"{value} is no secret's file: {known} is")
                elif variable.endswith("_FOLDER"):
                    named |= {f"{value}/{name}" for name in _inside(there, value)}
                    if not _inside(there, value):
                        yield workload.finding(field, f"no secret is mounted at {value}")
            words = [str(word) for word in container.spec.get("args") or []]
            named |= {file for file in there if any(word.endswith(f"={file}") for word in words)}
            for file in sorted(there.keys() - named):
                field = f"{container.field}.volumeMounts"
                yield workload.finding(field, f"no setting names the secret's file {file}")


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that Secrets and tokens are mounted for reading only."""
    for workload in manifests.workloads:
        secret = {
            volume.get("name")
            for volume in items(workload.pod, "volumes")
            if volume.keys() & {"secret", "projected"}
        }
        for container in workload.containers:
            for mount in items(container.spec, "volumeMounts"):
                if mount.get("name") in secret and mount.get("readOnly") is not True:
                    field = f"{container.field}.volumeMounts[{mount.get('name')}].readOnly"
                    yield workload.finding(field, "set true: it is a secret")


_SHORTEST, _LONGEST = 600, 3599  # seconds that a token lives; an hour is what is said by nothing


def tokens(manifests: Manifests) -> Iterator[Finding]:
    """Check that who has rights has a short-lived token, and nobody else has one."""
    having = {name for name, *_ in RIGHTS}
    for workload in manifests.workloads:
        places = {
            mount.get("name"): mount.get("mountPath")
            for container in workload.containers
            for mount in items(container.spec, "volumeMounts")
        }
        found = set()
        for volume in items(workload.pod, "volumes"):
            field = f"spec.template.spec.volumes[{volume.get('name')}].projected"
            for source in items(volume, "projected.sources"):
                paths = set(_token_paths(source))
                found |= {f"{places.get(volume.get('name'))}/{path}" for path in paths}
                token = mapping(source, "serviceAccountToken")
                seconds = token.get("expirationSeconds", 3600)
                if token and not _SHORTEST <= seconds <= _LONGEST:
                    advice = f"is {seconds}: set {_SHORTEST} to {_LONGEST}"
                    yield workload.finding(f"{field}.expirationSeconds", advice)
        wanted = {f"{TOKEN_FOLDER}/{name}" for name in TOKEN_FILES}
        if found != (wanted if workload.name in having else set()):
            who = "only these" if workload.name in having else "nothing of these"
            advice = f"mount {who}: {', '.join(sorted(wanted))}"
            yield workload.finding("spec.template.spec.volumes", advice)


def _token_paths(source: Document) -> Iterator[str]:
    """Yield the files of one source that belong to a token: itself, certificate, namespace."""
    if token := at(source, "serviceAccountToken"):
        yield str(token.get("path"))
    for item in items(source, "configMap.items"):
        if (at(source, "configMap.name"), item.get("key")) == (ROOT_CERTIFICATE, "ca.crt"):
            yield str(item.get("path"))
    for item in items(source, "downwardAPI.items"):
        if at(item, "fieldRef.fieldPath") == "metadata.namespace":
            yield str(item.get("path"))


_BEFORE: Final = ".previous"
_LOGIN: Final = re.compile(r"\w+\+\w+://(?P<user>\w+)@[^/]+/(?P<database>\w+)(\?.*)?")


def database_users(manifests: Manifests) -> Iterator[Finding]:
    """Check that each user logs in with the password that migrations gives it."""
    made = made_secrets(manifests)
    given: dict[str, tuple[str, str] | None] = {}
    used: dict[str, tuple[Workload, tuple[str, str] | None]] = {}
    for workload in manifests.workloads:
        for container in workload.containers:
            variables = environment(manifests, container.spec)
            there = _files(workload, container, made)
            given |= _inside(there, variables.get("DATABASE_USERS_FOLDER"))
            root = variables.get("MARIADB_ROOT_PASSWORD_FILE")
            if root:
                used["root"] = (workload, there.get(root))
            if found := _LOGIN.fullmatch(variables.get("DATABASE_URL", "")):
                password = there.get(variables.get("DATABASE_PASSWORD_FILE", ""))
                if found["user"] == "root":
                    given["root"] = password
                else:
                    used[found["user"]] = (workload, password)
    yield from _previous_passwords(given)
    for user, (workload, secret) in used.items():
        if secret and given.get(user) != secret:
            advice = (
                f"user {user} logs in with {'/'.join(secret)}: migrations must give it the same"
            )
            yield workload.finding("spec.template.spec.volumes", advice)
    for user in sorted(given.keys() - used.keys() - {"root"}):
        yield Finding("Job of migrations", "spec.template.spec.volumes", f"nobody is user {user}")


def _previous_passwords(given: dict[str, tuple[str, str] | None]) -> Iterator[Finding]:
    """Check that each service's user has its previous password, and take those out."""
    field = "spec.template.spec.volumes"
    before = {name: given.pop(name) for name in [*given] if name.endswith(_BEFORE)}
    for user, secret in given.items():
        wanted = secret and (secret[0], f"previous-{secret[1]}")
        if user != "root" and before.pop(f"{user}{_BEFORE}", None) != wanted:
            advice = f"{user}{_BEFORE} must be, optionally, the previous password of {user}"
            yield Finding("Job of migrations", field, advice)
    for name in sorted(before):
        yield Finding("Job of migrations", field, f"nobody is user {name}")


def database_names(manifests: Manifests) -> Iterator[Finding]:
    """Check that everybody uses the one database, and that MariaDB makes it."""
    names: set[str] = set()
    for workload in manifests.workloads:
        for container in workload.containers:
            variables = environment(manifests, container.spec)
            own = variables.get("MARIADB_DATABASE")
            if workload.name == "mariadb" and not own:
                field = f"{container.field}.env[MARIADB_DATABASE]"
                yield workload.finding(field, "is missing: set it")
            found = _LOGIN.fullmatch(variables.get("DATABASE_URL", ""))
            names |= {name for name in (own, found and found["database"]) if name}
    if len(names) > 1:
        advice = f"are {', '.join(sorted(names))}: use one database"
        yield Finding("DATABASE_URL, MARIADB_DATABASE", "value", advice)

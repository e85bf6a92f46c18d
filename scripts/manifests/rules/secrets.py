"""Secrets: who makes them, who reads them, and from which file.

Ours, because no tool on the shelf follows a password from who makes it to the setting that names
its file, nor knows that two work while they are rotated.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from scripts.manifests.model import (
    Container,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    mapping,
    title,
)
from scripts.manifests.rules.fields import checks
from scripts.manifests.rules.network import has_token
from scripts.manifests.rules.settings import settings_of

Secret: TypeAlias = tuple[str, str]  # name and key

_CERTIFICATE: Final = frozenset({"ca.crt", "tls.crt", "tls.key"})
_PREVIOUS: Final = "previous-"
_LOGIN: Final = re.compile(r"\w+\+\w+://(?P<user>\w+)@[^/]+/(?P<database>\w+)(\?.*)?")


def made_secrets(manifests: Manifests) -> dict[str, set[str]]:
    """Return the keys of every Secret that will exist: those of Jobs, of cert-manager, external."""
    made: dict[str, set[str]] = {}
    for workload in manifests.workloads:
        args = [str(w) for one in workload.containers for w in one.spec.get("args") or []]
        services = {container.image.service for container in workload.containers}
        if services == {"credentials"} and workload.name == "credentials":
            for name, _, keys in (argument.partition("=") for argument in args):
                made.setdefault(name, set()).update(keys.split(","))
        elif services == {"credentials"}:
            made |= {f"tls-{name}": set(_CERTIFICATE) for name in args}
    for certificate in manifests.kind("Certificate"):
        if not at(certificate, "spec.isCA"):
            made[str(at(certificate, "spec.secretName"))] = set(_CERTIFICATE)
    for external in manifests.kind("ExternalSecret"):
        target = at(external, "spec.target.name") or at(external, "metadata.name")
        found = {str(item.get("secretKey")) for item in items(external, "spec.data")}
        found |= mapping(external, "spec.target.template.data").keys()
        made.setdefault(str(target), set()).update(found)
    return made


def _sources(workload: Workload) -> Iterator[tuple[str, str, dict[str, str], bool]]:
    """Yield volume, Secret, file by key (empty: all keys) and whether it may be missing."""
    for volume in items(workload.pod, "volumes"):
        secret = mapping(volume, "secret")
        parts = [{**secret, "name": secret.get("secretName")}] if secret else []
        parts += [dict(mapping(s, "secret")) for s in items(volume, "projected.sources")]
        for part in filter(None, parts):
            files = {str(item.get("key")): str(item.get("path")) for item in items(part, "items")}
            yield (
                str(volume.get("name")),
                str(part.get("name")),
                files,
                part.get("optional") is True,
            )


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that every Secret that is used is made with that key, and the other way round."""
    made = made_secrets(manifests)
    external = any(manifests.kind("ExternalSecret"))
    used = set()
    for workload in manifests.workloads:
        for volume, name, files, optional in _sources(workload):
            used.add(name)
            for problem in _volume(name, files, made.get(name), optional=optional, fixed=external):
                yield workload.finding(f"{workload.field}.volumes[{volume}]", problem)
    for workload, container in manifests.containers:
        for variable in items(container.spec, "env"):
            if reference := mapping(variable, "valueFrom.secretKeyRef"):
                used.add(name := str(reference.get("name")))
                if reference.get("key") not in made.get(name, set()):
                    field = f"{container.field}.env[{variable.get('name')}]"
                    yield workload.finding(field, f"nobody makes {name} with this key")
    for name in sorted(made.keys() - used):
        yield Finding(f"Secret/{name}", "metadata.name", "is made, and nobody uses it")


def _volume(
    name: str, files: Mapping[str, str], made: set[str] | None, *, optional: bool, fixed: bool
) -> Iterator[str]:
    """Yield what is wrong with a Secret in a volume.

    What nobody makes, an operator may bring: it may be missing, as may a password before this one;
    but where others make the Secrets (``fixed``), nobody adds a key later.
    """
    previous = bool(files) and all(key.startswith(_PREVIOUS) for key in files)
    if made is None:
        if not optional:
            yield f"nobody makes the Secret {name}: add it to the credentials Job"
        elif not files:
            yield f"name the keys of Secret {name}, which an operator brings"
        return
    if optional != previous:
        yield f"{'set' if previous else 'take away'} optional: true of Secret {name}"
    for key in () if previous and not fixed else sorted(files.keys() - made):
        yield f"the Secret {name} has no {key}"


def _files(
    workload: Workload, container: Container, made: Mapping[str, set[str]]
) -> dict[str, Secret]:
    """Return the files of all Secrets in a container, each with its Secret and key."""
    places = {m.get("name"): m.get("mountPath") for m in items(container.spec, "volumeMounts")}
    return {
        f"{places[volume]}/{files.get(key, key)}": (name, key)
        for volume, name, files, _ in _sources(workload)
        if volume in places
        for key in files or made.get(name, set())
    }


def _inside(files: Mapping[str, Secret], folder: str | None) -> dict[str, Secret]:
    """Return the files in a folder, by name."""
    split = {path.rpartition("/"): secret for path, secret in files.items()}
    return {name: secret for (place, _, name), secret in split.items() if place == folder}


def files(manifests: Manifests) -> Iterator[Finding]:
    """Check that settings name the files of Secrets that are mounted, and all of them."""
    made = made_secrets(manifests)
    for workload, container in manifests.containers:
        there = _files(workload, container, made)
        named = {file for file in there if any(w.endswith(f"={file}") for w in container.words)}
        for variable, value in container.environment.items():
            field = f"{container.field}.env[{variable}]"
            if variable.endswith("_FILE"):
                # Services look for the password before this one beside it.
                folder, _, name = value.rpartition("/")
                named |= {value, f"{folder}/{_PREVIOUS}{name}"}
                if value not in there:
                    known = ", ".join(sorted(there)) or "none"
                    yield workload.finding(field, f"{value} is no secret's file: {known} is")
            elif variable.endswith("_FOLDER"):
                named |= {f"{value}/{name}" for name in _inside(there, value)}
                if not _inside(there, value):
                    yield workload.finding(field, f"no secret is mounted at {value}")
        for file in sorted(there.keys() - named):
            field = f"{container.field}.volumeMounts"
            yield workload.finding(field, f"no setting names the secret's file {file}")


def database_users(manifests: Manifests) -> Iterator[Finding]:
    """Check that each user logs in with the password that migrations gives it.

    While a password is rotated, the one before works too: of each user both are there.
    """
    given, used, names = _users(manifests)
    if len(names) > 1:
        advice = f"are {', '.join(sorted(names))}: use one database"
        yield Finding("DATABASE_URL, MARIADB_DATABASE", "value", advice)
    for user, secret in used.items():
        if given.get(user) != secret:
            advice = f"{'/'.join(secret)} is not what migrations gives the user {user}"
            yield Finding(f"user {user}", "DATABASE_PASSWORD_FILE", advice)
        if user != "root" and given.get(f"{user}.previous") != (secret[0], _PREVIOUS + secret[1]):
            advice = f"{user}.previous must be, optionally, the previous password of {user}"
            yield Finding("Job of migrations", "spec.template.spec.volumes", advice)


def _users(manifests: Manifests) -> tuple[dict[str, Secret], dict[str, Secret], set[str]]:
    """Return the passwords that are given, those that are used, and the databases."""
    made = made_secrets(manifests)
    given: dict[str, Secret] = {}
    used: dict[str, Secret] = {}
    names: set[str] = set()
    for workload, container in manifests.containers:
        variables = container.environment
        there = _files(workload, container, made)
        given |= _inside(there, variables.get("DATABASE_USERS_FOLDER"))
        if root := variables.get("MARIADB_ROOT_PASSWORD_FILE"):
            given["root"] = there.get(root, ("nobody", ""))
            names.add(variables.get("MARIADB_DATABASE", "none"))
        login = _LOGIN.fullmatch(variables.get("DATABASE_URL", ""))
        if login and (secret := there.get(variables.get("DATABASE_PASSWORD_FILE", ""))):
            names.add(login["database"])
            used[login["user"]] = secret
    # Where others run the database, its administrator is a fact.
    return {"root": used.get("root", ("nobody", "")), **given}, used, names


def encrypted(manifests: Manifests) -> Iterator[Finding]:
    """Check that every client has the authority, every server a certificate, and its key alone."""
    made = made_secrets(manifests)
    for workload in manifests.workloads:
        words = [word for container in workload.containers for word in container.words]
        for line in checks()["arguments"]:
            if workload.name == line["of"] and not any(w.startswith(line["starts"]) for w in words):
                advice = f"lacks {line['starts']}: add it, or it speaks with somebody in plain text"
                yield workload.finding(f"{workload.field}.containers.args", advice)
        for volume, name, files_, _ in _sources(workload):
            is_others = name.startswith("tls-") and name != f"tls-{workload.name}"
            if is_others and [*files_] != ["ca.crt"]:
                field = f"{workload.field}.volumes[{volume}]"
                yield workload.finding(field, f"of Secret {name} mount ca.crt alone")
    for workload, container in manifests.containers:
        own = {(f"tls-{workload.name}", key) for key in _CERTIFICATE}
        there = _files(workload, container, made)
        for name, problem in _plain(container, there, own):
            yield workload.finding(f"{container.field}.env[{name}]", problem)


def _plain(
    container: Container, there: Mapping[str, Secret], own: set[Secret]
) -> Iterator[tuple[str, str]]:
    """Yield settings by which something would go in plain text or to somebody else, and why."""
    given = container.environment
    endpoint = given.get("S3_ENDPOINT", "")
    if given.get("DATABASE_URL", "").startswith("mysql") and "DATABASE_CA_FILE" not in given:
        yield "DATABASE_CA_FILE", "is missing: set it, or anybody may answer"
    if endpoint and "S3_CA_FILE" not in given:
        yield "S3_CA_FILE", "is missing: set it, or anybody may answer"
    if endpoint and not endpoint.startswith("https://"):
        yield "S3_ENDPOINT", f"is {endpoint}: set an address that starts with https://"
    whole = settings_of(container)
    if whole and "tls_folder" in whole.model_fields:
        folder = given.get("TLS_FOLDER")
        if set(_inside(there, folder).values()) != own:
            yield "TLS_FOLDER", f"is {folder}: the certificate of its own must be there"


def tokens(manifests: Manifests) -> Iterator[Finding]:
    """Check that who has rights has a token, nobody else has one, and Secrets are seen by name."""
    bound = {
        subject.get("name"): manifests.find("Role", at(binding, "roleRef.name"))
        for binding in manifests.kind("RoleBinding")
        for subject in items(binding, "subjects")
    }
    for workload in manifests.workloads:
        role = bound.get(workload.pod.get("serviceAccountName"))
        if has_token(workload) != (role is not None):
            advice = "take the token away" if role is None else "mount a token: it has rights"
            yield workload.finding(f"{workload.field}.volumes", advice)
        issued = {f"tls-{arg}" for c in workload.containers for arg in c.spec.get("args") or []}
        seen = set()
        for rule in items(role, "rules"):
            if "secrets" in (rule.get("resources") or []) and rule.get("verbs") != ["create"]:
                seen |= set(rule.get("resourceNames") or ["all"])
        wanted = issued | {"tls-ca"} if seen else set()
        if not wanted <= seen or not all(name.startswith("tls-") for name in seen):
            advice = f"may see {', '.join(sorted(seen))}: {', '.join(sorted(wanted))} is right"
            yield Finding(title(role or {}), "rules", advice)


def versions(manifests: Manifests) -> Iterator[Finding]:
    """Check that an external secret has its own value, and the one before where that is meant."""
    for secret in manifests.kind("ExternalSecret"):
        for entry in items(secret, "spec.data"):
            previous = str(entry.get("secretKey")).startswith(_PREVIOUS)
            wanted = {"key": f"facestack/{at(secret, 'metadata.name')}"}
            wanted |= {"version": "AWSPREVIOUS"} if previous else {}
            if (found := entry.get("remoteRef")) != wanted:
                yield Finding(title(secret), "spec.data.remoteRef", f"is {found}: set {wanted}")

"""Secrets: who makes them, who reads them, and from which file.

Ours, because no tool on the shelf follows a password from who makes it to the setting that names
its file, nor knows that two work while they are rotated.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

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
from scripts.manifests.rules.network import has_token
from scripts.manifests.rules.settings import settings_of

Secret: TypeAlias = tuple[str, str]  # name and key

_CERTIFICATE: Final = frozenset({"ca.crt", "tls.crt", "tls.key"})
_PREVIOUS: Final = "previous-"
_LOGIN: Final = re.compile(r"\w+\+\w+://(?P<user>\w+)@[^/]+/(?P<database>\w+)(\?.*)?")


class _Source(NamedTuple):
    """A Secret in a volume, with the file of each key; without files, all keys are there."""

    volume: str
    secret: str
    files: Mapping[str, str]
    optional: bool


def _sources(workload: Workload) -> Iterator[_Source]:
    for volume in items(workload.pod, "volumes"):
        projected = (mapping(source, "secret") for source in items(volume, "projected.sources"))
        for secret in filter(None, (mapping(volume, "secret"), *projected)):
            name = str(secret.get("secretName", secret.get("name")))
            files = {str(item.get("key")): str(item.get("path")) for item in items(secret, "items")}
            optional = secret.get("optional") is True
            yield _Source(str(volume.get("name")), name, files, optional)


def _made(manifests: Manifests) -> Mapping[str, set[str]]:
    """Return the keys of every Secret that will exist: those of Jobs, of cert-manager, external."""
    made: defaultdict[str, set[str]] = defaultdict(set)
    for _, container in manifests.containers:
        is_maker = container.image.service == "credentials"
        for argument in (container.spec.get("args") or []) if is_maker else []:
            name, _, keys = str(argument).partition("=")
            if not keys:
                made[f"tls-{name}"] |= _CERTIFICATE
            elif keys == "password":  # the one before is there while it is rotated
                made[name] |= {keys, _PREVIOUS + keys}
            else:
                made[name] |= set(keys.split(","))
    for certificate in manifests.kind("Certificate"):
        if not at(certificate, "spec.isCA"):
            made[str(at(certificate, "spec.secretName"))] |= _CERTIFICATE
    for external in manifests.kind("ExternalSecret"):
        name = str(at(external, "spec.target.name") or at(external, "metadata.name"))
        made[name] |= {str(item.get("secretKey")) for item in items(external, "spec.data")}
        made[name] |= mapping(external, "spec.target.template.data").keys()
    return made


def _mounted(manifests: Manifests) -> Iterator[tuple[Workload, Container, dict[str, Secret]]]:
    """Yield every container with the files of Secrets in it."""
    made = _made(manifests)
    for workload, container in manifests.containers:
        places = {m.get("name"): m.get("mountPath") for m in items(container.spec, "volumeMounts")}
        files = {
            f"{places[source.volume]}/{source.files.get(key, key)}": (source.secret, key)
            for source in _sources(workload)
            if source.volume in places
            for key in source.files or sorted(made.get(source.secret, ()))
        }
        yield workload, container, files


def _inside(files: Mapping[str, Secret], folder: str | None) -> dict[str, Secret]:
    """Return the files in a folder, by name."""
    split = {path.rpartition("/"): secret for path, secret in files.items()}
    return {name: secret for (place, _, name), secret in split.items() if place == folder}


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that every Secret that is used is made with that key, and the other way round."""
    made, used = _made(manifests), set()
    for workload in manifests.workloads:
        for source in _sources(workload):
            used.add(source.secret)
            for problem in _problems(source, made.get(source.secret)):
                yield workload.finding(f"{workload.field}.volumes[{source.volume}]", problem)
    for workload, container in manifests.containers:
        for variable in items(container.spec, "env"):
            if reference := mapping(variable, "valueFrom.secretKeyRef"):
                used.add(name := str(reference.get("name")))
                if reference.get("key") not in made.get(name, ()):
                    field = f"{container.field}.env[{variable.get('name')}]"
                    yield workload.finding(field, f"nobody makes {name} with this key")
    for name in sorted(made.keys() - used):
        yield Finding(f"Secret/{name}", "metadata.name", "is made, and nobody uses it")


def _problems(source: _Source, made: set[str] | None) -> Iterator[str]:
    """Yield what is wrong with a Secret in a volume; what nobody makes, an operator may bring."""
    name, previous = source.secret, {key.startswith(_PREVIOUS) for key in source.files} == {True}
    if made is None:
        if not source.optional:
            yield f"nobody makes the Secret {name}: add it to the credentials Job"
        return
    if source.optional != previous:
        yield f"{'set' if previous else 'take away'} optional: true of Secret {name}"
    for key in sorted(source.files.keys() - made):
        yield f"the Secret {name} has no {key}"


def files(manifests: Manifests) -> Iterator[Finding]:
    """Check that settings name the files of Secrets that are mounted, and all of them."""
    for workload, container, there in _mounted(manifests):
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
    given: dict[str, Secret | None] = {}
    used: dict[str, Secret] = {}
    names = set()
    for _, container, there in _mounted(manifests):
        variables = container.environment
        given |= _inside(there, variables.get("DATABASE_USERS_FOLDER"))
        if root := variables.get("MARIADB_ROOT_PASSWORD_FILE"):
            given["root"] = there.get(root)
            names.add(variables.get("MARIADB_DATABASE", "none"))
        login = _LOGIN.fullmatch(variables.get("DATABASE_URL", ""))
        if login and (secret := there.get(variables.get("DATABASE_PASSWORD_FILE", ""))):
            names.add(login["database"])
            used[login["user"]] = secret
    # Where others run the database, its administrator is a fact.
    given.setdefault("root", used.get("root"))
    if len(names) > 1:
        advice = f"are {', '.join(sorted(names))}: use one database"
        yield Finding("DATABASE_URL, MARIADB_DATABASE", "value", advice)
    for user, (name, key) in used.items():
        if given.get(user) != (name, key):
            advice = f"{name}/{key} is not what migrations gives the user {user}"
            yield Finding(f"user {user}", "DATABASE_PASSWORD_FILE", advice)
        if user != "root" and given.get(f"{user}.previous") != (name, _PREVIOUS + key):
            advice = f"{user}.previous must be, optionally, the previous password of {user}"
            yield Finding("Job of migrations", "spec.template.spec.volumes", advice)


def encrypted(manifests: Manifests) -> Iterator[Finding]:
    """Check that every server has a certificate, and its key alone."""
    for workload, container, there in _mounted(manifests):
        own = f"tls-{workload.name}"
        with_keys = {name for name, key in there.values() if key != "ca.crt" and name != own}
        for name in sorted(name for name in with_keys if name.startswith("tls-")):
            advice = f"of Secret {name} mount ca.crt alone"
            yield workload.finding(f"{container.field}.volumeMounts", advice)
        whole = settings_of(container)
        folder = container.environment.get("TLS_FOLDER")
        certificate = {(own, key) for key in _CERTIFICATE}
        speaks_tls = whole is not None and "tls_folder" in whole.model_fields
        if speaks_tls and set(_inside(there, folder).values()) != certificate:
            advice = f"is {folder}: the certificate of its own must be there"
            yield workload.finding(f"{container.field}.env[TLS_FOLDER]", advice)


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
        seen = {
            name
            for rule in items(role, "rules")
            if "secrets" in (rule.get("resources") or []) and rule.get("verbs") != ["create"]
            for name in rule.get("resourceNames") or ["all"]
        }
        issued = [arg for c in workload.containers for arg in c.spec.get("args") or []]
        wanted = {f"tls-{name}" for name in ("ca", *issued)}
        others = [name for name in seen if not name.startswith("tls-")]
        if role and seen and (others or wanted - seen):
            advice = f"may see {', '.join(sorted(seen))}: {', '.join(sorted(wanted))} is right"
            yield Finding(title(role), "rules", advice)

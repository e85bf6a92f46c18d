"""Secrets: who makes them, who reads them, and from which file.

Ours, because no tool on the shelf follows a password from who makes it to the setting that names
its file, nor knows that two work while they are rotated.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from scripts.manifests.model import Container, Finding, Manifests, at, items, mapping
from scripts.manifests.rules.settings import settings_class

_CERTIFICATE: Final = ("ca.crt", "tls.crt", "tls.key")
_PREVIOUS: Final = "previous-"
_LOGIN: Final = re.compile(r"\w+\+\w+://(?P<user>\w+)@[^/]+/(?P<database>\w+)(\?.*)?")


class _File(NamedTuple):
    """A key of a Secret as a container has it: where that is written, and as which file."""

    field: str
    path: str  # empty for a variable
    secret: str
    key: str
    optional: bool = False


def _made(manifests: Manifests) -> Mapping[str, set[str]]:
    """Return the keys of every Secret that will exist: those of Jobs, of cert-manager, external."""
    made: defaultdict[str, set[str]] = defaultdict(set)
    for container in manifests.containers:
        is_maker = container.service == "credentials"
        for argument in (container.spec.get("args") or []) if is_maker else []:
            name, _, keys = str(argument).partition("=")
            if not keys:
                made[f"tls-{name}"].update(_CERTIFICATE)
            elif keys == "password":  # the one before is there while it is rotated
                made[name] |= {keys, _PREVIOUS + keys}
            else:
                made[name] |= set(keys.split(","))
    for certificate in manifests.kind("Certificate"):
        if not at(certificate, "spec.isCA"):
            made[str(at(certificate, "spec.secretName"))].update(_CERTIFICATE)
    for external in manifests.kind("ExternalSecret"):
        name = str(at(external, "spec.target.name") or at(external, "metadata.name"))
        made[name] |= {str(item.get("secretKey")) for item in items(external, "spec.data")}
        made[name] |= mapping(external, "spec.target.template.data").keys()
    return made


def _files(container: Container, made: Mapping[str, set[str]]) -> Iterator[_File]:
    """Yield what a container has of Secrets."""
    workload = container.workload
    places = {m.get("name"): m.get("mountPath") for m in items(container.spec, "volumeMounts")}
    for volume in items(workload.pod, "volumes"):
        field = f"{workload.field}.volumes[{volume.get('name')}]"
        for source in (volume, *items(volume, "projected.sources")):
            secret = mapping(source, "secret")
            if secret and volume.get("name") in places:
                name = str(secret.get("secretName", secret.get("name")))
                optional = secret.get("optional") is True
                # Without a list, all keys are there.
                files = {str(item.get("key")): item.get("path") for item in items(secret, "items")}
                for key in files or sorted(made.get(name, ())):
                    path = f"{places[volume.get('name')]}/{files.get(key, key)}"
                    yield _File(field, path, name, key, optional)
                if not files and name not in made:
                    yield _File(field, "", name, "any key", optional)
    for variable in items(container.spec, "env"):
        if reference := mapping(variable, "valueFrom.secretKeyRef"):
            field = f"{container.field}.env[{variable.get('name')}]"
            yield _File(field, "", str(reference.get("name")), str(reference.get("key")))


def _inside(files: Iterable[_File], folder: str | None) -> dict[str, _File]:
    """Return the files in a folder, by name."""
    split = ((*file.path.rpartition("/"), file) for file in files)
    return {name: file for place, _, name, file in split if place == folder}


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that Secrets, as they are made, are what settings name, and that none is left over."""
    made, used = _made(manifests), set()
    for container in manifests.containers:
        workload, files = container.workload, list(_files(container, made))
        for file in files:
            used.add(file.secret)
            # What is optional and nobody makes, an operator may bring.
            if file.key not in made.get(file.secret, {file.key} if file.optional else ()):
                problem = f"nobody makes the Secret {file.secret} with {file.key}: add it"
                yield workload.finding(file.field, f"{problem} to the credentials Job")
            elif file.optional and file.secret in made and not file.key.startswith(_PREVIOUS):
                problem = f"take away optional: true of the Secret {file.secret}, which is made"
                yield workload.finding(file.field, problem)
        yield from _named(container, files)
        whole, folder = settings_class(container.service), container.environment.get("TLS_FOLDER")
        own = {(f"tls-{workload.name}", key) for key in _CERTIFICATE}
        found = {(file.secret, file.key) for file in _inside(files, folder).values()}
        if whole and "tls_folder" in whole.model_fields and found != own:
            problem = f"is {folder}: the certificate of its own must be there"
            yield container.finding("env[TLS_FOLDER]", problem)
    for name in sorted(made.keys() - used):
        yield Finding(f"Secret/{name}", "metadata.name", "is made, and nobody uses it")


def _named(container: Container, files: list[_File]) -> Iterator[Finding]:
    """Yield the settings that name no file of a Secret, and the files that no setting names."""
    there = {file.path for file in files if file.path}
    named = {path for path in there if any(w.endswith(f"={path}") for w in container.words)}
    for variable, value in container.environment.items():
        if variable.endswith("_FILE"):
            # Services look for the password before this one beside it.
            folder, _, name = value.rpartition("/")
            named |= {value, f"{folder}/{_PREVIOUS}{name}"}
            if value not in there:
                known = ", ".join(sorted(there)) or "none"
                problem = f"{value} is no secret's file: {known} is"
                yield container.finding(f"env[{variable}]", problem)
        elif variable.endswith("_FOLDER"):
            inside = _inside(files, value).values()
            named |= {file.path for file in inside}
            if not inside:
                yield container.finding(f"env[{variable}]", f"no secret is mounted at {value}")
    for path in sorted(there - named):
        yield container.finding("volumeMounts", f"no setting names the secret's file {path}")


def database_users(manifests: Manifests) -> Iterator[Finding]:
    """Check that each user logs in with the password that migrations gives it.

    While a password is rotated, the one before works too: of each user both are there.
    """
    made, databases, given, used = _made(manifests), set(), set(), set()
    for container in manifests.containers:
        files, variables = list(_files(container, made)), container.environment
        there = {file.path: file for file in files}
        users = _inside(files, variables.get("DATABASE_USERS_FOLDER"))
        given |= {(user, file.secret, file.key) for user, file in users.items()}
        login = _LOGIN.fullmatch(variables.get("DATABASE_URL", ""))
        if login and (file := there.get(variables.get("DATABASE_PASSWORD_FILE", "none"))):
            databases.add(login["database"])
            if (user := login["user"]) != "root":  # whose password no migration gives
                used.add((user, file.secret, file.key))
                used.add((f"{user}.previous", file.secret, _PREVIOUS + file.key))
    for user, secret, key in sorted(used - given):
        advice = f"{secret}/{key} is not what migrations gives the user {user}: mount it there"
        yield Finding(f"user {user}", "DATABASE_PASSWORD_FILE", advice)
    if len(databases) > 1:
        problem = f"names {', '.join(sorted(databases))}: use one database"
        yield Finding("all services", "DATABASE_URL", problem)

"""What stands in the environment of our own processes is what they read.

Ours, because only the services' own classes of settings know.
"""

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from scripts.manifests.model import Container, Finding, Manifests, items
from scripts.settings import settings_class
from services.common.settings import ClaimSettings, NsqSettings, SecretFile

ONE_FOR_ALL: Final = (
    *sorted(map(str.upper, [*NsqSettings.model_fields, *ClaimSettings.model_fields])),
    "MAX_UPLOAD_BYTES",
)
"""Who has another value than the others breaks what they do, or refuses what they take."""

_SECRET_NAME: Final = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL")
_CREDENTIAL_IN_URL: Final = re.compile(r"://[^/@:]*:[^/@]+@")
_REFERENCE: Final = re.compile(r"(?<!\$)\$\((\w+)\)")


def settings_of(container: Container) -> type[BaseSettings] | None:
    """Return the class of what a container reads; None when it runs no service of ours."""
    service = container.image.service
    return settings_class(service) if service else None


@cache
def _fields(whole: type[BaseSettings] | None) -> dict[str, FieldInfo]:
    """Return what a service of ours reads, by variable."""
    # Kubernetes itself tells every pod where its API is.
    return {
        name.upper(): field
        for name, field in (whole.model_fields if whole else {}).items()
        if not name.upper().startswith("KUBERNETES_SERVICE_")
    }


def _is_path(name: str) -> bool:
    """Tell whether a setting names a file or folder, which is checked where the secrets are."""
    return name.endswith(("_FILE", "_FOLDER"))


@cache
def _problem(whole: type[BaseSettings], name: str, value: str) -> str | None:
    """Return why a service of ours would refuse a value."""
    field = _fields(whole)[name]
    if _is_path(name):
        return None
    try:
        # A field is at once the constraints of its own type.
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        adapter.validate_python(_read(field, value))
    except (ValidationError, json.JSONDecodeError) as error:
        return error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return None


def _read(field: FieldInfo, value: str) -> Any:
    """Return a value as pydantic-settings hands it on, which reads lists and the like as JSON."""
    return json.loads(value) if "tuple" in str(field.annotation) else value


def _conflicts(whole: type[BaseSettings], given: dict[str, str]) -> Iterator[str]:
    """Yield why a service would refuse values that are right one by one, but not together."""
    fields = _fields(whole)
    values = {n.lower(): _read(fields[n], v) for n, v in given.items() if not _is_path(n)}
    # Whether there is a secret may count: here any file will do in its place.
    secret_files = {name for name in given if SecretFile in get_args(fields[name].annotation)}
    values |= dict.fromkeys(map(str.lower, secret_files), __file__)
    try:
        whole(_env_file=None, **values)
    except ValidationError as error:
        for detail in error.errors():
            # What is said of memory, this machine knows only of its own.
            if not detail["loc"] and detail["type"] == "value_error":
                yield detail["msg"].removeprefix("Value error, ")


def settings(manifests: Manifests) -> Iterator[Finding]:
    """Check that no setting of our services is missing, misspelt or refused by the service."""
    for workload in manifests.workloads:
        for container in workload.containers:
            whole = settings_of(container)
            fields = _fields(whole)
            if whole is None or not fields:
                continue
            # What others' settings are made of is no setting.
            parts = {part for v in _literals(container) for part in _REFERENCE.findall(v)}
            given = {
                n: v for n, v in container.environment.items() if n not in parts - fields.keys()
            }
            found = {
                name: "is missing: set it"
                for name, field in fields.items()
                if name not in given and field.is_required()
            }
            for name, value in given.items():
                if name not in fields:
                    found[name] = f"{container.image.service} reads no such setting"
                elif problem := _problem(whole, name, value):
                    found[name] = f"is {value!r}: {problem}"
            for name, problem in found.items():
                yield workload.finding(f"{container.field}.env[{name}]", problem)
            for conflict in () if found else _conflicts(whole, given):
                yield workload.finding(f"{container.field}.env", conflict)


def _literals(container: Container) -> Iterator[str]:
    for variable in items(container.spec, "env"):
        yield str(variable.get("value", ""))


def values_of(manifests: Manifests, name: str) -> dict[str, Any]:
    """Return what a setting is, given or by default, by each workload of ours that reads it."""
    found: dict[str, Any] = {}
    for workload in manifests.workloads:
        for container in workload.containers:
            whole = settings_of(container)
            if whole is None or (field := _fields(whole).get(name)) is None:
                continue
            given = container.environment.get(name)
            if given is None:
                found[workload.name] = field.default
            elif _problem(whole, name, given) is None:
                is_number = field.annotation in (int, float)
                found[workload.name] = float(given) if is_number else given
    return found


def one_for_all(manifests: Manifests) -> Iterator[Finding]:
    """Check that what several services must have alike is alike."""
    for name in ONE_FOR_ALL:
        values = values_of(manifests, name)
        if len(set(values.values())) > 1:
            said = ", ".join(f"{value} for {workload}" for workload, value in values.items())
            yield Finding("all services", name, f"is {said}: set it once for all")


def deadlines(manifests: Manifests) -> Iterator[Finding]:
    """Check that image-processor waits for face-recog for longer than a picture may take there."""
    name = "FACE_RECOG_TIMEOUT_SECONDS"
    takes = max(values_of(manifests, "LONG_SECONDS").values(), default=0)
    for workload, waits in values_of(manifests, name).items():
        if workload == "image-processor" and waits <= takes:
            advice = (
                f"is {waits:g}, and LONG_SECONDS of face-recog is {takes:g}: set more than that"
            )
            yield Finding(f"Deployment/{workload}", name, advice)


def variables(manifests: Manifests) -> Iterator[Finding]:
    """Check that variables that others name exist, and that none holds a secret in clear."""
    for workload in manifests.workloads:
        for container in workload.containers:
            names = {str(variable.get("name")) for variable in items(container.spec, "env")}
            texts = [*container.words, *container.environment.values()]
            for name in sorted({n for text in texts for n in _REFERENCE.findall(text)} - names):
                yield workload.finding(f"{container.field}.env[{name}]", "is missing: set it")
            for name, value in container.environment.items():
                field = f"{container.field}.env[{name}]"
                if _SECRET_NAME.search(name) and not _is_path(name):
                    yield workload.finding(field, f"is a secret in clear: use {name}_FILE")
                if _CREDENTIAL_IN_URL.search(value):
                    yield workload.finding(field, "holds a password: use a file beside it")


def ports(manifests: Manifests) -> Iterator[Finding]:
    """Check that probes' ports are those at which our services answer them."""
    for workload in manifests.workloads:
        for name, port in values_of(manifests, "PROBE_PORT").items():
            number, _ = workload.ports.get("probes", (None, ""))
            if name == workload.name and number != port:
                field = f"{workload.field}.containers.ports[probes]"
                yield workload.finding(field, f"is {number}: set {port:g}, which is PROBE_PORT")


def longest(manifests: Manifests) -> float:
    """Return how many seconds a connection may be idle until the first service closes it."""
    return min(values_of(manifests, "KEEP_ALIVE_SECONDS").values(), default=math.inf)

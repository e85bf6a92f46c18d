"""What stands in the environment of our own processes is what they read."""

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from scripts.manifests.design import ENVIRONMENT_SECRETS, IMAGE_OF
from scripts.manifests.model import Document, Finding, Manifests, at, items, mapping
from scripts.settings import settings_class
from services.common.settings import ClaimSettings, NsqSettings, SecretFile

_SAID: Final = frozenset(map(str.upper, [*NsqSettings.model_fields, *ClaimSettings.model_fields]))
"""What pods of two versions need alike, too, whose defaults may differ."""
_ONE_FOR_ALL: Final = (*sorted(_SAID), "MAX_UPLOAD_BYTES")
"""Who has another value than the others breaks what they do, or refuses what they take."""

_SECRET_NAME: Final = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL")
_CREDENTIAL_IN_URL: Final = re.compile(r"://[^/@:]*:[^/@]+@")


def environment(manifests: Manifests, container: Document) -> dict[str, str]:
    """Return a container's variables that have a value, those of ConfigMaps included."""
    found: dict[str, str] = {}
    for source in items(container, "envFrom"):
        config = manifests.find("ConfigMap", at(source, "configMapRef.name"))
        found.update({k: str(v) for k, v in mapping(config, "data").items()})
    for variable in items(container, "env"):
        value = variable.get("value")
        if reference := at(variable, "valueFrom.configMapKeyRef"):
            config = manifests.find("ConfigMap", reference.get("name"))
            value = mapping(config, "data").get(reference.get("key"))
        if value is not None:
            found[str(variable.get("name"))] = str(value)
    return found


def settings_of(workload: str) -> type[BaseSettings] | None:
    """Return the class of what a workload reads; None when it is no service of ours."""
    return settings_class(IMAGE_OF.get(workload, workload).replace("-", "_"))


@cache
def _fields(workload: str) -> dict[str, FieldInfo]:
    """Return what a service of ours reads, by variable."""
    whole = settings_of(workload)
    # Kubernetes itself tells every pod where its API is.
    return {
        name.upper(): field
        for name, field in (whole.model_fields if whole else {}).items()
        if not name.upper().startswith("KUBERNETES_SERVICE_")
    }


@cache
def _problem(workload: str, name: str, value: str) -> str | None:
    """Return why a service of ours would refuse a value."""
    field = _fields(workload)[name]
    if name.endswith(("_FILE", "_FOLDER")):
        return None  # such a path is checked where the secrets are
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


def _conflicts(workload: str, given: dict[str, str]) -> Iterator[str]:
    """Yield why a service would refuse values that are right one by one, but not together."""
    whole, fields = settings_of(workload), _fields(workload)
    if whole is None:
        return
    values = {
        name.lower(): _read(fields[name], value)
        for name, value in given.items()
        # Such a path is checked where the secrets are.
        if not name.endswith(("_FILE", "_FOLDER"))
    }
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
        fields = _fields(workload.name)
        if not fields:
            continue
        for container in workload.containers:
            given = environment(manifests, container.spec)
            wrong = False
            for name, field in fields.items():
                if name not in given and (field.is_required() or name in _SAID):
                    yield workload.finding(f"{container.field}.env[{name}]", "is missing: set it")
            for name, value in given.items():
                place = f"{container.field}.env[{name}]"
                if name not in fields:
                    wrong = True
                    yield workload.finding(place, f"{workload.name} reads no such setting")
                elif problem := _problem(workload.name, name, value):
                    wrong = True
                    yield workload.finding(place, f"is {value!r}: {problem}")
            for conflict in () if wrong else _conflicts(workload.name, given):
                yield workload.finding(f"{container.field}.env", conflict)


def values_of(manifests: Manifests, name: str) -> dict[str, Any]:
    """Return what a setting is, given or by default, by each workload of ours that reads it."""
    found: dict[str, Any] = {}
    for workload in manifests.workloads:
        if (field := _fields(workload.name).get(name)) is None:
            continue
        for container in workload.containers:
            given = environment(manifests, container.spec).get(name)
            if given is None:
                found[workload.name] = field.default
            elif _problem(workload.name, name, given) is None:
                is_number = field.annotation in (int, float)
                found[workload.name] = float(given) if is_number else given
    return found


def one_for_all(manifests: Manifests) -> Iterator[Finding]:
    """Check that what several services must have alike is alike."""
    for name in _ONE_FOR_ALL:
        values = values_of(manifests, name)
        if len(set(values.values())) > 1:
            said = ", ".join(f"{value} for {workload}" for workload, value in values.items())
            yield Finding("all services", name, f"is {said}: set it once for all")


def deadlines(manifests: Manifests) -> Iterator[Finding]:
    """Check that image-processor waits for face-recog for longer than a picture may take there."""
    name = "FACE_RECOG_TIMEOUT_SECONDS"
    waits = values_of(manifests, name).get("image-processor", math.inf)
    takes = values_of(manifests, "LONG_SECONDS").get("face-recog", 0)
    if waits <= takes:
        advice = f"is {waits:g}, and LONG_SECONDS of face-recog is {takes:g}: set more than that"
        yield Finding("Deployment/image-processor", name, advice)


def secret_values(manifests: Manifests) -> Iterator[Finding]:
    """Check that no secret stands in an environment variable or an argument; files hold them."""
    for workload in manifests.workloads:
        for container in workload.containers:
            for name, value in environment(manifests, container.spec).items():
                field = f"{container.field}.env[{name}]"
                is_path = name.endswith(("_FILE", "_FOLDER"))
                if _SECRET_NAME.search(name) and not is_path:
                    yield workload.finding(field, f"is a secret in clear: use {name}_FILE")
                if _CREDENTIAL_IN_URL.search(value):
                    yield workload.finding(field, "holds a password: use a file beside it")
            for variable in items(container.spec, "env"):
                secret = at(variable, "valueFrom.secretKeyRef")
                allowed = ENVIRONMENT_SECRETS.get(workload.name, set())
                if secret and variable.get("name") not in allowed:
                    field = f"{container.field}.env[{variable.get('name')}]"
                    yield workload.finding(field, "mount the Secret as a file instead")


_FIELDS: Final = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
_REFERENCE: Final = re.compile(r"\$\((\w+)\)")


def variables(manifests: Manifests) -> Iterator[Finding]:
    """Check that every variable has a value, and every one that an argument refers to exists."""
    for workload in manifests.workloads:
        needed = set(ENVIRONMENT_SECRETS.get(workload.name, set()))
        for container in workload.containers:
            names = set(environment(manifests, container.spec))
            for variable in items(container.spec, "env"):
                name = str(variable.get("name"))
                source = mapping(variable, "valueFrom")
                field = at(source, "fieldRef.fieldPath")
                if "value" in variable or field or at(source, "secretKeyRef"):
                    names.add(name)
                elif not at(source, "configMapKeyRef"):
                    yield workload.finding(f"{container.field}.env[{name}]", "has no value")
                if field and field != _FIELDS.get(name):
                    advice = f"is {field}: {_FIELDS.get(name)} is right"
                    yield workload.finding(f"{container.field}.env[{name}].valueFrom", advice)
            for word in [*_words(container.spec)]:
                needed |= set(_REFERENCE.findall(word))
            if not container.starts_only:
                for name in sorted(needed - names):
                    yield workload.finding(f"{container.field}.env[{name}]", "is missing: set it")


def _words(container: Document) -> Iterator[str]:
    for field in ("command", "args"):
        for word in container.get(field) or []:
            yield str(word)

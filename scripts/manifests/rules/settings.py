"""What stands in the environment of our own processes is what they read.

Ours, because only the services' own classes of settings know.
"""

import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final
from unittest.mock import patch

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from scripts.manifests.model import REFERENCE, Finding, Manifests, items
from scripts.manifests.rules.fields import said
from services.common.settings import ClaimSettings, NsqSettings

ONE_FOR_ALL: Final = (
    *sorted(map(str.upper, [*NsqSettings.model_fields, *ClaimSettings.model_fields])),
    "MAX_UPLOAD_BYTES",
)
"""Who has another value than the others breaks what they do, or refuses what they take."""

# Kubernetes itself tells every pod where its API is.
_OF_EVERY_POD: Final = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@cache
def settings_class(service: str | None) -> type[BaseSettings] | None:
    """Return the class of all that a folder of services/ reads; None when it has no settings."""
    try:
        module = importlib.import_module(f"services.{service}.settings")
    except ModuleNotFoundError:
        return None
    found = [one for _, one in inspect.getmembers(module, inspect.isclass)]
    own = [one for one in found if one.__module__ == module.__name__]
    # One may be a part of another.
    settings = [one for one in own if issubclass(one, BaseSettings)]
    return max(settings, key=lambda one: len(one.model_fields), default=None)


def settings(manifests: Manifests) -> Iterator[Finding]:
    """Check that no setting is missing, misspelt, refused, or another than others have."""
    for container in manifests.containers:
        names = {str(variable.get("name")) for variable in items(container.spec, "env")}
        parts = set(REFERENCE.findall(str([container.spec.get("env"), container.words])))
        for name in sorted(parts - names):
            yield container.finding(f"env[{name}]", "is missing: set it")
        if (whole := settings_class(container.service)) is None:
            continue
        known = {name.upper() for name in whole.model_fields}
        # What others' settings are made of is no setting.
        parts -= known
        given = {n: v for n, v in container.environment.items() if n not in parts}
        for name in given:
            if name not in known:
                problem = f"{container.service} reads no such setting"
                yield container.finding(f"env[{name}]", problem)
        for where, problem in _refusals(whole, given):
            yield container.finding(f"env{where}", problem)
    for name in ONE_FOR_ALL:
        values = values_of(manifests, name)
        if len(set(values.values())) > 1:
            of_each = ", ".join(f"{value} for {workload}" for workload, value in values.items())
            yield Finding("all services", name, f"is {of_each}: set it once for all")


def _refusals(whole: type[BaseSettings], given: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield why a service would not start with these settings, and which one it is about."""
    # Whether there is a secret may count; what is in files and folders, only the pod knows.
    environment = _OF_EVERY_POD | {
        name: __file__ if name.endswith("_FILE") else value
        for name, value in given.items()
        if not name.endswith(("_CA_FILE", "_FOLDER"))
    }
    try:
        with patch.dict(os.environ, environment, clear=True):
            whole(_env_file=None)
    except SettingsError as error:  # no JSON
        yield "", f"{error}: {error.__cause__}"
    except ValidationError as error:
        for detail in error.errors():
            reason = detail["msg"].removeprefix("Value error, ")
            if not detail["loc"] and detail["type"] != "memory":  # that of this machine
                yield "", reason
            # A default that follows from a setting that is wrong is not wrong itself.
            elif detail["loc"] and detail["type"] != "default_factory_not_called":
                name = str(detail["loc"][0]).upper()
                yield f"[{name}]", f"{said(given.get(name))}: {reason}"


def values_of(manifests: Manifests, name: str) -> dict[str, Any]:
    """Return what a setting is, given or by default, by each workload of ours that reads it."""
    found = {}
    for container in manifests.containers:
        whole = settings_class(container.service)
        if whole and (field := whole.model_fields.get(name.lower())):
            with suppress(ValueError):  # what is refused is found above
                value = container.environment.get(name, field.default)
                found[container.workload.name] = type(field.default)(value)
    return found

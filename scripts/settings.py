"""What the services read of their environment."""

import importlib
import inspect
from functools import cache

from pydantic_settings import BaseSettings


@cache
def settings_class(service: str) -> type[BaseSettings] | None:
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

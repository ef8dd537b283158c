"""Implementations by name: each is a module of its own and a line in a registry, and imported when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

Registry = Mapping[str, str]
"""`module:class` by the name that configuration gives it."""


def implementation(registry: Registry, name: str) -> Any:
    """The class. Its module must be cheap to import: what is asked at load time stands in it."""
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)


def known(registry: Registry, name: str) -> str:
    """The name, if it is one. Raises ValueError, which pydantic turns into the field's error."""
    if name not in registry:
        raise ValueError(f"{name!r} is unknown; choose {' or '.join(registry)}")
    return name

"""All stages of the graph: a module that is put into `mediafm_assets/defs/` is found."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import dagster as dg

from mediafm_assets import defs
from mediafm_assets.graph.stage import Stages


def modules() -> Iterator[ModuleType]:
    """The modules of `mediafm_assets/defs/`, by name."""
    for found in sorted(pkgutil.iter_modules(defs.__path__), key=lambda module: module.name):
        yield importlib.import_module(f"{defs.__name__}.{found.name}")


def declared(name: str) -> list[Any]:
    """What the modules declare under that name: STAGES, ASSETS (that are no stages) or SCHEDULES."""
    return [declaration for module in modules() for declaration in getattr(module, name, ())]


@cache
def all_stages() -> Stages:
    """Every stage, each after those that it reads from."""
    outside = {asset.key.to_user_string() for asset in declared("ASSETS") if isinstance(asset, dg.AssetSpec)}
    return Stages(declared("STAGES"), outside)

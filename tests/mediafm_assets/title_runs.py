"""Stages of a title asked by themselves, outside of Dagster, on a lake of the fixtures."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.lake import typed_rows, vectors
from tests.mediafm_assets.conftest import Places

BIAS = 0.5


def catalogue_of(places: Places) -> Catalogue:
    return Catalogue(places.lake, resources(places.environment), all_stages())


def run_of(places: Places) -> TitleRun:
    catalogue = catalogue_of(places)
    return TitleRun(SimpleNamespace(**catalogue.resources), catalogue)


def made(compute: Callable[[TitleRun, str], Iterator[Any]], places: Places, title_id: str) -> pl.DataFrame:
    """The rows that a stage of one table makes of a title."""
    ((_table, rows),) = compute(run_of(places), title_id)
    assert isinstance(rows, pl.DataFrame)
    return rows


def titles_of(places: Places) -> list[str]:
    return sorted(title_id for (title_id,) in places.lake.data_versions("titles"))


def write_usable_probes(places: Places, *labels: tuple[str, str]) -> np.ndarray:
    """Probes of tasks and labels that ask for the first number of a contextual vector, in the lake's place; their
    weights."""
    run = run_of(places)
    weights = np.zeros(vectors(run.read("contextual_embeddings", titles_of(places)[0])).shape[1], dtype=np.float32)
    weights[0] = 4.0
    probe = {"weights": weights, "bias": BIAS, "clip_s": 3.0, "usable": True}
    rows = typed_rows("probes", [{"task": task, "label": label, **probe} for task, label in labels])
    places.lake.write("probes", run.catalogue.partition("probes"), rows, "b" * 32)
    return weights

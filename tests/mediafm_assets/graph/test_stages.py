"""What follows from a declaration: a module that is put into `defs/` is made, refreshed and shown as it is."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from mediafm_assets import defs as package
from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.graph.stage import Recipe, Stage, Stages
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages, declared
from resources.lake import TABLES, tables
from resources.lake.tables import DATA_VERSION, ENCODER_VERSION, TITLE, Column, Table
from tests.mediafm_assets.conftest import Places

TRIAL = '''
"""Scenes of each title, a figure of all titles for each encoder, what a title is beside it, and an index."""

import json
from pathlib import Path

import polars as pl

from mediafm_assets.graph.stage import Recipe, Stage


def trial_scenes(run, title_id):
    rows = run.read("contextual_embeddings", title_id)
    yield "trial_scenes", pl.DataFrame({"first": [rows["embedding"][0][0]]})


def means(run):
    of_encoder = run.lake.scan("contextual_embeddings").filter(**run.partition)
    yield "means", of_encoder.select(first=pl.col("embedding").list.first().mean()).collect()


def trial_tags(run, title_id):
    mean = run.lake.read("means", **run.catalogue.partition("means"))["first"][0]
    yield "trial_tags", pl.DataFrame({"first": [run.read("trial_scenes", title_id)["first"][0] - mean]})


def folder(catalogue):
    return Path(catalogue.lake.uri).parent / "index"


def stored(catalogue):
    return {(): path.name for path in folder(catalogue).glob("*")}


def trial_index(run):
    folder(run.catalogue).mkdir(exist_ok=True)
    for old in folder(run.catalogue).glob("*"):
        old.unlink()
    (folder(run.catalogue) / run.version).write_text(json.dumps(run.catalogue.titles_in("trial_scenes")))
    yield from ()


STAGES = (
    Stage((Recipe("trial_tags", ("trial_scenes", "means")),), "trial", trial_tags),
    Stage((Recipe("trial_scenes", ("contextual_embeddings",)),), "trial", trial_scenes),
    Stage((Recipe("means", ("contextual_embeddings",)),), "trial", means, scope="catalogue"),
    Stage(
        (Recipe("trial_index", ("trial_scenes",)),), "trial", trial_index, scope="catalogue", stored=stored, about="It."
    ),
)
'''


LOOKED_AT = {"trial_scenes", "trial_tags", "trial_index", "means", "encoder_promotions", "probe_metrics"}


@pytest.fixture
def trial(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """A finished catalogue, to which a module of stages and the columns of its tables have come."""
    first = Column("first", "float64", "A number.")
    for table in (
        Table("trial_scenes", "A trial.", ("title_id",), (), (TITLE, DATA_VERSION, first)),
        Table("means", "A trial.", ("encoder_version",), (), (ENCODER_VERSION, DATA_VERSION, first)),
        Table("trial_tags", "A trial.", ("title_id",), (), (TITLE, DATA_VERSION, first)),
    ):
        monkeypatch.setitem(tables.TABLES, table.name, table)  # type: ignore[arg-type]
    folder = tmp_path / "trial_stages"
    folder.mkdir()
    (folder / "trial.py").write_text(TRIAL)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    all_stages.cache_clear()
    places.lake.create_tables()
    yield places
    sys.modules.pop(f"{package.__name__}.trial", None)
    monkeypatch.undo()
    all_stages.cache_clear()


def catalogue_of(places: Places) -> Catalogue:
    return Catalogue(places.lake, resources(), all_stages())


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def not_fresh(places: Places) -> list[tuple[str, str]]:
    catalogue = catalogue_of(places)
    of_titles = [(table, title) for title in titles_in(places) for table in catalogue.stale(title)]
    waiting = [(table, catalogue.waits_for(table) or "") for table in all_stages().title_tables]
    due = [(stage.name, "") for stage in all_stages().of_scope("catalogue") if catalogue.is_due(stage)]
    return of_titles + [pair for pair in waiting if pair[1]] + due


def add_encoder(places: Places) -> str:
    """Another encoder, as a training writes it; returns its version."""
    newest = catalogue_of(places).encoder_version or ""
    rows = places.lake.read("encoder", encoder_version=newest).drop("encoder_version", "data_version")
    version = f"{int(newest[:4]) + 1}{newest[4:]}"
    places.lake.write("encoder", {"encoder_version": version}, rows, "9" * 32)
    return version


def versions_of(places: Places, table: str) -> dict[str, str | None]:
    catalogue = catalogue_of(places)
    return {title: catalogue.stored(table, title) for title in titles_in(places)}


def test_stages_of_another_module_are_made_and_refreshed_by_a_new_encoder_by_the_command(
    trial: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", "--no-train"]) == 0
    assert not_fresh(trial) == []
    assert {key[0] for key in trial.lake.data_versions("trial_tags")} == set(titles_in(trial))
    (index,) = (trial.root / "index").glob("*")
    assert main(["materialize", "--no-train"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out

    before = versions_of(trial, "trial_scenes"), versions_of(trial, "trial_tags")
    version = add_encoder(trial)
    assert main(["materialize", "--no-train"]) == 0
    assert not_fresh(trial) == []
    assert catalogue_of(trial).encoder_version == version
    after = versions_of(trial, "trial_scenes"), versions_of(trial, "trial_tags")
    assert all(old[title] != new[title] for old, new in zip(before, after, strict=True) for title in titles_in(trial))
    assert not index.exists(), "the index is of the new scenes"


def test_stages_of_another_module_are_made_and_refreshed_by_a_new_encoder_by_the_daemon(trial: Places) -> None:
    everything = f"{titles_in(trial)[0]} to {titles_in(trial)[-1]}"
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("titles", titles_in(trial))
        assert ticks(instance) == [
            (everything, {"trial_scenes"}),
            ("", {"means"}),
            (everything, {"trial_tags"}),
            ("", {"trial_index"}),
        ]
        assert not_fresh(trial) == []
        add_encoder(trial)
        asked = ticks(instance)
        assert not_fresh(trial) == []
    assert asked[:2] == [("", {"encoder_promotions"}), (everything, {"trial_scenes"})]
    rest = asked[2:]
    assert sorted(rest, key=str) == sorted(
        [("", {"means"}), ("", {"probe_metrics"}), (everything, {"trial_tags"}), ("", {"trial_index"})], key=str
    )
    assert rest.index(("", {"means"})) < rest.index((everything, {"trial_tags"}))


def ticks(instance: dg.DagsterInstance) -> list[tuple[str, set[str]]]:
    """Let the daemon tick, and run what it requests, until there is nothing to do: the range of titles and the assets
    of each run, of those that are looked at."""
    asked: list[tuple[str, set[str]]] = []
    while True:
        with dg.build_sensor_context(instance, definitions=defs(), resources=resources()) as context:
            requests: list[dg.RunRequest] = list(
                automation_sensor(all_stages()).evaluate_tick(context).run_requests or []
            )
        if not requests:
            return asked
        for request in requests:
            first, last = (request.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
            assets = list(request.asset_selection or [])
            told = {key.to_user_string() for key in assets} & LOOKED_AT
            if told:
                asked.append((f"{first} to {last}" if first else "", told))
            job = defs().resolve_implicit_global_asset_job_def()
            run: Any = job.execute_in_process(instance=instance, asset_selection=assets, tags=request.tags)
            assert run.success


def test_a_failed_stage_of_all_titles_does_not_hold_up_what_is_due_after_it(trial: Places) -> None:
    from mediafm_assets.graph.sensors import whole_requests

    assert main(["materialize", "--no-train"]) == 0
    add_encoder(trial)
    with dg.DagsterInstance.get() as instance:
        catalogue = catalogue_of(trial)
        (first,) = whole_requests(instance, catalogue)
        job = defs().resolve_implicit_global_asset_job_def()
        run = instance.create_run_for_job(job, tags={"dagster/run_key": first.run_key or ""})
        instance.report_run_failed(run)
        others = whole_requests(instance, catalogue_of(trial))
    assert first.asset_selection not in [request.asset_selection for request in others]


def test_the_lineage_in_the_ui_is_what_the_stages_read() -> None:
    graph = defs().resolve_asset_graph()
    read = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert read["shots"] == {"titles"}
    assert read["shot_frames"] == {"shots"}
    assert read["fused_embeddings"] == {"shots", "video_embeddings", "audio_embeddings", "text_embeddings"}
    assert read["contextual_embeddings"] == {"fused_embeddings", "global_embeddings", "encoder_promotions"}
    assert read["encoder_promotions"] == {"encoder", "clip_labels", "fused_embeddings", "global_embeddings", "titles"}
    assert read["encoder"] == {"fused_embeddings", "global_embeddings", "titles"}
    assert read["clip_labels"] == {"label_files"}
    assert read["clip_embeddings"] == {"clip_labels", "titles"}
    assert read["probe_metrics"] == {
        *("clip_embeddings", "clip_labels", "contextual_embeddings", "encoder_promotions"),
        *("fused_embeddings", "global_embeddings", "titles"),
    }


def test_every_table_but_the_books_is_made_by_a_stage() -> None:
    assert {"approvals", "costs", "failures", "freshness", "text_cache"} == TABLES.keys() - all_stages().by_table.keys()


def test_siblings_are_made_together_and_in_their_order() -> None:
    assert all_stages().with_siblings(["video_embeddings", "shot_frames"]) == [
        "shots",
        "shot_frames",
        "video_embeddings",
    ]


def test_stages_stand_after_what_they_read_in_whatever_order_they_are_declared() -> None:
    forwards = all_stages().all
    outside = {asset.key.to_user_string() for asset in declared("ASSETS") if isinstance(asset, dg.AssetSpec)}
    for given in (forwards, forwards[::-1]):
        seen: set[str] = set()
        for stage in Stages(given, outside).all:
            assert stage.inputs & all_stages().by_table.keys() <= seen
            seen |= set(stage.tables)


def nothing(*_: Any) -> Iterator[tuple[str, pl.DataFrame]]:
    yield from ()


SHOTS = Stage((Recipe("shots", ("media",)),), "g", nothing)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([SHOTS, SHOTS, dataclasses.replace(SHOTS, group="h")], "shots is made by two stages"),
        ([Stage((Recipe("index", ()),), "g", nothing)], "index is no table .* must say `stored`"),
        ([Stage((Recipe("shots", ("scenes",)),), "g", nothing)], "shots reads scenes, which no stage makes"),
        (
            [dataclasses.replace(SHOTS, scope="catalogue")],
            "shots is partitioned by title_id, and its scope is catalogue",
        ),
        ([Stage((Recipe("clip_labels", ()),), "g", nothing, scope="task")], "must say `version`"),
        (
            [
                Stage((Recipe("shots", ("shot_frames",)),), "g", nothing),
                Stage((Recipe("shot_frames", ("shots",)),), "g", nothing),
            ],
            "is made from itself",
        ),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(stages: list[Stage], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Stages(stages)

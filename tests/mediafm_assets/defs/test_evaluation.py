"""Labels and probes: labels follow their file, and what cannot be used is named and stops nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from mediafm_assets.commands.headless import driver
from mediafm_assets.defs.clips import labelled_clips
from mediafm_assets.defs.evaluation import LEARNT, clip_vectors, compared_version
from mediafm_assets.defs.labels import clips_by_task
from mediafm_assets.defs.tags import probes_version
from mediafm_assets.graph.plan import tasks_to_make
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.modalities import WIDTHS
from model.scene_finders import finders
from model.scene_metrics import METRICS
from model.smoothing import moving_average
from model.tasks import SCENES
from resources.lake import vectors
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.title_runs import catalogue_of

Materialise = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialise() -> Materialise:
    """Runs one asset as the command does, and returns what came of it."""

    def run(asset: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        with driver() as work:
            return work.job.execute_in_process(
                instance=work.instance,
                asset_selection=[dg.AssetKey(asset)],
                partition_key=partition,
                raise_on_error=False,
            )

    return run


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_refused_rows_are_named_and_the_others_are_stored(places: Places, materialise: Materialise) -> None:
    file = places.landing / "labels" / "clip_tone.jsonl"
    rows = rows_of(file)
    write_rows(file, [rows[0] | {"end_s": -1}, *rows[1:], rows[1]])
    result = materialise("clip_labels", "clip_tone")
    assert result.success
    said = metadata_of(result)
    assert said["refused_rows"] == 2
    assert said["refused"][0].startswith("clip_tone.jsonl, line 1: ")
    assert f"line {len(rows) + 1}: " in said["refused"][1]
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "every_row_usable"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "clip_tone.jsonl, line 1: " in (check.description or "")
    assert len(places.lake.read("clip_labels", task="clip_tone")) == len(rows) - 1


def test_labels_go_with_their_file_and_the_probes_no_longer_see_them(places: Places, materialise: Materialise) -> None:
    before = places.lake.read("probe_metrics", **newest_encoder(places))
    assert before.filter(task="clip_tone")["n_clips"].min() > 0
    (places.landing / "labels" / "clip_tone.jsonl").unlink()
    result = materialise("clip_labels", "clip_tone")
    assert result.success
    assert metadata_of(result)["dagster/partition_row_count"] == 0
    assert ("clip_tone",) not in places.lake.data_versions("clip_labels")
    assert materialise("probe_metrics").success
    after = places.lake.read("probe_metrics", **newest_encoder(places))
    assert after.filter(task="clip_tone")["n_clips"].max() == 0
    same = ["representation", "value", "n_clips"]
    for task in ("clip_popularity", "clip_retrieval"):
        assert after.filter(task=task).select(same).equals(before.filter(task=task).select(same))


def test_a_label_file_that_cannot_be_used_at_all_fails_and_leaves_the_labels_before_it(
    places: Places, materialise: Materialise
) -> None:
    before = places.lake.read("clip_labels", task="clip_tone")
    (places.landing / "labels" / "clip_tone.jsonl").write_text("nonsense\n")
    result = materialise("clip_labels", "clip_tone")
    assert not result.success
    assert places.lake.read("clip_labels", task="clip_tone").equals(before)


def test_what_is_to_be_done_about_labels_shows_in_their_file_and_the_stored_version(empty_places: Places) -> None:
    empty_places.lake.create_tables()

    def todo(stored: str | None) -> tuple[str | None, str | None] | None:
        """The version that the labels are to have, and what is wrong; None when there is nothing to do."""
        catalogue = Catalogue(empty_places.lake, resources(), all_stages())
        if stored:
            catalogue.wrote("clip_labels", {"task": "clip_tone"}, stored)
        found = {item.task: (item.version, item.problem) for item in tasks_to_make(catalogue)}
        assert found.keys() <= {"clip_tone"}
        return found.get("clip_tone")

    assert todo(None) is None
    assert todo("old") == (None, None), "they go with their file"
    labels = empty_places.landing / "labels"
    labels.mkdir()
    (labels / "clip_tone.csv").write_text("x")
    written = todo(None)
    assert written
    version, problem = written
    assert len(version or "") == 32
    assert problem is None
    assert todo("old") == written
    assert todo(version) is None
    (labels / "clip_tone.jsonl").write_text("x")
    unusable = todo("old")
    assert unusable
    assert unusable[0] is None
    assert "keep one file" in (unusable[1] or "")


def test_clips_outside_of_their_film_or_of_no_title_are_listed_and_stop_no_probe(
    places: Places, materialise: Materialise
) -> None:
    file = places.landing / "labels" / "clip_tone.jsonl"
    rows = rows_of(file)
    title = rows[0]["title_id"]
    end_s = places.lake.read("titles", title_id=title)["duration_s"][0]
    changes = [
        {"clip_id": "beyond", "start_s": end_s + 100, "end_s": end_s + 101},
        {"clip_id": "starts at the end", "start_s": end_s, "end_s": end_s + 0.5},
        {"clip_id": "too long", "start_s": 0, "end_s": end_s + 5},
        {"clip_id": "rounded up", "start_s": 0, "end_s": end_s + 0.5},
        {"clip_id": "unknown", "title_id": "no-such-title"},
    ]
    write_rows(file, [*rows, *({**rows[0], **change} for change in changes)])
    assert materialise("clip_labels", "clip_tone").success
    result = materialise("probe_metrics")
    assert result.success
    said = metadata_of(result)
    assert said["unused_clips"] == 4
    assert [sentence.split(" of ")[0] for sentence in said["unused"]] == [
        "clip_tone: beyond",
        "clip_tone: starts at the end",
        "clip_tone: too long",
    ]
    assert all(f" of {title}: " in sentence and "lies outside of its film" in sentence for sentence in said["unused"])
    assert (said["unknown_titles"], said["unknown_titles_count"]) == (["no-such-title"], 1)
    metrics = places.lake.read("probe_metrics", **newest_encoder(places))
    assert set(metrics.filter(task="clip_tone")["n_clips"]) == {len(rows) + 1}


def test_found_scenes_are_compared_with_the_labelled_ones(finished: Places) -> None:
    rows = finished.lake.read("probe_metrics", **newest_encoder(finished)).filter(task=SCENES)
    ways = finders((*dict(WIDTHS), "fused", "contextual", "contextual_in_context"), 0.1)
    names = {(way, metric) for way in (*ways, LEARNT) for metric in METRICS}
    assert set(rows.select("representation", "metric").rows()) == names
    assert set(rows["n_titles"]) == {6}
    assert rows["value"].is_between(0, 1).all()
    assert (rows["ci_low"] <= rows["value"]).all()
    assert (rows["value"] <= rows["ci_high"]).all()
    assert rows["note"].null_count() == len(rows)


def test_scene_labels_change_what_scenes_are_compared_with_and_nothing_of_clips(places: Places) -> None:
    def seen() -> tuple[Any, ...]:
        catalogue = catalogue_of(places)
        return compared_version(catalogue), (probes_version(catalogue), labelled_clips(catalogue))

    stored = places.lake.read("clip_labels", task=SCENES).drop("task", "data_version")
    before = seen()
    places.lake.write("clip_labels", {"task": SCENES}, stored[1:], "d" * 32)
    fewer = seen()
    places.lake.delete("clip_labels", {"task": SCENES})
    without = seen()
    assert before[1] == fewer[1] == without[1]
    assert len({before[0], fewer[0], without[0]}) == 3
    clips, _unused = clips_by_task(catalogue_of(places))
    assert {len(rows) for rows in clips.values()} != {0}


def test_labelled_scenes_follow_their_file_and_those_that_cannot_be_used_are_named(
    places: Places, materialise: Materialise
) -> None:
    file = places.landing / "labels" / "scenes.jsonl"
    before = places.lake.read("probe_metrics", **newest_encoder(places))
    rows = rows_of(file)
    write_rows(file, [{"title_id": "no-such-title", "start_s": 0, "end_s": 1}, {**rows[0], "start_s": -1}, *rows])
    labelled = materialise("clip_labels", SCENES)
    assert labelled.success
    assert metadata_of(labelled)["refused"] == [
        f"scenes.jsonl, line 2: start_s -1 and end_s {rows[0]['end_s']:g} are not 0 <= start_s < end_s"
    ]
    assert len(places.lake.read("clip_labels", task=SCENES)) == len(rows) + 1
    evaluated = materialise("probe_metrics")
    assert evaluated.success
    said = metadata_of(evaluated)
    assert (said["unknown_titles"], said["unused_clips"]) == (["no-such-title"], 1)
    assert "| scenes by |" in said["scores"]
    same = before.drop("data_version")
    assert places.lake.read("probe_metrics", **newest_encoder(places)).drop("data_version").equals(same)
    file.unlink()
    assert materialise("clip_labels", SCENES).success
    assert materialise("probe_metrics").success
    after = places.lake.read("probe_metrics", **newest_encoder(places)).drop("data_version")
    assert after.equals(same.filter(pl.col("task") != SCENES))


def newest_encoder(places: Places) -> dict[str, str]:
    return {"encoder_version": max(version for (version,) in places.lake.data_versions("encoder"))}


def test_a_clip_has_what_smoothing_alone_makes_of_its_title(places: Places) -> None:
    encoder = newest_encoder(places)
    (title, *_) = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))
    shots = places.lake.read("fused_embeddings", title_id=title).sort("shot_index")
    first = (title, 0.0, shots["end_s"][0])
    made = clip_vectors(places.lake, encoder["encoder_version"], {first})[first]
    np.testing.assert_allclose(made["moving_average"], moving_average(vectors(shots))[0], rtol=1e-5)
    np.testing.assert_allclose(made["title_mean"], vectors(shots).mean(axis=0), rtol=1e-5)

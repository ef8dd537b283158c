"""The asset `ablations` as a data engineer meets it: made on request, of a lake that was written without any film."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import httpx2
import numpy as np
import polars as pl
import pytest

import model.ablations
from mediafm_assets.definitions import defs
from mediafm_assets.graph.freshness import look
from mediafm_assets.graph.plan import due, work_ahead
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.ablations import Variant, variants
from model.fusion import Fusion, fuse
from model.modalities import MODALITIES
from resources.lake import DeltaLake, violations
from tests.mediafm_assets.conftest import QUICK_ENCODER, Places
from tests.mediafm_assets.graph.small_lake import title_row, write_encoder
from tests.mediafm_assets.pages.conftest import serving

SHOTS = 6
QUICK = {
    "MEDIAFM_ABLATION_STEPS": "2",
    "MEDIAFM_ENCODER_OVERRIDES": json.dumps(QUICK_ENCODER | {"batch_sequences": 4, "warmup_steps": 1}),
}


def catalogue_of(places: Places) -> Catalogue:
    return Catalogue(places.lake, resources(), all_stages())


def write_title(places: Places, name: str, seed: int) -> None:
    """A title's tables up to its contextual embeddings, in versions that follow from each other."""
    rng, catalogue = np.random.default_rng(seed), catalogue_of(places)
    configured = catalogue.resources

    def write(table: str, rows: pl.DataFrame, version: str | None = f"{seed:032x}") -> None:
        places.lake.write(table, catalogue.partition(table, name), rows, version or "")

    write("titles", pl.DataFrame([title_row(name) | {"duration_s": float(SHOTS), "genres": ["Drama"]}]))
    spans = {"start_s": np.arange(SHOTS, dtype=float), "end_s": np.arange(1, SHOTS + 1, dtype=float)}
    index = {"shot_index": range(SHOTS)}
    frames = {"start_frame": range(SHOTS), "end_frame": range(1, SHOTS + 1), "detector": "hand", "mark": None}
    write("shots", pl.DataFrame({**index, **spans, **frames}))
    embeddings = {}
    for modality in MODALITIES:
        vectors = (rng.normal(size=(SHOTS, modality.width)) + 0.5 * (seed % 2)).astype(np.float32)
        present = np.ones(SHOTS, dtype=bool)
        embeddings[modality.name] = (vectors, present)
        space = configured[modality.encoder].space()
        said = {"embedding": list(vectors), "present": present, "encoder": space, "input_hash": None}
        more = {"text": "words", "track": "film.en.srt"} if modality.name == "text" else {}
        write(modality.table, pl.DataFrame({**index, **said, **more}))
    about = rng.normal(size=768).astype(np.float32)
    title_space = configured["title_encoder"].space()
    write("global_embeddings", pl.DataFrame([{"embedding": about, "text": name, "encoder": title_space}]))
    fused = fuse(embeddings)
    has = {**{f"has_{modality.name}": True for modality in MODALITIES}, "input_hash": None}
    rows = pl.DataFrame({**index, **spans, "embedding": list(fused), **has, "space": catalogue.fused_space()})
    write("fused_embeddings", rows, catalogue_of(places).made_from_stored("fused_embeddings", name))
    context = {part: list(fused[:, :4]) for part in ("embedding", "last", "middle")}
    write("contextual_embeddings", pl.DataFrame({**index, **spans, **context}))


def write_labels(places: Places, titles: list[str], version: str = "4" * 32) -> None:
    """A clip of each shot: every other one was chosen."""
    rows = [
        {
            "clip_id": f"{title} {shot}",
            "title_id": title,
            "start_s": float(shot),
            "end_s": shot + 1.0,
            "label": shot % 2,
        }
        for title in titles
        for shot in range(SHOTS)
    ]
    nulls = [pl.lit(None, pl.List(pl.String)).alias("labels"), pl.lit(None, pl.Float64).alias("score")]
    places.lake.write("clip_labels", {"task": "clip_retrieval"}, pl.DataFrame(rows).with_columns(nulls), version)


def fill(places: Places, titles: int) -> list[str]:
    """A lake of so many titles without labels, with an encoder in use."""
    places.lake.create_tables()
    write_encoder(places.lake, space=catalogue_of(places).encoder_space())
    names = [f"t{number:02}" for number in range(titles)]
    for number, name in enumerate(names):
        write_title(places, name, number)
    return names


def few_variants(preset: Any, fusion: Fusion) -> list[Variant]:
    """Two ablations of all, to be quick."""
    return [v for v in variants(preset, fusion) if v.ablation in ("context", "mask_ratio")]


@pytest.fixture
def small(empty_places: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A lake of eight labelled titles, and few variants to compare on it, with one seed."""
    for name, value in (QUICK | {"MEDIAFM_ABLATION_SEEDS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(model.ablations, "variants", few_variants)
    write_labels(empty_places, fill(empty_places, 8))
    return empty_places


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All variants, made once: the lake's rows and what the UI was told."""
    places = Places(tmp_path_factory.mktemp("made"))
    (places.landing / "titles").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        places.use(monkeypatch)
        for name, value in QUICK.items():
            monkeypatch.setenv(name, value)
        write_labels(places, fill(places, 12))
        result = materialise()
        assert result.success
        return {
            "places": places,
            "lake": places.lake,
            "said": metadata(result),
            "order": variants(resources()["encoder_config"].config(), "balanced"),
        }


def instance_of() -> dg.DagsterInstance:
    Path(os.environ["DAGSTER_HOME"]).mkdir(exist_ok=True)
    return dg.DagsterInstance.get()


def materialise() -> dg.ExecuteInProcessResult:
    """Press the asset's button."""
    with instance_of() as instance:
        job = defs().resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey("ablations")]
        return job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    (event,) = result.asset_materializations_for_node("ablations")
    return {name: value.value for name, value in event.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    return str(failed.step_failure_data.user_failure_data.description)


def rows_of(lake: DeltaLake) -> pl.DataFrame:
    return lake.read_whole("ablations")


# ---- all variants ----------------------------------------------------------------------------------------------------


def test_every_variant_has_a_row_of_all_seeds_and_one_of_each(made: dict[str, Any]) -> None:
    rows = rows_of(made["lake"]).filter(task="clip_retrieval")
    for variant in made["order"]:
        seeds = rows.filter(ablation=variant.ablation, variant=variant.name)["seed"].to_list()
        trained = variant.setup.read != "concatenated"
        assert seeds == ([None, 0, 1] if trained else [None]), variant
    assert violations("ablations", rows_of(made["lake"])) == []
    assert rows["value"].null_count() == 0
    assert set(rows["steps"].drop_nulls()) == {2}
    compared = rows.filter(pl.col("against").is_not_null())
    assert (compared["difference_low"] <= compared["difference_high"]).all()
    assert rows.filter(pl.col("against").is_null())["difference"].null_count() == rows["against"].null_count()


def test_a_task_without_labels_is_left_out_with_a_reason(made: dict[str, Any]) -> None:
    rows = rows_of(made["lake"]).filter(task="clip_tone")
    assert rows["value"].null_count() == len(rows)
    assert all("too few labels" in note for note in rows["note"])
    assert any(line.endswith("20 clips of 4 titles are needed") for line in made["said"]["without_score"])


def test_the_ui_shows_two_small_charts_and_the_numbers(made: dict[str, Any]) -> None:
    said = made["said"]
    for name in ("chart", "differences"):
        alternative, data = said[name].removeprefix("![").removesuffix(")").split("](data:image/webp;base64,")
        assert len(alternative) > 10
        assert len(said[name]) <= 48_000
        assert base64.b64decode(data, validate=True)[8:12] == b"WEBP"
    assert said["compared"] > said["told_apart_by_chance"] > 0
    assert "| mask_ratio | 0.4 |" in said["variants"]
    assert (said["titles"], said["shots"]) == (12, 12 * SHOTS)


def test_the_page_of_encoders_has_them_for_people_who_open_no_table(made: dict[str, Any]) -> None:
    with serving(made["places"]) as url:
        page = httpx2.get(f"{url}/encoders", timeout=30)
    assert page.status_code == 200
    assert "What each part of the recipe is worth" in page.text
    summary = (
        rows_of(made["lake"])
        .filter(ablation="mask_ratio", variant="0.4", task="clip_retrieval")
        .filter(pl.col("seed").is_null())
    )
    row = summary.row(0, named=True)
    assert f"{row['value']:.3f}" in page.text
    assert f"({row['difference']:+.3f}, {row['difference_low']:+.3f} to {row['difference_high']:+.3f})" in page.text


# ---- on request ------------------------------------------------------------------------------------------------------


def test_it_is_made_on_request_only(small: Places) -> None:
    with instance_of() as instance:
        instance.add_dynamic_partitions("titles", [title for (title,) in small.lake.data_versions("titles")])
        with dg.build_sensor_context(instance, definitions=defs(), resources=resources()) as context:
            requests = automation_sensor(all_stages()).evaluate_tick(context).run_requests or []
    assert dg.AssetKey("ablations") not in {key for request in requests for key in request.asset_selection}
    assert "ablations" not in {stage.name for stage in due(catalogue_of(small))}
    assert "ablations" not in {stage.name for stage in work_ahead(catalogue_of(small), {}).whole}


def state(places: Places) -> tuple[str, str]:
    rows = look(catalogue_of(places), resources()["landing"].look()).filter(table="ablations")
    return rows.select("state", "reason").row(0)


def test_it_is_stale_after_other_labels_and_nothing_is_done_while_it_is_fresh(small: Places) -> None:
    assert state(small) == ("waiting", "it is made when somebody asks for it")
    metadata(materialise())
    before = rows_of(small.lake)
    assert state(small) == ("fresh", "")
    assert metadata(materialise())["up_to_date"]
    write_labels(small, [title for (title,) in small.lake.data_versions("titles")][1:], version="5" * 32)
    assert state(small)[0] == "stale"
    said = metadata(materialise())
    assert not said["up_to_date"]
    after = rows_of(small.lake)
    assert state(small) == ("fresh", "")
    assert set(after["data_version"]).isdisjoint(before["data_version"])
    assert len(after) == len(before)


def test_the_same_lake_gives_the_same_rows(small: Places) -> None:
    metadata(materialise())
    first = rows_of(small.lake)
    small.lake.delete("ablations", {})
    metadata(materialise())
    assert rows_of(small.lake).equals(first)


def test_a_run_that_died_repeats_only_the_variant_in_hand(small: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[Any, Any]] = []
    real = model.ablations.measure

    def dying(study: Any, setup: Any, readings: Any, seed: Any, folder: Path) -> Any:
        measured.append((setup, seed))
        if len(measured) == 3:
            raise OSError("the disk is full")
        return real(study, setup, readings, seed, folder)

    monkeypatch.setattr(model.ablations, "measure", dying)
    assert not materialise().success
    assert rows_of(small.lake).is_empty()
    metadata(materialise())
    assert len(measured) == len(set(measured)) + 1
    assert measured[2] == measured[3]
    assert not (small.root / "home" / "training" / "ablations").exists()
    assert rows_of(small.lake)["value"].count() > 0


# ---- too little ------------------------------------------------------------------------------------------------------


def test_too_few_titles_are_refused_in_words(empty_places: Places) -> None:
    write_labels(empty_places, fill(empty_places, 1))
    assert "5 titles are needed to compare variants on" in failure(materialise())
    assert rows_of(empty_places.lake).is_empty()


def test_before_there_is_an_encoder_it_says_what_to_make_first(empty_places: Places) -> None:
    empty_places.lake.create_tables()
    assert "materialise encoder_promotions first" in failure(materialise())


def test_without_any_labels_masked_shots_are_scored_and_the_rest_says_why_not(
    small: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ENCODER_OVERRIDES", json.dumps(QUICK_ENCODER | {"batch_sequences": 4}))
    for number in range(8, 16):  # so that enough are set aside
        write_title(small, f"t{number:02}", number)
    small.lake.delete("clip_labels", {"task": "clip_retrieval"})
    metadata(materialise())
    rows = rows_of(small.lake)
    assert set(rows.filter(pl.col("value").is_not_null())["task"]) == {"masked_shots"}
    assert all("too few labels: 0 clips" in note for note in rows.filter(task="clip_genre")["note"])


def test_a_title_that_is_being_made_anew_is_left_out(small: Places) -> None:
    rows = small.lake.read("video_embeddings", title_id="t00").drop("title_id", "data_version")
    small.lake.write("video_embeddings", {"title_id": "t00"}, rows, "f" * 32)
    assert metadata(materialise())["titles"] == 7

"""What the sensors and conditions would launch, on real definitions and instances, without a daemon."""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mediafm_assets.definitions import defs
from mediafm_assets.profiles import resources
from mediafm_assets.sensors import changed, landed, landing_sensor, refresh_sensor, unbroken_ranges
from mediafm_assets.versions import RECIPES
from resources.landing import LandingZone
from tests.mediafm_assets.conftest import Drop, Places

TITLE_TABLES = {"titles", *RECIPES}
BEFORE_TRAINING = TITLE_TABLES - {"contextual_embeddings"}


class Ticks:
    """Automation ticks on one instance, in which requested runs are recorded as done."""

    def __init__(self, definitions: dg.Definitions) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.definitions = definitions
        self.cursor: object = None

    def land(self, *titles: str) -> None:
        self.instance.add_dynamic_partitions("titles", list(titles))
        for title in titles:
            self.instance.report_runless_asset_event(landed("drops", title, "f" * 32))

    def evaluate(self, at: datetime | None = None) -> dg.EvaluateAutomationConditionsResult:
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=at
        )
        self.cursor = result.cursor
        return result

    def tick(self) -> dict[str, set[str]]:
        """Requested tables by title."""
        result = self.evaluate()
        requested: dict[str, set[str]] = {}
        for table in TITLE_TABLES:
            for title in result.get_requested_partitions(dg.AssetKey(table)):
                requested.setdefault(title or "", set()).add(table)
        return requested

    def made(self, title: str, *tables: str) -> None:
        for table in tables:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(table, partition=title))

    def trained(self) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization("encoder"))


@pytest.fixture
def ticks(empty_places: Places) -> Iterator[Ticks]:
    ticks = Ticks(defs())
    with ticks.instance:
        yield ticks


def test_a_title_that_landed_before_the_first_tick_is_requested_whole(ticks: Ticks) -> None:
    ticks.land("early")
    assert ticks.tick() == {"early": BEFORE_TRAINING}


def test_a_title_that_fails_is_not_requested_again_until_its_drop_changes(ticks: Ticks) -> None:
    ticks.land("broken")
    ticks.tick()
    assert ticks.tick() == {}
    ticks.land("broken")
    assert ticks.tick() == {"broken": BEFORE_TRAINING}


def test_a_new_title_requests_nothing_of_the_others(ticks: Ticks) -> None:
    ticks.land("old")
    ticks.tick()
    ticks.made("old", *BEFORE_TRAINING)
    ticks.tick()
    ticks.land("new")
    assert ticks.tick() == {"new": BEFORE_TRAINING}


def test_with_an_encoder_a_new_title_is_requested_up_to_its_contextual_embeddings(ticks: Ticks) -> None:
    ticks.trained()
    ticks.tick()
    ticks.land("new")
    assert ticks.tick() == {"new": TITLE_TABLES}


def test_a_new_encoder_requests_no_title_one_by_one(ticks: Ticks) -> None:
    ticks.land("waiting")
    ticks.tick()
    ticks.made("waiting", *BEFORE_TRAINING)
    assert ticks.tick() == {}
    ticks.trained()
    assert ticks.tick() == {}


def test_another_configuration_requests_what_it_shapes_and_what_follows(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.land("title")
    ticks.tick()
    ticks.made("title", *BEFORE_TRAINING)
    assert ticks.tick() == {}
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    ticks.definitions = defs()
    assert ticks.tick() == {"title": {"fused_embeddings"}}


def test_training_is_requested_once_on_its_cadence_and_only_if_something_is_new(ticks: Ticks) -> None:
    day = datetime(2026, 3, 1, 1, tzinfo=UTC)

    def requested(at: datetime) -> bool:
        return ticks.evaluate(at).get_num_requested(dg.AssetKey("encoder")) == 1

    assert not requested(day)
    ticks.land("title")
    ticks.made("title", *BEFORE_TRAINING)
    assert not requested(day + timedelta(minutes=30)), "not before the cadence's hour"
    assert requested(day + timedelta(hours=2))
    ticks.trained()
    assert not requested(day + timedelta(hours=3))
    assert not requested(day + timedelta(days=1, hours=2)), "nothing was new on the second day"
    ticks.made("title", "fused_embeddings")
    requested(day + timedelta(days=1, hours=3))
    assert requested(day + timedelta(days=2, hours=2))


def test_probes_are_requested_when_contextual_embeddings_or_labels_have_settled(ticks: Ticks) -> None:
    def requested() -> bool:
        return ticks.evaluate().get_num_requested(dg.AssetKey("probe_metrics")) == 1

    ticks.land("title")
    requested()
    ticks.made("title", *TITLE_TABLES)
    assert not requested(), "there is no encoder to probe"
    ticks.trained()
    assert requested()
    assert not requested()
    ticks.instance.report_runless_asset_event(dg.AssetMaterialization("clip_labels", partition="clip_tone"))
    assert requested()


def tick_landing(instance: dg.DagsterInstance, places: Places, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance, cursor=cursor, definitions=defs())
    result = landing_sensor(context, landing=LandingZone(uri=str(places.landing)))
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def test_the_landing_sensor_tells_of_each_complete_drop_once_and_again_when_it_changes(places: Places) -> None:
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    with dg.DagsterInstance.ephemeral() as instance:
        first = tick_landing(instance, places, None)
        assert first.dynamic_partitions_requests[0].partition_keys == titles
        assert [
            e.partition for e in first.asset_events if e.asset_key == dg.AssetKey("drops") and hasattr(e, "partition")
        ]
        assert isinstance(tick_landing(instance, places, first.cursor), dg.SkipReason)
        changed_title = places.landing / "titles" / titles[0] / "title.json"
        os.utime(changed_title, (changed_title.stat().st_atime, changed_title.stat().st_mtime - 1000))
        again = tick_landing(instance, places, first.cursor)
        assert again.dynamic_partitions_requests[0].partition_keys == titles[:1]


def test_the_landing_sensor_shows_what_cannot_be_used_as_a_failed_check_on_drops(places: Places, drop: Drop) -> None:
    drop(places.landing, "no-film", None)
    with dg.DagsterInstance.ephemeral() as instance:
        result = tick_landing(instance, places, None)
    check = next(event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation))
    assert not check.passed
    problems = check.metadata["problems"].value
    assert len(problems) == 1
    assert problems[0].startswith("no-film: landing: ")
    assert "no-film" not in result.dynamic_partitions_requests[0].partition_keys


def test_what_cannot_be_used_is_shown_by_a_check_that_the_ui_lists_and_can_run(places: Places, drop: Drop) -> None:
    drop(places.landing, "no-film", None)
    with dg.DagsterInstance.ephemeral() as instance:
        reported = next(e for e in tick_landing(instance, places, None).asset_events if hasattr(e, "check_name"))
        assert reported.asset_check_key in defs().resolve_asset_graph().asset_check_keys
        job = defs().resolve_implicit_global_asset_job_def()
        only = job.get_subset(asset_selection=set(), asset_check_selection={reported.asset_check_key})
        (run,) = only.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert (run.passed, run.severity, run.metadata) == (False, reported.severity, reported.metadata)
    assert run.description == reported.description
    assert run.description.startswith("no-film: landing: ")


def test_a_folder_without_title_json_is_left_alone(places: Places, drop: Drop) -> None:
    folder = drop(places.landing, "copying", None)
    (folder / "title.json").unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        result = tick_landing(instance, places, None)
    assert "copying" not in result.dynamic_partitions_requests[0].partition_keys
    assert next(e for e in result.asset_events if isinstance(e, dg.AssetCheckEvaluation)).passed


def test_the_refresh_sensor_asks_once_for_the_titles_that_lack_the_new_encoder(places: Places) -> None:
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    newest = max(version for (version,) in places.lake.data_versions("encoder"))
    shutil.rmtree(places.root / "lake" / "contextual_embeddings")
    places.lake.create_tables()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("titles", titles)
        context = dg.build_sensor_context(instance, definitions=defs())
        result = refresh_sensor(context, lake=places.lake)
        assert isinstance(result, dg.SensorResult)
        ranges = [
            (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"])
            for r in result.run_requests
        ]
        assert ranges == [(titles[0], titles[-1])]
        assert result.cursor == newest
        again = dg.build_sensor_context(instance, cursor=result.cursor, definitions=defs())
        assert isinstance(refresh_sensor(again, lake=places.lake), dg.SkipReason)


def test_a_range_run_brings_all_titles_up_to_date_with_the_encoder(places: Places) -> None:
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    before = {title: places.versions(title)["contextual_embeddings"] for title in titles}
    shutil.rmtree(places.root / "lake" / "contextual_embeddings")
    with dg.DagsterInstance.get() as instance:
        result = (
            defs()
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("contextual_embeddings")],
                tags={
                    "dagster/asset_partition_range_start": titles[0],
                    "dagster/asset_partition_range_end": titles[-1],
                },
            )
        )
    assert result.success
    assert {title: places.versions(title)["contextual_embeddings"] for title in titles} == before


def test_ranges_are_the_unbroken_runs_of_wanted_keys() -> None:
    assert list(unbroken_ranges(["a", "b", "c", "d", "e"], {"a", "b", "d", "e", "x"})) == [("a", "b"), ("d", "e")]
    assert list(unbroken_ranges(["a"], set())) == []


def test_changed_are_the_keys_with_a_new_fingerprint() -> None:
    assert changed({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "0"}) == ["b", "c"]


def test_what_the_command_has_told_dagster_already_is_not_told_again(places: Places) -> None:
    with dg.DagsterInstance.get() as instance:
        result = tick_landing(instance, places, None)
    assert not [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]


def test_every_asset_shows_owner_kind_group_description_and_columns(empty_places: Path) -> None:
    for spec in defs().resolve_all_asset_specs():
        assert spec.owners, spec.key
        assert spec.group_name != "default", spec.key
        assert spec.description, spec.key
        if spec.key.path[-1] not in ("drops", "label_files", "seqclip"):  # these are no tables
            assert {"deltalake"} <= spec.kinds
            assert spec.metadata["dagster/column_schema"].columns


def test_the_reference_profile_is_a_set_of_defaults_and_each_part_can_be_chosen_alone() -> None:
    reference = resources({"MEDIAFM_PROFILE": "reference", "MEDIAFM_TEXT_ENCODER": "hashed"})
    assert (reference["video_encoder"].kind, reference["audio_encoder"].kind) == ("clip", "wav2vec2")
    assert reference["text_encoder"].kind == "hashed"
    assert reference["title_encoder"].dimensions == 768
    assert json.loads(reference["encoder_config"].config().to_json())["layers"] == 12

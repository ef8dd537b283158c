"""What the sensors and conditions would launch, on real definitions and instances, without a daemon."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mediafm_assets.definitions import defs
from mediafm_assets.graph.plan import batches
from mediafm_assets.graph.sensors import TITLES_PER_TICK, automation_sensor, changed, landing_sensor
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.tasks import LABELLED
from resources.landing import LandingZone
from tests.mediafm_assets.conftest import Drop, Places

Tick = Any  # Dagster's SensorExecutionData, which it does not export
TITLE_TABLES = set(all_stages().title_tables)
IN_CONTEXT = {"contextual_embeddings", "title_embeddings"}
BY_PROBES = {"scenes", "tags", "ad_breaks", "highlights"}
OF_ALL = {"boundary_head", "probe_metrics", "probes", "title_metrics", "title_neighbours"}
BEFORE_TRAINING = TITLE_TABLES - IN_CONTEXT - BY_PROBES


def tick_automation(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    with dg.build_sensor_context(instance, cursor=cursor, definitions=defs(), resources=resources()) as context:
        return automation_sensor(all_stages()).evaluate_tick(context)


def run_requests(tick: Tick) -> list[dg.RunRequest]:
    return list(tick.run_requests or [])


def requested(result: Tick) -> dict[str, set[str]]:
    """The requested tables by the range of titles (or the one title, task or "") that the run covers."""
    found = {}
    for request in run_requests(result):
        tags = request.tags
        first = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start")
        last = tags.get("dagster/asset_partition_range_end")
        name = f"{first} to {last}" if last else first or request.partition_key or ""
        found[name] = {key.to_user_string() for key in request.asset_selection}
    return found


def launch(instance: dg.DagsterInstance, request: dg.RunRequest, **how: object) -> dg.ExecuteInProcessResult:
    """Run it as the daemon would."""
    job = defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=request.asset_selection,
        tags={**request.tags, **({"dagster/partition": request.partition_key} if request.partition_key else {})},
        raise_on_error=False,
    )


def land(instance: dg.DagsterInstance, places: Places) -> list[str]:
    """Register every drop as a partition, as the landing sensor does."""
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    instance.add_dynamic_partitions("titles", titles)
    return titles


def put(path: Path, data: bytes) -> None:
    """Write a file that looks an hour old, so that nobody takes it for still being copied."""
    path.write_bytes(data)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))


def test_titles_that_landed_together_are_requested_whole_in_one_run(
    empty_places: Places, small_catalogue: Path
) -> None:
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, empty_places)
        found = requested(tick_automation(instance))
    assert found.pop(f"{titles[0]} to {titles[-1]}") == BEFORE_TRAINING
    assert set(found) <= set(LABELLED)


def test_runs_are_bounded_by_the_configured_number_of_titles(
    empty_places: Places, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_TITLES_PER_RUN", "4")
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, empty_places)
        found = requested(tick_automation(instance))
    assert set(found) - set(LABELLED) == {f"{titles[0]} to {titles[3]}", f"{titles[4]} to {titles[5]}"}


def test_runs_carry_the_tags_that_their_stage_is_configured_with(
    empty_places: Places, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = {"container_config": {"resources": {"limits": {"cpu": "4"}}}}
    tags = {"title": {"dagster-k8s/config": pod}, "clip_labels": {"ecs/cpu": "256"}, "encoder": {"ecs/cpu": "8192"}}
    monkeypatch.setenv("MEDIAFM_RUN_TAGS", json.dumps(tags))
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, empty_places)
        of_titles, *of_labels = run_requests(tick_automation(instance))
    assert json.loads(of_titles.tags["dagster-k8s/config"]) == pod
    assert "dagster/asset_partition_range_start" in of_titles.tags
    assert "ecs/cpu" not in of_titles.tags
    assert {request.tags["ecs/cpu"] for request in of_labels} == {"256"}


def test_nothing_is_requested_of_a_lake_that_is_up_to_date_even_by_a_new_instance(places: Places) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        assert requested(tick_automation(instance)) == {}


def test_a_new_instance_is_told_what_the_lake_holds(places: Places) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        tick_automation(instance)
        titles = sorted(path.name for path in (places.landing / "titles").iterdir())
        for table in TITLE_TABLES:
            key = dg.AssetKey(table)
            assert instance.get_materialized_partitions(key) == set(titles), table
            event = instance.get_latest_data_version_record(key, partition_key=titles[0])
            stored = places.versions(titles[0]).get(table) or Catalogue(places.lake, resources(), all_stages()).stored(
                table, titles[0]
            )
            assert event.asset_materialization.tags["dagster/data_version"] == stored
        for table in ("encoder", "encoder_training", "probe_metrics"):
            assert instance.get_latest_materialization_event(dg.AssetKey(table)), table
        told = instance.fetch_materializations(dg.AssetKey("titles"), limit=100).records
        tick_automation(instance)
        again = instance.fetch_materializations(dg.AssetKey("titles"), limit=100).records
    assert len(again) == len(told) == len(titles)


def test_a_new_title_is_requested_alone_up_to_its_contextual_embeddings(places: Places, drop: Drop) -> None:
    source = sorted((places.landing / "titles").iterdir())[0] / "film.mp4"
    drop(places.landing, "zz-new", source)
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        assert requested(tick_automation(instance)) == {"zz-new": TITLE_TABLES}


def test_what_is_under_way_is_not_requested_again(places: Places, drop: Drop) -> None:
    source = sorted((places.landing / "titles").iterdir())[0] / "film.mp4"
    drop(places.landing, "zz-new", source)
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        (request,) = run_requests(tick_automation(instance))
        job = defs().resolve_implicit_global_asset_job_def()
        run = instance.create_run_for_job(job, tags=request.tags, asset_selection=frozenset(request.asset_selection))
        assert requested(tick_automation(instance)) == {}
        instance.report_run_canceled(run)
        assert requested(tick_automation(instance)) == {"zz-new": TITLE_TABLES}


def test_a_title_that_fails_is_not_requested_again_until_its_drop_changes(places: Places, drop: Drop) -> None:
    good = sorted((places.landing / "titles").iterdir())[0] / "film.mp4"
    folder = drop(places.landing, "zz-bad", None)
    put(folder / "film.mp4", b"not a film")
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        first = tick_automation(instance)
        (request,) = run_requests(first)
        result = launch(instance, request)
        assert not result.success
        assert places.lake.read("failures", title_id="zz-bad")["stage"].to_list() == ["titles"]
        assert requested(tick_automation(instance, first.cursor)) == {}
        put(folder / "film.mp4", good.read_bytes())
        (request,) = run_requests(tick_automation(instance, first.cursor))
        assert launch(instance, request).success
        assert "zz-bad" not in requested(tick_automation(instance, first.cursor))
    assert ("zz-bad",) not in places.lake.data_versions("failures")


def test_a_failed_title_costs_its_neighbours_nothing_and_alone_is_red(
    empty_places: Places, small_catalogue: Path
) -> None:
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    titles = sorted(path.name for path in (empty_places.landing / "titles").iterdir())
    bad = titles[2]
    film = next((empty_places.landing / "titles" / bad).glob("film.*4"))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, empty_places)
        request = next(
            r for r in run_requests(tick_automation(instance)) if "fused_embeddings" in str(r.asset_selection)
        )
        result = launch(instance, request)
        failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
        made = instance.get_materialized_partitions(dg.AssetKey("fused_embeddings"))
        planned = instance.get_event_records(
            dg.EventRecordsFilter(
                dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=dg.AssetKey("fused_embeddings")
            )
        )
    assert failure.user_failure_data.description.startswith(f"1 of 6 titles failed: {bad}: ")
    assert made == set(titles) - {bad}
    assert {record.partition_key for record in planned} == set(titles), "what is planned and not made is shown in red"


def test_lost_contextual_embeddings_of_all_titles_are_requested_in_one_run(places: Places) -> None:
    shutil.rmtree(places.root / "lake" / "contextual_embeddings")
    places.lake.create_tables()
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, places)
        result = tick_automation(instance)
        assert requested(result) == {f"{titles[0]} to {titles[-1]}": {"contextual_embeddings"}}
        assert launch(instance, run_requests(result)[0]).success
        assert requested(tick_automation(instance)) == {}


def test_a_title_whose_film_is_gone_is_left_alone_where_the_film_is_needed(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ASK_ABOVE", "1")
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, places)
        shutil.rmtree(places.landing / "titles" / titles[0])
        monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
        assert f"{titles[1]} to {titles[-1]}" in requested(tick_automation(instance))
        monkeypatch.setenv("MEDIAFM_DETECTOR", "transnetv2")
        monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
        assert requested(tick_automation(instance)) == {
            f"{titles[0]} to {titles[-1]}": {"fused_embeddings", "search_index"}
        }


def test_another_configuration_requests_what_it_shapes_and_what_follows(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ASK_ABOVE", "1")
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, places)
        assert requested(tick_automation(instance)) == {
            f"{titles[0]} to {titles[-1]}": {"fused_embeddings", "search_index"}
        }


def test_a_training_is_requested_when_the_titles_are_done_and_a_tenth_is_new_and_the_probes_after_it(
    empty_places: Places, small_catalogue: Path
) -> None:
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    with dg.DagsterInstance.ephemeral() as instance:
        titles = land(instance, empty_places)
        for request in run_requests(tick_automation(instance)):
            assert launch(instance, request).success
        training = tick_automation(instance)
        assert requested(training) == {"": {"encoder", "encoder_training"}}
        assert run_requests(training)[0].run_key == run_requests(tick_automation(instance))[0].run_key, "once only"
        assert launch(instance, run_requests(training)[0]).success
        gate = tick_automation(instance)
        assert requested(gate) == {"": {"encoder_promotions"}}
        assert launch(instance, run_requests(gate)[0]).success
        refresh = tick_automation(instance)
        assert requested(refresh) == {f"{titles[0]} to {titles[-1]}": IN_CONTEXT - {"contextual_embeddings"}}
        assert launch(instance, run_requests(refresh)[0]).success
        made: list[str] = []
        while requests := run_requests(tick_automation(instance)):
            for request in requests:
                made += [key.to_user_string() for key in request.asset_selection or ()]
                assert launch(instance, request).success
        assert sorted(made) == sorted(OF_ALL | BY_PROBES)
        assert requested(tick_automation(instance)) == {}


def test_a_title_whose_process_dies_is_tried_once_more_alone_and_then_has_failed(places: Places, drop: Drop) -> None:
    source = sorted((places.landing / "titles").iterdir())[0] / "film.mp4"
    for name in ("zz-killer", "zz-neighbour"):
        drop(places.landing, name, source)
    job = defs().resolve_implicit_global_asset_job_def()

    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        result = tick_automation(instance)
        for _ in range(2):
            request = next(r for r in run_requests(result) if "zz-killer" in r.tags.values())
            run = instance.create_run_for_job(
                job, tags=request.tags, asset_selection=frozenset(request.asset_selection)
            )
            result = tick_automation(instance, result.cursor)
            assert "zz-killer" not in requested(result), "it is under way"
            instance.report_run_failed(run, "killed")
            result = tick_automation(instance, result.cursor)
        assert "zz-killer" not in " ".join(requested(result))
    assert "died, twice" in places.lake.read("failures", title_id="zz-killer")["reason"][0]


def test_what_a_cancelled_run_left_waits_for_a_person(places: Places, drop: Drop) -> None:
    drop(places.landing, "zz-new", sorted((places.landing / "titles").iterdir())[0] / "film.mp4")
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        land(instance, places)
        first = tick_automation(instance)
        (request,) = run_requests(first)
        run = instance.create_run_for_job(job, tags=request.tags, asset_selection=frozenset(request.asset_selection))
        instance.report_run_canceled(run)
        assert requested(tick_automation(instance, first.cursor)) == {}
    assert "cancelled" in places.lake.read("failures", title_id="zz-new")["reason"][0]


def test_a_batch_covers_few_titles_that_lack_nothing_and_never_more_wanted_ones_than_allowed() -> None:
    keys = [f"t{number:03}" for number in range(100)]
    wanted = {key: ["fused_embeddings"] for key in ("t000", "t001", "t005", "t050", "t051")}
    assert [(b.first, b.last) for b in batches(keys, wanted, most=10)] == [("t000", "t005"), ("t050", "t051")]
    assert [b.titles for b in batches(keys, wanted, most=2, gap=0)] == [("t000", "t001"), ("t005",), ("t050", "t051")]
    assert list(batches(keys, {}, most=2)) == []


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
        told = [event for event in first.asset_events if event.asset_key == dg.AssetKey("drops")]
        assert [event.partition for event in told if isinstance(event, dg.AssetMaterialization)] == titles
        for event in first.asset_events:  # as the daemon does
            instance.report_runless_asset_event(event)
        assert isinstance(tick_landing(instance, places, first.cursor), dg.SkipReason)
        changed_title = places.landing / "titles" / titles[0] / "title.json"
        os.utime(changed_title, (changed_title.stat().st_atime, changed_title.stat().st_mtime - 1000))
        again = tick_landing(instance, places, first.cursor)
        assert again.dynamic_partitions_requests[0].partition_keys == titles[:1]


def test_the_landing_sensors_cursor_stays_small_however_many_titles_there_are_and_tells_of_all(
    empty_places: Places, drop: Drop
) -> None:
    names = [f"{'long-name-' * 10}{number:03}" for number in range(TITLES_PER_TICK + 10)]
    for name in names:
        put(drop(empty_places.landing, name, None) / "film.mp4", b"film")
    told: list[str | None] = []
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None
        while not isinstance(result := tick_landing(instance, empty_places, cursor), dg.SkipReason):
            for event in result.asset_events:
                instance.report_runless_asset_event(event)
                told += [event.partition] if isinstance(event, dg.AssetMaterialization) else []
            cursor = result.cursor
            assert len(cursor or "") < 100
    assert told == names


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
        if spec.key.path[-1] not in (
            "drops",
            "label_files",
            "seqclip",
            "search_index",
            "maintenance",
            "health",
            "approval",
        ):  # these are no tables
            assert {"deltalake"} <= spec.kinds
            assert spec.metadata["dagster/column_schema"].columns


def test_by_default_films_are_read_with_the_weights_that_come_with_packages() -> None:
    default = resources({})
    kinds = [default[f"{part}_encoder"].kind for part in ("video", "audio", "text", "title")]
    assert kinds == ["efficientnet", "aisfx", "minilm", "minilm"]
    weightless = {"MEDIAFM_VIDEO_ENCODER": "descriptors", "MEDIAFM_AUDIO_ENCODER": "logmel"}
    assert resources({**weightless, "MEDIAFM_TEXT_ENCODER": "hashed"})["video_encoder"].kind == "descriptors"


def test_the_reference_profile_is_a_set_of_defaults_and_each_part_can_be_chosen_alone() -> None:
    reference = resources({"MEDIAFM_PROFILE": "reference", "MEDIAFM_TEXT_ENCODER": "hashed"})
    assert (reference["video_encoder"].kind, reference["audio_encoder"].kind) == ("clip", "wav2vec2")
    assert reference["text_encoder"].kind == "hashed"
    assert reference["title_encoder"].dimensions == 768
    assert resources({"MEDIAFM_PROFILE": "reference"})["title_encoder"].dimensions == 3072
    local = resources({"MEDIAFM_TEXT_ENCODER": "openai", "MEDIAFM_TEXT_MODEL": "nomic-embed-text"})
    assert local["title_encoder"].dimensions == 768
    assert json.loads(reference["encoder_config"].config().to_json())["layers"] == 12

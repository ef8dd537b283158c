"""Where somebody looks for a failure, on a real instance: a table's check, a partition's page, the asset `health`."""

import shutil

import dagster as dg
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph.health import EVERY_TITLE, HEALTH
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from tests.mediafm_assets.conftest import Drop, Places


def latest_check(instance: dg.DagsterInstance, asset: str, name: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(dg.AssetKey(asset), name)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    assert record.event.dagster_event is not None
    return record.event.dagster_event.asset_check_evaluation_data


def told_of(instance: dg.DagsterInstance, asset: str, title: str) -> list[dg.AssetObservation]:
    """What the partition's page shows beside materialisations, the newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[title])
    return [r.asset_observation for r in instance.fetch_observations(wanted, limit=10).records if r.asset_observation]


@pytest.fixture
def broken(places: Places, drop: Drop) -> str:
    """A title that cannot be read, after the command has tried it."""
    (drop(places.landing, "zz-broken", None) / "film.mp4").write_bytes(b"not a film")
    assert main(["materialize", "--no-train"]) == 1
    return "zz-broken"


def test_a_failed_titles_partition_says_which_stage_and_why_in_every_table_that_it_lacks(
    places: Places, broken: str
) -> None:
    with dg.DagsterInstance.get() as instance:
        for table in all_stages().title_tables:
            (observation,) = told_of(instance, table, broken)
            said = str(observation.metadata["failed"].value)
            assert said.startswith(f"{broken}: titles: film.mp4 "), table


def test_a_table_says_how_many_titles_are_fine_and_which_failed_and_is_not_red(places: Places, broken: str) -> None:
    with dg.DagsterInstance.get() as instance:
        check = latest_check(instance, "fused_embeddings", EVERY_TITLE)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.description or "").startswith(f"6 fine, 1 failed: {broken}: titles: ")
    assert (check.metadata["fine"].value, check.metadata["failed"].value) == (6, 1)


def test_one_asset_says_how_all_titles_are(places: Places, broken: str) -> None:
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(HEALTH))
        check = latest_check(instance, HEALTH, EVERY_TITLE)
    assert event is not None
    assert event.asset_materialization is not None
    said = event.asset_materialization.metadata
    assert (said["titles_fine"].value, said["titles_failed"].value) == (6, 1)
    assert f"* {broken}: titles: " in str(said["failures"].value)
    assert "/assets/fused_embeddings?view=partitions&status=FAILED" in str(said["tables"].value)
    assert (check.description or "").startswith("6 fine, 1 failed: ")


def test_a_title_that_recovers_is_fine_again_everywhere(places: Places, broken: str) -> None:
    source = min((places.landing / "titles").iterdir())
    film = places.landing / "titles" / broken / "film.mp4"
    shutil.copyfile(source / "film.mp4", film)
    assert main(["materialize", "--no-train"]) == 0
    with dg.DagsterInstance.get() as instance:
        for asset in ("fused_embeddings", HEALTH):
            assert latest_check(instance, asset, EVERY_TITLE).description == "7 fine, 0 failed"


def test_the_daemon_tells_of_the_health_when_it_changes_and_not_in_every_tick(places: Places, drop: Drop) -> None:
    def tick(cursor: str | None) -> object:
        with dg.build_sensor_context(instance, cursor=cursor, definitions=defs(), resources=resources()) as context:
            return automation_sensor(all_stages()).evaluate_tick(context)

    with dg.DagsterInstance.get() as instance:
        first = tick(None)
        assert {event.asset_key for event in first.asset_events} == {dg.AssetKey(HEALTH)}
        assert not tick(first.cursor).asset_events
        (drop(places.landing, "zz-broken", None) / "film.mp4").write_bytes(b"not a film")
        assert main(["materialize", "--no-train"]) == 1
        again = tick(first.cursor)
        assert [e.passed for e in again.asset_events if isinstance(e, dg.AssetCheckEvaluation)] == [False]


def test_the_health_can_be_looked_at_at_once_and_by_its_check_in_the_ui(places: Places, broken: str) -> None:
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        whole = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(HEALTH)])
        of_table = job.get_subset(
            asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey("shots"), EVERY_TITLE)}
        ).execute_in_process(instance=instance)
    assert whole.success
    for result in (whole, of_table):
        (check,) = result.get_asset_check_evaluations()
        assert (check.description or "").startswith("6 fine, 1 failed: ")


def test_a_contract_says_how_much_was_looked_at(places: Places) -> None:
    job = defs().resolve_implicit_global_asset_job_def()
    contract = dg.AssetCheckKey(dg.AssetKey("shots"), "contract")
    with dg.DagsterInstance.get() as instance:
        written = latest_check(instance, "shots", "contract")
        only = job.get_subset(asset_selection=set(), asset_check_selection={contract})
        (stored,) = only.execute_in_process(instance=instance).get_asset_check_evaluations()
    rows = len(places.lake.scan("shots").collect())
    assert written.metadata["titles_written"].value == 6
    assert (stored.metadata["partitions"].value, stored.metadata["rows"].value) == (6, rows)
    assert stored.description == f"{rows} rows in 6 partitions keep the contract"

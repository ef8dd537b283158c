"""What is lost, damaged, killed or started twice: the command and the sensors put it right."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph.sensors import LAUNCHED_BY_CODE_SERVER, PROCESS_TAG, end_runs_of_dead_workers
from tests.mediafm_assets.conftest import Places


def file_of(places: Places, table: str, title: str) -> Path:
    (uri,) = places.lake.partition_files(table, {"title_id": title})
    return Path(uri)


@pytest.fixture
def title(places: Places) -> str:
    return sorted(path.name for path in (places.landing / "titles").iterdir())[0]


@pytest.mark.parametrize("harm", ["deleted", "cut"])
def test_a_lost_or_cut_data_file_is_noticed_and_made_again_alone(
    places: Places, title: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    versions, files = places.versions(title), places.files()
    file = file_of(places, "fused_embeddings", title)
    if harm == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    assert main(["materialize"]) == 0
    assert f"fused_embeddings of {title} is damaged" in capsys.readouterr().out
    assert places.versions(title) == versions
    assert len(places.lake.read("fused_embeddings", title_id=title)) > 0
    assert {name.split("/")[0] for name in set(places.files()) - set(files)} == {"fused_embeddings"}


def test_verify_finds_changed_bytes_only_when_it_looks_deep_and_they_are_made_again(
    places: Places, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of(places, "video_embeddings", title)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert main(["verify", "--title", title]) == 0
    assert main(["verify", "--title", title, "--deep"]) == 1
    assert f"video_embeddings of {title} is damaged" in capsys.readouterr().err
    assert main(["materialize"]) == 0
    assert main(["verify", "--deep"]) == 0


def test_a_lost_encoder_is_trained_again(places: Places) -> None:
    for path in (places.root / "lake" / "encoder").rglob("*.parquet"):
        if "_delta_log" not in path.parts:
            path.unlink()
    assert main(["materialize"]) == 0
    assert places.lake.data_versions("encoder")


def test_forced_tables_are_made_again_and_nothing_else(places: Places, title: str) -> None:
    files = places.files()
    assert main(["materialize", "--title", title, "--force", "audio_embeddings"]) == 0
    assert {name.split("/")[0] for name in set(places.files()) - set(files)} == {"audio_embeddings"}


def test_labels_go_with_their_file(places: Places) -> None:
    next((places.landing / "labels").glob("clip_tone.*")).unlink()
    assert main(["materialize"]) == 0
    assert ("clip_tone",) not in places.lake.data_versions("clip_labels")


def test_a_title_without_labels_changes_no_probe(places: Places, title: str) -> None:
    import shutil

    before = places.lake.data_versions("probe_metrics")
    shutil.copytree(places.landing / "titles" / title, places.landing / "titles" / "zz-unlabelled")
    assert main(["materialize", "--no-train"]) == 0
    assert places.lake.data_versions("probe_metrics") == before


def test_a_new_dagster_home_is_told_what_the_lake_holds_and_runs_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(places.root / "new-home"))
    assert main(["materialize"]) == 0
    assert "nothing had changed" in capsys.readouterr().out
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0
        assert len(instance.get_materialized_partitions(dg.AssetKey("contextual_embeddings"))) == 6
        assert instance.get_latest_materialization_event(dg.AssetKey("encoder")) is not None


def test_a_run_that_was_killed_before_it_began_is_ended_by_the_next_call(places: Places) -> None:
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(job, tags={PROCESS_TAG: f"{platform.node()}/{2**22 - 1}:1"})
        elsewhere = instance.create_run_for_job(job, tags={PROCESS_TAG: f"another-machine/{2**22 - 1}:1"})
        assert main(["materialize"]) == 0
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(elsewhere.run_id).status == dg.DagsterRunStatus.NOT_STARTED


def test_a_run_whose_worker_died_with_its_code_server_is_ended_and_a_living_ones_is_not(places: Places) -> None:
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:

        def started(pid: int) -> dg.DagsterRun:
            tags = {LAUNCHED_BY_CODE_SERVER: "{}"}
            run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
            instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
            return run

        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        died, lives = started(worker.pid), started(os.getpid())
        end_runs_of_dead_workers(instance)
        assert instance.get_run_by_id(died.run_id).status == dg.DagsterRunStatus.STARTED
        worker.kill()
        end_runs_of_dead_workers(instance)  # perhaps not yet reaped, as in a container without an init
        worker.communicate()
        end_runs_of_dead_workers(instance)
        assert instance.get_run_by_id(died.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(lives.run_id).status == dg.DagsterRunStatus.STARTED


def test_two_calls_at_once_may_share_a_new_dagster_home(empty_places: Places) -> None:
    command = [sys.executable, "-m", "mediafm_assets.commands.cli", "materialize"]
    calls = [subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [call.communicate(timeout=120)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0], said

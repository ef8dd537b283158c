"""`mediafm materialize` as its users meet it: what it makes, what it leaves alone, what it says."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from mediafm_assets.commands import headless
from mediafm_assets.commands.cli import main
from mediafm_assets.defs.evaluation import REPRESENTATIONS
from mediafm_assets.settings import resources
from model.tasks import SCENES, TASKS
from resources.lake import TABLES, violations
from tests.mediafm_assets.conftest import WEIGHTLESS, Drop, Places


def run_count() -> int:
    with dg.DagsterInstance.get() as instance:
        return instance.get_runs_count()


OF_ALL_TITLES = ("probe_metrics", "title_metrics", "title_neighbours")


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def test_every_table_is_filled_and_keeps_its_contract(finished: Places) -> None:
    titles = titles_in(finished)
    for table in TABLES:
        partitions = finished.lake.data_versions(table)
        # nothing failed, was paid for, compared with or asked for
        if table in ("failures", "text_cache", "clip_embeddings", "ablations"):
            assert not partitions
            continue
        assert partitions, table
        if "title_id" in TABLES[table].partition_by:
            assert sorted({key[-1] for key in partitions}) == titles
        for key in partitions:
            rows = finished.lake.read(table, **dict(zip(TABLES[table].partition_by, key, strict=True)))
            assert violations(table, rows) == []
    metrics = finished.lake.scan("probe_metrics").collect()
    of_clips = metrics.filter(pl.col("task") != SCENES).select("task", "representation")
    assert set(of_clips.rows()) == {(t, r) for t in TASKS for r in REPRESENTATIONS}


def test_a_second_call_runs_nothing_and_says_so_without_loading_an_encoder(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, runs = places.files(), run_count()
    monkeypatch.setattr(headless, "preflight", lambda _: ["an encoder was asked for"])
    assert main(["materialize"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out
    assert places.files() == files
    assert run_count() == runs


def test_one_more_title_touches_no_file_of_another(places: Places) -> None:
    files = places.files()
    shutil.copytree(places.landing / "titles" / titles_in(places)[0], places.landing / "titles" / "zz-new")
    assert main(["materialize", "--no-train"]) == 0
    added = set(places.files()) - set(files)
    assert {name: mtime for name, mtime in places.files().items() if name in files} == files
    per_title = [name for name in added if not name.startswith(OF_ALL_TITLES)]
    assert per_title
    assert all("title_id=zz-new" in name for name in per_title)
    assert all(places.versions("zz-new").values())


def test_a_changed_subtitle_line_remakes_text_fused_and_contextual_only(places: Places) -> None:
    title = next(t for t in titles_in(places) if list((places.landing / "titles" / t).glob("*.srt")))
    before, others = places.versions(title), {t: places.versions(t) for t in titles_in(places) if t != title}
    files = places.files()
    subtitles = next((places.landing / "titles" / title).glob("*.srt"))
    lines = subtitles.read_text().splitlines()
    spoken = next(number for number, line in enumerate(lines) if "-->" in line) + 1
    lines[spoken] = "Something else is said here now."
    subtitles.write_text("\n".join(lines))

    assert main(["materialize", "--no-train"]) == 0
    after = places.versions(title)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"titles", "text_embeddings", "fused_embeddings", "contextual_embeddings"}
    rewritten = {name.split("/")[0] for name in set(places.files()) - set(files)}
    follow = {
        "scenes",
        "title_embeddings",
        "title_neighbours",
        "probe_metrics",
        "probes",
        "boundary_head",
        "title_metrics",
    }
    assert rewritten == changed | follow | {"tags", "ad_breaks", "highlights"}
    assert {t: places.versions(t) for t in others} == others


def test_a_drop_that_is_only_touched_is_not_made_again(places: Places) -> None:
    title = titles_in(places)[0]
    before, files = places.versions(title), places.files()
    os.utime(places.landing / "titles" / title / "title.json", (time.time() - 60, time.time() - 60))
    assert main(["materialize"]) == 0
    assert places.versions(title) == before
    assert {name.split("/")[0] for name in set(places.files()) - set(files)} <= {"titles"}


def test_titles_that_cannot_be_used_fail_alone_each_with_its_stage_and_reason(
    places: Places, drop: Drop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = places.landing / "titles" / titles_in(places)[0] / "film.mp4"
    files = places.files()
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    drop(places.landing, "bad-truncated", truncated)
    drop(places.landing, "bad-missing", None)
    broken = drop(places.landing, "bad-json", good)
    (broken / "title.json").write_text("{not json")
    nameless = drop(places.landing, "bad-nameless", good)
    (nameless / "title.json").write_text("{}")
    (places.landing / "titles" / "bad id'; --").mkdir()
    words = drop(places.landing, "bad-subtitles", good)
    (words / "film.en.srt").write_bytes(b"\x00\x01 no cue in here \xff" * 40)
    drop(places.landing, "good-new", good)

    assert main(["materialize", "--no-train"]) == 1
    said = capsys.readouterr().err.splitlines()
    sentences = {line.split(": ")[0].removeprefix("FAILED "): line for line in said if line.startswith("FAILED ")}
    stages = {title: line.split(": ")[1] for title, line in sentences.items()}
    assert stages == {
        "bad-truncated": "titles",
        "bad-missing": "landing",
        "bad-json": "landing",
        "bad-nameless": "landing",
        "bad id'; --": "landing",
        "bad-subtitles": "text_embeddings",
    }
    assert not any("Traceback" in line for line in said)
    assert all(places.versions("good-new").values())
    kept = places.files()
    assert {name: kept.get(name) for name in files if not name.startswith(OF_ALL_TITLES)} == {
        name: mtime for name, mtime in files.items() if not name.startswith(OF_ALL_TITLES)
    }
    assert not any("title_id=bad-truncated" in name for name in kept if name.startswith("shots/"))


def test_a_failed_title_is_finished_when_its_drop_is_mended(places: Places, drop: Drop) -> None:
    good = places.landing / "titles" / titles_in(places)[0] / "film.mp4"
    words = drop(places.landing, "mended", good)
    (words / "film.en.srt").write_bytes(b"\x00\x01 no cue in here \xff" * 40)
    assert main(["materialize", "--no-train", "--title", "mended"]) == 1
    shots = places.versions("mended")["shots"]
    (words / "film.en.srt").write_text("1\n00:00:00,100 --> 00:00:01,000\nHello.\n")
    assert main(["materialize", "--no-train", "--title", "mended"]) == 0
    assert places.versions("mended")["shots"] == shots != ""
    assert places.lake.read("text_embeddings", title_id="mended")["text"].str.contains("Hello").any()


def test_without_an_encoder_contextual_embeddings_wait_and_it_says_so(
    empty_places: Places, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = sorted((small_catalogue / "titles").iterdir())[0]
    shutil.copytree(first, empty_places.landing / "titles" / first.name)
    assert main(["materialize", "--no-train"]) == 0
    said = capsys.readouterr().out
    assert "no encoder for this embedding space yet: contextual embeddings, scenes" in said
    assert "wait for a training" in said
    assert empty_places.versions(first.name)["fused_embeddings"]
    assert not empty_places.lake.data_versions("contextual_embeddings")


def test_an_encoder_is_trained_again_when_the_catalogue_has_grown_by_a_tenth(places: Places) -> None:
    titles = titles_in(places)
    source = places.landing / "titles" / titles[0]
    shutil.copytree(source, places.landing / "titles" / "zz-new")  # the seventh of seven
    assert main(["materialize"]) == 0
    assert len(places.lake.data_versions("encoder")) == 2
    newest = max(version for (version,) in places.lake.data_versions("encoder"))
    made = {title for version, title in places.lake.data_versions("contextual_embeddings") if version == newest}
    assert made == set(titles_in(places))
    assert encoder_config(places)["warm_start"], "only titles came, so training starts from the earlier weights"


def test_an_encoder_starts_anew_when_a_title_that_it_was_trained_on_has_changed(places: Places) -> None:
    srt = next((places.landing / "titles").rglob("*.srt"))
    srt.write_text(srt.read_text().replace("you", "nobody").replace("the", "no"))
    assert main(["materialize", "--train"]) == 0
    assert len(places.lake.data_versions("encoder")) == 2
    assert not encoder_config(places)["warm_start"]


def encoder_config(places: Places) -> dict[str, Any]:
    """The newest encoder's `config` as downstream reads it."""
    encoders = pl.read_delta(str(places.root / "lake" / "encoder"))
    return json.loads(encoders.filter(pl.col("encoder_version") == pl.col("encoder_version").max())["config"][0])


def test_an_encoder_says_in_the_ui_how_well_it_predicts_and_what_it_was_trained_on(places: Places) -> None:
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("encoder"))
        assert event is not None
        assert event.asset_materialization is not None
        metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
        checked = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("encoder"), "has_learnt_context"), limit=1
        )
    assert metadata["learning_curve"].startswith(
        "![loss by step, and skill by modality with its interval](data:image/webp;base64,"
    )
    assert -1 < metadata["skill"] < 1
    assert "| skill over the best without a model | " in metadata["validation"]
    assert all(-1 < metadata[f"skill_{part}"] < 1 for part in ("video", "audio", "text"))
    assert "| neighbours |" in metadata["validation"]
    assert metadata["delta_versions"] == encoder_config(places)["delta_versions"]
    for table, version in metadata["delta_versions"].items():
        assert set(pl.read_delta(str(places.root / "lake" / table), version=version)["title_id"]) == set(
            titles_in(places)
        )
    # Six steps teach nothing, and that is no reason to fail anything.
    (check,) = checked
    evaluation = check.event.dagster_event.asset_check_evaluation_data
    assert evaluation.passed == (metadata["skill"] > 0)
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.passed or "does not beat" in evaluation.description


def test_training_is_forced_by_train_and_unchanged_input_trains_nothing_new(places: Places) -> None:
    assert main(["materialize", "--train"]) == 0
    assert len(places.lake.data_versions("encoder")) == 1, "the same vectors and recipe make the same version"


def test_another_detector_makes_stale_what_depends_on_shots(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    title = titles_in(places)[0]
    before = places.versions(title)
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    assert main(["materialize", "--no-train", "--title", title]) == 0
    after = places.versions(title)
    assert {table for table in after if after[table] == before[table]} == {"titles", "global_embeddings"}
    assert places.lake.read("shots", title_id=title)["detector"].str.starts_with("adaptive").all()


def test_a_lake_of_other_encoders_is_remade_where_they_count_and_nowhere_else(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = titles_in(places)[0]
    before = places.versions(title)
    monkeypatch.setenv("MEDIAFM_AUDIO_ENCODER", "aisfx")
    assert main(["materialize"]) == 0
    after = places.versions(title)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"audio_embeddings", "fused_embeddings", "contextual_embeddings"}
    spaces = places.lake.scan("fused_embeddings").collect()["space"].unique()
    assert len(spaces) == 1


def test_the_default_encoders_make_every_embedding_of_a_film(
    empty_places: Places, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in WEIGHTLESS:
        monkeypatch.delenv(variable)
    title = min(path.name for path in (small_catalogue / "titles").iterdir())
    shutil.copytree(small_catalogue / "titles" / title, empty_places.landing / "titles" / title)
    assert main(["materialize", "--no-train"]) == 0
    configured = resources()
    parts = {"video": "video", "audio": "audio", "text": "text", "global": "title"}
    for table, part in parts.items():
        rows = empty_places.lake.read(f"{table}_embeddings", title_id=title)
        assert set(rows["encoder"]) == {configured[f"{part}_encoder"].space()}


def test_two_catalogues_with_their_own_places_never_touch_each_other(
    places: Places, empty_places: Places, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = places.files()
    first = sorted((small_catalogue / "titles").iterdir())[0]
    shutil.copytree(first, empty_places.landing / "titles" / "elsewhere")
    empty_places.use(monkeypatch)
    assert main(["materialize", "--no-train"]) == 0
    assert list(empty_places.lake.data_versions("shots")) == [("elsewhere",)]
    assert places.files() == files


def test_landing_zone_and_lake_may_lie_in_a_bucket(
    bucket: Any, small_catalogue: Path, empty_places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = sorted((small_catalogue / "titles").iterdir())[0]
    for file in title.iterdir():
        bucket.upload_file(str(file), "films", f"in/titles/{title.name}/{file.name}")
    monkeypatch.setenv("MEDIAFM_LANDING", "s3://films/in")
    monkeypatch.setenv("MEDIAFM_LAKE", "s3://films/lake")
    assert main(["materialize"]) == 0
    contextual = pl.read_delta("s3://films/lake/contextual_embeddings")
    assert set(contextual["title_id"]) == {title.name}
    before = run_count()
    assert main(["materialize"]) == 0
    assert run_count() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MEDIAFM_PROFILE", "fast"),
        ("MEDIAFM_DETECTOR", "magic"),
        ("MEDIAFM_FRAMES_PER_SHOT", "-1"),
        ("MEDIAFM_ENCODER_OVERRIDES", '{"layers": 0}'),
        ("MEDIAFM_ENCODER_OVERRIDES", "not json"),
        ("MEDIAFM_LANDING", "/no/such/folder"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_names_the_variable(
    empty_places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["materialize"]) == 2
    assert variable in capsys.readouterr().err


def test_wrong_usage_ends_with_2(empty_places: Places) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["materialize", "--train", "--no-train"])
    assert stopped.value.code == 2


def test_an_unknown_title_is_named(empty_places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["materialize", "--title", "nobody"]) == 1
    assert "nobody: landing: there is no such drop" in capsys.readouterr().err


def test_the_command_runs_from_any_folder_and_a_killed_run_is_finished_by_the_next(
    finished: Places, tmp_path: Path
) -> None:
    places = Places(tmp_path / "places")
    shutil.copytree(finished.landing, places.landing)
    command = [sys.executable, "-m", "mediafm_assets.commands.cli", "materialize", "--no-train"]
    project = str(Path(__file__).parents[3])
    environment = {**os.environ, **places.environment, "PYTHONPATH": project}
    # No pipes: what the killed process leaves behind (Dagster's log followers) would hold them open.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet)
    deadline = time.monotonic() + 120
    while not list(places.root.glob("lake/shots/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **quiet)
    assert done.returncode == 0
    for title in titles_in(places):
        assert {**places.versions(title), "contextual_embeddings": ""} == {
            **finished.versions(title),
            "contextual_embeddings": "",
        }


def test_a_run_over_several_titles_finishes_the_others_when_one_fails(places: Places, drop: Drop) -> None:
    good = places.landing / "titles" / titles_in(places)[0] / "film.mp4"
    for name in ("range-a", "range-c"):
        drop(places.landing, name, good)
    drop(places.landing, "range-b", None)
    (places.landing / "titles" / "range-b" / "film.mp4").write_bytes(b"not a film")
    from mediafm_assets.definitions import defs

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("titles", ["range-a", "range-b", "range-c"])
        result = (
            defs()
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("titles")],
                tags={"dagster/asset_partition_range_start": "range-a", "dagster/asset_partition_range_end": "range-c"},
                raise_on_error=False,
            )
        )
        made = instance.get_materialized_partitions(dg.AssetKey("titles"))
    assert not result.success
    assert {"range-a", "range-c"} <= made
    assert "range-b" not in made
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert re.match(r"1 of 3 titles failed: range-b: titles: .*film\.mp4", failure.user_failure_data.description)


def test_what_is_dropped_is_what_downstream_reads(finished: Places) -> None:
    for title in titles_in(finished):
        dropped = json.loads((finished.landing / "titles" / title / "title.json").read_text())
        row = pl.read_delta(str(finished.root / "lake" / "titles")).filter(title_id=title).row(0, named=True)
        assert (row["title"], row["synopsis"], row["tags"]) == (dropped["title"], dropped["synopsis"], dropped["tags"])

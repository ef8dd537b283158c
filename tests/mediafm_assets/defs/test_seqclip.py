"""The SeqCLIP fine-tune as a data engineer meets it: what it learns from, what it leaves behind, what it refuses."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.graph.shown import rounded
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.encoders import VideoEncoder
from tests.mediafm_assets.conftest import Places
from tests.resources.checkpoints import save_clip, save_siglip2, save_wav2vec

QUICK = {"epochs": 2, "batch_size": 8, "frames": 2, "pretrained_lr": 1e-4, "held_out": 0.3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("base"))


@pytest.fixture
def fine_tuning(places: Places, base: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A finished catalogue of the embedded profile, a small CLIP to fine-tune, and one thread for it."""
    monkeypatch.setenv("MEDIAFM_SEQCLIP_BASE", str(base))
    monkeypatch.setenv("MEDIAFM_SEQCLIP_OVERRIDES", json.dumps(QUICK))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return places


def materialise() -> dg.ExecuteInProcessResult:
    """Press the asset's button."""
    with dg.DagsterInstance.get() as instance:
        job = defs().resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("seqclip")], raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    (event,) = result.asset_materializations_for_node("seqclip")
    return {name: value.value for name, value in event.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    return str(failed.step_failure_data.user_failure_data.description)


def log_of(result: dg.ExecuteInProcessResult) -> str:
    with dg.DagsterInstance.get() as instance:
        return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def checkpoints(places: Places) -> list[Path]:
    return sorted((places.root / "home" / "seqclip").glob("*"))


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def write_pairs(places: Places, *lines: dict[str, Any]) -> None:
    (places.landing / "pairs").mkdir(exist_ok=True)
    (places.landing / "pairs" / "clips.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_the_catalogues_own_shots_and_cues_make_a_checkpoint_that_the_video_encoder_uses(
    fine_tuning: Places, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = materialise()
    said = metadata(result)
    assert said["pairs_from"] == "the catalogue's own shots and cues"
    spoken = fine_tuning.lake.scan("text_embeddings").filter(present=True).collect()
    assert said["pairs"] == len(spoken)
    assert said["titles"] == spoken["title_id"].n_unique()
    assert said["pairs_without_frames"] == 0
    report = json.loads((Path(said["checkpoint"]) / "seqclip.json").read_text())
    assert 0 < said["held_out_titles"] < said["titles"]
    for name in ("recall@1", "recall@5", "recall@10"):
        for when in ("before", "after", "chance"):
            assert said[f"{name}_{when}"] == rounded(report[when][name])
            assert f"{report[when][name]:.3f}" in said["recall"]
    assert said["loss_per_epoch"].count("\n") == 1 + QUICK["epochs"]
    assert "epoch 1 of 2: loss" in log_of(result)
    assert [Path(said["checkpoint"])] == checkpoints(fine_tuning)
    assert list((fine_tuning.root / "home" / "training").glob("pairs-*")) == [], "the laid-out frames are gone"

    monkeypatch.setenv("MEDIAFM_VIDEO_ENCODER", "clip")
    monkeypatch.setenv("MEDIAFM_VIDEO_MODEL", said["checkpoint"])
    title = titles_in(fine_tuning)[0]
    assert main(["materialize", "--no-train", "--title", title]) == 0
    rows = fine_tuning.lake.read("video_embeddings", title_id=title)
    encoder = VideoEncoder(kind="clip", model=said["checkpoint"])
    assert set(rows["encoder"]) == {encoder.space()} != {VideoEncoder(kind="clip", model=str(base)).space()}
    # Its text tower, by the same name: texts lie in the space of the stored vectors.
    texts = resources()["video_encoder"].embed_texts(["a red circle", "stripes moving up"])
    assert texts.shape == (2, 768)
    assert np.abs(texts @ np.stack(rows["embedding"].to_list()).T).max() <= 1 + 1e-5


def test_nothing_changed_trains_nothing_and_says_so_and_another_setting_makes_another_version(
    fine_tuning: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = metadata(materialise())
    (made,) = checkpoints(fine_tuning)
    weights = (made / "model.safetensors").stat()
    again = materialise()
    assert metadata(again) == {**first, "up_to_date": True}
    assert "nothing changed" in log_of(again)
    assert checkpoints(fine_tuning) == [made]

    monkeypatch.setenv("MEDIAFM_SEQCLIP_OVERRIDES", json.dumps({**QUICK, "seed": 1}))
    second = metadata(materialise())
    assert not second["up_to_date"]
    assert sorted([made, Path(second["checkpoint"])]) == checkpoints(fine_tuning)
    assert (made / "model.safetensors").stat() == weights
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("seqclip"))
        assert event
        assert event.asset_materialization
        assert (event.asset_materialization.tags or {})["dagster/data_version"] == Path(second["checkpoint"]).name


def test_pairs_files_of_videos_and_spans_of_titles_are_learned_from(fine_tuning: Places) -> None:
    titles = titles_in(fine_tuning)
    films = [fine_tuning.landing / "titles" / title / "film.mp4" for title in titles]
    (fine_tuning.landing / "pairs").mkdir()
    (fine_tuning.landing / "pairs" / "own.mp4").write_bytes(films[0].read_bytes())
    spans = fine_tuning.lake.scan("shots").select("title_id", "start_s", "end_s").collect().rows()
    lines: list[dict[str, Any]] = [
        {"caption": f"a red circle {number % 7}", "title_id": title, "start_s": start_s, "end_s": end_s}
        for number, (title, start_s, end_s) in enumerate(spans)
    ]
    lines += [{"caption": "a still circle", "video": "own.mp4"}, {"caption": "the circle", "video": "own.mp4"}]
    nowhere = {"caption": "after the end", "title_id": titles[0], "start_s": 9000.0, "end_s": 9001.0}
    write_pairs(fine_tuning, *lines, nowhere)
    said = metadata(materialise())
    assert said["pairs_from"] == f"pairs/*.jsonl in {fine_tuning.landing}"
    assert said["pairs"] == len(lines)
    assert said["pairs_without_frames"] == 1
    assert said["titles"] == len(titles) + 1

    # The video's content is what counts, not when it was written.
    os.utime(fine_tuning.landing / "pairs" / "own.mp4")
    assert metadata(materialise())["up_to_date"]
    (fine_tuning.landing / "pairs" / "own.mp4").write_bytes(b"not a film")
    assert f"pairs/clips.jsonl, line {len(spans) + 1}: own.mp4" in failure(materialise())
    assert len(checkpoints(fine_tuning)) == 1


def test_captions_of_what_the_lake_does_not_hold_are_refused_with_file_and_line(
    fine_tuning: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"caption": "a red circle", "title_id": titles_in(fine_tuning)[0], "start_s": 0, "end_s": 9}
    write_pairs(fine_tuning, known, {**known, "title_id": "nobody"})
    assert "materialise them first: nobody (pairs/clips.jsonl, line 2)" in failure(materialise())
    write_pairs(fine_tuning, known, {**known, "video": "../titles/x/film.mp4", "title_id": None})
    assert 'pairs/clips.jsonl, line 2: "../titles/x/film.mp4" is not a plain file name' in failure(materialise())
    write_pairs(fine_tuning, known)
    assert "captions of 1 titles" in failure(materialise())
    monkeypatch.setenv("MEDIAFM_FRAMES_PER_SHOT", "4")
    assert "shot_frames are missing or out of date" in failure(materialise())
    assert checkpoints(fine_tuning) == []


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("MEDIAFM_SEQCLIP_BASE", "", "MEDIAFM_SEQCLIP_BASE"),
        ("MEDIAFM_SEQCLIP_BASE", "/no/such/checkpoint", "/no/such/checkpoint"),
        ("MEDIAFM_SEQCLIP_OVERRIDES", '{"epochs": 0}', "MEDIAFM_SEQCLIP_OVERRIDES: .*epochs must be at least 1"),
        ("MEDIAFM_SEQCLIP_OVERRIDES", "fast", "MEDIAFM_SEQCLIP_OVERRIDES"),
    ],
)
def test_what_is_missing_or_wrong_is_named_before_any_work_starts(
    fine_tuning: Places, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    write_pairs(fine_tuning, {"caption": ""})  # would be refused next
    monkeypatch.setenv(variable, value)
    assert re.search(named, failure(materialise()))
    assert checkpoints(fine_tuning) == []


def test_a_fine_tune_is_not_fine_tuned_again_and_its_base_is_named(
    fine_tuning: Places, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = save_clip(tmp_path / "tuned")
    (tuned / "seqclip.json").write_text(json.dumps({"base": str(base)}))
    monkeypatch.setenv("MEDIAFM_SEQCLIP_BASE", "")
    monkeypatch.setenv("MEDIAFM_VIDEO_ENCODER", "clip")
    monkeypatch.setenv("MEDIAFM_VIDEO_MODEL", str(tuned))
    said = failure(materialise())
    assert "is a SeqCLIP fine-tune already" in said
    assert str(base) in said


def test_a_checkpoint_that_cannot_be_fine_tuned_is_refused_at_once(
    fine_tuning: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_SEQCLIP_BASE", str(save_siglip2(tmp_path / "flexible")))
    assert "choose one of a fixed size" in failure(materialise())
    monkeypatch.setenv("MEDIAFM_SEQCLIP_BASE", str(save_wav2vec(tmp_path / "sound", "group")))
    assert "not a CLIP-style model of two towers" in failure(materialise())


def test_a_cancelled_run_ends_its_training_and_leaves_nothing_behind(
    fine_tuning: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = json.dumps({**QUICK, "epochs": 2_000})
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "seqclip"]
    command += ["-m", "mediafm_assets.definitions"]
    log = tmp_path / "run.log"
    with log.open("w") as said:
        run = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "MEDIAFM_SEQCLIP_OVERRIDES": long},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        while "epoch 1 of" not in log.read_text() and run.poll() is None:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)  # as Dagster cancels
        assert run.wait(timeout=60) != 0
    finally:
        run.kill()
    assert "sending SIGINT to subprocess" in log.read_text()
    assert checkpoints(fine_tuning) == []
    assert list((fine_tuning.root / "home" / "training").glob("pairs-*")) == []
    assert not processes_with(str(fine_tuning.root))


def processes_with(argument: str) -> list[bytes]:
    """Command lines that contain the argument, where the system shows them."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(process.read_bytes())
    return [command for command in found if argument.encode() in command]


def test_it_is_made_on_demand_only(finished: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.use(monkeypatch)
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("encoder"))
        assert instance.get_latest_materialization_event(dg.AssetKey("seqclip")) is None
        with dg.build_sensor_context(instance, definitions=defs(), resources=resources()) as context:
            requests = automation_sensor(all_stages()).evaluate_tick(context).run_requests or []
    assert dg.AssetKey("seqclip") not in {key for request in requests for key in request.asset_selection}

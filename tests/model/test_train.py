import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.batches import gather, left_out, windows_of
from model.checkpoint import read_export
from model.config import Config
from model.masking import Mask, training_mask
from model.metrics import Validation, most_windows
from model.objective import MaskedShotModelling
from model.store import Store, StoredTitle
from model.train import TERMINATED, Run, main

Make = Callable[..., StoredTitle]


def arguments(tmp_path: Path, config: Config, out: str = "run", data: str = "store") -> list[str]:
    path = tmp_path / f"{out}.json"
    path.write_text(config.to_json())
    return ["--config", str(path), "--data", str(tmp_path / data), "--out", str(tmp_path / out)]


def started(tmp_path: Path, config: Config, out: str, *launcher: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *(launcher or ("-m",)), "model.train", *arguments(tmp_path, config, out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(run: Path, split: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_an_export_its_metrics_its_log_and_a_few_checkpoints(
    tmp_path: Path, store: Store, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, small)) == 0
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["finished"] is True
    assert (metrics["steps"], metrics["titles"], metrics["shots"]) == (12, 12, 183)
    assert (metrics["space"], metrics["source"]) == ("test-space", "table@3")
    assert metrics["validation"]["cosines"].keys() == {
        "encoder", "global_mean", "title_mean", "previous_shot", "neighbours", "shrunken_neighbours",
    }  # fmt: skip
    assert [line["step"] for line in log(run)] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in log(run, "validation")] == [4, 8, 12]
    assert log(run)[0].keys() == log(run, "validation")[0].keys()
    assert log(run)[-1]["loss"] < log(run)[0]["loss"]
    assert 1 <= len(list((run / "checkpoints").iterdir())) <= small.keep_checkpoints + 1
    assert read_export(run / "export").config == small
    said = capsys.readouterr().out
    assert "12 titles, 183 shots" in said
    assert "without a model, neighbours: cosine 0." in said
    assert metrics["warning"] in said


def test_a_finished_run_started_again_does_nothing_and_says_the_same(
    tmp_path: Path, store: Store, small: Config
) -> None:
    main(arguments(tmp_path, small))
    before = (tmp_path / "run" / "metrics.json").read_bytes(), (tmp_path / "run" / "training.jsonl").read_bytes()
    main(arguments(tmp_path, small))
    assert (
        (tmp_path / "run" / "metrics.json").read_bytes(),
        (tmp_path / "run" / "training.jsonl").read_bytes(),
    ) == before


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(tmp_path: Path, store: Store, small: Config) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)  # torch's generator must not matter
        main(arguments(tmp_path, dataclasses.replace(small, seed=seed), out))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_run_stops_early_and_keeps_the_best_weights(tmp_path: Path, store: Store, small: Config) -> None:
    # A rate far too high: the loss soon gets no better.
    config = dataclasses.replace(small, max_steps=400, evaluate_every=2, patience=3, muon_lr=0.5, adamw_lr=0.1)
    main(arguments(tmp_path, config))
    losses = {line["step"]: line["loss"] for line in log(tmp_path / "run", "validation")}
    best = min(losses, key=lambda step: (losses[step], step))
    assert max(losses) == best + 2 * 3 < 400
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["step"], metrics["validation"]["loss"]) == (best, losses[best])
    kept = load_file(tmp_path / "run" / "checkpoints" / f"step-{best:09d}.safetensors")
    assert all(torch.equal(kept[f"weights/{name}"], value) for name, value in weights(tmp_path / "run").items())


def test_a_small_catalogue_is_validated_after_every_eight_passes(tmp_path: Path, store: Store, small: Config) -> None:
    config = dataclasses.replace(small, max_steps=1000, evaluate_every=500, patience=1, muon_lr=0.5, adamw_lr=0.1)
    said: list[str] = []
    run = Run(config, store, tmp_path / "run", say=said.append)
    assert run.evaluate_every == 8 * len(run.train) // config.batch_sequences < 500
    run.fit()
    steps = [line["step"] for line in log(tmp_path / "run", "validation")]
    assert steps == [run.evaluate_every * (i + 1) for i in range(len(steps))]
    assert run.progress.step < 1000
    assert re.fullmatch(r"step 1/1000  \d+ (s|min) to .* left", next(line for line in said if line.startswith("step")))


def test_a_catalogue_too_small_to_split_trains_a_fixed_number_of_steps_and_says_so(
    tmp_path: Path, make_title: Make, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    Store.update(tmp_path / "store", [make_title(0, 20), make_title(1, 1)])
    assert main(arguments(tmp_path, small)) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["validation"], metrics["validation_titles"]) == (small.fixed_steps, None, 0)
    assert "trained for a fixed 6 steps and not validated" in metrics["warning"]
    assert metrics["warning"] in capsys.readouterr().out


def test_one_title_of_one_shot_can_be_trained_on(tmp_path: Path, make_title: Make, small: Config) -> None:
    Store.update(tmp_path / "store", [make_title(0, 1)])
    assert main(arguments(tmp_path, small)) == 0
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


OPTIONS = {
    "adamw": {"optimizer": "adamw"},
    "learned positions": {"positions": "learned"},
    "sinusoidal positions": {"positions": "sinusoidal"},
    "spans": {"mask_span": 4},
    "mse": {"loss": "mse"},
    "ratio schedule": {"mask_ratio_end": 0.6},
    "modality masks": {"modality_masking": 0.5},
    "swapped and kept shots": {"swap_ratio": 0.2, "keep_ratio": 0.2},
    "dropped titles": {"global_dropout": 0.5},
    "average": {"ema_decay": 0.9},
    "cosine schedule": {"schedule": "cosine"},
    "no clipping": {"clip_norm": 0.0},
    "bf16": {"precision": "bf16"},
    "an encoder alone": {"blend": False},
    "titles in every layer": {"conditioning": "film"},
    "shots with text alone": {"predicted_with": ("text",)},
    "microbatches": {"microbatch_shots": 20},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains_and_resumes_to_the_bit(tmp_path: Path, store: Store, small: Config, option: str) -> None:
    config = dataclasses.replace(small, **OPTIONS[option], max_steps=6, evaluate_every=2)
    whole = Run(config, store, tmp_path / "whole", say=lambda _: None)
    assert whole.fit()
    whole.finish()

    first = Run(config, store, tmp_path / "halves", say=lambda _: None)
    first.terminated = True
    assert not first.fit(), "stopped after one step"
    second = Run(config, store, tmp_path / "halves", say=lambda _: None)
    assert second.progress.step == 1
    assert second.fit()
    second.finish()
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert log(tmp_path / "whole")[-1]["loss"] == log(tmp_path / "halves")[-1]["loss"]


def test_started_by_dagster_pipes_a_run_reports_there_too(tmp_path: Path, store: Store, small: Config) -> None:
    import dagster as dg

    messages = []

    @dg.asset
    def encoder(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient) -> dg.MaterializeResult:
        command = [sys.executable, "-m", "model.train", *arguments(tmp_path, small)]
        done = pipes.run(command=command, context=context, env=dict(os.environ))
        messages.extend(done.get_custom_messages())
        return done.get_materialize_result()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([encoder], instance=instance, resources={"pipes": dg.PipesSubprocessClient()})
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert messages == [{"metrics": json.loads((tmp_path / "run" / "metrics.json").read_text())}]
    assert any("step 12/12" in line for line in logged)


# ---- interruptions ---------------------------------------------------------------------------------------------------


def test_a_run_killed_again_and_again_ends_in_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, store: Store, small: Config
) -> None:
    config = dataclasses.replace(small, max_steps=40, evaluate_every=4, log_every=1)
    assert main(arguments(tmp_path, config, "whole")) == 0
    for at in ("step 6/", "step 17/"):
        process = started(tmp_path, config, "killed")
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(at):
                process.kill()
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert main(arguments(tmp_path, config, "killed")) == 0
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    for split in ("train", "validation"):
        losses = [[(line["step"], line["loss"]) for line in log(tmp_path / run, split)] for run in ("whole", "killed")]
        assert losses[0] == losses[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_saves_where_the_run_is_and_it_goes_on_from_there(
    tmp_path: Path, store: Store, small: Config, number: signal.Signals
) -> None:
    config = dataclasses.replace(small, max_steps=100_000, evaluate_every=100_000, log_every=1)
    process = started(tmp_path, config, "run")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            process.send_signal(number)
            break
    out, _ = process.communicate()
    assert process.returncode == TERMINATED == 143
    saved = [path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert len(saved) == 1
    step = int(saved[0].removeprefix("step-"))
    assert step >= 3
    assert f"Terminated; saved at step {step}." in out
    assert not (tmp_path / "run" / "metrics.json").exists()
    said: list[str] = []
    assert Run(config, store, tmp_path / "run", say=said.append).progress.step == step
    assert said == [f"Going on from step {step}."]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, store: Store, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path, small))
    expected = weights(tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    os.truncate(newest, newest.stat().st_size // 2)
    assert main(arguments(tmp_path, small)) == 0
    said = capsys.readouterr().out
    assert f"Checkpoint {newest.name} is damaged" in said
    assert "Going on from step 8." in said
    assert equal(weights(tmp_path / "run"), expected)


def test_when_every_checkpoint_is_damaged_the_run_is_refused(
    tmp_path: Path, store: Store, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path, small))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        os.truncate(path, 100)
    assert main(arguments(tmp_path, small)) == 1
    assert "error: No checkpoint in" in capsys.readouterr().out


def test_a_full_disk_while_saving_ends_the_run_with_an_error_and_the_last_good_checkpoint(
    tmp_path: Path, store: Store, small: Config
) -> None:
    config = dataclasses.replace(small, max_steps=8, evaluate_every=4, log_every=1)
    main(arguments(tmp_path, config, "whole"))
    main(arguments(tmp_path, dataclasses.replace(config), "run"))
    run = tmp_path / "run"
    (run / "checkpoints" / "step-000000008.safetensors").unlink()
    (run / "metrics.json").unlink()
    full = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
from model.train import main
sys.exit(main({arguments(tmp_path, config, "run")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", full],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "error:" in done.stdout
    assert "Going on from step 4." in done.stdout
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000004.safetensors"]
    assert main(arguments(tmp_path, config, "run")) == 0
    assert equal(weights(tmp_path / "whole"), weights(run))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"muon_lr": 0.5}, "another configuration (muon_lr"),
        ({"layers": 1}, "another configuration (layers 2 -> 1)"),
    ],
)
def test_checkpoints_of_another_configuration_are_refused_by_field(
    tmp_path: Path, store: Store, small: Config, capsys: pytest.CaptureFixture[str], change: dict, sentence: str
) -> None:
    main(arguments(tmp_path, small))
    before = weights(tmp_path / "run")
    assert main(arguments(tmp_path, dataclasses.replace(small, **change))) == 1
    assert sentence in capsys.readouterr().out
    assert equal(weights(tmp_path / "run"), before)


def test_checkpoints_of_other_data_are_refused(
    tmp_path: Path, store: Store, make_title: Make, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path, small))
    Store.update(tmp_path / "store", [make_title(30, 9)], keep=Store.versions(tmp_path / "store"))
    assert main(arguments(tmp_path, small)) == 1
    assert "a run on other data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (lambda c: dataclasses.replace(c, global_dim=768).to_json(), "global embeddings have 16 numbers"),
        (lambda c: '{"layers": 0}', "layers must be a whole number"),
        (lambda c: "?", "not JSON"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_sentence(
    tmp_path: Path, store: Store, small: Config, capsys: pytest.CaptureFixture[str], config: Callable, sentence: str
) -> None:
    (tmp_path / "config.json").write_text(config(small))
    given = ["--config", str(tmp_path / "config.json"), "--data", str(store.path), "--out", str(tmp_path / "run")]
    assert main(given) == 1
    assert sentence in capsys.readouterr().out
    assert main([*given[:3], str(tmp_path / "nothing"), *given[4:]]) == 1


# ---- warm start, several ranks, objective ----------------------------------------------------------------------------


def test_a_warm_start_begins_where_the_earlier_encoder_ended(
    tmp_path: Path, store: Store, make_title: Make, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(small, max_steps=60, evaluate_every=20)
    main(arguments(tmp_path, config))
    Store.update(tmp_path / "store", [make_title(30, 9)], keep=Store.versions(tmp_path / "store"))
    init = ["--init", str(tmp_path / "run" / "export")]
    assert main([*arguments(tmp_path, config, "warm"), *init]) == 0
    cold, warm = log(tmp_path / "run"), log(tmp_path / "warm")
    assert warm[0]["loss"] < (cold[0]["loss"] + cold[-1]["loss"]) / 2
    assert main([*arguments(tmp_path, dataclasses.replace(config, layers=1), "other"), *init]) == 1
    assert "it differs in layers" in capsys.readouterr().out


def test_two_ranks_have_the_losses_of_one(tmp_path: Path, store: Store, small: Config) -> None:
    config = dataclasses.replace(small, batch_sequences=5, microbatch_shots=20, max_steps=8, evaluate_every=4)
    main(arguments(tmp_path, config, "one"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = started(tmp_path, config, "two", *launcher)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    for split in ("train", "validation"):
        one, two = (log(tmp_path / run, split) for run in ("one", "two"))
        assert [line["step"] for line in one] == [line["step"] for line in two]
        assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=2e-3)
    assert log(tmp_path / "two")[0]["loss"] == pytest.approx(log(tmp_path / "one")[0]["loss"], rel=1e-5)


def test_the_loss_is_the_cosine_distance_at_the_masked_shots_alone(store: Store, small: Config) -> None:
    windows = windows_of(store.entries, small)[:3]
    masks = [training_mask(small, np.zeros(w.shots, dtype=bool), 0, row) for row, w in enumerate(windows)]
    batch = gather(store, list(zip(windows, masks, strict=True)))
    objective = MaskedShotModelling(Run(small, store, store.path.parent / "r").encoder, torch.float32)
    loss, cosine = objective(batch)
    whole, _ = objective.predict(batch)
    expected = torch.nn.functional.cosine_similarity(whole, batch.targets.float(), dim=1)
    torch.testing.assert_close(cosine, expected.sum())
    torch.testing.assert_close(loss, (1 - expected).sum())


def test_where_one_modality_is_hidden_only_that_one_is_judged(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, modality_masking=0.5)
    window = next(w for w in windows_of(store.entries, config) if w.shots == 16)
    none = np.empty(0, dtype=np.int64)
    batch = gather(store, [(window, Mask(np.array([3]), np.array([1]), none, none, none))])
    objective = MaskedShotModelling(Run(config, store, store.path.parent / "r").encoder, torch.float32)
    _, part = objective.predict(batch)
    expected = torch.nn.functional.cosine_similarity(
        part[0, 768:1536], batch.partial_targets[0, 768:1536].float(), dim=0
    )
    torch.testing.assert_close(objective(batch)[1], expected)


def test_a_run_over_other_blocks_learns_and_never_predicts_a_shot_that_has_none(tmp_path: Path, small: Config) -> None:
    widths = (("pose", 3), ("smell", 5))
    rng = np.random.default_rng(0)

    def title(number: int) -> StoredTitle:
        settings = rng.standard_normal((4, 8))
        vectors = settings[np.arange(30) // 3 % 4] + 0.3 * rng.standard_normal((30, 8))
        vectors[::2, :3] = 0
        vectors[::4] = 0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norms > 0, norms, 1)
        return StoredTitle(f"title-{number}", None, "1", "own", vectors, rng.standard_normal(16))

    store = Store.update(tmp_path / "store", (title(number) for number in range(10)), modalities=widths)
    config = dataclasses.replace(small, modalities=widths, modality_masking=0.3, max_steps=30, evaluate_every=10)
    with pytest.raises(ValueError, match="fused vectors are pose 3, smell 5, and the configuration says video 768"):
        Run(small, store, tmp_path / "other")
    run = Run(config, store, tmp_path / "run")
    assert run.fit()
    report = run.finish()["validation"]
    assert set(report["cosines"]["encoder"]) == {"all", "pose", "smell"}
    losses = [line["loss"] for line in log(tmp_path / "run")]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert read_export(tmp_path / "run" / "export").config.modalities == widths


def test_titles_whose_shots_have_no_modality_at_all_are_refused(tmp_path: Path, small: Config) -> None:
    nothing = (StoredTitle(str(n), None, "1", "own", np.zeros((3, 2304)), np.ones(16)) for n in range(8))
    store = Store.update(tmp_path / "store", nothing)
    with pytest.raises(ValueError, match="No shot of the titles to train on has any modality"):
        Run(small, store, tmp_path / "run")


def test_a_run_below_the_baselines_after_its_warm_up_says_so_once(tmp_path: Path, store: Store, small: Config) -> None:
    said: list[str] = []
    config = dataclasses.replace(small, blend=False, projections="random", muon_lr=1e-6, adamw_lr=1e-6, warmup_steps=1)
    Run(config, store, tmp_path / "run", say=said.append).fit()
    warned = [line for line in said if "stands still" in line]
    assert len(warned) == 1
    assert "after 8 steps" in warned[0]


def test_shots_without_the_modality_asked_for_are_seen_and_not_predicted(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, predicted_with=("text",))
    window = windows_of(store.entries, config)[0]
    silent = left_out(store, window, config)
    np.testing.assert_array_equal(np.flatnonzero(silent), np.arange(0, window.shots, 4))
    masks = [training_mask(config, silent, step, 0) for step in range(30)]
    predicted = np.unique(np.concatenate([np.concatenate([m.positions, m.swapped, m.kept]) for m in masks]))
    np.testing.assert_array_equal(predicted, np.flatnonzero(~silent))
    assert not silent[np.concatenate([mask.source for mask in masks])].any()


def test_a_validation_costs_a_tenth_of_the_training_before_it_however_many_titles_are_held_out(
    tmp_path: Path, make_title: Make, small: Config
) -> None:
    store = Store.update(tmp_path / "store", [make_title(i, 16) for i in range(60)])
    config = dataclasses.replace(small, validation_share=0.6, evaluate_every=10)
    run = Run(config, store, tmp_path / "run", say=lambda _: None)
    assert len(run.held_out) > 20
    most = most_windows(config, run.evaluate_every)
    assert most == 12  # of the 40 trained on; a window without a way back costs a third of one with
    validation = Validation(store, run.train, run.held_out, config, run.smoother, most)
    assert len(validation.windows) <= most
    assert len(validation.titles) > 5

"""Training: masked shot modelling over a store of fused vectors.

    python -m model.train --config cfg.json --data STORE --out RUN [--init EXPORT]
    python -m model.train FOLDER --out RUN                somebody's own vectors (docs/own_vectors.md)
    torchrun --nproc-per-node N -m model.train ...        the same on N processes, with the same losses

RUN then holds export/ (the best weights), metrics.json, training.jsonl (one object per report) and checkpoints/.
Started again on the same RUN it goes on where it was, to the bit; a finished run does nothing. SIGTERM and SIGINT save
a checkpoint and exit with 143.
"""

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.batches import Batch, Resident, Window, gather, left_out, predictable, split, training_batches, windows_of
from model.checkpoint import (
    ARCHITECTURE,
    Checkpoints,
    Progress,
    export,
    load_weights,
    read_export,
    restore_training_state,
    training_state,
    using_weights,
)
from model.config import Config
from model.distributed import Place
from model.encoder import Encoder
from model.files import write_atomically
from model.masking import INITIAL_WEIGHTS, random_words, validation_mask
from model.metrics import Validation, global_mean, most_windows, stall, warning
from model.objective import MaskedShotModelling
from model.optim import clip_gradients, learning_rate_factor, optimizers, set_learning_rates, update_ema
from model.own_vectors import OwnVectors
from model.precision import matmul_dtype
from model.reports import Clock, Log, Meter, describe, duration, in_red, parts, reporting
from model.run_folder import RunFolder
from model.smoothing import Smoother
from model.store import Store

LONGEST_SILENCE = 10.0  # seconds, as far as steps end in between
STALLED_AFTER = 5  # warm-ups, after which a run that learns is above every baseline
SMOOTHED_WINDOWS = 64  # that the smoother's weights are fitted on
TERMINATED = 128 + signal.SIGTERM  # exit status of a run that was stopped and can go on


class Run:
    """One training run; its state is what a checkpoint holds."""

    def __init__(
        self,
        config: Config,
        store: Store,
        out: Path,
        init: Path | None = None,
        place: Place | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Raises ValueError when configuration, store, initial weights and the folder's checkpoints do not fit
        together.
        """
        self.config, self.store, self.folder, self.say = config, store, RunFolder(out), say
        self.place = place or Place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if store.modalities != config.modalities:
            theirs, ours = (", ".join(f"{n} {w}" for n, w in given) for given in (store.modalities, config.modalities))
            raise ValueError(f"The store's fused vectors are {theirs}, and the configuration says {ours}.")
        if store.global_dim != config.global_dim:
            raise ValueError(
                f"The store's global embeddings have {store.global_dim} numbers, and the configuration says "
                f"{config.global_dim}."
            )
        if config.batch_sequences < self.place.ranks:
            raise ValueError(
                f"batch_sequences is {config.batch_sequences}, fewer than the {self.place.ranks} ranks to share them."
            )
        train, held_out = split(store.entries, config)
        self.train, self.held_out = (predictable(store, windows_of(side, config), config) for side in (train, held_out))
        if not self.train:
            wanted = f"any of {', '.join(config.predicted_with)}" if config.predicted_with else "any modality"
            raise ValueError(f"No shot of the titles to train on has {wanted}.")
        self.last_step = config.max_steps if held_out else config.fixed_steps
        self.evaluate_every = steps_between_validations(config, len(self.train)) if held_out else config.evaluate_every
        self.dtype = {
            "bf16": torch.bfloat16,
            "fp32": torch.float32,
            "auto": matmul_dtype(self.place.device),
        }[config.precision]

        # The one use of torch's generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random_words(1, config.seed, INITIAL_WEIGHTS, 0, 0)[0] >> 1))
            encoder = Encoder(config)
            if config.projections == "principal" and init is None:
                encoder.initialise_projections(sample_shots(store, self.train))
        self.smoother = fitted_smoother(store, self.train, config)
        data = store.fingerprint
        if init is not None:
            data += ":" + initialise_from(encoder, config, init)
        if config.blend:
            encoder.smoother.load_state_dict(self.smoother.state_dict())
        self.encoder = encoder.to(self.place.device)
        self.optimizers = optimizers(self.encoder, config)
        self.ema = (
            {name: p.detach().clone() for name, p in self.encoder.named_parameters()} if config.ema_decay > 0 else None
        )
        self.progress = Progress()
        self.checkpoints = Checkpoints(self.folder.checkpoints, config, data)
        found = self.checkpoints.latest()
        if found is not None:
            tensors, self.progress, damaged = found
            restore_training_state(tensors, self.encoder, self.optimizers, self.ema)
            for sentence in damaged:
                say(sentence)
            say(f"Going on from step {self.progress.step}.")
        self.objective = MaskedShotModelling(self.encoder, self.dtype)
        self.terminated = False

    @property
    def reports(self) -> bool:
        return self.place.rank == 0

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Trains to the end. Returns False when it was terminated before; the state is saved then."""
        config, progress, place = self.config, self.progress, self.place
        log = Log(self.folder.log, progress.step, self.reports)
        validation = None
        if self.held_out and self.reports:
            most = most_windows(config, self.evaluate_every)
            validation = Validation(self.store, self.train, self.held_out, config, self.smoother, most)
            for name, scores in validation.baselines.items():
                self.say(f"without a model, {name.replace('_', ' ')}: cosine {parts(scores)}")
        module = self.trained_module()
        resident = Resident(self.store, place.device) if Resident.fits(self.store, place.device) else None
        clock, meter = Clock(progress.step, progress.seconds), Meter()
        figures = ""
        for step, predicted, batches in training_batches(
            self.store, self.train, config, progress.step, place.rank, place.ranks, resident
        ):
            if self.finished():
                break
            rates = set_learning_rates(self.optimizers, config, learning_rate_factor(config, step, self.last_step))
            self.update(module, batches, predicted, meter)
            progress.step, progress.seconds = step + 1, clock.seconds()
            last = progress.step == self.last_step
            stop = place.any_rank(self.terminated)

            logged = last or progress.step % config.log_every == 0
            if logged:
                line = meter.close(place.ranks)
                progress.shots += line.pop("shots")
                log.write({"step": progress.step, "split": "train", **line, **rates})
                figures = f"loss {line['loss']:.4f}  cosine {line['cosine']:.4f}  {line['shots_per_s']:,.0f} shots/s  "
            if logged or clock.silence() >= LONGEST_SILENCE:
                left = self.time_left(clock.seconds_a_step(progress.step))
                self.say(f"step {progress.step}/{self.last_step}  {figures}{left} left")
                clock.said()
            if last or stop or progress.step % self.evaluate_every == 0:
                if validation is not None and not stop:
                    self.evaluate(validation, log, rates)
                if self.reports:
                    self.checkpoints.save(training_state(self.encoder, self.optimizers, self.ema), progress)
                # Rank 0 alone evaluates; the others learn what it decided.
                vars(progress).update(place.of_rank_0(dataclasses.asdict(progress)))
                meter.restart()
            if stop:
                return False
        return True

    def trained_module(self) -> nn.Module:
        """The objective as the steps call it: compiled and over all ranks, where that is asked for."""
        module: nn.Module = self.objective
        if self.config.compile:
            module = torch.compile(module, dynamic=True)  # type: ignore[assignment]
        if self.place.ranks > 1:
            module = nn.parallel.DistributedDataParallel(module)
        return module

    def update(self, module: nn.Module, batches: list[Batch], predicted: int, meter: Meter) -> None:
        """One optimiser step on a step's microbatches, `predicted` shots of all ranks."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            # Gradients are averaged over the ranks once a step.
            apart = isinstance(module, nn.parallel.DistributedDataParallel) and number < len(batches) - 1
            with module.no_sync() if apart else contextlib.nullcontext():  # type: ignore[operator]
                loss, cosine = module(batch.to(self.place.device))
                # DDP averages over ranks; the loss is the mean over the predicted shots of all.
                (loss * (self.place.ranks / predicted)).backward()
            meter.add(loss.detach(), cosine.detach(), len(batch.shots))
        meter.predicted += predicted
        clip_gradients(self.encoder.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.ema is not None:
            update_ema(self.ema, self.encoder, self.config.ema_decay, self.progress.step)

    def time_left(self, seconds_a_step: float) -> str:
        """How long the run goes on: until its patience ends, if nothing gets better from here, and to its last step."""
        step, last = self.progress.step, self.last_step
        evaluations = self.config.patience - self.progress.evaluations_since_best
        early = min(last, max(step, (step // self.evaluate_every + evaluations) * self.evaluate_every))
        longest = duration((last - step) * seconds_a_step)
        if not self.held_out or early == last:
            return longest
        return f"{duration((early - step) * seconds_a_step)} to {longest}"

    def finished(self) -> bool:
        early = self.progress.evaluations_since_best >= self.config.patience
        return self.progress.step >= self.last_step or early

    def evaluate(self, validation: Validation, log: Log, rates: dict[str, float]) -> None:
        started = time.monotonic()
        report = validation.report(self.predictor())
        progress = self.progress
        if self.config.blend:
            for blend in (self.encoder.blend, *([self.ema["blend"]] if self.ema is not None else [])):
                blend.data.copy_(torch.tensor([report["blend"]]))
        log.write(
            {
                "step": progress.step,
                "split": "validation",
                "loss": report["loss"],
                "cosine": report["cosine"],
                "shots_per_s": sum(window.shots for window in validation.windows) / (time.monotonic() - started),
                **rates,
            }
        )
        if progress.best_loss is None or report["loss"] < progress.best_loss:
            progress.best_loss, progress.best_step, progress.best_report = report["loss"], progress.step, report
            progress.evaluations_since_best = 0
        else:
            progress.evaluations_since_best += 1
        self.say(describe(progress.step, report))
        by_now = STALLED_AFTER * self.config.warmup_steps
        if report["skill"] <= 0 and progress.step - self.evaluate_every < by_now <= progress.step:
            self.say(in_red(stall(report, progress.step)))

    def predictor(self) -> Callable[[Batch], Tensor]:
        """Predictions of the weights that would be exported now."""

        def predict(batch: Batch) -> Tensor:
            with torch.no_grad(), using_weights(self.encoder, self.ema or dict(self.encoder.named_parameters())):
                whole, _ = self.objective.predict(batch.to(self.place.device))
                return whole

        return predict

    # ---- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """Writes export/ and metrics.json and returns the metrics."""
        progress = self.progress
        chosen = progress.best_step or progress.step
        weights = self.checkpoints.weights(chosen)
        about = {"space": self.store.space, "source": self.store.source, "data": self.checkpoints.data, "step": chosen}
        export(weights, self.config, self.folder.export, about)
        note = None
        if not self.held_out:
            note = (
                "The catalogue has too few series or titles to hold any out (fewer than "
                f"{self.config.minimum_groups}); the encoder was trained for a fixed {self.last_step} steps and not "
                "validated."
            )
        metrics = {
            "finished": True,
            **about,
            "steps": progress.step,
            "shots_trained": progress.shots,
            "seconds": round(progress.seconds, 3),
            "shots_per_s": progress.shots / max(progress.seconds, 1e-9),
            "precision": str(self.dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in self.encoder.parameters()),
            "titles": len(self.store),
            "shots": self.store.shots,
            "training_titles": len({window.title.title_id for window in self.train}),
            "validation_titles": len({window.title.title_id for window in self.held_out}),
            "validation": progress.best_report or None,
            "warning": warning(progress.best_report) if progress.best_report else note,
        }
        write_atomically(self.folder.metrics, json.dumps(metrics, indent=2).encode())
        if metrics["warning"]:
            self.say(in_red(str(metrics["warning"])))
        return metrics


def steps_between_validations(config: Config, windows: int) -> int:
    """evaluate_every, or the steps of 8 passes over the training windows where those are fewer: a small catalogue is
    learnt by heart within a hundred passes, and the best weights lie before (docs/benchmarks.md).
    """
    return min(config.evaluate_every, max(1, 8 * windows // config.batch_sequences))


def fitted_smoother(store: Store, train: list[Window], config: Config) -> Smoother:
    """The smoother of an even sample of the training windows, each under several masks where they are few."""
    taken = train[:: max(1, -(-len(train) // SMOOTHED_WINDOWS))]
    masks = ((window, validation_mask(config, left_out(store, window, config), row))
             for row, window in enumerate(taken * max(1, SMOOTHED_WINDOWS // len(taken))))  # fmt: skip
    batches = (gather(store, [(window, mask)]) for window, mask in masks)
    smoother = Smoother(config.blocks)
    examples = ((batch.shots.float(), batch.packing, batch.masked) for batch in batches)
    smoother.fit(examples, torch.from_numpy(global_mean(store, train)))
    return smoother


def sample_shots(store: Store, windows: list[Window], most: int = 8192) -> Tensor:
    """About `most` shots evenly from the windows, of those with any modality: (m, D) float32"""
    taken = windows[:: max(1, len(windows) // 256)]
    each = max(1, most // len(taken))
    rows = np.concatenate([store.read(w.title, w.start, w.stop)[:: max(1, w.shots // each)] for w in taken])
    return torch.from_numpy(rows[rows.any(axis=1)]).float()


def initialise_from(encoder: Encoder, config: Config, init: Path) -> str:
    """Copies an exported encoder's weights in and returns their identity."""
    earlier = read_export(init)
    others = [name for name in ARCHITECTURE if getattr(earlier.config, name) != getattr(config, name)]
    if others:
        raise ValueError(f"The encoder in {init} cannot start this run: it differs in {', '.join(others)}.")
    load_weights(encoder, dict(earlier.named_parameters()))
    return str(torch.hash_tensor(torch.cat([p.detach().flatten() for p in earlier.parameters()])).item())


def train(
    config: Config, data: Path, out: Path, init: Path | None, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """A whole run; its metrics, or None when it was terminated. Raises ValueError and OSError as Run does."""
    place = Place.of_process()
    store = Store.open(data)
    run = Run(config, store, out, init, place, say if place.rank == 0 else lambda _: None)

    def terminate(*_: object) -> None:
        run.terminated = True

    earlier = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGINT)}
    run.say(
        f"{len(store)} titles, {store.shots:,} shots; {len(run.train)} windows to train on, {len(run.held_out)} held "
        f"out; {sum(p.numel() for p in run.encoder.parameters()):,} parameters, {place.ranks} x {place.device.type}, "
        f"{str(run.dtype).removeprefix('torch.')}."
    )
    try:
        ended = run.fit()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if not ended:
        run.say(f"Terminated; saved at step {run.progress.step}.")
        return None
    metrics = run.finish() if place.rank == 0 else {}
    place.leave()
    return metrics


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.train", description="Train the encoder on a store of fused vectors."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", type=Path, nargs="?", help="own vectors (docs/own_vectors.md), kept in OUT")
    source.add_argument("--data", type=Path, help="folder of the store (model.store.Store)")
    parser.add_argument(
        "--config", type=Path, help="configuration as JSON (model.config.Config); the embedded preset without it"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run in it goes on")
    parser.add_argument("--init", type=Path, help="export folder of an earlier encoder whose weights to start from")
    given = parser.parse_args(arguments)
    with reporting() as (say, hand_over):
        try:
            given.out.mkdir(parents=True, exist_ok=True)
            config = Config.from_json(given.config.read_text()) if given.config else Config.embedded()
            data = given.data
            if given.folder:
                own = OwnVectors.open(given.folder)
                config, data = own.fitted(config), given.out / "vectors"
                own.update_store(data)
            metrics = train(config, data, given.out, given.init, say)
        except (ValueError, OSError) as error:
            say(f"error: {error}")
            return 1
        if metrics is None:
            return TERMINATED
        hand_over(metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())

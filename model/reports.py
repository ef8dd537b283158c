"""What a training says while it runs: lines on stdout and to Dagster, training.jsonl, loss and speed by the step."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.files import write_atomically
from model.metrics import Scores, Skill


class Meter:
    """Loss, cosine and speed since the last report."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.loss = self.cosine = torch.zeros(())
        self.predicted = self.shots = 0
        self.started = time.monotonic()

    def add(self, loss: Tensor, cosine: Tensor, shots: int) -> None:
        # Kept on the device: reading a number back would wait for it.
        self.loss, self.cosine = self.loss.to(loss.device) + loss, self.cosine.to(loss.device) + cosine
        self.shots += shots

    def close(self, ranks: int) -> dict[str, Any]:
        """{"loss", "cosine"} per predicted shot, {"shots", "shots_per_s"}, over all ranks; then begins anew."""
        totals = torch.stack(
            [self.loss.double(), self.cosine.double(), torch.tensor(self.shots, device=self.loss.device)]
        )
        if ranks > 1:
            dist.all_reduce(totals)
        loss, cosine, shots = totals.tolist()
        line = {
            "loss": loss / self.predicted,
            "cosine": cosine / self.predicted,
            "shots": int(shots),
            "shots_per_s": shots / (time.monotonic() - self.started),
        }
        self.restart()
        return line


class Clock:
    """How long a run has taken, and how long it has said nothing."""

    def __init__(self, step: int, seconds: float) -> None:
        """step, seconds: where it goes on."""
        self.started, self.first_step, self.earlier = time.monotonic(), step, seconds
        self.last_said = -math.inf

    def seconds(self) -> float:
        """Of the whole run, what came before an interruption included."""
        return self.earlier + time.monotonic() - self.started

    def seconds_a_step(self, step: int) -> float:
        return (time.monotonic() - self.started) / (step - self.first_step)

    def silence(self) -> float:
        """Seconds since `said`."""
        return time.monotonic() - self.last_said

    def said(self) -> None:
        self.last_said = time.monotonic()


class Log:
    """training.jsonl; a resumed run first drops the lines past its step, which it will write again."""

    def __init__(self, path: Path, step: int, writes: bool) -> None:
        self.path = path
        self.writes = writes
        if writes:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = []
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
            write_atomically(path, "".join(kept).encode())

    def write(self, line: dict[str, Any]) -> None:
        if self.writes:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")


def describe(step: int, report: dict) -> str:
    """A validation report in one line."""
    sentence = (
        f"step {step}  validation loss {report['loss']:.4f}  cosine {parts(report['cosines']['encoder'])}  "
        f"skill {skill_and_interval(report['skills']['all'])} over {report['best_trivial']}  "
        f"effective rank {report['effective_rank']:.0f} of {report['effective_rank_of_targets']:.0f}"
    )
    return in_red(sentence) if report["skill"] <= 0 else sentence


def skill_and_interval(of: Skill) -> str:
    """+0.312 [+0.290, +0.335]"""
    interval = "" if of["low"] is None else f" [{of['low']:+.3f}, {of['high']:+.3f}]"
    return f"{of['skill']:+.3f}{interval}"


def duration(seconds: float) -> str:
    """For people: 50 s, 12 min, 3 h 20 min"""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def parts(scores: Scores) -> str:
    """Mean cosines in one line: 0.7312 (video 0.8021, audio 0.7007, ...)"""
    by_part = ", ".join(f"{part.replace('_', ' ')} {value:.4f}" for part, value in scores.items() if part != "all")
    return f"{scores['all']:.4f} ({by_part})"


def in_red(sentence: str) -> str:
    return f"\033[31m{sentence}\033[0m" if sys.stdout.isatty() else sentence


@contextlib.contextmanager
def reporting() -> Iterator[tuple[Callable[[str], None], Callable[[dict[str, Any]], None]]]:
    """How to say a line and how to hand over the metrics: on stdout and, when Dagster Pipes started this process,
    there too.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        yield say, lambda metrics: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:

        def say_there_too(line: str) -> None:
            say(line)
            pipes.log.info(line)

        yield say_there_too, lambda metrics: pipes.report_custom_message({"metrics": metrics})

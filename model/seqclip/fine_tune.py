"""The fine-tune: training, its report, and the checkpoint that comes of it."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.precision import matmul_dtype
from model.seqclip.pairs import Pair, hold_out
from model.seqclip.reader import Reader
from model.seqclip.recall import chance, recalls
from model.seqclip.settings import FineTuning
from model.seqclip.towers import SeqClip

HIGHEST_SCALE = math.log(100)  # CLIP's bound on the learnable scale


def fine_tune(
    pairs: Sequence[Pair],
    checkpoint: Path,
    out: Path,
    settings: FineTuning,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fine-tune `checkpoint` (a folder) on the pairs, save the result as the folder `out`, return the saved report.

    The report has the settings, the numbers of pairs, the held-out titles, the loss of each epoch, and `before` and
    `after`: recall at 1, 5 and 10, text to video, over the held-out titles' pairs, with `chance` to compare. `say` is
    told of them as they come. The same seed gives the same weights on the same kind of machine, and any number of
    processes the same up to rounding. Raises ValueError for pairs of fewer than two titles, FileExistsError when `out`
    is there.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; a fine-tune never overwrites a checkpoint")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    training, held = hold_out(pairs, settings.held_out, settings.seed)
    model = SeqClip(checkpoint, settings.seed).to(device)
    if settings.save_memory:
        model.towers.gradient_checkpointing_enable()
    reader = Reader(checkpoint, model.towers.config, pairs, settings.frames)
    by_lot, before = chance(held), recalls(model, reader, held, device)
    if rank == 0:
        say(
            f"{len(training)} pairs to train on, {len(held)} held out; {sum(p.numel() for p in model.parameters()):,} "
            f"parameters, {world} x {device.type}; before: {_shown(before)}, by chance: {_shown(by_lot)}"
        )

    size = min(settings.batch_size, len(training)) // world * world
    if size < 2:
        raise ValueError(f"{len(training)} pairs to train on are too few for a batch on {world} processes")
    steps_per_epoch = len(training) // size
    steps = settings.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings))
    trained: nn.Module = DistributedDataParallel(model) if world > 1 else model

    def shares() -> Iterator[list[Pair]]:
        """This process's pairs of each step; the order is a function of seed and epoch."""
        for epoch in range(settings.epochs):
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            order = torch.randperm(len(training), generator=generator).tolist()
            for step in range(steps_per_epoch):
                yield [training[index] for index in order[step * size : (step + 1) * size][rank::world]]

    dtype = matmul_dtype(device) if settings.bf16 else torch.float32
    losses = np.zeros(steps)
    for step, batch in enumerate(reader.batches(shares())):
        trained.train()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * _schedule(step, steps, settings.warmup)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = trained(batch.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.towers.logit_scale.clamp_(max=HIGHEST_SCALE)
        if world > 1:
            dist.all_reduce(loss := loss.detach())
        losses[step] = loss.item() / world
        if rank == 0 and (step + 1) % steps_per_epoch == 0:
            epoch = (step + 1) // steps_per_epoch
            mean = losses[step + 1 - steps_per_epoch : step + 1].mean()
            say(f"epoch {epoch} of {settings.epochs}: loss {mean:.4f}")

    report = {
        "settings": asdict(settings),
        "precision": str(dtype).removeprefix("torch."),
        "base": str(checkpoint),
        "training_pairs": len(training),
        "held_out_pairs": len(held),
        "held_out_titles": sorted({pair.title_id for pair in held}),
        "losses": losses.reshape(settings.epochs, -1).mean(1).tolist(),
        "chance": by_lot,
        "before": before,
        "after": recalls(model, reader, held, device),
    }
    if rank == 0:
        say(f"after: {_shown(report['after'])}")
        _save(model, checkpoint, out, report)
    if world > 1:
        dist.barrier()
    return report


def _shown(recall: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in recall.items())


def _parameter_groups(model: SeqClip, settings: FineTuning) -> list[dict[str, Any]]:
    """Pretrained and new weights, each with decay and without (norms, biases, embeddings, the scale)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        lr = settings.new_lr if name in model.new else settings.pretrained_lr
        decay = settings.weight_decay if parameter.ndim > 1 and "embedding" not in name else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: up in a line, down in a cosine."""
    progress = (step + 1) / steps
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _save(model: SeqClip, checkpoint: Path, out: Path, report: dict[str, Any]) -> None:
    """A folder that is whole or absent: written aside, then renamed."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in checkpoint.iterdir():  # image processor and tokenizer as they are
        if file.suffix in (".json", ".txt", ".model") and not file.name.endswith(".index.json"):
            shutil.copy(file, partial)
    model.towers.save_pretrained(partial)
    (partial / "seqclip.json").write_text(json.dumps(report, indent=1))
    partial.rename(out)

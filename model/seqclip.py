"""SeqCLIP: contrastive fine-tuning of both towers of a CLIP-style model on pairs of frame sequences and captions.

    python -m model.seqclip --pairs PAIRS.jsonl --checkpoint FOLDER --out FOLDER
    torchrun --nproc-per-node N -m model.seqclip ...        the same on N processes: the batch is shared out among them

The recipe is CLIP4Clip's with mean pooling (Luo et al. 2021, arXiv 2104.08860, section 3): a clip is the unit-normed
mean of its frames' unit-normed image features, and in a batch each clip and its caption have to find each other
(symmetric InfoNCE with a learnable scale). Negatives are gathered from all processes. Pretrained weights and new ones
have learning rates of their own; new are the two projections, where the checkpoint's are not 768 wide.

Titles are held out, never pairs, and a series as a whole: the recalls before and after are measured on films that were
not trained on. The result is a checkpoint folder like the one it began with, and a report of the run beside the weights
(`seqclip.json`).
"""

import argparse
import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from model.precision import matmul_dtype
from model.train import reporting

DIMENSIONS = 768
HIGHEST_SCALE = math.log(100)  # CLIP's bound on the learnable scale
RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune. The defaults are CLIP4Clip's. Raises ValueError for a value out of range."""

    epochs: int = 5
    batch_size: int = 128  # pairs, over all processes
    frames: int = 12  # per clip at most, uniformly spaced
    pretrained_lr: float = 1e-7
    new_lr: float = 1e-4  # projections that the checkpoint did not have
    weight_decay: float = 0.2
    warmup: float = 0.1  # share of the steps, before the cosine to zero
    held_out: float = 0.1  # share of the titles (a series counts as one), at least one
    seed: int = 0
    bf16: bool = False  # autocast where bf16 is fast (`matmul_dtype`); weights stay float32
    save_memory: bool = False  # compute activations a second time instead of keeping them

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value, kinds = getattr(self, field.name), (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:
                problems.append(f"{field.name} must be of type {getattr(field.type, '__name__', field.type)}")
        if not problems:
            for name, least in {"epochs": 1, "batch_size": 2, "frames": 1, "seed": 0}.items():
                if getattr(self, name) < least:
                    problems.append(f"{name} must be at least {least}")
            for name in ("pretrained_lr", "new_lr", "weight_decay"):
                if not 0 <= getattr(self, name) < math.inf:
                    problems.append(f"{name} must not be negative")
            if not 0 <= self.warmup < 1 or not 0 < self.held_out < 1:
                problems.append("warmup and held_out must lie between 0 and 1")
        if problems:
            raise ValueError(f"These settings of a fine-tune cannot be used: {'; '.join(problems)}.")

    @classmethod
    def from_json(cls, text: str) -> "FineTuning":
        """Raises ValueError when `text` is not a JSON object, names an unknown field or holds a value out of range."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("The settings of a fine-tune must be a JSON object.")
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ValueError(f"A fine-tune has no settings {', '.join(unknown)}.")
        return cls(**values)


@dataclass(frozen=True)
class Pair:
    """A clip of a title, as the files of its frames (JPEG, in order), and a sentence about it."""

    title_id: str
    series_id: str | None
    caption: str
    frames: tuple[Path, ...]


# --- Pairs ---


def write_pairs(folder: Path, pairs: Iterable[tuple[str, str | None, str, Sequence[bytes]]]) -> Path:
    """Lay out (title id, series id, caption, JPEG frames) as files; returns the pairs.jsonl that `read_pairs` reads.

    Pairs with a blank caption or without frames are left out: they say nothing. Equal frames are one file, so that a
    clip with many captions is stored, and known, as one clip.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as lines:
        for title_id, series_id, caption, jpegs in pairs:
            if not caption.strip() or not jpegs:
                continue
            names = [f"frames/{hashlib.blake2b(jpeg, digest_size=16).hexdigest()}.jpg" for jpeg in jpegs]
            for name, jpeg in zip(names, jpegs, strict=True):
                if not (folder / name).exists():
                    (folder / name).write_bytes(jpeg)
            row = {"title_id": title_id, "series_id": series_id, "caption": caption, "frames": names}
            lines.write(json.dumps(row) + "\n")
    return folder / "pairs.jsonl"


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of JSON lines: `title_id`, `series_id` (or none), `caption`, `frames` (names relative to the
    file)."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        frames = tuple(path.parent / name for name in row["frames"])
        pairs.append(Pair(row["title_id"], row.get("series_id"), row["caption"], frames))
    return pairs


def hold_out(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, held-out) pairs, split by series, else by title. Raises ValueError for fewer than two of them."""
    works = sorted({pair.series_id or pair.title_id for pair in pairs})
    if len(works) < 2:
        raise ValueError(
            "fine-tuning needs pairs of two titles or more, to hold one out (the episodes of a series count as one), "
            f"and got {len(works)}"
        )
    order = torch.randperm(len(works), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {works[index] for index in order[: max(1, round(share * len(works)))]}
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[(pair.series_id or pair.title_id) in held].append(pair)
    return parts


def evenly(n: int, most: int) -> list[int]:
    """The middles of min(n, most) equal parts of n things in a row."""
    parts = min(n, most)
    return [int((part + 0.5) * n / parts) for part in range(parts)]


@dataclass(frozen=True)
class Batch:
    """The frames of n clips one after the other, and their captions."""

    pixels: Tensor  # (frames of all clips, 3, height, width)
    lengths: Tensor  # (n,) frames per clip
    tokens: dict[str, Tensor]  # (n, tokens) each
    numbers: Tensor  # (n, 2) int64, of caption and clip: equal numbers are equal captions, equal clips

    def to(self, device: torch.device) -> "Batch":
        tokens = {name: tensor.to(device) for name, tensor in self.tokens.items()}
        return Batch(self.pixels.to(device), self.lengths.to(device), tokens, self.numbers.to(device))


class Reader:
    """Turns pairs into batches as the checkpoint's processor and tokenizer want them, a batch ahead of the model."""

    def __init__(self, checkpoint: Path, config: Any, pairs: Sequence[Pair], frames: int) -> None:
        self.processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.longest = config.text_config.max_position_embeddings
        self.siglip = config.model_type.startswith("siglip")
        self.frames = frames
        self.captions = {caption: n for n, caption in enumerate(dict.fromkeys(pair.caption for pair in pairs))}
        self.clips = {frames: n for n, frames in enumerate(dict.fromkeys(pair.frames for pair in pairs))}

    def batches(self, groups: Iterable[Sequence[Pair]]) -> Iterator[Batch]:
        """One batch per group of pairs."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            ahead: tuple[Sequence[Pair], list[list[Future[np.ndarray]]]] | None = None
            for pairs in groups:
                clips = [[threads.submit(self._pixels, frame) for frame in self._sampled(pair)] for pair in pairs]
                if ahead:
                    yield self._batch(*ahead)
                ahead = pairs, clips
            if ahead:
                yield self._batch(*ahead)

    def _sampled(self, pair: Pair) -> list[Path]:
        return [pair.frames[place] for place in evenly(len(pair.frames), self.frames)]

    def _pixels(self, frame: Path) -> np.ndarray:
        with Image.open(io.BytesIO(frame.read_bytes())) as file:
            return self.processor(file.convert("RGB"), return_tensors="np")["pixel_values"][0]

    def _batch(self, pairs: Sequence[Pair], clips: list[list[Future[np.ndarray]]]) -> Batch:
        captions = [pair.caption for pair in pairs]
        tokens = self.tokenizer(
            captions,
            padding="max_length" if self.siglip else "longest",  # SigLIP was trained without a mask, at full length
            max_length=self.longest,
            truncation=True,
            return_tensors="pt",
        )
        names = ("input_ids",) if self.siglip else ("input_ids", "attention_mask")
        return Batch(
            pixels=torch.from_numpy(np.stack([frame.result() for clip in clips for frame in clip])),
            lengths=torch.tensor([len(clip) for clip in clips]),
            tokens={name: tokens[name] for name in names},
            numbers=torch.tensor([(self.captions[pair.caption], self.clips[pair.frames]) for pair in pairs]),
        )


# --- The model ---


class SeqClip(nn.Module):
    """Both towers, and the loss by which clips and captions find each other."""

    def __init__(self, checkpoint: Path, seed: int) -> None:
        super().__init__()
        self.towers: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
        self.new: list[str] = []
        config = self.towers.config
        if getattr(config, "projection_dim", DIMENSIONS) != DIMENSIONS:
            generator = torch.Generator().manual_seed(seed)
            for name in ("visual_projection", "text_projection"):
                old = getattr(self.towers, name)
                new = nn.Linear(old.in_features, DIMENSIONS, bias=False)
                nn.init.normal_(new.weight, std=old.in_features**-0.5, generator=generator)
                setattr(self.towers, name, new)
                self.new.append(f"towers.{name}.weight")
            config.projection_dim = DIMENSIONS

    def video(self, batch: Batch) -> Tensor:
        """(n, 768): each frame's feature unit-normed, the clip's frames averaged, the mean unit-normed."""
        frames = normalize(_pooled(self.towers.get_image_features(pixel_values=batch.pixels)).float(), dim=-1)
        clips = torch.repeat_interleave(torch.arange(len(batch.lengths), device=frames.device), batch.lengths)
        sums = torch.zeros(len(batch.lengths), frames.shape[1], device=frames.device).index_add(0, clips, frames)
        return normalize(sums, dim=-1)  # a sum and a mean point the same way

    def text(self, batch: Batch) -> Tensor:
        """(n, 768), unit-norm."""
        return normalize(_pooled(self.towers.get_text_features(**batch.tokens)).float(), dim=-1)

    def forward(self, batch: Batch) -> Tensor:
        """The batch's loss, a scalar; in a process group, against the clips and captions of all processes."""
        video, text = self.video(batch), self.text(batch)
        with torch.autocast(video.device.type, enabled=False):  # a scale of 100 is too much for bfloat16
            return contrast(video, text, self.towers.logit_scale.exp(), batch.numbers)


def contrast(video: Tensor, text: Tensor, scale: Tensor, numbers: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch: the mean over these rows, contrasted with the rows of every process.

    `video`, `text` (n, d) unit-norm; `numbers` (n, 2) of caption and clip. Another clip with the same caption is no
    negative, nor is another caption of the same clip.
    """
    n, first = len(video), 0
    everyone = video, text, numbers
    if dist.is_initialized():
        first = n * dist.get_rank()
        gathered = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, numbers)
        everyone = torch.cat(all_gather(video)), torch.cat(all_gather(text)), torch.cat(gathered)
    all_video, all_text, all_numbers = everyone
    own = torch.arange(first, first + n, device=video.device)
    twins = (numbers[:, None] == all_numbers).any(-1)
    twins[torch.arange(n, device=video.device), own] = False
    to_text = (scale * video @ all_text.T).masked_fill(twins, -torch.inf)
    to_video = (scale * text @ all_video.T).masked_fill(twins, -torch.inf)
    return (cross_entropy(to_text, own) + cross_entropy(to_video, own)) / 2


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


# --- Recall ---


@torch.inference_mode()
def recalls(model: SeqClip, reader: Reader, pairs: Sequence[Pair], device: torch.device) -> dict[str, float]:
    """Share of the pairs whose caption finds a clip of that caption among its k nearest, for k of 1, 5 and 10.

    Every clip is there to be found once, however many captions it has.
    """
    model.eval()
    groups = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    videos, texts, numbers = [], [], []
    for batch in reader.batches(groups):
        there = batch.to(device)
        videos.append(model.video(there))
        texts.append(model.text(there))
        numbers.append(there.numbers)
    text, (captions, clips) = torch.cat(texts), torch.cat(numbers).T
    places = {clip: place for place, clip in enumerate(clips.tolist())}  # of each clip, one of its rows
    gallery, rows = torch.cat(videos)[list(places.values())], torch.tensor(list(places.values()), device=device)
    belongs = captions * len(reader.clips) + clips
    found = []
    for start in range(0, len(pairs), 1024):  # all at once, a large catalogue would need every pair against every clip
        near = (text[start : start + 1024] @ gallery.T).topk(min(max(RECALLS), len(gallery))).indices
        asked = captions[start : start + 1024, None] * len(reader.clips)
        found.append(torch.isin(asked + clips[rows[near]], belongs))
    hits = torch.cat(found)
    return {f"recall@{k}": hits[:, :k].any(1).float().mean().item() for k in RECALLS}


def chance(pairs: Sequence[Pair]) -> dict[str, float]:
    """The recalls that an order of the clips by lot would have, on average."""
    clips: dict[str, set[tuple[Path, ...]]] = {}
    for pair in pairs:
        clips.setdefault(pair.caption, set()).add(pair.frames)
    n = len(set().union(*clips.values()))

    def missed(pair: Pair, k: int) -> float:
        return math.comb(n - len(clips[pair.caption]), min(k, n)) / math.comb(n, min(k, n))

    return {f"recall@{k}": 1 - sum(missed(pair, k) for pair in pairs) / len(pairs) for k in RECALLS}


# --- Fine-tuning ---


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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for field in fields(FineTuning):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ:
        dist.init_process_group()
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    with reporting() as (say, _):
        try:
            settings = FineTuning(**{field.name: getattr(given, field.name) for field in fields(FineTuning)})
            fine_tune(read_pairs(given.pairs), given.checkpoint, given.out, settings, device, say)
        except (ValueError, OSError) as error:
            say(f"error: {error}")
            return 1
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""SeqCLIP: contrastive fine-tuning of both towers of a CLIP-style model on pairs of frame sequences and captions.

    python -m model.seqclip --pairs PAIRS.jsonl --checkpoint FOLDER --out FOLDER
    torchrun --nproc-per-node N -m model.seqclip ...        the same on N processes: the batch is shared out among them

The recipe is CLIP4Clip's with mean pooling (Luo et al. 2021, arXiv 2104.08860, section 3): a clip is the unit-normed
mean of its frames' unit-normed image features, and in a batch each clip and its caption have to find each other
(symmetric InfoNCE with a learnable scale). Negatives are gathered from all processes. Pretrained weights and new ones
have learning rates of their own; new are the two projections, where the checkpoint's are not 768 wide.

Titles are held out, never pairs: the recalls before and after are measured on films that were not trained on. The
result is a checkpoint folder like the one it began with, and a report of the run beside the weights (`seqclip.json`).
"""

import argparse
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
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

DIMENSIONS = 768
HIGHEST_SCALE = math.log(100)  # CLIP's bound on the learnable scale
RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune. The defaults are CLIP4Clip's."""

    epochs: int = 5
    batch_size: int = 128  # pairs, over all processes
    frames: int = 12  # per clip at most, uniformly spaced
    pretrained_lr: float = 1e-7
    new_lr: float = 1e-4  # projections that the checkpoint did not have
    weight_decay: float = 0.2
    warmup: float = 0.1  # share of the steps, before the cosine to zero
    held_out: float = 0.1  # share of the titles, at least one
    seed: int = 0
    bf16: bool = False  # autocast; weights stay float32
    save_memory: bool = False  # compute activations a second time instead of keeping them


@dataclass(frozen=True)
class Pair:
    """A clip of a title, as the files of its frames (JPEG, in order), and a sentence about it."""

    title_id: str
    caption: str
    frames: tuple[Path, ...]


# --- Pairs ---


def write_pairs(folder: Path, pairs: Iterable[tuple[str, str, Sequence[bytes]]]) -> Path:
    """Lay out (title id, caption, JPEG frames) as files; returns the pairs.jsonl that `read_pairs` reads.

    Pairs with a blank caption or without frames are left out: they say nothing.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as lines:
        for number, (title_id, caption, jpegs) in enumerate(pairs):
            if not caption.strip() or not jpegs:
                continue
            names = [f"frames/{number:07d}.{frame:02d}.jpg" for frame in range(len(jpegs))]
            for name, jpeg in zip(names, jpegs, strict=True):
                (folder / name).write_bytes(jpeg)
            lines.write(json.dumps({"title_id": title_id, "caption": caption, "frames": names}) + "\n")
    return folder / "pairs.jsonl"


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of JSON lines: `title_id`, `caption`, `frames` (names relative to the file)."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pairs.append(Pair(row["title_id"], row["caption"], tuple(path.parent / name for name in row["frames"])))
    return pairs


def hold_out(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, held-out) pairs, split by title. Raises ValueError for fewer than two titles."""
    titles = sorted({pair.title_id for pair in pairs})
    if len(titles) < 2:
        raise ValueError(f"fine-tuning needs pairs of two titles or more, to hold one out, and got {len(titles)}")
    order = torch.randperm(len(titles), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {titles[index] for index in order[: max(1, round(share * len(titles)))]}
    return [pair for pair in pairs if pair.title_id not in held], [pair for pair in pairs if pair.title_id in held]


@dataclass(frozen=True)
class Batch:
    """The frames of n clips one after the other, and their captions."""

    pixels: Tensor  # (frames of all clips, 3, height, width)
    lengths: Tensor  # (n,) frames per clip
    tokens: dict[str, Tensor]  # (n, tokens) each
    captions: Tensor  # (n,) int64: equal numbers are equal captions

    def to(self, device: torch.device) -> "Batch":
        tokens = {name: tensor.to(device) for name, tensor in self.tokens.items()}
        return Batch(self.pixels.to(device), self.lengths.to(device), tokens, self.captions.to(device))


class Reader:
    """Turns pairs into batches as the checkpoint's processor and tokenizer want them, a batch ahead of the model."""

    def __init__(self, checkpoint: Path, config: Any, pairs: Sequence[Pair], frames: int) -> None:
        self.processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.longest = config.text_config.max_position_embeddings
        self.siglip = config.model_type.startswith("siglip")
        self.frames = frames
        self.numbers = {caption: number for number, caption in enumerate(sorted({pair.caption for pair in pairs}))}

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
        n = len(pair.frames)
        return [pair.frames[int((part + 0.5) * n / min(n, self.frames))] for part in range(min(n, self.frames))]

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
            captions=torch.tensor([self.numbers[caption] for caption in captions]),
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
            return contrast(video, text, self.towers.logit_scale.exp(), batch.captions)


def contrast(video: Tensor, text: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch: the mean over these rows, contrasted with the rows of every process.

    `video`, `text` (n, d) unit-norm; `captions` (n,) numbers. Another clip with the same caption is no negative.
    """
    n, first = len(video), 0
    everyone = video, text, captions
    if dist.is_initialized():
        first = n * dist.get_rank()
        gathered = [torch.empty_like(captions) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, captions)
        everyone = torch.cat(all_gather(video)), torch.cat(all_gather(text)), torch.cat(gathered)
    all_video, all_text, all_captions = everyone
    own = torch.arange(first, first + n, device=video.device)
    twins = captions[:, None] == all_captions
    twins[torch.arange(n, device=video.device), own] = False
    to_text = (scale * video @ all_text.T).masked_fill(twins, -torch.inf)
    to_video = (scale * text @ all_video.T).masked_fill(twins, -torch.inf)
    return (cross_entropy(to_text, own) + cross_entropy(to_video, own)) / 2


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


# --- Recall ---


@torch.inference_mode()
def recalls(model: SeqClip, reader: Reader, pairs: Sequence[Pair], device: torch.device) -> dict[str, float]:
    """Share of captions among whose k nearest clips is one of that caption, for k of 1, 5 and 10."""
    model.eval()
    groups = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    videos, texts, numbers = [], [], []
    for batch in reader.batches(groups):
        there = batch.to(device)
        videos.append(model.video(there))
        texts.append(model.text(there))
        numbers.append(there.captions)
    captions = torch.cat(numbers)
    ranked = (torch.cat(texts) @ torch.cat(videos).T).argsort(dim=1, descending=True, stable=True)
    hits = captions[ranked] == captions[:, None]
    return {f"recall@{k}": hits[:, :k].any(1).float().mean().item() for k in RECALLS}


# --- Fine-tuning ---


def fine_tune(
    pairs: Sequence[Pair], checkpoint: Path, out: Path, settings: FineTuning, device: torch.device
) -> dict[str, Any]:
    """Fine-tune `checkpoint` (a folder) on the pairs, save the result as the folder `out`, return the saved report.

    The report has the settings, the numbers of pairs, the held-out titles, the loss of each epoch, and `before` and
    `after`: recall at 1, 5 and 10, text to video, over the held-out titles' pairs. The same seed gives the same weights
    on the same kind of machine, and any number of processes the same up to rounding. Raises ValueError for pairs of
    fewer than two titles, FileExistsError when `out` is there.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; a fine-tune never overwrites a checkpoint")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    training, held = hold_out(pairs, settings.held_out, settings.seed)
    model = SeqClip(checkpoint, settings.seed).to(device)
    if settings.save_memory:
        model.towers.gradient_checkpointing_enable()
    reader = Reader(checkpoint, model.towers.config, pairs, settings.frames)
    before = recalls(model, reader, held, device)

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

    losses = np.zeros(steps)
    for step, batch in enumerate(reader.batches(shares())):
        trained.train()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * _schedule(step, steps, settings.warmup)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
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
            print(f"epoch {epoch} of {settings.epochs}: loss {mean:.4f}", flush=True)

    report = {
        "settings": asdict(settings),
        "base": str(checkpoint),
        "training_pairs": len(training),
        "held_out_pairs": len(held),
        "held_out_titles": sorted({pair.title_id for pair in held}),
        "losses": losses.reshape(settings.epochs, -1).mean(1).tolist(),
        "before": before,
        "after": recalls(model, reader, held, device),
    }
    if rank == 0:
        _save(model, checkpoint, out, report)
    if world > 1:
        dist.barrier()
    return report


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


def main() -> None:
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
    arguments = parser.parse_args()
    settings = FineTuning(**{field.name: getattr(arguments, field.name) for field in fields(FineTuning)})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ:
        dist.init_process_group()
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    try:
        report = fine_tune(read_pairs(arguments.pairs), arguments.checkpoint, arguments.out, settings, device)
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(json.dumps({name: report[name] for name in ("before", "after")}))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()

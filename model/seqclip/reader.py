"""Reading: pairs become batches of pixels and tokens."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from model.seqclip.pairs import Pair, evenly


@dataclass(frozen=True)
class ClipBatch:
    """The frames of n clips one after the other, and their captions."""

    pixels: Tensor  # (frames of all clips, 3, height, width)
    lengths: Tensor  # (n,) frames per clip
    tokens: dict[str, Tensor]  # (n, tokens) each
    numbers: Tensor  # (n, 2) int64, of caption and clip: equal numbers are equal captions, equal clips

    def to(self, device: torch.device) -> "ClipBatch":
        tokens = {name: tensor.to(device) for name, tensor in self.tokens.items()}
        return ClipBatch(self.pixels.to(device), self.lengths.to(device), tokens, self.numbers.to(device))


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

    def batches(self, groups: Iterable[Sequence[Pair]]) -> Iterator[ClipBatch]:
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

    def _batch(self, pairs: Sequence[Pair], clips: list[list[Future[np.ndarray]]]) -> ClipBatch:
        captions = [pair.caption for pair in pairs]
        tokens = self.tokenizer(
            captions,
            padding="max_length" if self.siglip else "longest",  # SigLIP was trained without a mask, at full length
            max_length=self.longest,
            truncation=True,
            return_tensors="pt",
        )
        names = ("input_ids",) if self.siglip else ("input_ids", "attention_mask")
        return ClipBatch(
            pixels=torch.from_numpy(np.stack([frame.result() for clip in clips for frame in clip])),
            lengths=torch.tensor([len(clip) for clip in clips]),
            tokens={name: tokens[name] for name in names},
            numbers=torch.tensor([(self.captions[pair.caption], self.clips[pair.frames]) for pair in pairs]),
        )

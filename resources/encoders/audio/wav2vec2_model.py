"""wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477) over the samples of shots: the last layer's mean over time.

Shots of different lengths share a batch, padded, and each gets the vector that it would get alone:

- "layer" checkpoints (`feat_extract_norm`, the large ones) were trained with an attention mask: they get it.
- "group" checkpoints (base) were trained without one, because their first convolution is followed by a norm over time,
  into which padding leaks. A shot is embedded as if it were alone, unpadded and unmasked. To do so for many shots at
  once, that norm is replaced by one that takes its statistics over each shot's own part (`GroupNormOverLengths`); the
  rest of the network sees a window, and is masked where it sees everything.

Normalising (zero mean, unit variance, where the checkpoint's feature extractor asks for it) is per shot and comes
before padding.
"""

import functools
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from model.modalities import WIDTHS
from model.precision import matmul_dtype
from resources.encoders.projection import projected
from resources.errors import Unavailable

DIMENSIONS = dict(WIDTHS)["audio"]
RATE = 16_000
SHORTEST = 400  # samples: the first frame's field of view; shorter shots are padded with zeros
LONGEST = 30 * RATE  # longer shots are cut into equal chunks
SHOTS_AHEAD = 64  # taken in at once, so that those of like length can share a batch


def output_dimensions(folder: Path) -> int:
    """The width of the checkpoint's hidden states."""
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "wav2vec2":
        raise Unavailable(f"The checkpoint {folder} is a {config.model_type}, not a wav2vec2.")
    return config.hidden_size


class GroupNormOverLengths(nn.Module):
    """`nn.GroupNorm` with one group per channel, its statistics taken over the first `lengths[i]` steps of row i."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.lengths: Tensor | None = None  # (batch,), set before each forward pass

    def forward(self, x: Tensor) -> Tensor:  # (batch, channels, steps) -> same
        assert self.lengths is not None
        own = (torch.arange(x.shape[2], device=x.device) < self.lengths[:, None]).float()[
            ..., None
        ]  # (batch, steps, 1)
        n = self.lengths[:, None, None]
        exact = x.float()
        mean = exact @ own / n  # (batch, channels, 1)
        # This is the widest tensor of the network, 60 s of sound are 400 MB: one copy, then in place.
        centred = (exact - mean).mul_(own.mT)
        variance = torch.linalg.vector_norm(centred, dim=2, keepdim=True).square() / n
        scale = torch.rsqrt(variance + self.eps) * self.weight[:, None].float()
        return centred.mul_(scale).add_(self.bias[:, None].float()).to(x.dtype)


class Wav2Vec:
    """One checkpoint on one device. Use `load`, which keeps one per process."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        if (found := output_dimensions(folder)) < DIMENSIONS:
            raise Unavailable(
                f"The checkpoint {folder} makes vectors of {found} numbers, but a shot's has {DIMENSIONS}: choose "
                "a model of at least that width, such as facebook/wav2vec2-base."
            )
        self.device = torch.device(device)
        self.extractor = AutoFeatureExtractor.from_pretrained(folder)
        if self.extractor.sampling_rate != RATE:
            raise Unavailable(
                f"The checkpoint {folder} wants {self.extractor.sampling_rate} Hz, but shots have {RATE}."
            )
        model: Any = AutoModel.from_pretrained(folder, dtype=dtype)
        self.model = model.eval().to(self.device, matmul_dtype(self.device, dtype))
        self.turn = threading.Lock()  # the lengths are the network's state during a forward pass
        self.group_norm: GroupNormOverLengths | None = None
        if self.model.config.feat_extract_norm == "group":
            first = self.model.feature_extractor.conv_layers[0]
            first.layer_norm = self.group_norm = GroupNormOverLengths(first.layer_norm)

    def embed_shots(self, shots: Iterable[np.ndarray], batch_seconds: float) -> Iterator[np.ndarray | None]:
        """One (768,) float32 vector per shot, in order; None for a shot without samples.

        A batch is at most `batch_seconds` of sound, padding included, or a single chunk.
        """
        for window in _windows(shots, 4 * batch_seconds * RATE):
            chunks = [(shot, chunk) for shot, samples in enumerate(window) for chunk in self._chunks(samples)]
            chunks.sort(key=lambda chunk: len(chunk[1]))
            sums, weights = np.zeros((len(window), self.model.config.hidden_size)), np.zeros(len(window))
            for batch in _batches(chunks, batch_seconds * RATE):
                for (shot, chunk), mean in zip(batch, self._means([chunk for _, chunk in batch]), strict=True):
                    sums[shot] += mean * len(chunk)
                    weights[shot] += len(chunk)
            for total, weight in zip(sums, weights, strict=True):
                yield projected(total / weight, DIMENSIONS).astype(np.float32) if weight else None

    def _chunks(self, samples: np.ndarray) -> list[np.ndarray]:
        """A shot's normalised samples in equal parts of at most 30 s, none too short for the model; [] for none."""
        if not len(samples):
            return []
        values = self.extractor(samples, sampling_rate=RATE, return_tensors="np")["input_values"][0]
        if len(values) < SHORTEST:
            values = np.pad(values, (0, SHORTEST - len(values)))
        return np.array_split(values, -(-len(values) // LONGEST))

    @torch.inference_mode()
    def _means(self, chunks: list[np.ndarray]) -> np.ndarray:
        """(len(chunks), the model's width) float32: each chunk's hidden states averaged over its own time."""
        lengths = torch.tensor([len(chunk) for chunk in chunks])
        values = np.zeros((len(chunks), int(lengths.max())), np.float32)
        for row, chunk in zip(values, chunks, strict=True):
            row[: len(chunk)] = chunk
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        inputs = torch.from_numpy(values).to(self.device, self.model.dtype)
        with self.turn:
            if self.group_norm is not None:
                kernel, stride = self.model.config.conv_kernel[0], self.model.config.conv_stride[0]
                self.group_norm.lengths = ((lengths - kernel) // stride + 1).to(self.device)
            output = self.model(inputs, attention_mask=mask.long().to(self.device))
        hidden = output.last_hidden_state.float()  # (batch, frames, width)
        n = self.model._get_feat_extract_output_lengths(lengths).to(self.device)
        own = torch.arange(hidden.shape[1], device=self.device) < n[:, None]
        return ((hidden * own[..., None]).sum(1) / n[:, None]).cpu().numpy()


@functools.lru_cache(maxsize=2)
def load(folder: Path, identity: str, device: str, dtype: str) -> Wav2Vec:
    """The checkpoint, loaded once per process; `identity` makes changed weights under the same path a new model."""
    return Wav2Vec(folder, device, getattr(torch, dtype))


def _windows(shots: Iterable[np.ndarray], most: float) -> Iterator[list[np.ndarray]]:
    """Runs of SHOTS_AHEAD shots, fewer where they reach `most` samples together."""
    window: list[np.ndarray] = []
    for samples in shots:
        window.append(samples)
        if len(window) == SHOTS_AHEAD or sum(map(len, window)) >= most:
            yield window
            window = []
    if window:
        yield window


def _batches(chunks: list[tuple[int, np.ndarray]], most: float) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Neighbours in a list sorted by length, as many as keep the padded batch within `most` samples."""
    batch: list[tuple[int, np.ndarray]] = []
    for chunk in chunks:
        if batch and len(chunk[1]) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch

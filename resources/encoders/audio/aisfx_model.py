"""What can be heard in a shot: aiSFX, a network trained on libraries of sound effects, 768 numbers.

Ma and Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries" (ISMIR 2022): a VGG of
four blocks over a mel spectrogram (96 bands up to 22 kHz, 46 ms windows, 23 ms hop), trained to tell the categories of
nine libraries apart. A shot's vector is how strongly each detector of the last two blocks answers on average:

    block 4    512    mean over time and frequency
    block 3    256    〃

each as square roots, less their own mean, at unit norm, with the same energy. The authors' read-out (maximum over 2 s,
block 4 alone) keeps less of a scene (docs/benchmarks.md). Samples come at 16 kHz, so the bands above 8 kHz are silent:
at 44.1 kHz the vectors were no better.
"""

import functools
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.precision import matmul_dtype
from resources.encoders.packaged_weights import AISFX, packaged_file, unreadable
from resources.encoders.video.efficientnet_model import rooted
from resources.threads import MOST_THREADS, in_order, single_threaded_workers
from resources.winograd import Convolutions

RATE = 16_000
BANDS = 96
TRAINED_RATE, TRAINED_WINDOW, TRAINED_HOP = 44_100, 2048, 1024
WINDOW, HOP = TRAINED_WINDOW * RATE // TRAINED_RATE, TRAINED_HOP * RATE // TRAINED_RATE  # the same in seconds
FFT = 1024
BRIGHTEST = 9.457798957824707  # the greatest value of the training's spectrograms, which were divided by it
SHORTEST = 8  # windows: one is left after three halvings; shorter shots are repeated
LONGEST = 30 * RATE // HOP  # windows at once: bounds the memory of long shots


class _Convolution:
    """3 x 3 over (n, channels, windows, bands), and of the results what is above 0."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight.contiguous(memory_format=torch.channels_last), bias
        out, channels = weight.shape[:2]
        # One channel has hardly any products to save; the largest weights would be four times as large in memory.
        fewer = weight.device.type == "cpu" and weight.dtype == torch.float32 and channels > 1 and out <= 256
        self._fewer = Convolutions([weight]) if fewer else None

    def __call__(self, x: Tensor) -> Tensor:
        if self._fewer is None:
            return F.conv2d(x, self._weight, self._bias, padding=1).relu_()
        (y,) = self._fewer(x.permute(0, 2, 3, 1))
        return y.add_(self._bias).relu_().permute(0, 3, 1, 2)


class SoundNet:
    """The four convolutional blocks. Use `load`, which keeps one per process."""

    def __init__(self, state: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, matmul_dtype(device, dtype)
        self.blocks = []
        for block in range(1, 5):
            layers = []
            for layer in (1, 2):
                at = f"embedding_net.conv_block{block}"
                gain, bias, mean, variance = (
                    state[f"{at}.bn{layer}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
                )
                scale = gain / torch.sqrt(variance + 1e-5)
                weight = (state[f"{at}.conv{layer}.weight"] * scale[:, None, None, None]).to(dtype)
                layers.append(_Convolution(weight.to(device, self.dtype), (bias - mean * scale).to(device, self.dtype)))
            self.blocks.append(layers)
        # As many threads as PyTorch would use within an operation.
        self._threads = min(torch.get_num_threads(), MOST_THREADS)
        self._workers = single_threaded_workers(self._threads, "aisfx") if device.type == "cpu" else None

    @torch.inference_mode()
    def _answers(self, spectrogram: np.ndarray) -> list[np.ndarray]:
        """(windows, 96) to the means of blocks 3 and 4 over time and frequency: (256,) and (512,), at least 0."""
        x = torch.from_numpy(spectrogram)[None, None].to(self.device, self.dtype)
        answers = []
        for number, layers in enumerate(self.blocks):
            for convolution in layers:
                x = convolution(x)
            if number < 3:
                x = F.max_pool2d(x, 2)
            if number >= 2:
                answers.append(x[0].float().mean((1, 2)).cpu().numpy())
        return answers

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """The unit-norm (768,) float32 vector of mono samples at 16 kHz, floats in -1..1; at least one sample."""
        spectrogram = mel_spectrogram(samples)
        if len(spectrogram) < SHORTEST:
            spectrogram = np.resize(spectrogram, (SHORTEST, BANDS))
        parts = np.array_split(spectrogram, -(-len(spectrogram) // LONGEST))
        answers = [self._answers(part) for part in parts]
        lengths = [len(part) for part in parts]
        blocks = [rooted(np.average(block, axis=0, weights=lengths)) for block in zip(*answers, strict=True)]
        vector = np.concatenate([block / (np.linalg.norm(block) + 1e-12) for block in reversed(blocks)])
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def embed_shots(self, shots: Iterable[np.ndarray]) -> Iterator[np.ndarray | None]:
        """One (768,) vector per shot, in order; None for a shot without samples."""
        if self._workers is None:
            return map(self._embed, shots)
        return in_order(self._workers, self._embed, shots, 2 * self._threads)

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        return self.embed(samples) if len(samples) else None


def mel_spectrogram(samples: np.ndarray) -> np.ndarray:
    """(windows, 96) float32: log10(1 + 10,000 × mean power of each band), divided by the training's greatest value.

    Bands are triangles on the HTK mel scale whose weights sum to 1; those above 8 kHz are 0.
    """
    samples = np.asarray(samples, np.float32)
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    taper = np.hanning(WINDOW).astype(np.float32)
    louder = (TRAINED_WINDOW / WINDOW) ** 2  # what the longer windows of the training add to a tone's power
    bank = _mel_bank() * louder
    parts = []
    for start in range(0, len(windows), LONGEST):
        spectrum = np.fft.rfft(windows[start : start + LONGEST] * taper, FFT, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2) @ bank
        parts.append(np.log10(1 + 1e4 * power) / BRIGHTEST)
    return np.concatenate(parts).astype(np.float32)


@functools.cache
def _mel_bank() -> np.ndarray:
    """(FFT // 2 + 1, 96) float32; a band in which no bin lies, or that reaches above 8 kHz, is told by what it has."""
    top = 1127 * np.log1p(TRAINED_RATE / 2 / 700)
    edges = np.linspace(0, top, BANDS + 2)
    bins = 1127 * np.log1p(np.arange(FFT // 2 + 1) * RATE / FFT / 700)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return (triangles / np.maximum(triangles.sum(0), 1e-6)).astype(np.float32)


@functools.lru_cache(maxsize=2)
def load(device: str, dtype: str) -> SoundNet:
    """The network, loaded once per process; raises Unavailable for weights that are missing, others, or unreadable."""
    path = packaged_file(AISFX)
    # Beside tensors the checkpoint holds NumPy integers: these three names are allowed, and no other code can run.
    integer: Any = np.int64(0)
    allowed: list[Any] = [(integer.__reduce__()[0], "numpy.core.multiarray.scalar"), np.dtype, type(integer.dtype)]
    try:
        with torch.serialization.safe_globals(allowed):
            state, _ = torch.load(path, map_location="cpu", weights_only=True)
        return SoundNet(state, torch.device(device), getattr(torch, dtype))
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError) as error:
        raise unreadable(AISFX, error) from error

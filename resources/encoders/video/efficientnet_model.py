"""What can be seen in a shot: EfficientNet-Lite0 joined with the shot's palette, 768 numbers.

The network (Tan and Le 2019, arXiv 1905.11946, in its "Lite" form: ReLU6, no squeeze-and-excitation, stem and head not
scaled) was trained on ImageNet. Its last feature map, averaged over the picture, says which things are there. Colour is
what such a network is trained to overlook, so the descriptors' colour histogram says it:

    things     640    square roots of the 1280 averaged features, less their own mean, unit norm, mean over up to FRAMES
                      frames; projected (`resources.encoders.projection`)
    palette    128    `visual_descriptors`' joint histogram of hue, saturation and value, over all frames

Both with the same energy. Nothing is fitted to a catalogue.
"""

import functools
import io
import itertools
import pickle
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from model.precision import matmul_dtype
from resources.encoders.packaged_weights import EFFICIENTNET_LITE0, packaged_file, unreadable
from resources.encoders.projection import projected
from resources.encoders.video.visual_descriptors import palette
from resources.threads import MOST_THREADS, in_order, single_threaded_workers

FEATURES, THINGS = 1280, 640
SIZE = 224  # pixels; a frame is stretched to a square, so that its edges are seen
FRAMES = 4  # of a shot, evenly spaced: eight told no more (docs/benchmarks.md)

# Blocks of each stage: how many, kernel, stride of the first, expansion.
STAGES = ((1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6))


class Convolution:
    """A convolution with its batch norm folded in, padded as TensorFlow's SAME, for an even height and width.

    With a stride of 2, SAME pads one more behind than in front. A kernel with a row and a column of zeros in front does
    the same with the same padding on all sides, and no picture is copied into a larger one.
    """

    def __init__(self, state: dict[str, Tensor], name: str, norm: str, stride: int = 1) -> None:
        weight = state[f"{name}.weight"]  # (out, in / groups, k, k)
        gain, bias, mean, variance = (
            state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / torch.sqrt(variance + 1e-3)
        weight = weight * scale[:, None, None, None]
        self.weight = F.pad(weight, (1, 0, 1, 0)) if stride > 1 else weight
        self.bias, self.stride = bias - mean * scale, stride

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.weight = self.weight.to(device, dtype, memory_format=torch.channels_last)
        self.bias = self.bias.to(device, dtype)

    def __call__(self, x: Tensor) -> Tensor:  # (n, in, h, w) -> (n, out, h / stride, w / stride)
        kernel = self.weight.shape[-1]
        if kernel == 1:  # with channels last, a product; PyTorch's convolutions on one thread are slower
            return F.linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
        groups = x.shape[1] // self.weight.shape[1]
        return F.conv2d(x, self.weight, self.bias, self.stride, (kernel - 1) // 2, groups=groups)


class EfficientNetLite0:
    """The network up to its last feature map. Use `load`, which keeps one per process."""

    def __init__(self, state: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, matmul_dtype(device, dtype)
        self.stem = Convolution(state, "_conv_stem", "_bn0", 2)
        self.blocks: list[list[Convolution]] = []
        for repeats, _, first_stride, expansion in STAGES:
            for stride in [first_stride] + [1] * (repeats - 1):
                at = f"_blocks.{len(self.blocks)}"
                grow = [Convolution(state, f"{at}._expand_conv", f"{at}._bn0")] if expansion > 1 else []
                self.blocks.append(
                    [
                        *grow,
                        Convolution(state, f"{at}._depthwise_conv", f"{at}._bn1", stride),
                        Convolution(state, f"{at}._project_conv", f"{at}._bn2"),
                    ]
                )
        self.head = Convolution(state, "_conv_head", "_bn1")
        for convolution in [self.stem, *itertools.chain(*self.blocks), self.head]:
            convolution.weight = convolution.weight.to(dtype)  # rounded as asked, whatever multiplies
            convolution.to(device, self.dtype)
        # As many threads as PyTorch would use within an operation.
        self._threads = min(torch.get_num_threads(), MOST_THREADS)
        self._workers = single_threaded_workers(self._threads, "efficientnet") if device.type == "cpu" else None

    @torch.inference_mode()
    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 224, 224, 3) uint8 to (n, 1280) float32, at least 0: the last feature map's mean over the picture."""
        x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)  # channels last in memory already
        x = ((x.float() - 127) / 128).to(self.dtype)
        x = self.stem(x).clamp_(0, 6)
        for *wide, project in self.blocks:
            y = x
            for convolution in wide:
                y = convolution(y).clamp_(0, 6)
            y = project(y)
            x = x + y if x.shape == y.shape else y
        return self.head(x).clamp_(0, 6).float().mean((2, 3)).cpu().numpy()

    def embed_shots(self, shots: Iterable[Sequence[bytes]], batch_size: int) -> Iterator[np.ndarray]:
        """One unit-norm (768,) float32 vector per shot of JPEG frames, in order; about `batch_size` frames at once.

        On a CPU a shot to a thread is fastest, since more would not stay in its caches. Raises ValueError for a shot
        without frames.
        """
        if self._workers:
            groups: Iterator[Sequence[Sequence[bytes]]] = ([shot] for shot in shots)
            embedded = in_order(self._workers, self._embed, groups, 2 * self._threads)
        else:
            remaining = iter(shots)
            each = max(1, batch_size // FRAMES)
            embedded = map(self._embed, iter(lambda: list(itertools.islice(remaining, each)), []))
        return itertools.chain.from_iterable(embedded)

    def _embed(self, shots: Sequence[Sequence[bytes]]) -> list[np.ndarray]:
        palettes = [palette(shot) for shot in shots]  # refuses a shot without frames
        chosen = [_spread(shot) for shot in shots]
        features = self.features(np.stack([_pixels(jpeg) for frames in chosen for jpeg in frames]))
        ends = itertools.accumulate(map(len, chosen))
        vectors = []
        for end, frames, colours in zip(ends, chosen, palettes, strict=True):
            things = _unit(rooted(features[end - len(frames) : end])).mean(0)
            vector = np.concatenate([_unit(projected(things, THINGS)), _unit(colours)])
            vectors.append((vector / np.linalg.norm(vector)).astype(np.float32))
        return vectors


def rooted(features: np.ndarray) -> np.ndarray:
    """Square roots, so that a few strong features do not own the cosine, less their own mean, so that two unrelated
    inputs lie apart. `features` (..., d), at least 0."""
    roots = np.sqrt(features)
    return roots - roots.mean(-1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _spread(frames: Sequence[bytes]) -> list[bytes]:
    """At most FRAMES of the frames, from the middles of equal parts."""
    n = min(len(frames), FRAMES)
    return [frames[(2 * part + 1) * len(frames) // (2 * n)] for part in range(n)]


def _pixels(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=2)
def load(device: str, dtype: str) -> EfficientNetLite0:
    """The network, loaded once per process; raises Unavailable for weights that are missing, others, or unreadable."""
    path = packaged_file(EFFICIENTNET_LITE0)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return EfficientNetLite0(state, torch.device(device), getattr(torch, dtype))
    except (pickle.UnpicklingError, RuntimeError, KeyError) as error:
        raise unreadable(EFFICIENTNET_LITE0, error) from error

"""A CLIP-style model over the frames of shots: CLIP, SigLIP and SigLIP 2 checkpoints, and fine-tunes of them.

A shot's vector is the mean-pooled recipe of CLIP4Clip (Luo et al. 2021, arXiv 2104.08860, section 3.3): every frame's
image feature is unit-normed, the shot's frames are averaged, the mean is unit-normed again.
"""

import collections
import functools
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from model.modalities import WIDTHS
from model.precision import matmul_dtype
from resources.encoders.projection import projection
from resources.errors import Unavailable
from resources.threads import in_order

DIMENSIONS = dict(WIDTHS)["video"]

Frame = dict[str, np.ndarray]  # what an image processor makes of one image


def output_dimensions(folder: Path) -> int:
    """The length of the vectors in which the checkpoint's two towers meet."""
    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "vision_config") or not hasattr(config, "text_config"):
        raise Unavailable(f"The checkpoint {folder} is a {config.model_type}, not a CLIP-style model of two towers.")
    return getattr(config, "projection_dim", None) or config.vision_config.hidden_size  # SigLIP has no projection


class Clip:
    """Both towers of one checkpoint on one device. Use `load`, which keeps one per process."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        if (found := output_dimensions(folder)) < DIMENSIONS:
            raise Unavailable(
                f"The checkpoint {folder} makes vectors of {found} numbers, but a shot's has {DIMENSIONS}: choose "
                "a model of at least that width, such as openai/clip-vit-large-patch14."
            )
        self.folder, self.device = folder, torch.device(device)
        model: Any = AutoModel.from_pretrained(folder, dtype=dtype)
        self.model = model.eval().to(self.device, matmul_dtype(self.device, dtype))
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    @torch.inference_mode()
    def embed_shots(self, shots: Iterable[Sequence[bytes]], batch_size: int) -> Iterator[np.ndarray]:
        """One unit-norm (768,) float32 vector per shot of JPEG frames, in order.

        Frames are decoded in threads, at most two batches ahead of the model, and the result of a batch is fetched only
        after the next one was started.
        """
        lengths: collections.deque[int] = collections.deque()

        def frames() -> Iterator[bytes]:
            for shot in shots:
                if not shot:
                    raise ValueError("a shot without frames has no embedding")
                lengths.append(len(shot))
                yield from shot

        waiting: list[np.ndarray] = []  # features of frames whose shot is not complete yet
        for features in self._frame_features(frames(), batch_size):
            waiting.extend(features)
            while lengths and len(waiting) >= lengths[0]:
                n = lengths.popleft()
                mean = np.mean(waiting[:n], axis=0)
                del waiting[:n]
                yield mean / np.linalg.norm(mean)

    def _frame_features(self, jpegs: Iterator[bytes], batch_size: int) -> Iterator[np.ndarray]:
        """(n, 768) float32, unit-norm, for each batch of at most `batch_size` frames."""
        started: Tensor | None = None
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            frames = in_order(threads, self._decoded, jpegs, 2 * batch_size)
            while batch := list(itertools.islice(frames, batch_size)):
                features = self._features(batch)
                if started is not None:
                    yield started.cpu().numpy()
                started = features
        if started is not None:
            yield started.cpu().numpy()

    def _decoded(self, jpeg: bytes) -> Frame:
        """One frame as the checkpoint's image processor cuts it, uint8 where normalising can be left to the device."""
        with Image.open(io.BytesIO(jpeg)) as file:
            image = file.convert("RGB")
        if self._plain:
            pixels = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
            return {"pixel_values": pixels["pixel_values"][0].astype(np.uint8)}
        return {name: array[0] for name, array in self.processor(image, return_tensors="np").items()}

    @functools.cached_property
    def _plain(self) -> bool:
        return self.processor.model_input_names == ["pixel_values"]  # SigLIP 2's flexible sizes bring masks along

    def _features(self, frames: list[Frame]) -> Tensor:
        inputs = {}
        for name in frames[0]:
            tensor = torch.from_numpy(np.stack([frame[name] for frame in frames]))
            inputs[name] = tensor.to(self.device, non_blocking=True)
        pixels = inputs["pixel_values"]
        if self._plain:
            mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in self._normalisation)
            pixels = (pixels.float() - mean) / std
        inputs["pixel_values"] = pixels.to(self.model.dtype)
        return self._narrowed(self.model.get_image_features(**inputs).pooler_output)

    def _narrowed(self, features: Tensor) -> Tensor:
        """Features of either tower as unit vectors of 768 numbers; wider ones by one projection for both towers."""
        unit = normalize(features.float(), dim=-1)
        if unit.shape[-1] == DIMENSIONS:
            return unit
        return normalize(unit @ torch.from_numpy(projection(unit.shape[-1], DIMENSIONS)).to(unit.device), dim=-1)

    @functools.cached_property
    def _normalisation(self) -> tuple[list[float], list[float]]:
        """The processor's rescaling, mean and spread as one subtraction and one division of 0..255."""
        scale = self.processor.rescale_factor if self.processor.do_rescale else 1.0
        mean = self.processor.image_mean if self.processor.do_normalize else [0.0] * 3
        std = self.processor.image_std if self.processor.do_normalize else [1.0] * 3
        return [m / scale for m in mean], [s / scale for s in std]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Unit-norm (len(texts), 768) float32 in the space of the shots' vectors, for queries by text."""
        tokens = tokenize(AutoTokenizer.from_pretrained(self.folder), self.model.config, texts)
        parts = []
        for start in range(0, len(texts), batch_size):
            inputs = {name: tensor[start : start + batch_size].to(self.device) for name, tensor in tokens.items()}
            parts.append(self._narrowed(self.model.get_text_features(**inputs).pooler_output).cpu().numpy())
        return np.concatenate(parts)


def tokenize(tokenizer: Any, config: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids and mask, (n, length) each, cut to what the text tower can read.

    SigLIP was trained on texts padded to its full length, and without a mask.
    """
    siglip = config.model_type.startswith("siglip")
    tokens = tokenizer(
        list(texts),
        padding="max_length" if siglip else "longest",
        max_length=config.text_config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    )
    return {name: tokens[name] for name in (("input_ids",) if siglip else ("input_ids", "attention_mask"))}


@functools.lru_cache(maxsize=2)
def load(folder: Path, identity: str, device: str, dtype: str) -> Clip:
    """The checkpoint, loaded once per process; `identity` makes changed weights under the same path a new model."""
    return Clip(folder, device, getattr(torch, dtype))

"""The thinker of Qwen3-Omni (Xu et al. 2025, arXiv 2509.17765) over shots: hidden states of one layer, pooled.

A shot is a message of one turn: its frames as a video, then its sound, then its words. Taken are the states in the
middle of the thinker's depth (24 of 48 layers, which is where the model's own talker reads them, too), so the layers
above are not even loaded. Each token's state is unit-normed, since single ones are hundreds of times as long as others
(Sun et al. 2024, "Massive Activations in Large Language Models"), and averaged over the tokens of each modality; the
means are projected to the widths of the fused vector's blocks (`resources.encoders.projection`).

A shot is embedded as if it were alone, whatever shares its batch: padding comes last, where a causal model does not
look, and sound is filled up with silence to whole windows of the audio tower (1 s), into which padding would leak.
"""

import functools
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeThinkerModel,
    WhisperFeatureExtractor,
)

from model.modalities import WIDTHS
from model.precision import matmul_dtype
from resources.encoders.omni.encoder import Shot
from resources.encoders.projection import projected
from resources.errors import Unavailable, one_line

RATE = 16_000
LONGEST = 30 * RATE  # samples; what is longer is read in equal parts, each with all frames and its part of the words
MOST_WORDS = 1_024  # tokens of a part
MOST_TOKENS = 8_192  # of a batch, padding included, or a single part
FRAME_PIXELS = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}
"""Bounds of a frame's pixels, as Qwen3OmniMoeProcessor has them for videos."""
BESIDE = len(WIDTHS)  # what tokens between the modalities are counted to
VIDEO, AUDIO, TEXT = (tuple(dict(WIDTHS)).index(name) for name in ("video", "audio", "text"))


@dataclass(frozen=True)
class Picture:
    """Frames as a video.

    patches: (steps * rows * columns, numbers). grid: (steps, rows, columns). step_s: seconds from one step to the next.
    """

    patches: np.ndarray
    grid: tuple[int, int, int]
    step_s: float


@dataclass(frozen=True)
class Part:
    """A sequence for the model. kinds: of each token, the modality's number or BESIDE. sound: (bins, steps)."""

    tokens: Sequence[int]
    kinds: Sequence[int]
    picture: Picture | None
    sound: np.ndarray | None
    last: bool  # of its shot


class Qwen3Omni:
    """One checkpoint on one device. Use `load`, which keeps one per process."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.folder, self.device = folder, torch.device(device)
        config: Any = Qwen3OmniMoeConfig.from_pretrained(folder, local_files_only=True).thinker_config
        self.width: int = config.text_config.hidden_size
        if self.width < (widest := max(width for _, width in WIDTHS)):
            raise Unavailable(f"The checkpoint {folder} has states of {self.width} numbers; {widest} are needed.")
        config.text_config.num_hidden_layers = -(-config.text_config.num_hidden_layers // 2)
        loaded: Any = Qwen3OmniMoeThinkerModel.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        model, found = loaded
        if found["missing_keys"]:
            raise Unavailable(
                f"The checkpoint {folder} lacks {len(found['missing_keys'])} of the thinker's tensors, such as "
                f"{min(found['missing_keys'])}: copy it anew."
            )
        model.language_model.norm = nn.Identity()  # it is made for the last layer's states
        self.model = model.eval().to(self.device, matmul_dtype(self.device, dtype))
        self.config = config
        self.tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        self.pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        if self.extractor.sampling_rate != RATE:
            raise Unavailable(f"The checkpoint {folder} wants {self.extractor.sampling_rate} Hz; shots have {RATE}.")

    def embed(self, shots: Iterable[Shot]) -> Iterator[Mapping[str, np.ndarray]]:
        """See `OmniEncoder.embed`. Parts are made and batched as they come, so memory is a batch's."""
        sums, counts = np.zeros((len(WIDTHS), self.width)), np.zeros((len(WIDTHS), 1))
        for batch in _batches(part for shot in shots for part in self._parts(shot)):
            for part, of_part, tokens in zip(batch, *self._sums(batch), strict=True):
                sums, counts = sums + of_part, counts + tokens[:, None]
                if part.last:
                    means = sums / np.maximum(counts, 1)
                    yield {
                        name: projected(mean, width).astype(np.float32)
                        for (name, width), mean in zip(WIDTHS, means, strict=True)
                    }
                    sums, counts = np.zeros_like(sums), np.zeros_like(counts)

    def _parts(self, shot: Shot) -> Iterator[Part]:
        words = self._tokens(shot.words) if shot.words.strip() else []
        picture = self._picture(shot) if shot.frames else None
        n = max(1, -(-len(shot.samples) // LONGEST), -(-len(words) // MOST_WORDS))
        pieces = zip(np.array_split(shot.samples, n), np.array_split(np.array(words, int), n), strict=True)
        for number, (samples, own) in enumerate(pieces, 1):
            sequence = [(token, BESIDE) for token in self._opening]
            sound = None
            if picture:
                shown = int(np.prod(picture.grid)) // self.config.vision_config.spatial_merge_size**2
                sequence += [(self.config.vision_start_token_id, BESIDE)]
                sequence += [(self.config.video_token_id, VIDEO)] * shown
                sequence += [(self._vision_end, BESIDE)]
            if len(samples):
                sound, heard, filling = self._sound(samples)
                sequence += [(self.config.audio_start_token_id, BESIDE)]
                sequence += [(self.config.audio_token_id, AUDIO)] * heard
                sequence += [(self.config.audio_token_id, BESIDE)] * filling
                sequence += [(self._audio_end, BESIDE)]
            sequence += [(token, TEXT) for token in own.tolist()]
            tokens, kinds = zip(*sequence, strict=True)
            yield Part(tokens, kinds, picture, sound, last=number == n)

    def _tokens(self, text: str) -> list[int]:
        """Marks of the model's own in a subtitle are read as the characters that they are."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    @functools.cached_property
    def _opening(self) -> list[int]:
        return [self.tokenizer.convert_tokens_to_ids("<|im_start|>"), *self._tokens("user\n")]

    @functools.cached_property
    def _vision_end(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("<|vision_end|>"))

    @functools.cached_property
    def _audio_end(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("<|audio_end|>"))

    def _picture(self, shot: Shot) -> Picture:
        """The frames as the patches of a video, which transformers makes with torchvision only: those of single
        pictures, in each of which one frame stands for all of a step, put together."""
        images: list[Image.Image] = []
        for jpeg in shot.frames:
            with Image.open(io.BytesIO(jpeg)) as file:
                image = file.convert("RGB")
            images.append(image.resize(images[0].size) if images and image.size != images[0].size else image)
        made = self.pictures(images, size=FRAME_PIXELS, return_tensors="np")
        frames, channels, together = len(images), 3, self.pictures.temporal_patch_size
        rows, columns = (int(n) for n in made["image_grid_thw"][0, 1:])
        single = made["pixel_values"].reshape(frames, rows * columns, channels, together, -1)[:, :, :, 0]
        single = np.concatenate([single, np.repeat(single[-1:], -frames % together, 0)])
        patches = single.reshape(-1, together, *single.shape[1:]).transpose(0, 2, 3, 1, 4)
        grid = (len(patches), rows, columns)
        return Picture(patches.reshape(np.prod(grid), -1), grid, together * shot.seconds / frames)

    def _sound(self, samples: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Log-mel bins (bins, steps) of the samples and of silence up to a whole window; how many tokens are heard of
        them, and how many are filling. The tower makes a token of each 8 steps of a window, the last ones fewer."""
        hop = self.extractor.hop_length
        steps = 2 * self.config.audio_config.n_window
        window = steps * hop
        filled = np.pad(samples, (0, -len(samples) % window))
        bins = self.extractor(filled, sampling_rate=RATE, padding="longest", truncation=False, return_tensors="np")
        whole, rest = divmod(len(samples), window)
        heard = whole * -(-steps // 8) + -(-rest // (8 * hop))
        return bins["input_features"][0], heard, len(filled) // window * -(-steps // 8) - heard

    @torch.inference_mode()
    def _sums(self, batch: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
        """Of each part: (modalities, width) sums of its tokens' unit states by modality, and (modalities,) how many."""
        inputs: dict[str, Tensor] = {
            "input_ids": _padded([part.tokens for part in batch], 0),
            "attention_mask": _padded([[1] * len(part.tokens) for part in batch], 0),
        }
        if pictures := [part.picture for part in batch if part.picture]:
            inputs["pixel_values_videos"] = torch.from_numpy(np.concatenate([picture.patches for picture in pictures]))
            inputs["video_grid_thw"] = torch.tensor([picture.grid for picture in pictures])
            inputs["video_second_per_grid"] = torch.tensor([picture.step_s for picture in pictures])
        if sounds := [torch.from_numpy(part.sound.T) for part in batch if part.sound is not None]:
            inputs["input_features"] = pad_sequence(sounds, batch_first=True).mT
            inputs["feature_attention_mask"] = _padded([[1] * len(sound) for sound in sounds], 0)
        given = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        states = normalize(self.model(**given, use_cache=False).last_hidden_state.float(), dim=-1)
        kinds = one_hot(_padded([part.kinds for part in batch], BESIDE), BESIDE + 1)[..., :BESIDE].to(self.device)
        sums = kinds.float().mT @ states
        if not sums.isfinite().all():
            raise Unavailable(
                f"The checkpoint {self.folder} gives NaN or infinity: its weights are damaged, or too large for "
                f"{self.model.dtype}; copy it anew, or choose another dtype."
            )
        return sums.cpu().numpy(), kinds.sum(1).cpu().numpy()


@functools.lru_cache(maxsize=1)
def load(folder: Path, identity: str, device: str, dtype: str) -> Qwen3Omni:
    """The checkpoint, loaded once per process; `identity` makes changed weights under the same path a new model.

    Raises Unavailable for one that transformers cannot load, whatever it says of that.
    """
    try:
        return Qwen3Omni(folder, device, getattr(torch, dtype))
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(
            f"transformers {transformers.__version__} cannot use the checkpoint {folder} ({type(error).__name__}: "
            f"{one_line(error)}): copy it anew, or choose a Qwen3-Omni that fits this version."
        ) from error


def _padded(rows: Sequence[Sequence[int]], filling: int) -> Tensor:
    """(rows, longest) int64."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filling)


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Neighbours, as many as keep the padded batch within MOST_TOKENS."""
    batch: list[Part] = []
    longest = 0
    for part in parts:
        longest = max(longest, len(part.tokens))
        if batch and longest * (len(batch) + 1) > MOST_TOKENS:
            yield batch
            batch, longest = [], len(part.tokens)
        batch.append(part)
    if batch:
        yield batch

"""Reads a shot's frames, sound and words together, with a multimodal language model."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster import ConfigurableResource

from resources.encoders.weights import CONFIGURATION, device_problems, torch_device, weights_identity
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.omni.qwen3_omni_model import Qwen3Omni

READING = "half-depth-unit-states-mean-v1"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


class Shot(NamedTuple):
    """What there is of a shot; what it has not is empty.

    seconds: its length.
    frames:  JPEG, in order, evenly spaced over it.
    samples: (n,) mono at 16 kHz, float32 in -1..1.
    words:   what is said in it.
    """

    seconds: float
    frames: Sequence[bytes]
    samples: "np.ndarray"
    words: str


class OmniEncoder(ConfigurableResource[Any]):
    """Shots in; for each the vectors of its video, audio and text out, 768 numbers each, read together.

    model: the folder of a Qwen3-Omni checkpoint in safetensors. Nothing is downloaded.
    device: "auto" (a GPU where there is one), or PyTorch's name for it.
    dtype: the precision of the weights; it is part of the embedding space. Where bfloat16 is slow (`matmul_dtype`), its
        rounded weights are multiplied in float32.
    """

    model: str = ""
    device: str = "auto"
    dtype: str = "bfloat16"

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return f"qwen3-omni:{self.model}:{self.dtype}:{READING}"

    def space(self) -> str:
        """The embedding space, weights identified by content. Raises Unavailable for a folder that is no checkpoint."""
        weights = weights_identity(self._folder(), (*CONFIGURATION, *TOKENIZER))
        return f"qwen3-omni:{weights}:{self.dtype}:{READING}"

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; the weights, tens of gigabytes, are not read for it."""
        if problems := device_problems(self.device, self.dtype):
            return problems
        try:
            self._folder()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: Iterable[Shot]) -> "Iterator[Mapping[str, np.ndarray]]":
        """For each shot, in order, by modality a (768,) float32 vector, not of unit norm; zeros where it has nothing.

        Shots are taken as they are needed. Each vector is of the tokens of its modality, which have seen those before
        them: frames see frames, sound sees the frames too, words see everything. It does not depend on other shots.
        Raises Unavailable for a checkpoint that cannot be used, or that gives NaN.
        """
        return self._qwen().embed(shots)

    def embed_query(self, words: str) -> "np.ndarray":
        """(768,): the words' vector as that of a shot of which nothing else is known. Raises as `embed`."""
        import numpy as np

        return next(self.embed([Shot(0.0, (), np.zeros(0, np.float32), words)]))["text"]

    def _qwen(self) -> "Qwen3Omni":
        from resources.encoders.omni import qwen3_omni_model

        folder, space = self._folder(), self.space()
        return qwen3_omni_model.load(folder, space, torch_device(self.device), self.dtype)

    def _folder(self) -> Path:
        """Raises Unavailable, in a sentence, for what is no folder of such a checkpoint."""
        if not self.model:
            raise Unavailable(
                "MEDIAFM_FUSION=omni reads shots with a Qwen3-Omni checkpoint: set MEDIAFM_OMNI_MODEL to its folder."
            )
        folder = Path(self.model)
        if not folder.is_dir():
            raise Unavailable(f"There is no folder {self.model}: set MEDIAFM_OMNI_MODEL to a Qwen3-Omni checkpoint's.")
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise Unavailable(f"The checkpoint {self.model} is incomplete: it needs a config.json and safetensors.")
        try:
            found = json.loads((folder / "config.json").read_bytes())["model_type"]
        except (ValueError, TypeError, KeyError):
            found = "config.json that says of no model"
        if found != "qwen3_omni_moe":
            raise Unavailable(f"The checkpoint {self.model} is a {found}, not a qwen3_omni_moe.")
        return folder

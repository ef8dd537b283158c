"""Turns the sampled frames of a shot into its video embedding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource

from resources.errors import Unavailable
from resources.weights import checkpoint_folder, device_problems, torch_device, weights_identity

if TYPE_CHECKING:
    import numpy as np

    from resources.clip import Clip
    from resources.pretrained_images import EfficientNetLite0

DESCRIPTORS = "visual-descriptors-v1"
EFFICIENTNET_RECIPE = "lite0-640-palette-128-v1"
CLIP_POOLING = "norm-mean-norm-v1"


class VideoEncoder(ConfigurableResource[Any]):
    """Shots' JPEG frames in, one 768-d unit vector per shot out.

    kind: "descriptors" (colour, gradients and texture; no weights), "efficientnet" (ImageNet features and colour; the
        weights are an installed package's) or "clip" (the image tower of a CLIP-style model).
    model: for "clip", a checkpoint folder (a SeqCLIP fine-tune too) or a name on the model hub: a CLIP, SigLIP or
        SigLIP 2 whose two towers meet in 768 dimensions or more, which are projected to 768.
    device: "auto" (a GPU where there is one), or PyTorch's name for it.
    dtype: the precision of the weights; it is part of the embedding space. On a GPU, bfloat16 is several times faster;
        where it is the slower one (`matmul_dtype`), its rounded weights are multiplied in float32.
    batch_size: frames given to the model at once.
    """

    kind: str = "descriptors"
    model: str = "openai/clip-vit-large-patch14"
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        if self.kind == "efficientnet":
            return self._efficientnet_space()
        return DESCRIPTORS if self.kind == "descriptors" else f"clip:{self.model}:{self.dtype}:{CLIP_POOLING}"

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        if self.kind != "clip":
            return self.config_key()
        return f"clip:{weights_identity(checkpoint_folder(self.model))}:{self.dtype}:{CLIP_POOLING}"

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        if self.kind == "descriptors":
            return []
        if self.kind not in ("clip", "efficientnet"):
            return [
                f"The video encoder's kind is {self.kind!r}, but it must be 'descriptors', 'efficientnet' or 'clip'."
            ]
        if problems := device_problems(self.device, self.dtype):
            return problems
        try:
            self._clip() if self.kind == "clip" else self._efficientnet()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        """One unit-norm (768,) float32 vector per shot, in order; a shot is its JPEG frames, at least one.

        Shots are taken as they are needed, so memory does not grow with the title. Raises ValueError for a shot without
        frames, Unavailable for a checkpoint that cannot be used.
        """
        if self.kind == "clip":
            return self._clip().embed_shots(shots, self.batch_size)
        if self.kind == "efficientnet":
            return self._efficientnet().embed_shots(shots, self.batch_size)
        from resources.visual_descriptors import describe_shot

        return map(describe_shot, shots)

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), 768) float32: the text tower, whose vectors lie in the space of the shots'.

        Raises Unavailable for an encoder without a text tower.
        """
        if self.kind != "clip":
            raise Unavailable(
                f"The video encoder {self.kind!r} has no text tower: shots are found by text with 'clip'."
            )
        return self._clip().embed_texts(texts)

    def _efficientnet_space(self) -> str:
        from resources.pretrained_weights import EFFICIENTNET_LITE0

        return f"efficientnet:{EFFICIENTNET_LITE0.sha256[:12]}:{self.dtype}:{EFFICIENTNET_RECIPE}"

    def _efficientnet(self) -> "EfficientNetLite0":
        from resources import pretrained_images

        return pretrained_images.load(torch_device(self.device), self.dtype)

    def _clip(self) -> "Clip":
        from resources import clip

        folder = checkpoint_folder(self.model)
        return clip.load(folder, weights_identity(folder), torch_device(self.device), self.dtype)

"""The model: both towers of a CLIP-style checkpoint, and the contrastive loss."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from model.seqclip.reader import ClipBatch

DIMENSIONS = 768  # of the space that clips and captions meet in


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

    def video(self, batch: ClipBatch) -> Tensor:
        """(n, 768): each frame's feature unit-normed, the clip's frames averaged, the mean unit-normed."""
        frames = normalize(_pooled(self.towers.get_image_features(pixel_values=batch.pixels)).float(), dim=-1)
        clips = torch.repeat_interleave(torch.arange(len(batch.lengths), device=frames.device), batch.lengths)
        sums = torch.zeros(len(batch.lengths), frames.shape[1], device=frames.device).index_add(0, clips, frames)
        return normalize(sums, dim=-1)  # a sum and a mean point the same way

    def text(self, batch: ClipBatch) -> Tensor:
        """(n, 768), unit-norm."""
        return normalize(_pooled(self.towers.get_text_features(**batch.tokens)).float(), dim=-1)

    def forward(self, batch: ClipBatch) -> Tensor:
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

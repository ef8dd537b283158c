"""The modalities of a shot, each declared once. Imports nothing, so that every package may ask.

A fused vector is the modalities' blocks one after the other, in the order of `MODALITIES`. Trained encoders name the
blocks that they read themselves (`model.config.Config.modalities`), so another line here leaves them loadable.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    name: str  # of its block, as reports and columns call it
    width: int  # of its vectors
    table: str  # of its vectors, a row per shot
    encoder: str  # resource that makes them
    before: bool  # whether rows of fused vectors that were written before they had its flag, have it


MODALITIES = (
    Modality("video", 768, "video_embeddings", "video_encoder", before=True),
    Modality("audio", 768, "audio_embeddings", "audio_encoder", before=False),
    Modality("text", 768, "text_embeddings", "text_encoder", before=False),
)

Widths = tuple[tuple[str, int], ...]
"""Names and widths of a fused vector's blocks, in their order."""

WIDTHS: Widths = tuple((modality.name, modality.width) for modality in MODALITIES)
FUSED_DIM = sum(width for _, width in WIDTHS)


def blocks_of(widths: Iterable[tuple[str, int]]) -> dict[str, slice]:
    """Where each modality sits in a fused vector."""
    blocks, start = {}, 0
    for name, width in widths:
        blocks[name] = slice(start, start + width)
        start += width
    return blocks

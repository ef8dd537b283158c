"""Fusion: a shot's modality vectors become one unit vector.

As published, "the three embeddings are concatenated and unit-normed". Models' outputs differ in norm, though (an
API's vectors are unit vectors, mean-pooled audio states are not), and in a raw concatenation the largest block owns
the cosine that training minimises. So `balanced`, the default, unit-norms every present modality first;
`as_published` does not. An absent modality is a block of zeros, and a shot without any a vector of zeros.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.modalities import WIDTHS, Widths, blocks_of

Fusion = Literal["balanced", "as_published"]
Embeddings = Mapping[str, tuple[NDArray[np.floating], NDArray[np.bool_]]]
"""Of each modality, by name: vectors (n, width), and present (n,), whether a shot has it."""


def fuse(embeddings: Embeddings, fusion: Fusion = "balanced", widths: Widths = WIDTHS) -> NDArray[np.float32]:
    """Fused vectors of n shots.

    embeddings: of every modality in `widths`. Vectors are finite where present; the others are not looked at.
    Returns (n, sum of widths) float32; every row has norm 1, with zeros where a modality is absent, or is zero where
    all are.
    Raises ValueError for missing or unknown modalities, wrong shapes, NaN or infinity, a present vector of zeros, or an
    unknown fusion.
    """
    if fusion not in ("balanced", "as_published"):
        raise ValueError(f"fusion must be 'balanced' or 'as_published', not {fusion!r}.")
    blocks = blocks_of(widths)
    if set(embeddings) != set(blocks):
        raise ValueError(f"Embeddings of {', '.join(blocks)} are needed, and there are {', '.join(embeddings)}.")
    n = len(next(iter(embeddings.values()))[0])
    fused = np.zeros((n, sum(width for _, width in widths)), dtype=np.float64)
    for modality, width in widths:
        vectors, present = (np.asarray(part) for part in embeddings[modality])
        present = present.astype(bool)
        if vectors.shape != (n, width):
            raise ValueError(f"The {modality} embeddings have shape {vectors.shape}; {(n, width)} is needed.")
        if present.shape != (n,):
            raise ValueError(f"The flags of {modality} have shape {present.shape}; {(n,)} is needed.")
        shown = vectors[present].astype(np.float64)
        if not np.isfinite(shown).all():
            first = np.flatnonzero(present)[~np.isfinite(shown).all(axis=1)][0]
            raise ValueError(f"The {modality} embedding of shot {first} holds NaN or infinity.")
        norms = np.linalg.norm(shown, axis=1, keepdims=True)
        if (norms == 0).any():
            first = np.flatnonzero(present)[norms[:, 0] == 0][0]
            raise ValueError(f"The {modality} embedding of shot {first} is zero although it is marked present.")
        fused[present, blocks[modality]] = shown / norms if fusion == "balanced" else shown
    norms = np.linalg.norm(fused, axis=1, keepdims=True)
    return (fused / np.where(norms > 0, norms, 1)).astype(np.float32)


def block_energy(fused: NDArray[np.floating], widths: Widths = WIDTHS) -> dict[str, float]:
    """Mean share of the squared norm that each modality's block holds.

    fused: (n, sum of widths). Returns a share by modality; they sum to 1 (less where vectors are zero, 0 when n is 0).
    Raises ValueError for another width.
    """
    fused_dim = sum(width for _, width in widths)
    if fused.ndim != 2 or fused.shape[1] != fused_dim:
        raise ValueError(f"Fused vectors have shape {fused.shape}; (n, {fused_dim}) is needed.")
    blocks = blocks_of(widths)
    if not len(fused):
        return dict.fromkeys(blocks, 0.0)
    squares = np.stack([np.square(fused[:, block].astype(np.float64)).sum(axis=1) for block in blocks.values()], axis=1)
    total = squares.sum(axis=1, keepdims=True)
    shares = (squares / np.where(total > 0, total, 1)).mean(axis=0)
    return {modality: float(share) for modality, share in zip(blocks, shares, strict=True)}

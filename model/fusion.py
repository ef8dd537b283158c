"""Fusion: three modality vectors per shot become one unit vector.

As published, "the three embeddings are concatenated and unit-normed". Models' outputs differ in norm, though (an
API's vectors are unit vectors, mean-pooled audio states are not), and in a raw concatenation the largest block owns
the cosine that training minimises. So `balanced`, the default, unit-norms every present modality first;
`as_published` does not. An absent modality is a block of zeros.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

MODALITIES = ("video", "audio", "text")
MODALITY_DIM = 768
FUSED_DIM = MODALITY_DIM * len(MODALITIES)

Fusion = Literal["balanced", "as_published"]


def fuse(
    video: NDArray[np.floating],
    audio: NDArray[np.floating],
    text: NDArray[np.floating],
    has_audio: NDArray[np.bool_],
    has_text: NDArray[np.bool_],
    fusion: Fusion = "balanced",
) -> NDArray[np.float32]:
    """Fused vectors of n shots.

    video, audio, text: (n, 768), finite. Rows of a modality that is absent (has_audio or has_text false) are not
    looked at. has_audio, has_text: (n,) bool. Every shot has video.
    Returns (n, 2304) float32; every row has norm 1, and zeros where a modality is absent.
    Raises ValueError for wrong shapes, NaN or infinity, a present vector of zeros, or an unknown fusion.
    """
    if fusion not in ("balanced", "as_published"):
        raise ValueError(f"fusion must be 'balanced' or 'as_published', not {fusion!r}.")
    n = len(video)
    present_by_modality = (np.ones(n, dtype=bool), np.asarray(has_audio, dtype=bool), np.asarray(has_text, dtype=bool))
    fused = np.zeros((n, FUSED_DIM), dtype=np.float64)
    for block, (modality, vectors, present) in enumerate(
        zip(MODALITIES, (video, audio, text), present_by_modality, strict=True)
    ):
        vectors = np.asarray(vectors)
        if vectors.shape != (n, MODALITY_DIM):
            raise ValueError(f"The {modality} embeddings have shape {vectors.shape}; {(n, MODALITY_DIM)} is needed.")
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
        fused[present, block * MODALITY_DIM : (block + 1) * MODALITY_DIM] = (
            shown / norms if fusion == "balanced" else shown
        )
    return (fused / np.linalg.norm(fused, axis=1, keepdims=True)).astype(np.float32)


def block_energy(fused: NDArray[np.floating]) -> dict[str, float]:
    """Mean share of the squared norm that each modality's block holds.

    fused: (n, 2304). Returns {"video": ..., "audio": ..., "text": ...}, summing to 1 (all 0 when n is 0).
    Raises ValueError for another width.
    """
    if fused.ndim != 2 or fused.shape[1] != FUSED_DIM:
        raise ValueError(f"Fused vectors have shape {fused.shape}; (n, {FUSED_DIM}) is needed.")
    squares = np.square(fused.astype(np.float64)).reshape(len(fused), len(MODALITIES), MODALITY_DIM).sum(axis=2)
    total = squares.sum(axis=1, keepdims=True)
    shares = (squares / np.where(total > 0, total, 1)).mean(axis=0) if len(fused) else np.zeros(len(MODALITIES))
    return {modality: float(share) for modality, share in zip(MODALITIES, shares, strict=True)}

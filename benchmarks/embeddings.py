"""How much each modality's embedding knows about place in a film: the lift of a shot's nearest other shot being near.

    python benchmarks/embeddings.py FILM [--subtitles FILE]

A shot's nearest other shot, by cosine, lies within ten shots of it with some frequency; the lift is that frequency over
chance. Embeddings of the `embedded` profile, on the shots that the project's own detector finds.
"""

import numpy as np

REACH = 10  # shots


def near_share(vectors: np.ndarray, reach: int = REACH) -> tuple[float, float]:
    """How often a shot's nearest other shot by cosine lies within `reach` shots; how often chance would have it so.

    `vectors` (n, d), unit-norm.
    """
    n = len(vectors)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    shots = np.arange(n)
    chance = np.mean((np.minimum(shots + reach, n - 1) - np.maximum(shots - reach, 0)) / (n - 1))
    return float(np.mean(np.abs(cosine.argmax(1) - shots) <= reach)), float(chance)

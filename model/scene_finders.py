"""Ways to find a title's scenes, to be judged side by side: baselines, each representation, and several of them."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.modalities import WIDTHS
from model.scenes import scenes

MODALITIES = tuple(name for name, _ in WIDTHS)
UNSUPERVISED = ("contextual", *MODALITIES)
"""What the table `scenes` is made by, without labels."""
SEVERAL = (MODALITIES, UNSUPERVISED)


class Shots(NamedTuple):
    """A title's n shots: vectors (n, d) by representation, and when they begin and end in seconds, (n,)."""

    vectors: Mapping[str, NDArray[np.floating]]
    start_s: NDArray[np.floating]
    end_s: NDArray[np.floating]


Found = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Of each shot, (n,): a score that is higher where a scene more likely begins, and whether one was found to begin."""
Finder = Callable[[Shots], Found]


def finders(representations: Collection[str], share: float) -> dict[str, Finder]:
    """Every way that the given representations allow, by name; several are named with + between.

    representations: each modality, "fused"; and "contextual" (the encoder's last layer) and "contextual_in_context"
    (what is published of it) where there is an encoder. share: of the shots that begin a scene, which baselines are
    told.
    """
    by_vectors: dict[str, tuple[tuple[str, ...], Finder]] = {
        f"{name}_neighbours": ((name,), _highest(_unlike_the_one_before(name), share))
        for name in ("fused", "contextual")
    }
    alone = ((name,) for name in (*MODALITIES, "fused", "contextual", "contextual_in_context"))
    by_vectors |= {"+".join(names): (names, grouped(*names)) for names in (*alone, *SEVERAL)}
    return {
        "equal_distance": _equal_distance(max(1, round(1 / share))),
        "longest_shots": _highest(lambda shots: shots.end_s - shots.start_s, share),
        **{name: finder for name, (needs, finder) in by_vectors.items() if set(needs) <= set(representations)},
    }


def grouped(*names: str) -> Finder:
    """By `model.scenes`, from the named representations."""

    def finder(shots: Shots) -> Found:
        found = scenes([shots.vectors[name] for name in names])
        begins = np.zeros(len(shots.start_s), dtype=bool)
        begins[found.first] = True
        return found.begins, begins

    return finder


def _equal_distance(every: int) -> Finder:
    def finder(shots: Shots) -> Found:
        begins = np.arange(len(shots.start_s)) % every == 0
        return begins * 1.0, begins

    return finder


def _highest(score: Callable[[Shots], NDArray[np.floating]], share: float) -> Finder:
    """Scenes begin at so large a share of the shots, those of the highest score."""

    def finder(shots: Shots) -> Found:
        scores = score(shots).astype(np.float64)
        found = np.zeros(len(scores), dtype=bool)
        found[1:][np.argsort(-scores[1:], kind="stable")[: round(share * len(scores))]] = True
        return scores, found

    return finder


def _unlike_the_one_before(name: str) -> Callable[[Shots], NDArray[np.floating]]:
    def score(shots: Shots) -> NDArray[np.floating]:
        vectors = shots.vectors[name].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return np.append(0, 1 - (unit[1:] * unit[:-1]).sum(axis=1))

    return score

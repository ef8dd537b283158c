"""Ranking: several ranked lists of the same things become one."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)

RANK_CONSTANT = 60  # of the publication; how much the first places count above later ones


class Ranked(NamedTuple, Generic[Key]):
    """key: what was ranked. score: the higher, the better. places: by list that has it, its place there, from 1."""

    key: Key
    score: float
    places: dict[str, int]


def reciprocal_rank_fusion(rankings: Mapping[str, Sequence[Key]], k: int | None = None) -> list[Ranked[Key]]:
    """The k best (all by default) of several rankings, best first (Cormack, Clarke & Buettcher 2009).

    rankings: by name, keys from best to worst, none twice in one list. The score of a key is the sum of
    1 / (60 + its place) over the lists that have it: scores of different models are never compared. Of equal scores,
    the key that comes first in the first list that tells them apart comes first. Raises ValueError for a key that is
    twice in one list.
    """
    places: dict[Key, dict[str, int]] = {}
    for name, keys in rankings.items():
        for place, key in enumerate(keys, start=1):
            if name in places.setdefault(key, {}):
                raise ValueError(f"{key!r} is twice in the ranking by {name}.")
            places[key][name] = place
    found = [Ranked(key, sum(1 / (RANK_CONSTANT + place) for place in at.values()), at) for key, at in places.items()]
    last = len(places) + 1
    found.sort(key=lambda each: (-each.score, *(each.places.get(name, last) for name in rankings)))
    return found[:k]

"""Which titles are held out: whole series, by a stable hash.

A group's side depends on the seed and the group's name alone, so a catalogue that grows never holds out what an earlier
training, whose weights the next may start from, has trained on.
"""

import hashlib
from collections.abc import Iterable

Group = tuple[str, str]
"""What is never divided: ("series", id), or ("title", id) of a title without a series."""


def group_of(title_id: str, series_id: str | None) -> Group:
    return ("series", series_id) if series_id else ("title", title_id)


def held_out(groups: Iterable[Group], share: float, seed: int) -> set[Group]:
    """The groups to hold out of two or more: those in the lowest `share` of the hash's range, always the lowest of
    all, never the highest. Raises ValueError for fewer than two groups.
    """
    places = {group: _place(seed, group) for group in groups}
    if len(places) < 2:
        raise ValueError(
            "To hold one out, two titles or more are needed (the episodes of a series count as one), and there are "
            f"{len(places)}."
        )
    lowest, *_, highest = sorted(sorted(places), key=places.__getitem__)
    return ({group for group, place in places.items() if place < share} | {lowest}) - {highest}


def _place(seed: int, group: Group) -> float:
    """A uniform number in [0, 1) that depends on seed and group alone."""
    words = hashlib.blake2b("\0".join((str(seed), *group)).encode(), digest_size=8).digest()
    return int.from_bytes(words) / 2.0**64

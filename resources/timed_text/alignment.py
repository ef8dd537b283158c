"""Which shots a cue is heard in."""

from collections.abc import Sequence

from resources.errors import BadInput
from resources.timed_text.cues import Cue

# All shots' text together: a whole season's dialogue is a hundredth of this. Thousands of cues that each last the whole
# film would otherwise be copied into thousands of shots.
MAX_ALIGNED_CHARS = 32 * 2**20


def align(cues: Sequence[Cue], shots: Sequence[tuple[float, float]]) -> list[str]:
    """Each shot's text: its cues' texts in time order, one per line; "" where nothing is said.

    A cue belongs to every shot that it overlaps by at least half of the shorter of the two; if there is none, to the
    one that it overlaps most (the first of equals); a cue that overlaps no shot belongs to none. `shots` are
    (start_s, end_s), half-open, ascending and without overlap. One pass over both: linear in cues + shots + overlaps.

    Raises `BadInput` when the texts come to more than `MAX_ALIGNED_CHARS`.
    """
    texts: list[list[str]] = [[] for _ in shots]
    first = chars = 0
    for cue in sorted(cues):
        while first < len(shots) and shots[first][1] <= cue.start_s:
            first += 1
        most, most_index, placed = 0.0, -1, False
        for index in range(first, len(shots)):
            start_s, end_s = shots[index]
            if start_s >= cue.end_s:
                break
            overlap = min(end_s, cue.end_s) - max(start_s, cue.start_s)
            if overlap <= 0:
                continue
            if overlap >= 0.5 * min(end_s - start_s, cue.end_s - cue.start_s):
                texts[index].append(cue.text)
                placed = True
                chars += len(cue.text)
            if overlap > most:
                most, most_index = overlap, index
        if not placed and most_index >= 0:
            texts[most_index].append(cue.text)
        if chars > MAX_ALIGNED_CHARS:
            raise BadInput(
                "The subtitle track's cues overlap so much that no dialogue can look like it; replace the track."
            )
    return ["\n".join(lines) for lines in texts]

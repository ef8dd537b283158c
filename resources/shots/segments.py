"""Segments: what stands for shots where there is no picture, as in a podcast.

The sound is decoded once and cut at the best places that are `SHORTEST_S` to `LONGEST_S` apart. How good a place is, is
told every `STEP_S`, by what is known of it:

    novelty   how unlike the sound before and after is: a checkerboard kernel over the self-similarity of its mel bands
              (Foote 2000, "Automatic audio segmentation using a measure of audio novelty")
    pause     how quiet it is, beside how loud it is around: speech activity, by level
    cues      the pauses between the cues of the timed text; a place within a cue costs
    topic     how much the words change: depths of the valleys of lexical cohesion (Hearst 1997, "TextTiling")

The best cutting as a whole is found by dynamic programming. Memory holds seconds of sound, and some numbers for each
step.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from resources.media.apart import sound_blocks
from resources.media.joined import FilmFile
from resources.media.sound import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resources.timed_text import Cue

SEGMENTS = "segments:1"
"""Names what cut a title without a picture; raised when it would cut it elsewhere."""

SHORTEST_S, LONGEST_S = 5.0, 30.0
STEP_S = 0.25
_SHORTEST, _LONGEST = round(SHORTEST_S / STEP_S), round(LONGEST_S / STEP_S) - 1  # the last one may be a part longer
_USUAL = (_SHORTEST * _LONGEST) ** 0.5
_LENGTH_COST = 0.3
"""Of a segment twice or half as long as usual, beside places that are worth 0 to about 4."""
_NOVELTY_REACH = 32  # steps on either side: 8 s
_LOUD_REACH = 60  # steps on either side in which it is looked for what is loud: 15 s
_DEEP_PAUSE = 2.0  # bels below that; deeper ones count the same
_USUAL_PAUSE_S = 2.0  # between cues: counts half
_COHESION_S = 30.0  # of words on either side of a place
_SPEECH_BANDS = slice(3, 45)  # of 64 mel bands: about 150 to 4,000 Hz
_SAMPLES_IN_A_STEP = round(STEP_S * SAMPLE_RATE)
_WINDOW = 400  # samples, 25 ms
_BLOCK_S = 30.0
_PLACES_AT_ONCE = 64
_MOST_CUES = 64  # in half a minute: more are not said


def sound_segments(
    path: FilmFile, cues: "Sequence[Cue]" = (), language: str | None = None
) -> list[tuple[float, float]]:
    """(start_s, end_s) of each segment of the sound; they tile it, each 5 to 30 s long, or all of a shorter one.

    cues: of the timed text, if there is any. language: chooses the track, as in `shot_audio`. Deterministic. Raises
    BadInput as `sound_blocks` does.
    """
    novelty, level, end_s = _listen(path, language)
    steps = int(end_s / STEP_S)
    if steps < 2 * _SHORTEST:
        return [(0.0, end_s)]
    worth = _scaled(novelty[:steps]) + _pauses(level[:steps])
    if cues:
        worth += _between_cues(cues, steps) + _scaled(_topic_changes(cues, steps))
    edges = [0.0, *(edge * STEP_S for edge in _best_cuts(worth - worth.mean())), end_s]
    return list(pairwise(edges))


# ---- the sound ---------------------------------------------------------------------------------------------------


def _listen(path: FilmFile, language: str | None) -> "tuple[NDArray[np.floating], NDArray[np.floating], float]":
    """By step, the novelty of the sound where it begins, and its level in bels; and where the sound ends."""
    import numpy as np

    kernel = _checkerboard_side()
    before = np.zeros((0, 0), np.float32)  # of the bands of steps whose novelty is not known yet
    novelty: list[NDArray[np.floating]] = []
    level: list[NDArray[np.floating]] = []
    end_s = 0.0
    for samples in sound_blocks(path, language, _BLOCK_S):
        end_s += len(samples) / SAMPLE_RATE
        whole = np.pad(samples, (0, -len(samples) % _SAMPLES_IN_A_STEP))
        bands = _bands(whole) if whole.any() else _silence(len(whole))
        level.append(bands[:, _SPEECH_BANDS].mean(axis=1))
        units = bands / np.linalg.norm(bands, axis=1, keepdims=True).clip(1e-6)
        if not len(before):
            before = np.repeat(units[:1], _NOVELTY_REACH, axis=0)  # before the beginning all is as it begins
        before = np.concatenate([before, units])
        if len(before) >= len(kernel):
            novelty.append(_novelty(before, kernel))
            before = before[1 - len(kernel) :]
    after = np.concatenate([before, np.repeat(before[-1:], _NOVELTY_REACH, axis=0)])
    if len(after) >= len(kernel):
        novelty.append(_novelty(after, kernel))
    return np.concatenate(novelty), np.concatenate(level), end_s


@functools.cache
def _silence(length: int) -> "NDArray[np.floating]":
    """The bands of silence, of which a file with a wrong clock may have hours."""
    import numpy as np

    return _bands(np.zeros(length, np.float32))


def _bands(samples: "np.ndarray") -> "NDArray[np.floating]":
    import numpy as np

    from resources.encoders.audio.mel_statistics import BANDS, FFT, FLOOR, TYPICAL, mel_bank

    taper = np.hanning(_WINDOW).astype(np.float32)
    spectrum = np.fft.rfft(samples.reshape(-1, _WINDOW) * taper, FFT, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2) @ (mel_bank() / (taper.sum() / 2) ** 2)
    bels = np.log10(np.maximum(power, FLOOR)) - TYPICAL
    of_steps: NDArray[np.floating] = bels.reshape(-1, _SAMPLES_IN_A_STEP // _WINDOW, BANDS).mean(axis=1)
    return of_steps


def _checkerboard_side() -> "NDArray[np.floating]":
    """Foote's kernel is the outer product of this with itself: a Gaussian taper, negative before the place and positive
    after it. So its correlation with the self-similarity is the squared length of the weighted sum of the steps."""
    import numpy as np

    distance = np.arange(-_NOVELTY_REACH, _NOVELTY_REACH) + 0.5
    taper = np.exp(-0.5 * (distance / (_NOVELTY_REACH / 2)) ** 2)
    side: NDArray[np.floating] = np.sign(distance) * taper / taper.sum()
    return side


def _novelty(units: "NDArray[np.floating]", kernel: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """(steps - kernel + 1,), 0 where both sides are alike, to 1."""
    import numpy as np

    windows = np.lib.stride_tricks.sliding_window_view(units, len(kernel), axis=0)  # (places, bands, kernel)
    found: NDArray[np.floating] = np.linalg.norm(windows @ kernel, axis=1)
    return found


def _pauses(level: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """How quiet it is at the beginning of each step, from 0 (as loud as what is loud around) to 1."""
    import numpy as np
    from scipy.ndimage import percentile_filter

    loud = percentile_filter(level, 80, size=2 * _LOUD_REACH + 1, mode="nearest")
    edge = np.minimum(level, np.append(level[:1], level[:-1]))
    quiet: NDArray[np.floating] = np.clip((loud - edge) / _DEEP_PAUSE, 0, 1)
    return quiet


# ---- the words ---------------------------------------------------------------------------------------------------


def _between_cues(cues: "Sequence[Cue]", steps: int) -> "NDArray[np.floating]":
    """By place: -1 within a cue, else 0 to 1 by how long nobody speaks around it."""
    import numpy as np

    within = np.zeros(steps + 1)
    for cue in cues:  # a place as near to a cue's end as places are to each other is not within it
        first, last = int(cue.start_s / STEP_S + 0.5) + 1, int(cue.end_s / STEP_S + 0.5)
        if first < min(last, steps):
            within[first] += 1
            within[min(last, steps)] -= 1
    said = np.cumsum(within)[:steps] > 0.5
    worth = np.where(said, -1.0, 0.0)
    turns = np.flatnonzero(np.diff(said, prepend=True, append=True))
    for first, last in zip(turns[::2], turns[1::2], strict=True):  # of each run without words
        pause_s = (last - first) * STEP_S
        worth[first:last] = pause_s / (pause_s + _USUAL_PAUSE_S)
    return worth


def _topic_changes(cues: "Sequence[Cue]", steps: int) -> "NDArray[np.floating]":
    """By place: how deep the valley of lexical cohesion is, between two cues; 0 elsewhere."""
    import numpy as np

    ordered = sorted(cue for cue in cues if cue.text.strip())
    depths = _depths(np.fromiter(_cohesion(ordered), np.float64))
    worth = np.zeros(steps)
    for number, depth in enumerate(depths, 1):
        ends = sorted((ordered[number - 1].end_s, ordered[number].start_s))
        first, last = (int(end / STEP_S + 0.5) for end in ends)
        worth[first : last + 1] = np.maximum(worth[first : last + 1], depth)
    return worth


def _cohesion(cues: "Sequence[Cue]") -> Iterator[float]:
    """Of each place between two cues: the cosine of the words in the half minutes before and after it."""
    import numpy as np

    from resources.encoders.text.hashed_ngrams import hash_texts

    starts = np.array([cue.start_s for cue in cues])
    for begin in range(1, len(cues), _PLACES_AT_ONCE):
        texts = []
        for place in range(begin, min(begin + _PLACES_AT_ONCE, len(cues))):
            first, last = np.searchsorted(starts, (starts[place] - _COHESION_S, starts[place] + _COHESION_S)).tolist()
            sides = cues[min(first, place - 1) : place], cues[place : max(last, place + 1)]
            texts += [" ".join(cue.text for cue in side[:_MOST_CUES]) for side in sides]
        hashed = hash_texts(texts, 768)
        yield from (hashed[::2] * hashed[1::2]).sum(axis=1).tolist()


def _depths(cohesion: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """How far each value lies below the nearest peaks on both sides."""
    import numpy as np

    def climbs(values: "NDArray[np.floating]") -> "NDArray[np.floating]":
        found = np.zeros(len(values))
        peak = -np.inf
        for place, value in enumerate(values):
            # A peak counts as long as it only goes down from it.
            peak = value if place == 0 or value >= values[place - 1] else peak
            found[place] = peak - value
        return found

    return climbs(cohesion) + climbs(cohesion[::-1])[::-1]


# ---- the cutting -------------------------------------------------------------------------------------------------


def _scaled(values: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """So that what stands out is about 1; what hardly differs from nothing stays small."""
    import numpy as np

    shown = values[values > 0]
    return values / max(float(np.percentile(shown, 95)), 0.02) if len(shown) else values


def _best_cuts(worth: "NDArray[np.floating]") -> list[int]:
    """Of n steps, those at which to cut, rising: of all cuttings into segments of `_SHORTEST` to `_LONGEST` steps the
    one whose places are worth most, less what unusual lengths cost. worth: (n,), n >= `_SHORTEST`."""
    import numpy as np

    n = len(worth)
    lengths = np.arange(_LONGEST, _SHORTEST - 1, -1)  # of the segment that ends here, begun ever later
    cost = _LENGTH_COST * np.log2(lengths / _USUAL) ** 2
    best = np.full(n + 1, -np.inf)
    best[0] = 0.0
    came_from = np.zeros(n + 1, np.int32)
    for end in range(_SHORTEST, n + 1):
        first = max(0, end - _LONGEST)
        starts = best[first : end - _SHORTEST + 1] - cost[-(end - _SHORTEST + 1 - first) :]
        chosen = int(starts.argmax())
        best[end] = starts[chosen] + (worth[end] if end < n else 0.0)
        came_from[end] = first + chosen
    cuts = []
    place = int(came_from[n])
    while place:
        cuts.append(place)
        place = int(came_from[place])
    return cuts[::-1]

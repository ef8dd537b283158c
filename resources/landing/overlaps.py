"""Whether the segments of a title that is or was live follow each other in time, which their numbers do not tell."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from resources.errors import BadInput, printable
from resources.landing.drops import Drop
from resources.landing.live import Part, begins_segments, files_of
from resources.landing.zone import LandingZone

OVERLAP_S = 0.1
"""So far a segment's last frames, which may come out of order, reach into the next one."""


def refuse_overlaps(landing: LandingZone, drop: Drop, before: Sequence[Part]) -> None:
    """Raise BadInput when a segment begins before the one before it ends. Of those that were taken `before`, the last
    one is read once more, and the first one where a clock is to be compared with it.

    A clock that begins anew, where the film's did or before the earlier segment, is no overlap.
    """
    from resources.media import span_of

    files = files_of(drop.parts)
    init = [file for file in files[:1] if begins_segments(file.name)]
    segments = files[len(init) :]

    def span(segment: Part) -> tuple[float, float]:
        with landing.media(replace(drop, parts=(*init, segment))) as film:
            return span_of(film) or (0.0, 0.0)

    unseen = segments[max(0, len(files_of(before)) - len(init) - 1) :] if len(segments) > 1 else []
    spans = [span(segment) for segment in unseen]
    for (earlier, was), (segment, now) in pairwise(zip(unseen, spans, strict=True)):
        overlaps = was[0] - OVERLAP_S < now[0] < was[1] - OVERLAP_S
        if overlaps and abs(now[0] - span(segments[0])[0]) > OVERLAP_S:
            raise BadInput(
                f"{printable(segment.name)} begins {was[1] - now[0]:.2f} s before {printable(earlier.name)} ends; "
                "segments must follow each other: replace or remove one of them"
            )

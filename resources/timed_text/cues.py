"""A cue, and how many and how long ones a file may have."""

from typing import NamedTuple

from resources.errors import BadInput

MAX_CUES = 50_000
# Nobody reads more than this in one cue. It also bounds the libraries' regular expressions, some of them quadratic.
MAX_CUE_CHARS = 2000


class Cue(NamedTuple):
    """A piece of timed text: seconds from the start of the media, 0 <= start_s < end_s < inf; text is never empty."""

    start_s: float
    end_s: float
    text: str


def too_many(name: str) -> BadInput:
    return BadInput(f"{name} has over {MAX_CUES} cues, which no film has; remove or replace it.")

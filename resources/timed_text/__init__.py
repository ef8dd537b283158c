"""Subtitle tracks, and the text of each shot."""

from resources.timed_text.alignment import align
from resources.timed_text.cues import Cue
from resources.timed_text.reading import read_cues
from resources.timed_text.tracks import TextTrack, choose_track

__all__ = [
    "Cue",
    "TextTrack",
    "align",
    "choose_track",
    "read_cues",
]

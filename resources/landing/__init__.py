"""The landing zone: what people drop, of which nothing is trusted."""

from resources.landing.drops import Drop, Film
from resources.landing.labels import Labels, Refused
from resources.landing.live import Part
from resources.landing.pairs import CaptionedClip
from resources.landing.zone import Landing, LandingZone
from resources.timed_text.tracks import TextTrack

__all__ = [
    "CaptionedClip",
    "Drop",
    "Film",
    "Labels",
    "Landing",
    "LandingZone",
    "Part",
    "Refused",
    "TextTrack",
]

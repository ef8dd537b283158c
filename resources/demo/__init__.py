"""The demo's catalogue: made-up films with pictures, sound, subtitles and labels."""

from resources.demo.catalogue import render_catalogue

__all__ = [
    "render_catalogue",
]

"""Captioned clips: lines of pairs files."""

from dataclasses import dataclass
from typing import Any

from resources.landing.places import File
from resources.landing.rows import span_of
from resources.landing.untrusted import require_inside

PAIRS_LIMIT = 256 << 20  # of all pairs files together
MOST_PAIRS_FILES = 100_000  # videos included
CAPTION_LIMIT = 4096  # characters


@dataclass(frozen=True)
class CaptionedClip:
    """A clip and a sentence about it. The clip is the film `video` in the folder of pairs, or, where that is None, the
    seconds [start_s, end_s) of the title `title_id`. `where` says to people where this was read.
    """

    caption: str
    where: str
    video: str | None = None
    title_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0


def clip_of(said: dict[str, Any], files: dict[str, File], where: str) -> CaptionedClip:
    """One checked line of a pairs file, beside which `files` lie; ValueError or BadInput says what is wrong with it."""
    caption, video = said.get("caption"), said.get("video")
    if not isinstance(caption, str) or not caption.strip() or len(caption) > CAPTION_LIMIT:
        raise ValueError(f"caption must be a text of 1 to {CAPTION_LIMIT} characters, not all blank")
    caption.encode()
    if video is None:
        if said.get("title_id") is None:
            raise ValueError("it names neither a video nor a title_id with start_s and end_s")
        return CaptionedClip(caption, where, None, *span_of(said))
    if not isinstance(video, str):
        raise ValueError("video must be the name of a file in the folder of pairs")
    if said.get("title_id") is not None:
        raise ValueError("it names both a video and a title_id; a caption is about one of them")
    require_inside(video, files.get(video), "the folder of pairs")
    return CaptionedClip(caption, where, video)

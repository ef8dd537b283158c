"""Films, and what is only heard, decoded on the assumption that the file is hostile."""

from resources.media.apart import cut_clips, probe, shot_audio, sound_blocks, span_of
from resources.media.frames import Frame, Mark, MarkNotFound, MediaInfo, read_frames
from resources.media.joined import FilmFile, Joined
from resources.media.read_ahead import read_ahead

__all__ = [
    "FilmFile",
    "Frame",
    "Joined",
    "Mark",
    "MarkNotFound",
    "MediaInfo",
    "cut_clips",
    "probe",
    "read_ahead",
    "read_frames",
    "shot_audio",
    "sound_blocks",
    "span_of",
]

"""Which of a title's timed-text files is used: the dialogue in the title's language."""

from collections.abc import Sequence
from dataclasses import dataclass

_KIND_RANKS = {
    **dict.fromkeys(("", "full", "dialog", "dialogue", "subtitle", "subtitles"), 0),
    **dict.fromkeys(("sdh", "cc", "hi", "caption", "captions"), 1),
    **dict.fromkeys(("forced", "lyrics"), 3),
    **dict.fromkeys(("commentary",), 4),
    **dict.fromkeys(("ad", "description", "descriptions"), 5),
}


@dataclass(frozen=True)
class TextTrack:
    """A timed-text file of a drop.

    format:         srt, vtt, ttml, ass or ssa.
    language, kind: as its name says (pt-BR; sdh, ad), or None.
    sha256:         of its bytes; "" as long as nobody read them.
    """

    name: str
    format: str
    language: str | None
    kind: str | None
    sha256: str = ""


def choose_track(tracks: Sequence[TextTrack], language: str | None) -> TextTrack | None:
    """The track that speaks for a title in `language` (BCP 47, e.g. "en", "pt-BR"; None: unknown), or None of none.

    The title's own language comes first: the very tag, else one that begins with the same primary language (pt serves
    pt-BR and the other way round), else whichever track comes first by name. Within a language the plain track wins,
    then the dialogue captions for the deaf (sdh, cc, captions), then any other kind; forced narration, commentary and
    audio description (ad, descriptions), which say least of what is spoken, come last.
    """
    wanted = _tag(language)
    return min(tracks, key=lambda t: (_distance(_tag(t.language), wanted), _kind_rank(t.kind), t.name), default=None)


def _tag(language: str | None) -> str:
    tag = (language or "").strip().lower().replace("_", "-")
    return "" if tag in ("und", "mul", "zxx", "mis") else tag


def _distance(have: str, want: str) -> int:
    if not want or have == want:
        return 0
    if not have:
        # An unnamed track next to named ones in other languages is most likely the title's own.
        return 2
    return 1 if have.split("-")[0] == want.split("-")[0] else 3


def _kind_rank(kind: str | None) -> int:
    return _KIND_RANKS.get((kind or "").lower(), 2)

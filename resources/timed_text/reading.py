"""Timed text: subtitle tracks become cues, and cues become the text of each shot.

SRT, WebVTT, SubStation (ASS, SSA) and TTML are told apart by content, because file names lie. The first three are lines
of text, which are split into cues here: pysubs2 takes a WebVTT comment for dialogue, a malformed cue for a part of the
one before, and refuses a whole SubStation file for one bad time or an unusual field order; it reads the tags within a
cue. ttconv reads TTML, which is repaired first, since one bad style makes it refuse the file.
"""

import math
import re
from pathlib import Path

from resources.errors import BadInput
from resources.timed_text.cues import Cue
from resources.timed_text.subtitles import subrip_or_webvtt_cues, substation_cues
from resources.timed_text.ttml import ttml_cues

MAX_BYTES = 16 * 2**20
_LINE_END = re.compile(r"\r\r\n|\r\n|\r|\n")
_TT_ELEMENT = re.compile(r"</?(?:\w+:)?tt\b")


def read_cues(path: Path) -> list[Cue]:
    """The cues of a subtitle file, sorted by start, end and text.

    Markup, styling, speaker tags and ruby annotations are removed, entities are resolved, and each line's white space
    is normalised; lines of a cue are joined by a newline. Comments and style blocks are no cues. A cue that cannot be
    timed (malformed times, or an end that is not after its start) or that has no text is left out. An empty track
    (no text at all, or a format's bare frame) gives no cues.

    Raises `BadInput` when the file is over `MAX_BYTES` or `MAX_CUES`, is in no known format or encoding, declares an
    XML document type, or shows cues of which not one has usable times.
    """
    # One read decides, so that a file that grows meanwhile cannot slip past the limit.
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadInput(
            f"{path.name} is over {MAX_BYTES // 2**20} MiB, which no subtitle track is; remove or replace it."
        )
    text = _LINE_END.sub("\n", _decoded(data, path.name)).lstrip("\ufeff")
    if not text.strip():
        return []
    if _TT_ELEMENT.search(text, 0, 4096) and text.lstrip().startswith("<"):
        cues = ttml_cues(text, path.name)
    elif re.search(r"^\s*\[(Script Info|V4\+? Styles|Events)\]", text[:4096], re.IGNORECASE | re.MULTILINE):
        cues = substation_cues(text, path.name)
    else:
        cues = subrip_or_webvtt_cues(text, path.name)
    clean = (Cue(cue.start_s, cue.end_s, _normal_space(cue.text)) for cue in cues)
    return sorted(c for c in clean if c.text and 0 <= c.start_s < c.end_s < math.inf)


def _normal_space(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.replace("\u200b", "").split("\n"))
    return "\n".join(line for line in lines if line)


def _decoded(data: bytes, name: str) -> str:
    """The text of `data`: by its byte order mark, else UTF-8, else unmarked UTF-16, else by charset-normalizer."""
    marks = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
    for mark, encoding in marks:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{name} begins with a {encoding} mark but is not {encoding} ({error.reason} at byte "
                    f"{error.start}); save it again as UTF-8."
                ) from None
    if b"\0" in data:
        # ASCII digits and colons of the time codes put their zero bytes on the odd (LE) or the even (BE) places.
        encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            raise BadInput(f"{name} has zero bytes and is not UTF-16, so it is not text; replace it.") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass

    from charset_normalizer import from_bytes

    guesses = from_bytes(data)
    best = guesses.best()
    if best is None:
        raise BadInput(f"{name} is in no text encoding that can be recognised; save it again as UTF-8.")
    # In short texts the detector takes French and Portuguese for Baltic or Czech. Windows-1252 is by far the most
    # common of the Latin code pages, so it wins whenever it reads (nearly) as clean. Turkish (1254) is told well.
    for guess in guesses:
        if guess.encoding == "cp1252" or "cp1252" in guess.could_be_from_charset:
            if best.encoding != "cp1254" and guess.chaos <= best.chaos + 0.15:
                return data.decode("cp1252")
            break
    return str(best)

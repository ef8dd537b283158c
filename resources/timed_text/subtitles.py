"""SubRip, WebVTT and SubStation, as sloppy as real files are."""

import html
import re
from collections.abc import Iterator

from resources.errors import BadInput
from resources.timed_text.cues import MAX_CUE_CHARS, MAX_CUES, Cue, too_many

_CLOCK = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,3}):)?(\d{1,3})(?:[.,:](\d{1,9}))?")
_OVERRIDE = re.compile(r"\{(?:\\|[A-Za-z]:)[^{}]*\}")
_RUBY_TEXT = re.compile(r"<rt\b[^<>]*>.*?(?=</rt\b|<rt\b|</ruby\b|\Z)", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</>|<\d[\d:.]*>")


def _seconds(clock: str) -> float | None:
    """Seconds of [[h:]m:]s[.fraction], as sloppy as real files: few or many digits, comma, point or colon; or None."""
    match = _CLOCK.fullmatch(clock.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    total = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds) + float(f"0.{fraction or 0}")
    # A cue past them is on a broadcast clock (an HLS segment's), not on the film's.
    return total if total < 99 * 3600 else None


def _timing(line: str) -> tuple[float, float] | None:
    """(start_s, end_s) of a line like `00:01.5 --> 00:00:02,000 align:start`, or None where a time is malformed."""
    left, _, right = line.partition("-->")
    words = right.split()
    start, end = _seconds(left), _seconds(words[0]) if words else None
    return None if start is None or end is None else (start, end)


def _shown(start_s: float, end_s: float, text: str) -> Iterator[Cue]:
    """The cue without its override tags; none for a drawing, which is a shape in letters (m 0 0 l 10 10 ...)."""
    from pysubs2 import SSAEvent

    event = SSAEvent(text=text)
    if not event.is_drawing:
        yield Cue(start_s, end_s, event.plaintext)


def subrip_or_webvtt_cues(text: str, name: str) -> Iterator[Cue]:
    """SRT and WebVTT: the latter has a header, and a blank line ends its cues where it may lie inside one of SRT's."""
    webvtt = text.lstrip().startswith("WEBVTT")
    cues: list[tuple[float, float, list[str]]] = []
    lines: list[str] | None = None  # the cue's text that is being read; None between cues
    blank, arrows = True, 0
    for line in text.split("\n"):
        stripped = line.strip()
        if "-->" in line:
            arrows += 1
            if not webvtt and lines and lines[-1].isdigit():
                lines.pop()  # the number of the cue that begins here
            times, lines = _timing(line), None
            if times is not None:
                lines = []
                cues.append((*times, lines))
                if len(cues) > MAX_CUES:
                    raise too_many(name)
        elif not stripped:
            if webvtt:
                lines = None
        elif lines is not None:
            if blank and lines and stripped.isdigit():
                lines = None  # the number of a cue whose time line is missing or comes next
            else:
                lines.append(stripped)
        blank = not stripped
    if not cues and (arrows or not webvtt):
        raise BadInput(
            f"{name} is not a readable subtitle file: it has {arrows or 'no'} lines with '-->' and "
            "no cue with usable times; replace it by SRT, WebVTT, TTML or ASS."
        )

    for start_s, end_s, cue_lines in cues:
        spoken = _RUBY_TEXT.sub("", "\n".join(cue_lines)[:MAX_CUE_CHARS])
        spoken = html.unescape(_MARKUP.sub("", _OVERRIDE.sub("", spoken)))
        # A brace that is left is dialogue ({laughs}), which pysubs2 would take for an override.
        spoken = spoken.replace("{", "(").replace("}", ")").replace("-->", "→")
        yield from _shown(round(start_s * 1000) / 1000, round(end_s * 1000) / 1000, spoken)


def substation_cues(text: str, name: str) -> Iterator[Cue]:
    """SubStation: each Dialogue line, whatever the fields of its Format line and their order."""
    fields = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
    section, dialogue, timed = "", 0, 0
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line.lower()
        keyword, _, value = line.partition(":")
        if section != "[events]":
            continue
        if keyword.lower() == "format":
            fields = [field.strip().lower() for field in value.split(",")]
        elif keyword.lower() == "dialogue":
            dialogue += 1
            event = dict(zip(fields, value.split(",", len(fields) - 1), strict=False))
            start, end = _seconds(event.get("start", "")), _seconds(event.get("end", ""))
            if start is not None and end is not None:
                timed += 1
                if timed > MAX_CUES:
                    raise too_many(name)
                shown = event.get("text", "")[:MAX_CUE_CHARS]
                yield from _shown(round(start * 100) / 100, round(end * 100) / 100, shown)
    if dialogue and not timed:
        raise BadInput(f"{name} has {dialogue} Dialogue lines of which none has usable times; replace it.")

"""Timed text: subtitle tracks become cues, and cues become the text of each shot.

SRT, WebVTT, SubStation (ASS, SSA) and TTML are told apart by content, because file names lie. pysubs2 reads the first
three, ttconv reads TTML (pysubs2 knows neither its frame and tick times nor its older namespaces). Real files break
both libraries in known ways, so the text is first brought into the form that they read correctly: pysubs2 takes a
WebVTT comment for dialogue, a malformed cue for a part of the one before, and refuses a whole SubStation file for one
bad time or an unusual field order.
"""

import html
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from resources.errors import BadInput, printable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from ttconv.model import ContentElement

MAX_BYTES = 16 * 2**20
MAX_CUES = 50_000
# Nobody reads more than this in one cue. It also bounds the libraries' regular expressions, some of them quadratic.
MAX_CUE_CHARS = 2000
MAX_TTML_DEPTH = 100
# All shots' text together: a whole season's dialogue is a hundredth of this. Thousands of cues that each last the whole
# film would otherwise be copied into thousands of shots.
MAX_ALIGNED_CHARS = 32 * 2**20

_CLOCK = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,3}):)?(\d{1,3})(?:[.,:](\d{1,9}))?")
_LINE_END = re.compile(r"\r\r\n|\r\n|\r|\n")
_OVERRIDE = re.compile(r"\{(?:\\|[A-Za-z]:)[^{}]*\}")
_RUBY_TEXT = re.compile(r"<rt\b[^<>]*>.*?(?=</rt\b|<rt\b|</ruby\b|\Z)", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</>|<\d[\d:.]*>")
_BEFORE_TTML_1 = re.compile(r"http://www\.w3\.org/2006/\d\d/ttaf1")
_OPEN_END_S = 10**9
_TTML = "{http://www.w3.org/ns/ttml}"
_TTML_PARAMETER = "{http://www.w3.org/ns/ttml#parameter}"
_TTML_RUBY = "{http://www.w3.org/ns/ttml#styling}ruby"
_TTML_CONTENT = {_TTML + name for name in ("body", "div", "p", "span", "br")}
_TTML_TIMES = ("begin", "end", "dur", "timeContainer")
_TT_ELEMENT = re.compile(r"</?(?:\w+:)?tt\b")


class Cue(NamedTuple):
    """A piece of timed text: seconds from the start of the media, 0 <= start_s < end_s < inf; text is never empty."""

    start_s: float
    end_s: float
    text: str


class Track(Protocol):
    """What `choose_track` needs to know of a timed text track (read from its file name: film.pt-BR.sdh.srt)."""

    @property
    def name(self) -> str: ...
    @property
    def language(self) -> str | None: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def format(self) -> str: ...


T = TypeVar("T", bound=Track)


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
        cues = _ttml_cues(text, path.name)
    elif re.search(r"^\s*\[(Script Info|V4\+? Styles|Events)\]", text[:4096], re.IGNORECASE | re.MULTILINE):
        cues = _substation_cues(text, path.name)
    else:
        cues = _subrip_or_webvtt_cues(text, path.name)
    clean = (Cue(cue.start_s, cue.end_s, _normal_space(cue.text)) for cue in cues)
    return sorted(c for c in clean if c.text and 0 <= c.start_s < c.end_s < math.inf)


def choose_track(tracks: Sequence[T], language: str | None) -> T | None:
    """The track that speaks for a title in `language` (BCP 47, e.g. "en", "pt-BR"; None: unknown), or None of none.

    The title's own language comes first: the very tag, else one that begins with the same primary language (pt serves
    pt-BR and the other way round), else whichever track comes first by name. Within a language the plain track wins,
    then the dialogue captions for the deaf (sdh, cc, captions), then any other kind; forced narration, commentary and
    audio description (ad, descriptions), which say least of what is spoken, come last.
    """
    wanted = _tag(language)
    return min(tracks, key=lambda t: (_distance(_tag(t.language), wanted), _kind_rank(t.kind), t.name), default=None)


def align(cues: Sequence[Cue], shots: Sequence[tuple[float, float]]) -> list[str]:
    """Each shot's text: its cues' texts in time order, one per line; "" where nothing is said.

    A cue belongs to every shot that it overlaps by at least half of the shorter of the two; if there is none, to the
    one that it overlaps most (the first of equals); a cue that overlaps no shot belongs to none. `shots` are
    (start_s, end_s), half-open, ascending and without overlap. One pass over both: linear in cues + shots + overlaps.

    Raises `BadInput` when the texts come to more than `MAX_ALIGNED_CHARS`.
    """
    texts: list[list[str]] = [[] for _ in shots]
    first = chars = 0
    for cue in sorted(cues):
        while first < len(shots) and shots[first][1] <= cue.start_s:
            first += 1
        most, most_index, placed = 0.0, -1, False
        for index in range(first, len(shots)):
            start_s, end_s = shots[index]
            if start_s >= cue.end_s:
                break
            overlap = min(end_s, cue.end_s) - max(start_s, cue.start_s)
            if overlap <= 0:
                continue
            if overlap >= 0.5 * min(end_s - start_s, cue.end_s - cue.start_s):
                texts[index].append(cue.text)
                placed = True
                chars += len(cue.text)
            if overlap > most:
                most, most_index = overlap, index
        if not placed and most_index >= 0:
            texts[most_index].append(cue.text)
        if chars > MAX_ALIGNED_CHARS:
            raise BadInput(
                "The subtitle track's cues overlap so much that no dialogue can look like it; replace the track."
            )
    return ["\n".join(lines) for lines in texts]


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
    kind = (kind or "").lower()
    ranks = {
        **dict.fromkeys(("", "full", "dialog", "dialogue", "subtitle", "subtitles"), 0),
        **dict.fromkeys(("sdh", "cc", "hi", "caption", "captions"), 1),
        **dict.fromkeys(("forced", "lyrics"), 3),
        **dict.fromkeys(("commentary",), 4),
        **dict.fromkeys(("ad", "description", "descriptions"), 5),
    }
    return ranks.get(kind, 2)


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


def _seconds(clock: str) -> float | None:
    """Seconds of [[h:]m:]s[.fraction], as sloppy as real files: few or many digits, comma, point or colon; or None."""
    match = _CLOCK.fullmatch(clock.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    total = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds) + float(f"0.{fraction or 0}")
    # pysubs2 reads two digits of hours. A cue past them is on a broadcast clock (an HLS segment's), not on the film's.
    return total if total < 99 * 3600 else None


def _timing(line: str) -> tuple[float, float] | None:
    """(start_s, end_s) of a line like `00:01.5 --> 00:00:02,000 align:start`, or None where a time is malformed."""
    left, _, right = line.partition("-->")
    words = right.split()
    start, end = _seconds(left), _seconds(words[0]) if words else None
    return None if start is None or end is None else (start, end)


def _too_many(name: str) -> BadInput:
    return BadInput(f"{name} has over {MAX_CUES} cues, which no film has; remove or replace it.")


def _pysubs2_cues(text: str, format_: str) -> Iterator[Cue]:
    import pysubs2

    # Tags are gone by now (keep_html_tags: what still looks like one is dialogue).
    for event in pysubs2.SSAFile.from_string(text, format_=format_, keep_html_tags=True):
        # A drawing is a shape in letters (m 0 0 l 10 10 ...), and a comment is not shown.
        if event.is_text:
            yield Cue(event.start / 1000, event.end / 1000, event.plaintext)


def _subrip_or_webvtt_cues(text: str, name: str) -> Iterator[Cue]:
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
                    raise _too_many(name)
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

    canonical = []
    for number, (start_s, end_s, cue_lines) in enumerate(cues, start=1):
        spoken = _RUBY_TEXT.sub("", "\n".join(cue_lines)[:MAX_CUE_CHARS])
        spoken = html.unescape(_MARKUP.sub("", _OVERRIDE.sub("", spoken)))
        # A brace that is left is dialogue ({laughs}), which pysubs2 would take for an override.
        spoken = spoken.replace("{", "(").replace("}", ")").replace("-->", "→")
        canonical.append(f"{number}\n{_srt_clock(start_s)} --> {_srt_clock(end_s)}\n{spoken}\n\n")
    # pysubs2 drops a last line of digits as the next cue's number: give the last cue one to lose.
    yield from _pysubs2_cues("".join(canonical) + str(len(cues) + 1), "srt")


def _srt_clock(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d},{ms % 1000:03d}"


def _substation_cues(text: str, name: str) -> Iterator[Cue]:
    """SubStation: each Dialogue line, whatever the fields of its Format line, with the fields in the usual order."""
    fields = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
    section, dialogue, canonical = "", 0, []
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
                canonical.append(
                    f"Dialogue: 0,{_ass_clock(start)},{_ass_clock(end)},Default,,0,0,0,,"
                    f"{event.get('text', '')[:MAX_CUE_CHARS]}"
                )
                if len(canonical) > MAX_CUES:
                    raise _too_many(name)
    if dialogue and not canonical:
        raise BadInput(f"{name} has {dialogue} Dialogue lines of which none has usable times; replace it.")
    head = "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: " + ", ".join(
        ("Layer", "Start", "End", "Style", "Name", "MarginL", "MarginR", "MarginV", "Effect", "Text")
    )
    yield from _pysubs2_cues("\n".join([head, *canonical]), "ass")


def _ass_clock(seconds: float) -> str:
    cs = round(seconds * 100)
    return f"{cs // 360_000}:{cs // 6000 % 60:02d}:{cs // 100 % 60:02d}.{cs % 100:02d}"


def _ttml_cues(text: str, name: str) -> Iterator[Cue]:
    """TTML 1 and 2, and the drafts of 2006: every p with its times, those of the elements around it included."""
    # A document type is where entities are declared: expansion bombs and references to other files. No track needs one.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BadInput(f"{name} declares an XML document type, which is refused; save it again without <!DOCTYPE>.")

    from xml.etree import ElementTree

    from ttconv.imsc import reader

    text = _BEFORE_TTML_1.sub("http://www.w3.org/ns/ttml", text.replace('ttaf1#style"', 'ttaf1#styling"'))
    # ttconv reports each unknown style as a warning; none of them touches text or times.
    logging.getLogger("ttconv").setLevel(logging.CRITICAL + 1)
    try:
        # The declaration may name the encoding that the bytes had, which the text no longer has.
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as error:
        raise BadInput(f"{name} is not well-formed XML ({error}); replace it.") from None
    _refuse_ttml(root, name)
    _repair_ttml(root)
    try:
        document = reader.to_model(ElementTree.ElementTree(root))
        body = None if document is None else document.get_body()
        paragraphs = [] if body is None else list(_paragraphs(body, 0.0, math.inf))
    except Exception as error:
        # ttconv has no exception of its own: what its readers raise says nothing to people.
        raise BadInput(
            f"{name} is not TTML that can be read: its elements, or their times, contradict the standard; replace it."
        ) from error
    if document is None:
        raise BadInput(f"{name} is XML but not TTML (its root is not a tt element of TTML's namespace); replace it.")
    if len(paragraphs) > MAX_CUES:
        raise _too_many(name)
    if paragraphs and all(cue.end_s == math.inf for cue in paragraphs):
        raise BadInput(f"{name} has {len(paragraphs)} paragraphs of which none has an end time; replace it.")
    yield from paragraphs


def _refuse_ttml(root: "Element", name: str) -> None:
    """Raise BadInput for a TTML tree that ttconv cannot read for a reason that can be told."""
    depth = 0
    level = [root]
    while level := [child for parent in level for child in parent]:
        depth += 1
        if depth > MAX_TTML_DEPTH:
            raise BadInput(
                f"{name} nests its elements more than {MAX_TTML_DEPTH} deep, which no track does; replace it."
            )
    for attribute, pattern, what in (
        ("tickRate", r"0*[1-9]\d{0,9}", "a whole number of ticks in a second above 0"),
        ("frameRate", r"0*[1-9]\d{0,4}", "a whole number of frames in a second above 0"),
        ("frameRateMultiplier", r"0*[1-9]\d{0,9}[ :]0*[1-9]\d{0,9}", "two whole numbers above 0"),
        ("timeBase", r"media|smpte", "media or smpte; clock times say nothing of when in the film"),
        ("dropMode", r"nonDrop|dropNTSC", "nonDrop or dropNTSC"),
    ):
        value = root.get(_TTML_PARAMETER + attribute)
        if value is not None and not re.fullmatch(pattern, value.strip()):
            raise BadInput(f'{name} says {attribute}="{printable(value, 40)}", which must be {what}; correct the file.')


def _repair_ttml(root: "Element") -> None:
    """Reduce a TTML tree, in place, to what tells text and times: elements of the content, and their times.

    ttconv 1.2.3 refuses a whole file for one style or region that it cannot read, ignores a paragraph in a region that
    is not declared, and all of a ruby container that strays from the nesting TTML2 asks for; and it ends a container
    that begins late without saying when it ends before it begins. Ruby annotations (the reading of a word above it)
    repeat the word, so they go too.
    """
    annotations = {"text", "textContainer", "delimiter"}
    styles = {
        style.get("{http://www.w3.org/XML/1998/namespace}id") or style.get("id"): style.get(_TTML_RUBY, "")
        for style in root.iter(_TTML + "style")
    }
    for parent in list(root.iter()):
        if (
            parent.tag in (_TTML + "body", _TTML + "div")
            and "begin" in parent.attrib
            and not {"end", "dur"} & set(parent.attrib)
        ):
            parent.set("end", f"{_OPEN_END_S}s")
        kept: Element | None = None
        for child in list(parent):
            roles = {child.get(_TTML_RUBY, "")} | {styles.get(name, "") for name in child.get("style", "").split()}
            if child.tag in _TTML_CONTENT and not roles & annotations:
                kept = child
                continue
            # What follows the element belongs to its parent, and ElementTree keeps it in the element.
            if kept is None:
                parent.text = (parent.text or "") + (child.tail or "")
            else:
                kept.tail = (kept.tail or "") + (child.tail or "")
            parent.remove(child)
    for element in root.iter():
        for attribute in list(element.attrib):
            if attribute not in _TTML_TIMES and not attribute.startswith(_TTML_PARAMETER):
                del element.attrib[attribute]


def _paragraphs(element: "ContentElement", start_s: float, end_s: float) -> Iterator[Cue]:
    """The p elements below `element`, which itself is active from `start_s` to `end_s` at most; times nest in TTML."""
    from ttconv.model import P

    begin, end = element.get_begin(), element.get_end()
    inner_start = start_s + float(begin or 0)
    inner_end = end_s if end is None or end >= _OPEN_END_S else min(end_s, start_s + float(end))
    if isinstance(element, P):
        yield Cue(inner_start, inner_end, "".join(_spoken(element))[:MAX_CUE_CHARS])
    else:
        for child in element:
            yield from _paragraphs(child, inner_start, inner_end)


def _spoken(element: "ContentElement") -> Iterable[str]:
    """The text below `element`; a line end in TTML's source is a space, only br breaks a line."""
    from ttconv.model import Br, Text

    for child in element:
        if isinstance(child, Br):
            yield "\n"
        elif isinstance(child, Text):
            yield " ".join(child.get_text().split("\n"))
        else:
            yield from _spoken(child)

"""TTML 1 and 2, and its drafts."""

import logging
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from resources.errors import BadInput, printable
from resources.timed_text.cues import MAX_CUE_CHARS, MAX_CUES, Cue, too_many

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from ttconv.model import ContentElement

MAX_TTML_DEPTH = 100
_BEFORE_TTML_1 = re.compile(r"http://www\.w3\.org/2006/\d\d/ttaf1")
_OPEN_END_S = 10**9
_TTML = "{http://www.w3.org/ns/ttml}"
_TTML_PARAMETER = "{http://www.w3.org/ns/ttml#parameter}"
_TTML_RUBY = "{http://www.w3.org/ns/ttml#styling}ruby"
_TTML_CONTENT = {_TTML + name for name in ("body", "div", "p", "span", "br")}
_TTML_TIMES = ("begin", "end", "dur", "timeContainer")


def ttml_cues(text: str, name: str) -> Iterator[Cue]:
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
        raise too_many(name)
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

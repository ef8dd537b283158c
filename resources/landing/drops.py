"""What a title's folder holds: title.json, one film, and timed text whose names say language and kind."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resources.errors import BadInput, one_line, printable
from resources.landing.live import Part
from resources.landing.places import TITLE_JSON_LIMIT, File, Place
from resources.landing.untrusted import require_inside, strict_json
from resources.timed_text.reading import MAX_BYTES
from resources.timed_text.tracks import TextTrack

FILM_LIMIT = 1 << 40
FILM_PIECE = 256 << 10

TEXT_FORMATS = {".srt": "srt", ".vtt": "vtt", ".ttml": "ttml", ".dfxp": "ttml", ".ass": "ass", ".ssa": "ssa"}
MEDIA_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
SOUND_EXTENSIONS = (
    *(".aac", ".ac3", ".aif", ".aiff", ".flac", ".m4a", ".m4b", ".mka", ".mp3", ".oga", ".ogg"),
    *(".opus", ".wav", ".wma"),
)
_LANGUAGE = re.compile(r"([a-z]{2,3})(-[a-z]{4})?(-(?:[a-z]{2}|[0-9]{3}))?(?:[-_]([a-z]{3,}))?", re.IGNORECASE)
_KIND = re.compile(r"ad|cc|hi|sdh|forced|full|dialog(?:ue)?|commentary|lyrics|descriptions?|captions?|subtitles?", re.I)


@dataclass(frozen=True)
class Film:
    """A title's film where it lies. version: changes with its bytes. pieces: the bytes from one offset to another, some
    at a time."""

    name: str
    size: int  # bytes
    version: str
    pieces: Callable[[int, int], Iterator[bytes]]


@dataclass(frozen=True)
class Drop:
    """A complete title folder.

    `drop_fingerprint` is cheap (32 hex digits over names, sizes and modification times or ETags): a changed value
    means "look again", not "the content changed". `files` has the same for each file by its name. `extra` keeps what
    title.json said besides the known keys.
    `landed_at` is title.json's modification time, UTC.
    `live`: it still grows. `parts`: of a title that is or was live, what its film consists of, one after the other, as
    far as it is there; `media` is the first one's file. `waits`: what the rest of it waits for, if that is known.
    """

    title_id: str
    title: str
    type: str
    synopsis: str
    tags: list[str]
    genres: list[str]
    language: str | None
    series_id: str | None
    media: str
    media_uri: str
    text_tracks: list[TextTrack]
    extra: dict[str, Any]
    drop_fingerprint: str
    files: Mapping[str, str]
    landed_at: datetime
    live: bool = False
    parts: tuple[Part, ...] = ()
    waits: str = ""


def metadata_of(place: Place, path: str, files: Mapping[str, File]) -> dict[str, Any]:
    """What the title.json in the folder `path` says; `media` and `live` are None where it does not say them. Raises
    BadInput when it cannot be used."""
    title_json = files["title.json"]
    require_inside("title.json", title_json)
    if not title_json.small_json:
        raise BadInput(f"title.json is larger than {TITLE_JSON_LIMIT >> 10} KiB; it should hold metadata only")
    return parse_title_json(place.read(path, title_json, TITLE_JSON_LIMIT))


def media_of(said: str | None, files: Mapping[str, File]) -> str:
    """The name of the film, which title.json may have `said`. Raises BadInput when there is none that can be used."""
    media = said if said is not None else only_media(files)
    require_inside(media, files.get(media))
    if files[media].size > FILM_LIMIT:
        raise BadInput(f"{printable(media)} is larger than {FILM_LIMIT >> 40} TiB, the limit for a film; convert it")
    return media


def check_timed_text(files: Mapping[str, File]) -> None:
    """Raise BadInput when a timed-text file cannot be used."""
    for name, file in files.items():
        if is_timed_text(name):
            require_inside(name, file)
            if file.size > MAX_BYTES:
                raise BadInput(
                    f"{printable(name)} is over {MAX_BYTES >> 20} MiB, which no subtitle track is; remove or replace it"
                )


def parse_title_json(data: bytes) -> dict[str, Any]:
    try:
        said = strict_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise BadInput(f"title.json is not JSON in UTF-8 ({one_line(error, 160)}); correct the file") from None
    if not isinstance(said, dict):
        raise BadInput('title.json is not a JSON object; write {"title": "..."}')

    def take(key: str, fits: Callable[[Any], bool], what: str, default: Any) -> Any:
        value = said.pop(key, None)
        if value is None:
            return default
        if not fits(value):
            raise BadInput(f'the "{key}" of title.json is not {what}')
        return value

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    title = take("title", is_text, "a text", None)
    if title is None or not title.strip():
        raise BadInput('title.json has no "title"; it is the one thing that it must say')
    return {
        "title": title,
        "type": take("type", is_text, "a text", "movie"),
        "synopsis": take("synopsis", is_text, "a text", ""),
        "tags": take("tags", is_texts, "a list of texts", []),
        "genres": take("genres", is_texts, "a list of texts", []),
        "language": take("language", is_text, "a text", None),
        "series_id": take("series_id", is_text, "a text", None),
        "media": take("media", is_text, "a file name", None),
        "live": take("live", lambda value: isinstance(value, bool), "true or false", None),
        "extra": said,
    }


def is_timed_text(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in TEXT_FORMATS


def may_be_segment(name: str) -> bool:
    """Whether a file of a live title's folder may be a part of its film."""
    return not is_timed_text(name) and os.path.splitext(name)[1].lower() not in (".json", ".m3u8", ".mpd", ".tmp")


def only_media(files: Iterable[str]) -> str:
    candidates = [name for name in files if not is_timed_text(name) and not name.lower().endswith(".json")]
    for known in (MEDIA_EXTENSIONS, SOUND_EXTENSIONS):  # a film beside its soundtrack is the film
        if len(candidates) > 1:
            candidates = [name for name in candidates if os.path.splitext(name)[1].lower() in known] or candidates
    if not candidates:
        raise BadInput("the folder has no media file; put the film beside title.json")
    if len(candidates) > 1:
        names = ", ".join(printable(name) for name in candidates[:4])
        raise BadInput(
            f'the folder has several files that could be the film ({names}); name one as "media" in title.json'
        )
    return candidates[0]


def track_of(name: str, media: str) -> TextTrack:
    """Read language and kind out of a name: film.en.srt, film.de.sdh.vtt, film.pt-BR.ttml, en.srt."""
    stem, extension = os.path.splitext(name)
    film = os.path.splitext(media)[0]
    if stem.lower() == film.lower():
        words = []
    elif stem.lower().startswith(film.lower() + "."):
        words = stem[len(film) + 1 :].split(".")
    else:
        words = stem.split(".")
        words = words[1:] if len(words) > 1 else words
    language = kind = None
    for word in reversed(words):
        if kind is None and _KIND.fullmatch(word):
            kind = word.lower()
        elif language is None and (parts := _LANGUAGE.fullmatch(word)):
            primary, script, region, suffix = parts.groups(default="")
            language = primary.lower() + script.title() + region.upper()
            kind = kind or suffix.lower() or None
        else:
            break
    return TextTrack(name, TEXT_FORMATS[extension.lower()], language, kind)

"""The web application: pages and JSON over one catalogue. It only reads.

Pages work without a script and load nothing from elsewhere. A request names titles by id and shots by number; both are
looked up in the catalogue. Texts from titles and subtitles are escaped by the templates.
"""

import json
import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mediafm_assets.pages import openapi
from mediafm_assets.pages.catalogue import Catalogue, NotThere, OnlyHeard, Row
from mediafm_assets.pages.search import LONGEST_QUERY, MOST_HITS, Search, question
from mediafm_assets.pages.timeline import clock, timeline, training_curve
from mediafm_assets.pages.vectors import Refused
from resources.errors import BadInput, Unavailable, one_line
from resources.lake import Damaged, PartitionMissing
from resources.landing import LandingZone
from resources.landing.live import parts_of_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent
TITLES_A_PAGE = 48
TITLES_AN_ANSWER = 100
MOST_COMPARED = 4
HITS_SHOWN = 24
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
MODALITIES = {"video": "seen", "audio": "heard", "text": "said"}
"""How a page calls what a shot was found by."""

Handler = Callable[[Request], Response]


class Pages:
    """The handlers, over what they read."""

    def __init__(self, catalogue: Catalogue, search: Search, landing: LandingZone) -> None:
        self._catalogue, self._search, self._landing = catalogue, search, landing
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(clock=clock, marked=marked)
        self._templates.globals.update(modalities=MODALITIES, most_hits=MOST_HITS)

    # ---- pages ---------------------------------------------------------------------------------------------------

    def home(self, request: Request) -> Response:
        count, titles, page, pages = self._titles(request, TITLES_A_PAGE)
        return self._page("home.html", request, titles=titles, count=count, page=page, pages=pages)

    def search(self, request: Request) -> Response:
        asked = self._asked(request, str(HITS_SHOWN))
        like = self._shown(*asked.like) if asked.like else None
        names = [self._catalogue.title(title)["title"] for title in asked.titles]
        return self._page("search.html", request, answer=self._search.answer(asked), like=like, names=names)

    def title(self, request: Request) -> Response:
        view = self._catalogue.view(request.path_params["title_id"])
        start = request.query_params.get("t", "")
        start_s = float(start) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", start) else 0.0
        tags = [tag for tag in view["tags"] if tag["scope"] == "title"]
        clips = [tag for tag in view["tags"] if tag["scope"] != "title" and tag["label"] is not None]
        return self._page(
            "title.html",
            request,
            **view,
            timeline=timeline(view),
            groups=scenes_of(view),
            title_tags=tags,
            clip_tags=sorted(clips, key=lambda tag: (tag["start_s"], -tag["probability"])),
            start_s=start_s,
        )

    def encoders(self, request: Request) -> Response:
        encoders = self._catalogue.encoders()
        names = [encoder["encoder_version"] for encoder in encoders]
        like = request.query_params.get("like", "")
        compared = self._compared(request, default=names[:2]) if like.strip() and names else []
        shots = [{(hit["title_id"], hit["shot_index"]) for hit in one["shots"]} for one in compared]
        return self._page(
            "encoders.html",
            request,
            encoders=[{**encoder, "curve": training_curve(encoder["training"])} for encoder in encoders],
            ablations=self._catalogue.ablations(),
            compared=compared,
            asked=[one["encoder_version"] for one in compared] or names[:2],
            in_all=set.intersection(*shots) if shots else set(),
            like=self._shown(*question(like=like).like) if compared else None,  # type: ignore[misc]
        )

    def api(self, request: Request) -> Response:
        return self._page("api.html", request, document=openapi.document())

    # ---- pictures, words and films -------------------------------------------------------------------------------

    def still(self, request: Request) -> Response:
        """A still of the shot; a drawing of sound where the title is only heard."""
        try:
            jpeg = self._catalogue.still(request.path_params["title_id"], request.path_params["shot_index"])
        except OnlyHeard:
            return FileResponse(HERE / "static" / "sound.svg", media_type="image/svg+xml")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    def poster(self, request: Request) -> Response:
        """A still from the first third of the film, past its opening titles; a drawing of sound where the title is only
        heard, another one where there is no still yet."""
        title_id = request.path_params["title_id"]
        self._catalogue.title(title_id)
        try:
            jpeg = self._catalogue.still(title_id, len(self._catalogue.shots(title_id)) // 3)
        except NotThere as missing:
            drawing = "sound.svg" if isinstance(missing, OnlyHeard) else "icon.svg"
            return FileResponse(HERE / "static" / drawing, media_type="image/svg+xml")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    def words(self, request: Request) -> Response:
        """The words of each shot as WebVTT captions."""
        title_id = request.path_params["title_id"]
        self._catalogue.title(title_id)
        cues = [
            f"{_vtt(shot['start_s'])} --> {_vtt(shot['end_s'])}\n{escape(one_line(shot['text'], 500))}\n"
            for shot in self._catalogue.shots(title_id)
            if shot["text"].strip()
        ]
        return Response("\n".join(["WEBVTT\n", *cues]), media_type="text/vtt")

    def film(self, request: Request) -> Response:
        """The film as it lies in the landing zone; a part of it where one is asked for (RFC 9110, section 14)."""
        title_id = request.path_params["title_id"]
        film = self._landing.film(title_id, parts_of_json(self._catalogue.title(title_id)["media_parts"]))
        kind = mimetypes.guess_type(film.name)[0] or ""
        etag = f'"{quote(film.version, safe="")}"'
        headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, no-cache"}
        wanted = request.headers.get("range", "")
        if request.headers.get("if-range", etag) != etag:
            wanted = ""
        start, end = 0, film.size
        status = 200
        if found := re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", wanted.strip()):
            first, last = found.groups()
            if first:
                start, end = int(first), min(int(last) + 1 if last else film.size, film.size)
            elif last:
                start = max(film.size - int(last), 0)
            if start >= end:
                return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{film.size}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{film.size}"
        headers["Content-Length"] = str(end - start)

        media_type = kind if kind.startswith(("video/", "audio/")) else "application/octet-stream"
        body: Iterator[bytes] = iter(()) if request.method == "HEAD" else film.pieces(start, end)
        return StreamingResponse(body, status, headers, media_type)

    # ---- JSON ----------------------------------------------------------------------------------------------------

    def api_titles(self, request: Request) -> Response:
        count, titles, _, _ = self._titles(request, TITLES_AN_ANSWER)
        return as_json({"count": count, "titles": titles})

    def api_title(self, request: Request) -> Response:
        return as_json(self._catalogue.view(request.path_params["title_id"]))

    def api_search(self, request: Request) -> Response:
        return as_json(self._search.answer(self._asked(request, "10")))

    def api_encoders(self, request: Request) -> Response:
        return as_json(self._catalogue.encoders())

    def api_compare(self, request: Request) -> Response:
        return as_json(self._compared(request, default=[]))

    def openapi(self, request: Request) -> Response:
        return as_json(openapi.document())

    # ---- parts of them -------------------------------------------------------------------------------------------

    def _titles(self, request: Request, size: int) -> tuple[int, list[Row], int, int]:
        """How many titles there are, those of the page asked for, its number, and how many pages there are."""
        said = request.query_params.get("page", "1")
        titles = self._catalogue.newest_first()
        pages = max(-(-len(titles) // size), 1)
        if not re.fullmatch(r"[0-9]{1,6}", said) or not 1 <= int(said) <= pages:
            raise NotThere(f"There are {pages} pages, numbered from 1.")
        page = int(said)
        return len(titles), titles[(page - 1) * size : page * size], page, pages

    def _asked(self, request: Request, k: str) -> Any:
        said = request.query_params
        return question(said.get("q", ""), said.get("like", ""), said.getlist("title"), said.get("k", k))

    def _compared(self, request: Request, default: list[str]) -> list[Row]:
        said = request.query_params
        known = {encoder["encoder_version"] for encoder in self._catalogue.encoders()}
        asked = list(dict.fromkeys(said.getlist("encoder"))) or default
        if not 1 <= len(asked) <= MOST_COMPARED:
            raise Refused(f"Name 1 to {MOST_COMPARED} encoder generations to compare.")
        if set(asked) - known:
            raise NotThere("There is no such encoder generation.")
        return self._search.compare(said.get("like", ""), asked, said.get("k", "8"))

    def _shown(self, title_id: str, shot_index: int) -> Row:
        title, shot = self._catalogue.title(title_id), self._catalogue.shot(title_id, shot_index)
        return {**shot, "title_id": title_id, "title": title["title"]}

    def _page(self, template: str, request: Request, status: int = 200, **said: Any) -> HTMLResponse:
        query = {name: request.query_params.get(name, "")[:LONGEST_QUERY] for name in ("q", "like", "title")}
        html = self._templates.get_template(template).render(**said, asked_for=query, path=request.url.path)
        return HTMLResponse(html, status)

    def failed(self, request: Request, status: int, sentence: str) -> Response:
        """A failure as one sentence, in the form in which the answer was asked for."""
        if request.url.path.startswith("/api/"):
            return as_json({"error": sentence}, status)
        return self._page("error.html", request, status, sentence=sentence)


def scenes_of(view: Row) -> list[Row]:
    """The shots of a title by scene: `scene` (a row of `scenes`, or None) and its `shots`. Shots that no scene has, as
    when the one table is older than the other, come last."""
    left = {shot["shot_index"]: shot for shot in view["shots"]}
    groups = []
    for scene in view["scenes"]:
        inside = [left.pop(index) for index in range(scene["first_shot"], scene["last_shot"] + 1) if index in left]
        if inside:
            groups.append({"scene": scene, "shots": inside})
    return [*groups, {"scene": None, "shots": list(left.values())}] if left else groups


def marked(text: str, query: str) -> Markup:
    """The text, escaped, with the query's words marked in it."""
    words = {word.casefold() for word in re.findall(r"\w+", query) if len(word) > 2}
    parts = re.split(r"(\w+)", text)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if part.casefold() in words else part for part in parts
    )


def as_json(said: Any, status: int = 200) -> Response:
    """A JSON answer; times as ISO 8601."""

    def other(value: Any) -> str:
        if isinstance(value, datetime):
            return value.isoformat()
        raise TypeError(f"{type(value).__name__} has no form in JSON")

    body = json.dumps(said, ensure_ascii=False, allow_nan=False, default=other)
    return Response(body, status, media_type="application/json")


def _vtt(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    whole = milliseconds // 1000
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{milliseconds % 1000:03}"


class Guarded:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def guarded(message: "Message") -> None:
            if message["type"] == "http.response.start":
                named = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *named]}
            await send(message)

        await self._app(scope, receive, guarded)


def application(
    catalogue: Catalogue, search: Search, landing: LandingZone, hosts: tuple[str, ...] = ("*",)
) -> Starlette:
    """The application. hosts: the names by which it may be asked; a page elsewhere that points its own name at this
    machine is refused."""
    pages = Pages(catalogue, search, landing)

    def failing(status: int) -> Callable[[Request, Exception], Response]:
        return lambda request, error: pages.failed(request, status, str(error))

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {404: "There is no such page.", 405: "This is only to be read: ask with GET."}
        return pages.failed(request, error.status_code, said.get(error.status_code, error.detail))

    def gone(request: Request, error: Exception) -> Response:
        return pages.failed(request, 404, "That went from the catalogue a moment ago.")

    def broken(request: Request, error: Exception) -> Response:
        return pages.failed(request, 500, "This could not be answered; the log of `mediafm serve` says why.")

    handlers: Mapping[Any, Any] = {
        HTTPException: refused,
        NotThere: failing(404),
        PartitionMissing: gone,
        BadInput: failing(404),
        Refused: failing(400),
        Unavailable: failing(503),
        Damaged: failing(503),
        Exception: broken,
    }
    return Starlette(
        routes=[
            Route("/", pages.home),
            Route("/search", pages.search),
            Route("/titles/{title_id}", pages.title),
            Route("/titles/{title_id}/poster.jpg", pages.poster),
            Route("/titles/{title_id}/film", pages.film),
            Route("/titles/{title_id}/words.vtt", pages.words),
            Route("/titles/{title_id}/shots/{shot_index:int}.jpg", pages.still),
            Route("/encoders", pages.encoders),
            Route("/api", pages.api),
            Route("/openapi.json", pages.openapi),
            Route("/api/titles", pages.api_titles),
            Route("/api/titles/{title_id}", pages.api_title),
            Route("/api/search", pages.api_search),
            Route("/api/encoders", pages.api_encoders),
            Route("/api/compare", pages.api_compare),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers=handlers,
    )

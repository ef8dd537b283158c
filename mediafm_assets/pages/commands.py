"""`mediafm search`, `mediafm show` and `mediafm serve`: what the lake knows, in a terminal and in a browser."""

import argparse
import json
import os
import shutil
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mediafm_assets.pages.catalogue import Catalogue, NotThere, Row
from mediafm_assets.pages.search import LONGEST_QUERY, MOST_HITS, Search, question
from mediafm_assets.pages.timeline import clock
from mediafm_assets.pages.vectors import Refused
from mediafm_assets.settings import ConfigurationError, resources
from resources.errors import Unavailable, one_line, printable
from resources.lake import Damaged

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

COMMANDS = ("search", "show", "serve")
LOCAL = ("127.0.0.1", "localhost", "::1")
LONGEST_REQUEST = 2 << 20
"""Bytes of a request's head: enough to answer a query of a megabyte, with a refusal."""
SHOWN = 12
"""Of a title's scenes, tags and so on, one screen of each."""


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands to the command line."""
    search = commands.add_parser("search", help="find shots by words, or by a shot that they should be like")
    search.add_argument("query", nargs="?", default="", help=f"some words, at most {LONGEST_QUERY:,} characters")
    search.add_argument("--like", default="", metavar="TITLE:SHOT", help="shots like this one")
    search.add_argument("--title", action="append", default=[], metavar="ID", help="only in this title")
    search.add_argument("-k", type=int, default=10, help=f"how many, 1 to {MOST_HITS} (default: 10)")
    search.add_argument("--json", action="store_true", help="as the web application's /api/search answers")
    show = commands.add_parser("show", help="what is known of a title, on one screen")
    show.add_argument("title", metavar="TITLE", help="a title id")
    serve = commands.add_parser("serve", help="look through titles and search in a browser")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="whose requests are taken (default: this machine's only)")


def run(options: argparse.Namespace) -> int:
    """Run one of the commands. Returns 0, 1 for what the lake cannot answer, 2 for a wrong question."""
    configured = resources()
    catalogue = Catalogue(configured["lake"])
    try:
        if options.command == "serve":
            return serve(catalogue, configured, options.host, options.port)
        if options.command == "show":
            print(as_screen(catalogue.view(options.title), width=shutil.get_terminal_size().columns))
            return 0
        answer = Search(catalogue, configured).answer(question(options.query, options.like, options.title, options.k))
        shown = json.dumps(answer, ensure_ascii=False, indent=1) if options.json else as_table(answer)
        print(shown)
    except Refused as error:
        print(f"mediafm: {error}", file=sys.stderr)
        return 2
    except (NotThere, Damaged) as error:
        print(f"mediafm: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def as_table(answer: Row) -> str:
    """The hits of a search, a line each, with times and words."""
    if not answer["shots"]:
        return "Nothing matched."
    rows = [("title", "shot", "time", "matched", "words")]
    for hit in answer["shots"]:
        parts = [(name, part) for match in hit["matches"] for name, part in match["parts"].items() if part >= 0.01]
        matched = ", ".join(f"{name} {part:.2f}" for name, part in parts)
        time = f"{clock(hit['start_s'], True)}–{clock(hit['end_s'], True)}"
        rows.append((hit["title_id"], str(hit["shot_index"]), time, matched, one_line(hit["text"], 60)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    if answer["titles"]:
        near = ", ".join(f"{title['title_id']} {title['score']:.2f}" for title in answer["titles"])
        lines += ["", f"titles nearest to these words: {near}"]
    return "\n".join(lines)


def as_screen(view: Row, width: int) -> str:
    """What is known of a title, at most `SHOWN` lines a part."""
    title, shots = view["title"], view["shots"]
    kind = ", ".join([title["type"], *title["genres"]])
    lines = [printable(title["title"]), f"{title['title_id']} · {kind} · {clock(title['duration_s'])}"]
    if title["synopsis"]:
        lines.append(one_line(title["synopsis"], 2 * width))
    if view["failure"]:
        lines.append(f"not finished: {view['failure']['stage']}: {one_line(view['failure']['reason'])}")
    spoken = sum(bool(shot["text"].strip()) for shot in shots)
    lines.append(f"{len(shots)} shots, {spoken} with words" if shots else "no shots yet")
    for name, values in view["cosines"].items():
        lines.append(f"cosine of neighbouring shots, {name}: {min(values):.2f} to {max(values):.2f}")
    parts = {
        "scenes": [
            f"{row['scene_index'] + 1:>4}  {clock(row['start_s'])}–{clock(row['end_s'])}  shots {row['first_shot']}–"
            f"{row['last_shot']}  boundary {row['boundary_score']:.2f}"
            for row in view["scenes"]
        ],
        "tags": [
            _tag(row)
            for row in sorted(view["tags"], key=lambda row: -(row["probability"] or 0))
            if row["scope"] == "title"
        ],
        "ad breaks": [
            f"{row['rank']:>4}  {clock(row['time_s'])}  score {row['score']:.2f}"
            + ("" if row["pause_s"] is None else f"  pause {row['pause_s']:.1f} s")
            for row in view["ad_breaks"]
        ],
        "highlights": [
            f"{row['rank']:>4}  {clock(row['start_s'])}–{clock(row['end_s'])}  score {row['score']:.2f}"
            for row in view["highlights"]
        ],
        "nearest titles": [
            f"{row['rank']:>4}  {row['neighbour_id']}  {row['score']:.2f}  {printable(row['title'], 60)}"
            for row in view["neighbours"]
        ],
    }
    for name, rows in parts.items():
        if rows:
            more = [f"      … and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
            lines += ["", f"{name} ({len(rows)})", *rows[:SHOWN], *more]
    return "\n".join(lines)


def _tag(row: Row) -> str:
    if row["label"] is None:
        return f"      {row['task']}: {one_line(row['reason'] or 'no tag', 100)}"
    shots = ", ".join(map(str, row["shots"] or ()))
    return f"      {row['task']:<14}{printable(row['label'], 30):<20}{row['probability']:.2f}  shots {shots}"


def serve(catalogue: Catalogue, configured: dict[str, Any], host: str, port: int) -> int:
    """Serve the pages until interrupted. Raises ConfigurationError for a port that cannot be had."""
    from mediafm_assets.pages.app import application

    # A query is short, and each reader has a thread: several threads for a query would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"{printable(host)}:{port} cannot be listened on ({error}); choose another --port"
        ) from None
    search = Search(catalogue, configured)
    # Only by its own names, so that no page elsewhere can point a name of its own at it.
    app = application(catalogue, search, configured["landing"], LOCAL if host in LOCAL else ("*",))
    threading.Thread(target=_read_ahead, args=(search,), daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    print(f"MediaFM on http://{shown}:{listening.getsockname()[1]} (Ctrl-C stops it)", flush=True)
    server_of(app).run(sockets=[listening])
    return 0


def server_of(app: "Starlette") -> "uvicorn.Server":
    """The server, to be run on a socket."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=LONGEST_REQUEST,
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
    )
    return uvicorn.Server(settings)


def _read_ahead(search: Search) -> None:
    """Read the vectors before somebody asks. What is wrong with them, the first search says."""
    with suppress(Refused, Unavailable, Damaged):
        search.read_ahead()

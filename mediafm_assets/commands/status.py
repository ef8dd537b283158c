"""`mediafm status`: what is fresh, stale, missing, failed or waiting, and why. It looks, and changes nothing."""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from mediafm_assets.graph.freshness import Row, rows_of_title, states
from mediafm_assets.graph.reasons import STATES, Reason, by_reason, some_of
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput, one_line, printable

WORSE = {"fresh": 0, "waiting": 1, "missing": 2, "stale": 2, "failed": 3}
"""A title is what its worst table is."""


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = commands.add_parser("status", help="what is fresh, stale, missing, failed or waiting, and why")
    status.add_argument("--title", metavar="ID", help="only of this title, table by table")
    status.add_argument("--why", action="store_true", help="with the reasons")


def status(title_id: str | None, why: bool) -> int:
    """Print it. Returns the exit status: 1 for a title that nobody knows."""
    configured = resources()
    try:
        landing = configured["landing"].look()
    except BadInput as error:
        raise ConfigurationError(f"MEDIAFM_LANDING: {error}") from error
    catalogue = Catalogue(configured["lake"], configured, all_stages())
    if title_id is None:
        print("\n".join(of_all(states(catalogue, landing), why)))
        return 0
    rows = rows_of_title(catalogue, landing, title_id)
    if not rows:
        print(
            f"mediafm: there is no title {printable(title_id)} in the landing zone or the lake; `mediafm status --why` "
            "names those that are not fresh",
            file=sys.stderr,
        )
        return 1
    print(of_title(rows, why))
    return 0


def of_all(found: Iterable[tuple[str, str, str, str]], why: bool) -> Iterator[str]:
    """The number of each state, table by table, and of titles as a whole; each reason once, with the tables and titles
    that it holds of, what failed first. found: as `states` gives it, of which none is kept."""
    of_tables: defaultdict[str, Counter[str]] = defaultdict(Counter)
    worst: dict[str, int] = {}

    def counted() -> Iterator[tuple[str, str, str, str]]:
        for table, title_id, state, reason in found:
            of_tables[table][state] += 1
            if title_id:
                worst[title_id] = max(worst.get(title_id, 0), WORSE[state])
            yield table, title_id, state, reason

    reasons = by_reason(counted())
    yield f"{'':<24}" + "".join(f"{state:>9}" for state in STATES)
    for table, numbers in of_tables.items():
        yield f"{table:<24}" + "".join(f"{numbers[state] or '':>9}" for state in STATES)
    titles = Counter(worst.values())
    waiting = f", {titles[1]} waiting" if titles[1] else ""
    done = f"{titles[0]} with nothing left to make{waiting}"
    yield f"\n{len(worst)} titles: {done}, {titles[2]} to be made, {titles[3]} failed"
    if why and reasons:
        yield ""
        yield from map(with_names, reasons)


def with_names(why: Reason) -> str:
    titles = some_of([printable(title) for title in why.titles if title])
    named = f" of {titles}" if titles else ""
    return f"{why.state}: {', '.join(why.tables)}{named}: {one_line(why.reason)}"


def of_title(rows: Sequence[Row], why: bool) -> str:
    """A line for each table: its state, since when, what it took and by which run."""
    lines = [f"{'':<24}{'state':<9}{'since':<18}{'seconds':>8}  run"]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
        run = (row.run_id or "").split("-")[0]
        said = f"{row.table:<24}{row.state:<9}{row.since:%Y-%m-%d %H:%M}  {seconds:>8}  {run}"
        lines.append(said.rstrip())
        if why and row.reason:
            lines.append(f"{'':<24}{one_line(row.reason)}")
    return "\n".join(lines)

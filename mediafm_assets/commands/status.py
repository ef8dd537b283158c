"""`mediafm status`: what is fresh, stale, missing, failed or waiting, and why. It looks, and changes nothing."""

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from mediafm_assets.graph.freshness import STATES, by_reason, look, some_of
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput, one_line, printable

if TYPE_CHECKING:
    import polars as pl

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
    rows = look(Catalogue(configured["lake"], configured, all_stages()), landing)
    if title_id is None:
        print(summary(rows))
        if why and (said := reasons(rows)):
            print("\n" + said)
        return 0
    found = rows.filter(title_id=title_id)
    if not title_id or found.is_empty():
        print(
            f"mediafm: there is no title {printable(title_id)} in the landing zone or the lake; `mediafm status --why` "
            "names those that are not fresh",
            file=sys.stderr,
        )
        return 1
    print(of_title(found, why))
    return 0


def summary(rows: "pl.DataFrame") -> str:
    """The number of rows in each state, table by table, and of titles as a whole."""
    import polars as pl

    lines = [f"{'':<24}" + "".join(f"{state:>9}" for state in STATES)]
    in_state = (pl.col("state").eq(state).sum().alias(state) for state in STATES)
    for table, *numbers in rows.group_by("table", maintain_order=True).agg(*in_state).iter_rows():
        lines.append(f"{table:<24}" + "".join(f"{number or '':>9}" for number in numbers))
    of_titles = rows.filter(pl.col("title_id") != "")
    worst = of_titles.group_by("title_id").agg(pl.col("state").replace_strict(WORSE).max())
    titles = Counter(worst["state"])
    waiting = f", {titles[1]} waiting" if titles[1] else ""
    done = f"{titles[0]} with nothing left to make{waiting}"
    lines += ["", f"{len(worst)} titles: {done}, {titles[2]} to be made, {titles[3]} failed"]
    return "\n".join(lines)


def reasons(rows: "pl.DataFrame") -> str:
    """Each reason once, with the tables and titles that it holds of, what failed first."""
    lines = []
    for row in by_reason(rows).iter_rows(named=True):
        titles = some_of([printable(title) for title in row["title_id"] if title])
        named = f" of {titles}" if titles else ""
        lines.append(f"{row['state']}: {', '.join(row['table'])}{named}: {one_line(row['reason'])}")
    return "\n".join(lines)


def of_title(rows: "pl.DataFrame", why: bool) -> str:
    """A line for each table: its state, since when, what it took and by which run."""
    lines = [f"{'':<24}{'state':<9}{'since':<18}{'seconds':>8}  run"]
    for row in rows.iter_rows(named=True):
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        run = (row["run_id"] or "").split("-")[0]
        said = f"{row['table']:<24}{row['state']:<9}{row['since']:%Y-%m-%d %H:%M}  {seconds:>8}  {run}"
        lines.append(said.rstrip())
        if why and row["reason"]:
            lines.append(f"{'':<24}{one_line(row['reason'])}")
    return "\n".join(lines)

"""What is fresh, stale, missing, failed or waiting, and why: the rows of the table `freshness`.

Everything comes from the tables' logs and the versions in them, the landing zone's names, and the small tables
`titles`, `failures`, `costs` and `freshness` itself. A version is a hash, which does not tell what it was made from; so
each row keeps that from when it was last seen fresh, and what differs from it now is why the row is stale.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from mediafm_assets.graph.approval import change
from mediafm_assets.graph.health import later_tables
from mediafm_assets.graph.plan import TaskToMake, tasks_to_make
from mediafm_assets.graph.reasons import BETWEEN, changed_files, changed_parts, differences, made_from
from mediafm_assets.graph.stage import ROOT, Stage
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue, digest
from mediafm_assets.graph.whole import missing_input
from resources.errors import BadInput
from resources.lake import TABLES, DeltaLake, typed_rows
from resources.landing import Drop, Landing

if TYPE_CHECKING:
    import polars as pl

FRESHNESS = "freshness"
ROWS_AT_ONCE = 5000
"""As Python's objects, which take ten times the memory."""
UNAPPROVED = "waits for an approval, by `mediafm approve` or the asset `approval`: "
"""What stands before the reason why a title would be made again, if a person did not have to approve of that."""
UNSEEN = "something that it is made from, or by, is another one than when it was made; which was not seen"


class Row(NamedTuple):
    """A row of the table, in its order, without the data version."""

    table: str
    title_id: str
    state: str
    reason: str
    stored_version: str | None
    wanted_version: str | None
    since: datetime
    run_id: str | None
    seconds: float | None
    dollars: float | None
    made_from: str


class Verdict(NamedTuple):
    """A state and why. root: the reason without what lies between the table and it."""

    state: str
    reason: str = ""
    root: str = ""


class Found(NamedTuple):
    """What the lake has of a table for a title: a row without what is only to be remembered. Without a title, of what
    is not made title by title."""

    table: str
    title_id: str
    verdict: Verdict
    stored_version: str | None
    wanted_version: str | None


class Before(NamedTuple):
    """What the stored row says."""

    state: str
    reason: str
    stored_version: str | None
    since: datetime
    made_from: str


class Taken(NamedTuple):
    """What making it took, the last time that it was tried."""

    run_id: str
    seconds: float | None
    dollars: float | None
    made: bool
    at: datetime


FRESH = Verdict("fresh")
NOTHING_KNOWN = "{}"

Kept = TypeVar("Kept")


class ByTitle(Generic[Kept]):
    """Rows of a table by name and title, made Python's objects one title at a time.

    rows: each name once for a title, then the title, then what `kind` is made of.
    """

    def __init__(self, rows: "pl.DataFrame", kind: "Callable[..., Kept]") -> None:
        import polars as pl

        self._rows, self._kind = rows.sort("title_id"), kind
        ends = self._rows.with_row_index("row").group_by("title_id").agg(pl.min("row"), pl.len())
        self._spans = {title: (first, number) for title, first, number in ends.rows()}
        self._title: str | None = None
        self._of_title: dict[str, Kept] = {}

    def get(self, name: str, title_id: str) -> Kept | None:
        if title_id != self._title:
            some = self._rows.slice(*self._spans.get(title_id, (0, 0)))
            self._title, self._of_title = title_id, {name: self._kind(*said) for name, _, *said in some.rows()}
        return self._of_title.get(name)


@dataclass
class Look:
    """One look at everything, for its rows. now: what a change that is first seen is dated."""

    catalogue: Catalogue
    landing: Landing
    now: datetime
    _remembered: dict[str, dict[str, str]] = field(default_factory=dict)

    @cached_property
    def drops(self) -> Mapping[str, Drop]:
        return {drop.title_id: drop for drop in self.landing.drops}

    @cached_property
    def unusable(self) -> Mapping[str, Verdict]:
        """Of folders of the landing zone that are no complete drop."""
        failed = {
            problem.title_id: Verdict("failed", f"landing: {problem.reason}") for problem in self.landing.problems
        }
        waiting = {problem.title_id: Verdict("waiting", problem.reason) for problem in self.landing.waiting}
        return {**failed, **waiting}

    @cached_property
    def unapproved(self) -> frozenset[str]:
        """The titles that the daemon leaves as they are until somebody approves of the configuration."""
        drops = {title_id: drop.drop_fingerprint for title_id, drop in self.drops.items()}
        found = change(self.catalogue, drops)
        return found.titles if found and found.asks(self.catalogue.resources["ask_above"]) else frozenset()

    @cached_property
    def before(self) -> ByTitle[Before]:
        """By table and title."""
        columns = ("table", "title_id", *Before._fields)
        return ByTitle(self.catalogue.lake.read_whole(FRESHNESS).select(columns), Before)

    @cached_property
    def taken(self) -> ByTitle[Taken]:
        """By stage and title, the last."""
        import polars as pl

        key = [pl.col("stage"), pl.col("title_id").fill_null("")]
        said = [name if name != "at" else "materialised_at" for name in Taken._fields]
        costs = self.catalogue.lake.read_whole("costs").sort("materialised_at").select(*key, *said)
        return ByTitle(costs.unique(["stage", "title_id"], keep="last"), Taken)

    @cached_property
    def of_promotion(self) -> Taken | None:
        return self.taken.get(PROMOTIONS, "")

    @cached_property
    def waits(self) -> Mapping[str, str | None]:
        return {table: self.catalogue.waits_for(table) for table in self.catalogue.stages.title_tables}

    @cached_property
    def titles(self) -> frozenset[str]:
        """All that are registered, have landed or were tried."""
        registered = {title for (title,) in self.catalogue.stored_in(ROOT)}
        return frozenset(registered | self.drops.keys() | self.unusable.keys() | self.catalogue.unfinished.keys())

    # ---- rows ----------------------------------------------------------------------------------------------------

    def found(self) -> Iterator[Found]:
        """Everything, title by title."""
        self.catalogue.read_all_titles()
        for title_id in sorted(self.titles):
            yield from self.title(title_id)
        for stage in self.catalogue.stages.of_scope("catalogue"):
            for table in stage.tables:
                yield Found(table, "", *self.whole(stage, table))
        yield from self.tasks()

    def row(self, found: Found) -> Row:
        """With since when it is so, what it took, and what to remember of what it was made from."""
        table, title_id, verdict, stored, wanted = found
        before = self.before.get(table, title_id)
        took = self.took(self.catalogue.stages.by_table[table], title_id)
        run_id = took.run_id if took else None
        since = self.now
        if before and (before.state, before.reason) == verdict[:2]:
            since = before.since
        elif verdict.state == "fresh" and took:
            since = took.at
        remembered = before.made_from if before and before.stored_version == stored else NOTHING_KNOWN
        # What a version is made from it tells for ever; that of `titles` does not tell when its files were written.
        if verdict.state == "fresh" and (remembered == NOTHING_KNOWN or table == ROOT or not title_id):
            remembered = json.dumps(self.made_from(table, title_id), ensure_ascii=False)
        if verdict.state == "failed" and (failure := self.catalogue.failures.get(title_id)):
            run_id, since = failure["run_id"], failure["failed_at"]
        seconds, dollars = (took.seconds, took.dollars) if took else (None, None)
        state, reason, _ = verdict
        return Row(table, title_id, state, reason, stored, wanted, since, run_id, seconds, dollars, remembered)

    def took(self, stage: Stage, title_id: str) -> Taken | None:
        """What the title took of the stage, or, where it was made later with all others by a promotion, in which
        run."""
        own = self.taken.get(stage.name, title_id)
        of_all = self.of_promotion if title_id and PROMOTIONS in stage.inputs else None
        if of_all is None or (own and own.at > of_all.at):
            return own
        return of_all._replace(seconds=None, dollars=None)

    def remembered(self, table: str, title_id: str) -> dict[str, str]:
        """What the table was made from when it was last seen fresh; empty where it never was."""
        if table not in self._remembered:
            stored = self.catalogue.lake.read_equal(FRESHNESS, {"table": table})
            self._remembered[table] = dict(stored.select("title_id", "made_from").rows())
        found: dict[str, str] = json.loads(self._remembered[table].get(title_id, NOTHING_KNOWN))
        return found

    # ---- what is made title by title -----------------------------------------------------------------------------

    def title(self, title_id: str) -> Iterator[Found]:
        catalogue = self.catalogue
        verdicts: dict[str, Verdict] = {}
        drop, row = self.drops.get(title_id), catalogue.title(title_id)
        unread = drop is not None and row is not None and drop.drop_fingerprint != row["drop_fingerprint"]
        files: list[str] = []
        parts: frozenset[str] = frozenset()
        if unread and drop and row:
            known = self.remembered(ROOT, title_id)
            files = changed_files(drop, known) if known else ["a file of its folder changed; which was not seen"]
            parts = changed_parts(drop, row, known)
        for table in catalogue.stages.title_tables:
            stored = catalogue.stored(table, title_id)
            verdict = self.of_title(table, title_id, stored, files, parts, verdicts)
            if verdict.state in ("stale", "missing") and title_id in self.unapproved:
                verdict = waiting_for_approval(verdict)
            verdicts[table] = verdict
            changed = verdict.state != "fresh" and bool(files)
            wanted = None if changed else catalogue.made_now(table, title_id)
            yield Found(table, title_id, verdict, stored, wanted)

    def made_from(self, table: str, title_id: str) -> dict[str, str]:
        """What the table would be made from now: the title's, or without one, of what is made once for all titles. Of
        what is made for each task, nothing is known."""
        if not title_id:
            of_all = self.catalogue.stages.by_table[table].scope == "catalogue"
            return self.catalogue.made_from(table) if of_all else {}
        if table != ROOT:
            return made_from(self.catalogue, table, title_id) if self.catalogue.title(title_id) else {}
        code, drop = {"code": self.catalogue.stages.recipe[ROOT].code}, self.drops.get(title_id)
        # Without a drop, its files are as they were.
        return {**code, **(drop.files if drop else self.remembered(ROOT, title_id))}

    def of_title(
        self,
        table: str,
        title_id: str,
        stored: str | None,
        files: list[str],
        parts: frozenset[str],
        verdicts: Mapping[str, Verdict],
    ) -> Verdict:
        """stored: its version. files: phrases for what changed in a drop that was not read since. parts: those that may
        have changed so. verdicts: of the tables before this one."""
        catalogue, recipe = self.catalogue, self.catalogue.stages.recipe[table]
        inputs = [name for name in recipe.inputs if verdicts.get(name, FRESH).state != "fresh"]
        touched = bool(files) and (table == ROOT or bool(parts & set(recipe.inputs)))
        if table == ROOT and title_id in self.unusable:
            return self.unusable[title_id]
        if not touched and not inputs and stored is not None and stored == catalogue.made_now(table, title_id):
            return FRESH
        failure = catalogue.unfinished.get(title_id)
        if failure and table in later_tables(catalogue.stages, failure["stage"]):
            return Verdict("waiting" if failure["waits"] else "failed", f"{failure['stage']}: {failure['reason']}")
        if catalogue.title(title_id) is None:
            return self.unregistered(table, title_id)
        if waits := self.waits[table]:
            return self.waiting(waits)
        state = "missing" if stored is None else "stale"
        if touched:
            root = "; ".join(files[:3])
            return Verdict("stale", root + self.gone(table, title_id), root)
        if inputs:
            of = verdicts[inputs[0]]
            root = of.root or of.reason
            return Verdict(state, f"{BETWEEN.format(inputs[0], of.state)}{root}", root)
        return self.changed(table, title_id, state)

    def changed(self, table: str, title_id: str, state: str) -> Verdict:
        """Of a table whose inputs are all fresh: what differs from when it was."""
        stages, known, reasons = self.catalogue.stages, self.remembered(table, title_id), []
        if known:
            reasons = list(differences(stages.recipe[table], stages, known, self.made_from(table, title_id)))
        if state == "missing" and not reasons:
            root = "its files were lost or taken away" if known else "not made yet"
        else:
            state, root = "stale", "; ".join(reasons[:3]) or UNSEEN
        return Verdict(state, root + self.gone(table, title_id), root)

    def gone(self, table: str, title_id: str) -> str:
        """What to add to the reason when it cannot be made again."""
        needed = table in self.catalogue.stages.need_the_drop and title_id not in self.drops
        return "; its drop is gone from the landing zone" if needed else ""

    def unregistered(self, table: str, title_id: str) -> Verdict:
        if title_id in self.unusable:
            return self.unusable[title_id]
        if waits := self.waits[table]:
            return self.waiting(waits)
        drop = self.drops.get(title_id)
        return Verdict("missing", f"landed on {drop.landed_at:%Y-%m-%d %H:%M} UTC and not made yet" if drop else "gone")

    def waiting(self, needed: str) -> Verdict:
        """For what is made once for all titles."""
        newest = self.catalogue.newest_encoder
        if needed != PROMOTIONS:
            return Verdict("waiting", f"needs {needed}, which are not there yet")
        return Verdict("waiting", f"needs the decision on the encoder {newest}" if newest else "needs an encoder")

    # ---- what is not -----------------------------------------------------------------------------------------------

    def whole(self, stage: Stage, table: str) -> tuple[Verdict, str | None, str | None]:
        """A verdict on what is made once for all titles, with the versions stored and wanted."""
        catalogue = self.catalogue
        stored = catalogue.stored(table)
        missing = "missing" if stored is None else "stale"
        if stage.off and (why := stage.off(catalogue)):
            return Verdict("waiting", why), stored, None
        if stage.on_request and not catalogue.stored_in(table):
            return Verdict("waiting", "it is made when somebody asks for it"), None, None
        if stage.on_request and table not in TABLES:  # what it would be made from now, films have to be read for
            return FRESH, max(catalogue.stored_in(table).values()), None
        if stage.due:
            of_all = catalogue.stored_in(table)
            stored = stored or (of_all[max(of_all)] if of_all else None)  # of the newest, if it is not in use
            missing = "missing" if stored is None else "stale"
            if stage.due(catalogue):
                reason = "none is there yet" if stored is None else "it is due again: enough has changed since"
                return self.failed_or(stage, Verdict(missing, reason)), stored, None
            return (Verdict("waiting", "not due yet") if stored is None else FRESH), stored, None
        try:
            wanted = catalogue.version_of(stage)
        except BadInput as error:
            return Verdict("failed", str(error)), stored, None
        if wanted is None:
            return Verdict("waiting", missing_input(catalogue, stage)), stored, None
        if wanted in catalogue.stored_in(stage.name).values():
            return FRESH, stored, wanted
        verdict = Verdict("missing", "not made yet")
        known = self.remembered(table, "")
        if stored or known:
            now, recipe = catalogue.made_from(table), catalogue.stages.recipe[table]
            reasons = list(differences(recipe, catalogue.stages, known, now)) if known else []
            verdict = Verdict("stale", "; ".join(reasons[:3]) or UNSEEN)
        return self.failed_or(stage, verdict), stored, wanted

    def failed_or(self, stage: Stage, verdict: Verdict) -> Verdict:
        """The verdict, unless it was tried and failed."""
        took = self.taken.get(stage.name, "")
        return (
            verdict if took is None or took.made else Verdict("failed", f"run {took.run_id} failed; its page says why")
        )

    def tasks(self) -> Iterator[Found]:
        """What there is of each table that is made for each task: all its tasks together."""
        todo: dict[str, list[TaskToMake]] = {}
        for task in tasks_to_make(self.catalogue):
            todo.setdefault(task.stage.name, []).append(task)
        for stage in self.catalogue.stages.of_scope("task"):
            tasks = todo.get(stage.name, [])
            problems = [f"{task.task}: {task.problem}" for task in tasks if task.problem]
            stored = self.catalogue.stored_in(stage.name)
            if problems:
                verdict = Verdict("failed", "; ".join(problems))
            elif tasks:
                named = ", ".join(task.task for task in tasks)
                verdict = Verdict("stale", f"the labels of {named} changed")
                if not stored:
                    verdict = Verdict("missing", f"labels of {named} landed and are not read yet")
            else:
                verdict = FRESH if stored else Verdict("waiting", "no label file has landed")
            version = digest(*(f"{key} {version}" for (key,), version in sorted(stored.items()))) if stored else None
            for table in stage.tables:
                yield Found(table, "", verdict, version, version if verdict is FRESH else None)


def waiting_for_approval(verdict: Verdict) -> Verdict:
    """Of what would be made again, if the daemon did not ask first."""
    _, reason, root = verdict
    asks = "" if root.startswith(UNAPPROVED) else UNAPPROVED  # what it is made from may say so already
    return Verdict("waiting", asks + reason, asks + root)


# ---- the table -----------------------------------------------------------------------------------------------------


def states(catalogue: Catalogue, landing: Landing) -> Iterator[tuple[str, str, str, str]]:
    """How everything is now: (table, title_id, state, reason), title by title."""
    for table, title_id, verdict, *_ in Look(catalogue, landing, datetime.now(UTC)).found():
        yield table, title_id, verdict.state, verdict.reason


def rows_of_title(catalogue: Catalogue, landing: Landing, title_id: str) -> list[Row]:
    """The title's rows as they are now; none where nobody knows it."""
    catalogue.read_all_titles()  # whether their configuration waits for an approval is asked of all of them
    now = Look(catalogue, landing, datetime.now(UTC))
    return [now.row(found) for found in now.title(title_id)] if title_id in now.titles else []


def look(catalogue: Catalogue, landing: Landing) -> "pl.DataFrame":
    """The rows as they are now, title by title; nothing is written."""
    import polars as pl

    now, schema = Look(catalogue, landing, datetime.now(UTC)), typed_rows(FRESHNESS, []).schema
    rows, frames = map(now.row, now.found()), [pl.DataFrame([], schema=schema)]
    while some := list(islice(rows, ROWS_AT_ONCE)):
        frames.append(pl.DataFrame(some, schema=schema, orient="row"))
    return pl.concat(frames)


def write(lake: DeltaLake, rows: "pl.DataFrame") -> bool:
    """Replace the table by the rows, unless it holds just these. Returns whether it was written."""
    content = rows.write_ipc(None).getvalue()
    version = hashlib.blake2b(content, digest_size=16).hexdigest()
    if lake.data_versions(FRESHNESS).get(()) == version:
        return False
    lake.write(FRESHNESS, {}, rows, version)
    return True

"""What is to be made next. The `mediafm` command and the daemon's sensor both ask here, so they decide alike.

Everything is read from the landing zone and the lake: which titles lack what, what is due of that which is made once
for all titles, which tasks' labels are not what their file says. Dagster is only asked what is under way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import dagster as dg

from mediafm_assets.graph.partitions import tasks_partitions
from mediafm_assets.graph.stage import ROOT, Stage
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from resources.errors import BadInput
from resources.lake import TABLES, DeltaLake

GAP = 8
"""Titles between two of a run that lack nothing: to record them once more costs less than another run."""

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Batch:
    """Titles of one run: those of the partitions from `first` to `last` that lack some of `tables`."""

    first: str
    last: str
    titles: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """What makes a run cover the batch; a single title is a run that is named after it."""
        if self.first == self.last:
            return {"dagster/partition": self.first}
        return {"dagster/asset_partition_range_start": self.first, "dagster/asset_partition_range_end": self.last}


def lacking(catalogue: Catalogue, fingerprints: Mapping[str, str], among: Iterable[str]) -> dict[str, list[str]]:
    """The tables that each title lacks, in the order in which they are made.

    fingerprints: of the drops in the landing zone. Of a new or changed drop, what else is stale shows only when
    `titles` is made, so it is given all tables. A title whose drop is gone is left out where the drop is needed.
    """
    stages, found = catalogue.stages, {}
    everything = [table for table in stages.title_tables if catalogue.waits_for(table) is None]
    for title_id in among:
        if title_id in fingerprints and not catalogue.is_registered(title_id, fingerprints[title_id]):
            tables = everything
        else:
            tables = stages.with_siblings(catalogue.stale(title_id))
        if tables and (title_id in fingerprints or not stages.need_the_drop & set(tables)):
            found[title_id] = tables
    return found


def discard_damaged(lake: DeltaLake, *, deep: bool = False, title_id: str | None = None) -> list[str]:
    """Take partitions whose files are lost or damaged out of their tables: they are missing now, and are made again.
    Returns a sentence for each.

    deep: compare contents too, not only whether each file is there in its size.
    """
    found = []
    for table, declared in TABLES.items():
        if title_id is not None and "title_id" not in declared.partition_by:
            continue
        partition = {"title_id": title_id} if title_id is not None else None
        for key, reason in lake.discard_damaged(table, partition, deep=deep).items():
            of = f" of {', '.join(map(str, key))}" if key else ""
            found.append(f"{table}{of} is damaged and will be made again: {reason}")
    return found


def batches(keys: Sequence[str], wanted: Mapping[str, Sequence[str]], most: int, gap: int = GAP) -> Iterator[Batch]:
    """The wanted titles in runs of at most `most`, each over an unbroken range of the partition keys.

    keys: all partition keys in their order. Between two wanted titles of a run lie at most `gap` others.
    """
    run: list[str] = []
    last = 0
    for position, key in enumerate(keys):
        if key not in wanted:
            continue
        if run and (len(run) == most or position - last > gap + 1):
            yield _batch(run, wanted)
            run = []
        run.append(key)
        last = position
    if run:
        yield _batch(run, wanted)


def _batch(titles: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> Batch:
    tables = dict.fromkeys(table for title in titles for table in wanted[title])
    return Batch(titles[0], titles[-1], tuple(titles), tuple(tables))


def due(catalogue: Catalogue) -> Iterator[Stage]:
    """What is made once for all titles and is to be made now. One is made at a time: what is due after the first shows
    when that is there, and when the titles that read it are made."""
    return (stage for stage in catalogue.stages.of_scope("catalogue") if catalogue.is_due(stage))


@dataclass(frozen=True)
class TaskToMake:
    """What is to be done about one task's part of a stage: `problem`, a sentence for people, if nothing can be; what is
    stored then stays as it is."""

    stage: Stage
    task: str
    stored: str | None
    version: str | None
    problem: str | None = None


def tasks_to_make(catalogue: Catalogue) -> Iterator[TaskToMake]:
    """The tasks whose stored part of a stage is not what it would be made now, with those that cannot be looked at."""
    for stage in catalogue.stages.of_scope("task"):
        for task in tasks_partitions.get_partition_keys():
            stored = catalogue.stored_in(stage.name).get((task,))
            try:
                version = catalogue.version_of(stage, task)
            except BadInput as error:
                yield TaskToMake(stage, task, stored, None, str(error))
                continue
            if version != stored:
                yield TaskToMake(stage, task, stored, version)


def titles_of(run: dg.DagsterRun, keys: Sequence[str]) -> list[str]:
    """The titles that a run covers, of all partition keys in their order."""
    first = run.tags.get("dagster/asset_partition_range_start") or run.tags.get("dagster/partition")
    last = run.tags.get("dagster/asset_partition_range_end") or first
    if first not in keys or last not in keys:
        return []
    return list(keys[keys.index(first) : keys.index(last) + 1])


@dataclass(frozen=True)
class WorkAhead:
    """What `mediafm materialize` makes, if nothing fails: stages of titles, what is made once for all of them, and
    tasks' labels. Of a new encoder, it is taken that it comes into use."""

    titles: dict[str, list[Stage]]
    whole: list[Stage]
    tasks: list[TaskToMake]


def work_ahead(catalogue: Catalogue, fingerprints: Mapping[str, str]) -> WorkAhead:
    """Everything that is to be made now, and what follows from it, in the order in which it is made.

    fingerprints: of the drops in the landing zone. A drop that has changed is counted whole, since what changed shows
    only when it is read.
    """
    stages = catalogue.stages
    everybody = sorted({title for (title,) in catalogue.stored_in(ROOT)} | fingerprints.keys())
    wanted = lacking(catalogue, fingerprints, everybody)
    tasks = [todo for todo in tasks_to_make(catalogue) if todo.problem is None]
    later = _when_made(catalogue, wanted)
    made = {table for todo in tasks for table in todo.stage.tables}  # once for all titles, or for a task
    renewed: dict[str, set[str]] = {}  # tables of titles that follow from that
    whole = []
    for stage in stages.all:
        if stage.scope == "title":
            follow = set().union(*(renewed.get(name, ()) for name in stage.inputs))
            read = {name for name in stage.inputs & made if catalogue.is_in_use(name)}
            follow |= set(everybody) if read else set()
            renewed |= dict.fromkeys(stage.tables, follow)
        elif stage.scope == "catalogue" and _will_be_due(later, stage, made, renewed):
            whole.append(stage)
            made |= set(stage.tables)
    by_promotion = {stage.name for stage in stages.of_scope("title") if PROMOTIONS in stage.inputs}  # reads all titles
    of_titles = [(stage, frozenset(stage.tables)) for stage in stages.of_scope("title")]
    titles = {
        title: [
            stage
            for stage, tables in of_titles
            if not tables.isdisjoint(wanted.get(title, ()))
            or (title in renewed[stage.name] and stage.name not in by_promotion)
        ]
        for title in everybody
    }
    return WorkAhead({title: todo for title, todo in titles.items() if todo}, whole, tasks)


def _when_made(catalogue: Catalogue, wanted: Mapping[str, Iterable[str]]) -> Catalogue:
    """The catalogue as it will be when the titles have what they lack."""
    later = catalogue.supposed()
    for title, tables in wanted.items():
        for table in tables:
            if table != ROOT:
                version = catalogue.made_now(table, title) or "not known yet"
                later.wrote(table, later.partition(table, title), version)
    return later


def _will_be_due(later: Catalogue, stage: Stage, made: Set[str], renewed: Mapping[str, Set[str]]) -> bool:
    """Whether what is made once for all titles is to be made, when the titles have what they lack and all before it is
    made."""
    if stage.on_request or (stage.off and stage.off(later)):
        return False
    if stage.due and stage.due(later):
        return True
    by_table = later.stages.by_table
    whole = {name for name in stage.inputs if name in by_table and by_table[name].scope == "catalogue"}
    whole -= {name for name in whole if by_table[name].off}  # what may be off, nothing waits for
    if any(name not in made and not later.stored(name) for name in whole):
        return False  # it waits
    if stage.due or stage.name == PROMOTIONS:  # an encoder is decided on once
        return bool(whole & made) or later.is_due(stage)
    return bool(stage.inputs & made) or any(renewed.get(name) for name in stage.inputs) or later.is_due(stage)

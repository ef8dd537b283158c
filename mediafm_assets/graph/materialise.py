"""The step that makes every table of a title: one title after the other, a failure stays with its title.

All per-title tables are made in one Dagster step. So a title that fails costs its neighbours nothing: in a step for
each table, Dagster would skip the later tables of every title of the run. Each finished partition is recorded as it is
written, with its own data version; what the failed titles lack is what the run planned and did not materialise, which
is what the UI shows in red.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.costs import Books
from mediafm_assets.graph.forecast import History, expected_of_titles, film_lengths
from mediafm_assets.graph.health import EVERY_TITLE, every_title, every_title_spec, failure_events, sentence
from mediafm_assets.graph.plan import lacking
from mediafm_assets.graph.shown import as_metadata, picture
from mediafm_assets.graph.specs import CONTRACT, asset_specs, contract_spec
from mediafm_assets.graph.stage import ROOT, Stage, Stages
from mediafm_assets.graph.versions import Catalogue
from model.modalities import MODALITIES
from resources.errors import BadInput, NotYet, Unavailable, one_line
from resources.lake import TABLES, ContractError, DeltaLake, violations
from resources.landing import LandingZone

if TYPE_CHECKING:
    import polars as pl

    Rows = Iterator[tuple[str, pl.DataFrame | Iterable[pl.DataFrame]]]

PLANNED = "mediafm/planned"
"""Tag of runs that nobody asked for by hand: they leave out titles that failed before and have not changed since."""

FORCED = "mediafm/forced"
"""Tag of runs that make the named tables again (separated by commas) though they are fresh."""

PICTURES = 0.03
"""The share of a run's time that pictures may take. The last title of a run has them in any case."""

SHOWN = 20
"""Failed titles named in a run's failure; the table `failures` has them all."""


@dataclass
class TitleRun:
    """What the stages of one run work with, and what came of it.

    notes:    what a stage adds to the metadata of its materialisation; emptied before each.
    written:  how many titles' partitions of each table were written.
    failures: a sentence for each title that failed.
    broken:   for each table what broke its contract.
    pictures: what a stage draws for its first table's metadata; emptied before each.
    forced:   tables that are made again though they are fresh, and whole.
    last:     whether the title in hand is the run's last one.
    drawn_s:  seconds that pictures took.
    """

    resources: Any
    catalogue: Catalogue
    notes: dict[str, Any] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    broken: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    pictures: dict[str, dg.MarkdownMetadataValue] = field(default_factory=dict)
    forced: Set[str] = frozenset()
    last: bool = True
    drawn_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def lake(self) -> DeltaLake:
        lake: DeltaLake = self.resources.lake
        return lake

    @property
    def landing(self) -> LandingZone:
        landing: LandingZone = self.resources.landing
        return landing

    def may_draw(self) -> bool:
        """Whether there is time for a picture: a run of thousands of titles must not take longer for them."""
        return self.last or self.drawn_s < PICTURES * (time.monotonic() - self.began)

    def draw(self, name: str, alternative: str, draw: "Callable[[], bytes]") -> None:
        """Add the picture to the metadata, if there is time for it. alternative: what it shows, in words."""
        if self.may_draw():
            started = time.monotonic()
            self.pictures[name] = picture(draw(), alternative)
            self.drawn_s += time.monotonic() - started

    def read(self, table: str, title_id: str) -> "pl.DataFrame":
        """The title's rows of the table, in the order of the key; of a table by encoder, those of the one in use."""
        return self.lake.read(table, **self.catalogue.partition(table, title_id))


def title_assets(stages: Stages, resources: Mapping[str, Any], titles_per_run: int) -> dg.AssetsDefinition:
    """The assets of everything that is made title by title."""
    of_titles = stages.of_scope("title")

    @dg.multi_asset(
        name="title",
        specs=[spec for stage in of_titles for spec in asset_specs(stage, stages, resources)],
        check_specs=[
            *(contract_spec(table) for table in stages.title_tables if table in TABLES),
            *(every_title_spec(table) for table in stages.title_tables),
        ],
        can_subset=True,
        required_resource_keys=stages.resource_keys.union(*(stage.uses for stage in of_titles)),
        backfill_policy=dg.BackfillPolicy.multi_run(titles_per_run),
    )
    def title(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult]:
        """Make what is missing or stale of each title, table by table."""
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        wanted = [stage for stage in of_titles if selected & set(stage.tables)]
        # Without any, somebody executes the checks by themselves.
        try:
            done = make_titles(context, catalogue_of(context, stages), wanted) if wanted else None
        except Unavailable as error:  # of the lake, say, where a title's failure could not be written down either
            raise dg.Failure(f"{wanted[0].name}: {error}", allow_retries=False) from error
        catalogue = catalogue_of(context, stages)  # as it is now
        for key in context.selected_asset_check_keys:
            table = key.asset_key.to_user_string()
            if key.name == EVERY_TITLE:
                yield every_title(catalogue, table)
            elif done:
                yield written_contract(table, done.written[table], done.broken[table])
            else:
                yield stored_contract(catalogue.lake, table)
        if done and done.failures:
            raise failure_of(done.failures, len(context.partition_keys))

    return title


def make_titles(context: dg.AssetExecutionContext, catalogue: Catalogue, stages: Sequence[Stage]) -> TitleRun:
    """Run the stages for every title of the run, and say what came of it."""
    missing = preflight(catalogue.resources)
    if missing and stages[0].name == ROOT:
        raise dg.Failure(f"titles: {' '.join(missing)}", allow_retries=False)
    run = TitleRun(context.resources, catalogue, forced=forced_tables(context))
    books, history = Books(catalogue, context.run.run_id, "title", run.notes), History(catalogue)
    try:
        for title_id in context.partition_keys:
            fingerprint = fingerprint_of(run, title_id)
            if PLANNED in context.run.tags and catalogue.failed_before(title_id, fingerprint):
                continue
            make_title(context, run, books, history, stages, title_id, fingerprint)
            books.write_now_and_then()
    finally:  # a run that is cancelled has been paid for, too
        books.write()
    return run


def plan_title(
    context: dg.AssetExecutionContext,
    books: Books,
    history: History,
    stages: Sequence[Stage],
    title_id: str,
    fingerprint: str,
) -> None:
    """Put into the books what is to be made of the title, and what that is expected to take."""
    catalogue, drops = books.catalogue, {title_id: fingerprint} if fingerprint else {}
    tables = {*lacking(catalogue, drops, [title_id]).get(title_id, ()), *forced_tables(context)}
    wanted = {title_id: [stage for stage in stages if tables & set(stage.tables)]}
    books.expect(expected_of_titles(catalogue, history, wanted, film_lengths(catalogue, drops, wanted)))


def forced_tables(context: dg.AssetExecutionContext) -> Set[str]:
    return set(context.run.tags.get(FORCED, "").split(","))


def make_title(
    context: dg.AssetExecutionContext,
    run: TitleRun,
    books: Books,
    history: History,
    stages: Sequence[Stage],
    title_id: str,
    fingerprint: str,
) -> None:
    """Run the stages for one title of the run; whatever fails is this title's."""
    catalogue = run.catalogue
    at, run.last = stages[0], title_id == context.partition_keys[-1]
    try:
        plan_title(context, books, history, stages, title_id, fingerprint)
        for stage in stages:
            at = stage
            make(context, run, books, stage, title_id)
    except NotYet as wait:
        context.log.info(sentence(title_id, at.name, str(wait)))
        remember_failure(context, run, at.name, title_id, str(wait), waits=True)
    except Exception as error:
        reason = sentence(title_id, at.name, explain(error))
        context.log.error(reason, exc_info=None if isinstance(error, BadInput | Unavailable) else error)
        if isinstance(error, ContractError):
            run.broken[at.name].append(reason)
        run.failures[title_id] = reason
        remember_failure(context, run, at.name, title_id, explain(error))
        for event in failure_events(catalogue.stages, at.name, title_id, explain(error)):
            context.log_event(event)
    else:
        if title_id in catalogue.unfinished:
            run.lake.delete("failures", {"title_id": title_id})


def make(context: dg.AssetExecutionContext, run: TitleRun, books: Books, stage: Stage, title_id: str) -> None:
    """Write and record the stage's tables of the title, where they have not the version that they would get.

    Raises BadInput when an input is missing or stale: vectors of two versions never meet.
    """
    if any(run.catalogue.waits_for(table) for table in stage.tables):
        return  # the titles wait for a training, say
    started = time.monotonic()
    run.notes.clear()
    run.pictures.clear()
    stale = stale_tables(run, stage, title_id)
    if run.forced & set(stage.tables):
        stale = list(stage.tables)
    if stale:
        with books.measured(stage, title_id, lambda table: run.catalogue.partition(table, title_id)):
            write_title(run, stage, title_id)
    for table in stage.tables:
        metadata: dict[str, Any] = {"up_to_date": not stale}
        if table in TABLES:
            metadata |= run.lake.write_metadata(table, run.catalogue.partition(table, title_id))
        if stale:
            metadata |= {"seconds": time.monotonic() - started, **run.notes}
            metadata |= run.pictures if table == stage.name else {}
        record(context, run, table, title_id, metadata)


def write_title(run: TitleRun, stage: Stage, title_id: str) -> None:
    """Make and write what the stage makes of the title."""
    for table, rows in stage.compute(run, title_id):
        version = version_of(run, table, title_id, rows)
        partition = run.catalogue.partition(table, title_id)
        run.lake.write(table, partition, rows, version)
        run.catalogue.wrote(table, partition, version)
        run.written[table] += 1
    for other in set(stage.tables) - TABLES.keys():
        made = version_of(run, other, title_id, None)
        run.catalogue.wrote(other, run.catalogue.partition(other, title_id), made)


def stale_tables(run: TitleRun, stage: Stage, title_id: str) -> list[str]:
    """The stage's tables that lack the version that they would get. Raises BadInput when an input does."""
    stages = run.catalogue.stages
    if stage.name == ROOT:
        drop = run.landing.drop(title_id)
        return [] if run.catalogue.is_registered(title_id, drop.drop_fingerprint) else [ROOT]
    if run.catalogue.title(title_id) is None:
        raise BadInput(f"the title is not registered yet; materialise `titles` of {title_id} first")
    for name in dict.fromkeys(name for table in stage.tables for name in stages.recipe[table].inputs):
        of_title = name in stages.title_tables and name not in stage.tables
        if of_title and not run.catalogue.is_fresh(name, title_id):
            state = "missing" if run.catalogue.stored(name, title_id) is None else "out of date"
            raise BadInput(f"its {name} are {state}; materialise {name} of {title_id} first")
    return [table for table in stage.tables if not run.catalogue.is_fresh(table, title_id)]


def version_of(run: TitleRun, table: str, title_id: str, rows: Any) -> str:
    """The version that the table gets: of `titles`, the content's own."""
    if table == ROOT:
        version: str = rows["data_version"][0]
        return version
    made = run.catalogue.made_now(table, title_id)
    assert made is not None, f"{table} of {title_id} was computed from inputs that are not there"
    return made


def record(
    context: dg.AssetExecutionContext, run: TitleRun, table: str, title_id: str, metadata: Mapping[str, Any]
) -> None:
    """Tell Dagster of the partition, and what it was made from, as Dagster itself does for what a step returns."""
    told = context.instance.event_log_storage.get_maximum_record_id()
    tags = provenance(run.catalogue, table, title_id, told)
    said = as_metadata(metadata)
    context.log_event(dg.AssetMaterialization(table, partition=title_id, metadata=said, tags=tags))


def provenance(catalogue: Catalogue, table: str, title_id: str, told: int | None = None) -> dict[str, str]:
    """Tags by which Dagster knows the version of a partition and what it was made from. What is stale has the code
    version "unknown", which none is equal to.

    told: the last event that Dagster had been told of when the inputs were read: what it is told of them later makes
    the partition stale in its eyes. Without, nothing that happens to the inputs does.
    """
    stages = catalogue.stages
    fresh = table == ROOT or catalogue.is_fresh(table, title_id)
    tags = {
        "dagster/data_version": catalogue.stored(table, title_id) or "",
        "dagster/code_version": stages.code_version(table, catalogue.resources) if fresh else "unknown",
    }
    for name in stages.dependencies(table):
        tags[f"dagster/input_data_version/{name}"] = input_version(catalogue, name, title_id)
        tags[f"dagster/input_event_pointer/{name}"] = str(told or "NULL")  # Dagster asks for both
    return tags


def input_version(catalogue: Catalogue, name: str, title_id: str) -> str:
    """The data version that Dagster knows of an input's partition."""
    if name == "drops":
        row = catalogue.title(title_id)
        return row["drop_fingerprint"] if row else ""
    scope = catalogue.stages.by_table[name].scope
    return "" if scope == "task" else catalogue.stored(name, title_id if scope == "title" else "") or ""


def fingerprint_of(run: TitleRun, title_id: str) -> str:
    """The drop's, as it lies in the landing zone; empty when there is no such drop that can be read."""
    try:
        return run.landing.drop(title_id).drop_fingerprint
    except BadInput:
        return ""


def remember_failure(
    context: dg.AssetExecutionContext, run: TitleRun, stage: str, title_id: str, reason: str, waits: bool = False
) -> None:
    """Keep the failure in the lake: why, for people; what was read, so that nothing is tried again in a loop."""
    fingerprint = fingerprint_of(run, title_id)
    write_failure(run.lake, run.catalogue, stage, title_id, fingerprint, reason, context.run.run_id, waits)


def write_failure(
    lake: DeltaLake,
    catalogue: Catalogue,
    stage: str,
    title_id: str,
    fingerprint: str,
    reason: str,
    run_id: str,
    waits: bool = False,
) -> None:
    """One title's row in `failures`."""
    import polars as pl

    attempt = catalogue.attempt(stage, title_id, fingerprint)
    row = {"stage": stage, "reason": reason, "attempt": attempt, "run_id": run_id, "waits": waits}
    rows = pl.DataFrame([row]).with_columns(pl.lit(datetime.now(UTC)).alias("failed_at"))
    lake.write("failures", {"title_id": title_id}, rows, attempt)


def failure_of(failures: Mapping[str, str], titles: int) -> dg.Failure:
    """What the run's page says of the titles that failed."""
    reasons = list(failures.values())
    if titles == 1:
        return dg.Failure(reasons[0], allow_retries=False)
    more = f"; and {len(reasons) - SHOWN} more, see the table failures" if len(reasons) > SHOWN else ""
    return dg.Failure(
        f"{len(reasons)} of {titles} titles failed: {'; '.join(reasons[:SHOWN])}{more}",
        metadata={"failed": dg.MetadataValue.md("\n".join(f"* {reason}" for reason in reasons))},
        allow_retries=False,
    )


def written_contract(table: str, written: int, broken: Sequence[str]) -> dg.AssetCheckResult:
    """The contract of what a run wrote: rows that break it are refused."""
    if not written and not broken:
        said = "the run wrote nothing; what is stored kept the contract when it was written"
    else:
        said = f"{written} title{'' if written == 1 else 's'} written, each keeps the contract" + (
            f"; {len(broken)} refused" if broken else ""
        )
    return contract_result(table, said, broken, titles_written=written)


def stored_contract(lake: DeltaLake, table: str) -> dg.AssetCheckResult:
    """The contract held against everything that is stored, a partition at a time."""
    found, rows = [], 0
    stored = lake.data_versions(table)
    for values in stored:
        partition = dict(zip(TABLES[table].partition_by, values, strict=True))
        frame = lake.read(table, **partition)
        rows += len(frame)
        found += [f"{', '.join(values)}: {violation}" for violation in violations(table, frame)]
    said = f"{rows} rows in {len(stored)} partitions " + ("looked at" if found else "keep the contract")
    return contract_result(table, said, found, partitions=len(stored), rows=rows)


def contract_result(table: str, said: str, found: Sequence[str], **looked_at: int) -> dg.AssetCheckResult:
    """What the UI shows of a contract: what was looked at, and what breaks it."""
    return dg.AssetCheckResult(
        check_name=CONTRACT,
        asset_key=table,
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join([said, *found[:3]]),  # what the UI shows without a click
        metadata={**looked_at, **({"violations": list(found[:SHOWN])} if found else {})},
    )


def preflight(resources: Mapping[str, Any]) -> list[str]:
    """One sentence for each key, package or checkpoint that the configured encoders lack; they are loaded for it."""
    encoders = (*(modality.encoder for modality in MODALITIES), "fusion", "title_encoder")
    return list(dict.fromkeys(sentence for key in encoders for sentence in resources[key].preflight()))


def explain(error: Exception) -> str:
    """The reason that people read: our own errors speak for themselves, anything else is named by its type."""
    return str(error) if isinstance(error, BadInput | Unavailable) else one_line(f"{type(error).__name__}: {error}")


def catalogue_of(context: Any, stages: Stages, uses: Iterable[str] = ()) -> Catalogue:
    """The versions of the lake of a run, check or sensor as they are now. `uses`: further keys of resources."""
    keys = stages.resource_keys.union(uses)
    return Catalogue(context.resources.lake, {key: getattr(context.resources, key) for key in keys}, stages)

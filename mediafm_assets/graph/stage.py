"""What a stage of the graph is: declared once, in a module of `mediafm_assets/defs/`.

From the declarations come the assets with their lineage and code versions, the versions of what is stored, what the
planner makes and in which order, the checks, and what a new Dagster instance is told.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from resources.lake import TABLES

if TYPE_CHECKING:
    import dagster as dg

    from mediafm_assets.graph.versions import Catalogue

ROOT = "titles"
"""The table that stands for the drops themselves: its version is its content's, and all others follow from it."""

PARTS = ("media", "sound", "timed_text", "metadata")
"""The parts of a drop that change independently: a new subtitle line must not make the video stale."""

IN_THE_DROP = frozenset({"drops", "media", "sound", "timed_text"})
"""Inputs that are read in the landing zone; a title's metadata stand in `titles`."""

Scope = Literal["title", "catalogue", "task"]


@dataclass(frozen=True)
class Recipe:
    """How the version of a table, or of what else a stage makes, comes about.

    table:     its name, which is its asset's.
    inputs:    what it is made from: tables, assets of the landing zone, or parts of the title's drop (`PARTS`).
    shaped_by: key of the resource that decides the values, if any.
    code:      raised by hand when the stage's code changes what it makes.
    """

    table: str
    inputs: tuple[str, ...]
    shaped_by: str | None = None
    code: str = "1"


@dataclass(frozen=True)
class Stage:
    """One stage: what it makes in one go, out of what, and how.

    recipes:  of what it makes. The first names the stage and is written last: where it is, the rest is.
    compute:  scope title: takes a `TitleRun` and a title id; else a `CatalogueRun`. Yields (table, rows) in the order
              in which they are to be written; rows may be an iterator of frames, which is written as it is consumed, in
              one commit. What is not a table is made without being yielded.
    scope:    made for each title, for each task with labels, or once for all titles ("catalogue"). A table that is also
              partitioned by `encoder_version` is made for the encoder in use, and waits until there is one.
    kinds:    what the UI shows beside the names.
    version:  the version that it would get now, None where it cannot be made yet (of a task: where it is to go); takes
              the catalogue and, for a task, its name; raises BadInput where an input cannot be used. By default it
              follows from the recipe: all versions of all inputs.
    due:      scope catalogue: whether the planner makes it now; by default whenever its version is not stored.
    on_request: scope catalogue: made when somebody asks for it, and never by itself.
    off:      scope catalogue: why the configuration has none of it, in a sentence; None where it has. Off, it is never
              due, and nothing is planned for it. Nothing waits for what may be off, though it reads it.
    in_use:   scope catalogue: whether what is stored serves titles, or is waited for. Where not, those that read it are
              made as if they did not: they neither wait for it nor become stale by it. By default it is.
    dollars:  scope catalogue: what it will be paid; None where nobody can tell.
    describe: what the UI is told of what is stored, whether it was made just now or found fresh.
    stored:   of what is not a Delta table: the stored versions by partition, as `DeltaLake.data_versions` gives them.
    about:    of what is not a Delta table: its description. Tables have theirs in `resources.lake.tables`.
    texts:    scope title, shaped by a text encoder: the texts that it embeds, for the plan of what that costs, and
              whether they are known exactly; takes the catalogue and a title id.
    uses:     keys of further resources, beside the lake, the landing zone and those that decide values.
    pool:     Dagster's pool, whose limit says how many such steps run at once.
    checks:   functions of the catalogue that give an AssetCheckResult; name and docstring are the check's.
    reports:  checks that `compute` or `describe` answer themselves, in `CatalogueRun.checked`.
    """

    recipes: tuple[Recipe, ...]
    group: str
    compute: Callable[..., Iterator[Any]]
    scope: Scope = "title"
    kinds: frozenset[str] = frozenset()
    version: Callable[..., str | None] | None = None
    due: "Callable[[Catalogue], bool] | None" = None
    on_request: bool = False
    off: "Callable[[Catalogue], str | None] | None" = None
    in_use: "Callable[[Catalogue], bool] | None" = None
    dollars: "Callable[[Catalogue], float | None] | None" = None
    describe: Callable[[Any], Mapping[str, Any]] | None = None
    stored: "Callable[[Catalogue], Mapping[tuple[str, ...], str]] | None" = None
    about: str = ""
    texts: "Callable[[Catalogue, str], tuple[Sequence[str], bool]] | None" = None
    uses: frozenset[str] = frozenset()
    pool: str | None = None
    checks: "tuple[Callable[[Catalogue], dg.AssetCheckResult], ...]" = ()
    reports: "tuple[dg.AssetCheckSpec, ...]" = ()

    @property
    def name(self) -> str:
        return self.recipes[0].table

    @cached_property
    def tables(self) -> tuple[str, ...]:
        return tuple(recipe.table for recipe in self.recipes)

    @property
    def resource_keys(self) -> frozenset[str]:
        """Keys of the resources that it needs beside those that every step needs."""
        return self.uses | {recipe.shaped_by for recipe in self.recipes if recipe.shaped_by}

    @cached_property
    def inputs(self) -> frozenset[str]:
        """What it reads that it does not make itself."""
        return frozenset(name for recipe in self.recipes for name in recipe.inputs) - set(self.tables)


def partition_columns(table: str, scope: Scope) -> tuple[str, ...]:
    """The partition columns of a table; of what is not a table, those that its scope says."""
    if table in TABLES:
        return TABLES[table].partition_by
    return {"title": ("title_id",), "catalogue": (), "task": ("task",)}[scope]


class Stages:
    """All stages, each after those that it reads from, otherwise in the order given.

    external: assets that come from outside, which stages may read. Raises ValueError for declarations that cannot be.
    """

    def __init__(self, declared: Iterable[Stage], external: Set[str] = frozenset()) -> None:
        given = tuple(declared)
        self.by_table: Mapping[str, Stage] = {table: stage for stage in given for table in stage.tables}
        self.recipe: Mapping[str, Recipe] = {recipe.table: recipe for stage in given for recipe in stage.recipes}
        for stage in given:
            _refuse_impossible(stage, self.by_table, external)
        self.partition_by: Mapping[str, tuple[str, ...]] = {
            table: partition_columns(table, stage.scope) for table, stage in self.by_table.items()
        }
        self.all = tuple(_in_order(given, self.by_table))

    def of_scope(self, scope: Scope) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.all if stage.scope == scope)

    @cached_property
    def title_tables(self) -> tuple[str, ...]:
        """What is made title by title, in the order in which it is made; `titles` is the first."""
        return tuple(table for stage in self.of_scope("title") for table in stage.tables)

    @cached_property
    def shaping(self) -> tuple[str, ...]:
        """Keys of the resources that decide titles' values. Every step needs them: it checks its inputs' versions."""
        shaped = (self.recipe[table].shaped_by for table in self.title_tables)
        return tuple(sorted({key for key in shaped if key}))

    @property
    def resource_keys(self) -> set[str]:
        """Keys of the resources that every step, check and sensor needs."""
        return {"lake", "landing", *self.shaping}

    @cached_property
    def need_the_drop(self) -> frozenset[str]:
        """The tables of titles that are made from what lies in the landing zone."""
        return frozenset(table for table in self.title_tables if IN_THE_DROP & set(self.recipe[table].inputs))

    def dependencies(self, table: str) -> list[str]:
        """The assets that a table is made from; the parts of a drop stand in `titles`."""
        return sorted({ROOT if name in PARTS else name for name in self.recipe[table].inputs})

    def with_siblings(self, tables: Iterable[str]) -> list[str]:
        """The tables of titles, in their order, and what is made in one go with them."""
        wanted = {sibling for table in tables for sibling in self.by_table[table].tables}
        return [table for table in self.title_tables if table in wanted]

    def code_version(self, table: str, resources: Mapping[str, Any]) -> str:
        """Dagster's code version: it changes with the recipe's code and with the configuration that shapes the values,
        so that the UI shows what another profile or threshold makes stale."""
        recipe = self.recipe[table]
        return f"{recipe.code} {resources[recipe.shaped_by].config_key()}" if recipe.shaped_by else recipe.code


def _refuse_impossible(stage: Stage, by_table: Mapping[str, Stage], external: Set[str]) -> None:
    for recipe in stage.recipes:
        if by_table[recipe.table] is not stage:
            raise ValueError(f"{recipe.table} is made by two stages")
        if recipe.table not in TABLES and stage.stored is None:
            raise ValueError(f"{recipe.table} is no table of resources.lake.tables; its stage must say `stored`")
        columns = partition_columns(recipe.table, stage.scope)
        if ("title_id" in columns, "task" in columns) != (stage.scope == "title", stage.scope == "task"):
            raise ValueError(f"{recipe.table} is partitioned by {', '.join(columns)}, and its scope is {stage.scope}")
        if (
            stage.scope != "title"
            and stage.version is None
            and (stage.scope == "task" or external & set(recipe.inputs))
        ):
            raise ValueError(
                f"the version of {recipe.table} cannot follow from its inputs; its stage must say `version`"
            )
        known = {*by_table, *external, *(PARTS if stage.scope == "title" else ())}
        if unknown := set(recipe.inputs) - known:
            raise ValueError(f"{recipe.table} reads {', '.join(sorted(unknown))}, which no stage makes")


def _in_order(given: Iterable[Stage], by_table: Mapping[str, Stage]) -> Iterator[Stage]:
    """Depth first, so that what belongs together stays together."""
    done: set[str] = set()
    begun: set[str] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if stage.name in done:
            return
        if stage.name in begun:
            raise ValueError(f"{stage.name} is made from itself, by way of others")
        begun.add(stage.name)
        for recipe in stage.recipes:
            for name in recipe.inputs:
                before = by_table.get(ROOT if name in PARTS else name, stage)
                if before is not stage:
                    yield from visit(before)
        done.add(stage.name)
        yield stage

    for stage in given:
        yield from visit(stage)

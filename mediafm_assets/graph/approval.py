"""A change of configuration asks first.

The configuration in force is the last row of the table `approvals`: of each table of titles, a hash of the code and the
resources that shape its values. Where the configured one differs, titles that are stored in the one in force become
stale. If they are more than a stated share of the catalogue, the daemon leaves them as they are, and makes nothing
that is made once for all titles, until somebody approves exactly this configuration. New and changed drops are made
meanwhile, as configured now.

What follows from the graph's own work (a new film, another encoder, other labels) is no change of configuration.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import dagster as dg

from mediafm_assets.graph.materialise import catalogue_of
from mediafm_assets.graph.planned import Plan, Total, plan_of
from mediafm_assets.graph.shown import as_metadata, without_a_run
from mediafm_assets.graph.specs import OWNERS
from mediafm_assets.graph.stage import ROOT, Stages
from mediafm_assets.graph.versions import Catalogue, digest
from resources.lake import polars_schema

APPROVALS = "approvals"
APPROVAL = "approval"
"""The asset by which people approve."""

NOTHING_WAITS = "nothing_waits"
SAMPLED = 500


@dataclass(frozen=True)
class Change:
    """Another configuration than the one in force.

    changed: the tables whose own configuration or code it is.
    made_from: the tables that are made from these.
    titles: those that are stored in the configuration in force, and would be made again.
    of:     how many titles there are.
    """

    catalogue: Catalogue
    drops: Mapping[str, str]
    configuration: str
    changed: Sequence[str]
    made_from: Sequence[str]
    titles: frozenset[str]
    of: int

    def asks(self, ask_above: float) -> bool:
        """Whether it makes more than that share of the catalogue stale."""
        return len(self.titles) > ask_above * self.of

    @property
    def total(self) -> Total:
        """What it takes to make the titles again; of more than SAMPLED, about."""
        return self.plan.total.scaled(len(self.titles) / max(1, self.plan.total.titles))

    @cached_property
    def plan(self) -> Plan:
        """What it takes to make the titles again, or SAMPLED of them: a sensor must not read all texts of thousands."""
        stages = self.catalogue.stages
        wanted = {}
        for title in sorted(self.titles)[:: -(-len(self.titles) // SAMPLED) or 1]:
            tables = set(stages.with_siblings(self.catalogue.stale(title)))
            wanted[title] = [stage for stage in stages.of_scope("title") if tables & set(stage.tables)]
        return plan_of(self.catalogue, self.drops, wanted)

    def sentence(self) -> str:
        """What waits and what it takes, for people."""
        others = f", from which {', '.join(self.made_from)} are made" if self.made_from else ""
        return (
            f"{len(self.titles)} of {self.of} titles would be made again, since the configuration or code of "
            f"{', '.join(self.changed)} has changed{others} ({self.configuration[:12]}). {self.total.sentence()}."
        )


def wanted_configuration(catalogue: Catalogue) -> dict[str, str]:
    """A hash, for each table of titles, of the code and the resource that shape its values now."""
    recipes = (catalogue.stages.recipe[table] for table in catalogue.stages.title_tables)
    return {
        recipe.table: digest(recipe.code, catalogue.space(recipe.shaped_by) if recipe.shaped_by else None)
        for recipe in recipes
    }


def configuration_version(configuration: Mapping[str, str]) -> str:
    return digest(json.dumps(configuration, sort_keys=True))


def change(catalogue: Catalogue, drops: Mapping[str, str]) -> Change | None:
    """How the configured differs from what is in force; None where it does not. drops: fingerprints of the drops."""
    wanted = wanted_configuration(catalogue)
    rows = catalogue.lake.read_whole(APPROVALS).sort("decided_at")
    if len(rows) and rows["configuration"][-1] == configuration_version(wanted):
        return None
    stages = catalogue.stages
    changed: set[str] = set()
    if len(rows):
        in_force = json.loads(rows["tables"][-1])
        changed = {table for table, made in wanted.items() if in_force.get(table, made) != made}
    begin: list[str] = []
    follow: list[str] = []
    for table in stages.title_tables:
        # Without a configuration in force, what waits for a training may be stale for another reason: it is left out.
        if table in changed if len(rows) else table != ROOT and not _reads_whole(catalogue, table):
            begin.append(table)
        elif set(stages.recipe[table].inputs) & {*begin, *follow}:
            follow.append(table)
    registered = catalogue.titles_in(ROOT)
    as_dropped = [
        title for title in registered if drops.get(title, _known(catalogue, title)) == _known(catalogue, title)
    ]
    stale = frozenset(
        title for title in as_dropped if any(_is_stale(catalogue, table, title) for table in [*begin, *follow])
    )
    return Change(catalogue, drops, configuration_version(wanted), begin, follow, stale, len(registered))


def _known(catalogue: Catalogue, title_id: str) -> str:
    """The fingerprint of the drop as it was registered: of a title whose drop is gone."""
    row = catalogue.title(title_id)
    return row["drop_fingerprint"] if row else ""


def _reads_whole(catalogue: Catalogue, table: str) -> bool:
    """Whether the table is made, by way of others, from something that is made once for all titles."""
    by_table = catalogue.stages.by_table
    inputs = [name for name in catalogue.stages.recipe[table].inputs if name in by_table]
    return any(by_table[name].scope != "title" or _reads_whole(catalogue, name) for name in inputs)


def _is_stale(catalogue: Catalogue, table: str, title_id: str) -> bool:
    stored = catalogue.stored(table, title_id)
    return stored is not None and stored != catalogue.made_now(table, title_id)


def approve(catalogue: Catalogue, by: str, why: str, found: Change | None = None) -> None:
    """Put the configuration in force that is configured now. found: what that changes, if anything."""
    import polars as pl

    configuration = wanted_configuration(catalogue)
    total = found.total if found else None
    row: dict[str, Any] = {
        "configuration": configuration_version(configuration),
        "tables": json.dumps(configuration, sort_keys=True),
        "decided_at": datetime.now(UTC),
        "by": by,
        "why": why,
        "titles": len(found.titles) if found else 0,
        "planned_seconds": total.seconds if total and not total.untimed else None,
        "planned_tokens": total.tokens if total else None,
        "planned_dollars": total.dollars if total else None,
    }
    catalogue.lake.append(APPROVALS, pl.DataFrame([row], schema=dict(polars_schema(APPROVALS))))


def settle(catalogue: Catalogue, drops: Mapping[str, str], ask_above: float) -> Change | None:
    """The change that waits for somebody's approval. One that makes fewer titles stale comes into force by itself."""
    found = change(catalogue, drops)
    if found is None or found.asks(ask_above):
        return found
    approve(catalogue, "automation", f"it makes {len(found.titles)} of {found.of} titles stale")
    return None


def waiting_result(found: Change | None) -> dg.AssetCheckResult:
    """The check of the asset `approval`: what waits, why and what it takes."""
    if found is None:
        return dg.AssetCheckResult(
            check_name=NOTHING_WAITS, asset_key=APPROVAL, passed=True, description="nothing waits for an approval"
        )
    total = found.total
    said = {
        "titles": len(found.titles),
        "seconds": total.seconds,
        "gpu_seconds": total.gpu_seconds,
        "bytes": total.bytes,
        "tokens": total.tokens,
        **({} if total.dollars is None else {"dollars": total.dollars}),
        "configuration": found.configuration,
        "remarks": list(found.plan.remarks),
    }
    return dg.AssetCheckResult(
        check_name=NOTHING_WAITS,
        asset_key=APPROVAL,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{found.sentence()} Materialise this asset to let it go on, or set the configuration back.",
        metadata=as_metadata(said),
    )


def waiting_event(found: Change | None) -> dg.AssetCheckEvaluation:
    """The same as an event without a run, which the daemon tells Dagster of."""
    return without_a_run(waiting_result(found))


def approval_asset(stages: Stages) -> dg.AssetsDefinition:
    """The asset by which people approve of the configuration: materialising it is the click."""

    @dg.multi_asset(
        name=APPROVAL,
        specs=[
            dg.AssetSpec(
                APPROVAL,
                group_name="operations",
                owners=OWNERS,
                description="The configuration that titles are made in. A change that makes many titles stale waits: "
                f"the check `{NOTHING_WAITS}` says what it will take; materialise this asset to approve of it.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                NOTHING_WAITS,
                asset=APPROVAL,
                description="No change of configuration waits for somebody's approval. The daemon evaluates it.",
            )
        ],
        required_resource_keys=stages.resource_keys | {"ask_above"},
    )
    def approval(context: dg.AssetExecutionContext) -> Iterator[Any]:
        catalogue = catalogue_of(context, stages)
        catalogue.read_all_titles()
        drops = {drop.title_id: drop.drop_fingerprint for drop in context.resources.landing.look().drops}
        found = settle(catalogue, drops, context.resources.ask_above)
        if found and context.selected_asset_keys:
            approve(catalogue, f"run {context.run.run_id}", "approved in the UI", found)
            yield dg.MaterializeResult(APPROVAL, metadata={"approved": found.sentence(), "titles": len(found.titles)})
        elif context.selected_asset_keys:
            yield dg.MaterializeResult(APPROVAL, metadata={"approved": "nothing waited for an approval", "titles": 0})
        yield waiting_result(found if not context.selected_asset_keys else None)

    return approval

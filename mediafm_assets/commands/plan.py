"""`mediafm plan`: what `mediafm materialize` would do now, how long it takes and what it costs. It changes nothing."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mediafm_assets.graph.planned import Plan, in_words, plan_now, price
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput

if TYPE_CHECKING:
    from argparse import ArgumentParser


def declare(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    plan = commands.add_parser("plan", help="what materialize would do now, how long it takes and what it costs")
    plan.add_argument("--json", action="store_true", help="everything, title by title, as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the plan. Returns the exit status: 0."""
    configured = resources()
    try:
        found = configured["landing"].look()
    except BadInput as error:
        raise ConfigurationError(f"MEDIAFM_LANDING: {error}") from error
    catalogue = Catalogue(configured["lake"], configured, all_stages())
    plan = plan_now(catalogue, {drop.title_id: drop.drop_fingerprint for drop in found.drops})
    if found.problems or found.waiting:
        apart = f"{len(found.problems)} folders of the landing zone cannot be used and {len(found.waiting)} are still"
        plan = replace(plan, remarks=[*plan.remarks, f"{apart} arriving; none is counted."])
    print(json.dumps(as_json(plan)) if options.json else "\n".join(as_lines(plan)))
    return 0


def as_json(plan: Plan) -> dict[str, object]:
    """The totals as a whole, by stage and by title. `null` is what nobody can tell."""
    return {
        "total": vars(plan.total),
        "stages": {name: vars(total) for name, total in plan.by_stage().items()},
        "titles": {name: vars(total) for name, total in plan.by_title().items()},
        "tasks": list(plan.tasks),
        "remarks": list(plan.remarks),
    }


def as_lines(plan: Plan) -> Iterator[str]:
    if not plan.steps and not plan.tasks:
        yield "nothing to do: everything is up to date"
        yield from plan.remarks
        return
    if plan.steps:
        yield f"{'stage':<24}{'titles':>8}{'time':>10}{'GPU h':>8}{'MB':>10}{'tokens':>12}{'dollars':>12}"
    for name, total in plan.by_stage().items():
        time = "?" if total.untimed == total.steps else in_words(total.seconds) + ("+" if total.untimed else "")
        size = "?" if total.unsized == total.steps else f"{total.bytes / 1e6:.3g}"
        tokens = f"{'' if total.exact else '~'}{total.tokens:,}"
        yield (
            f"{name:<24}{total.titles or 'all':>8}{time:>10}{total.gpu_seconds / 3600:>8.3g}{size:>10}"
            f"{tokens:>12}{price(total.dollars) if total.tokens or total.dollars != 0 else '':>12}"
        )
    if plan.tasks:
        yield f"labels of {', '.join(plan.tasks)} are read again"
    yield plan.total.sentence()
    yield from plan.remarks

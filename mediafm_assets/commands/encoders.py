"""`mediafm encoders`: which encoders there are, how they compare, and which one is in use."""

import argparse
import json
import sys

import dagster as dg

from mediafm_assets.graph import promotions
from mediafm_assets.graph.promotions import CONTEXT, read_titles, titles_without
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from resources.errors import BadInput, one_line, printable

LONGEST_REASON = 500
"""Characters of a reason, and of a name."""


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    encoders = commands.add_parser("encoders", help="list encoders, see why one was held back, and choose another")
    actions = encoders.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="every encoder, with what was decided on it (the default)")
    compare = actions.add_parser("compare", help="what the last decision on an encoder went by, task by task")
    embed = actions.add_parser("embed", help="read every title with an encoder, without putting it to use")
    promote = actions.add_parser("promote", help="put an encoder to use that has read every title; an older one, too")
    for action in (compare, embed, promote):
        action.add_argument("version", metavar="VERSION", help="an encoder's version, as `mediafm encoders` lists it")
    promote.add_argument("--by", required=True, metavar="NAME", help="who decides this")
    promote.add_argument("--why", required=True, metavar="TEXT", help="the reason, in a sentence")
    actions.add_parser("retire", help="let go now what old encoders made, as maintenance does weekly")


def run(options: argparse.Namespace) -> int:
    """Run the command. Returns 0, or 1 with a sentence for what cannot be done; nothing has changed then."""
    from mediafm_assets.commands.headless import driver

    with driver() as work:
        catalogue = work.catalogue()
        try:
            match options.action:
                case "compare":
                    print(compared(catalogue, options.version))
                case "embed":
                    return embed(catalogue, options.version)
                case "promote":
                    promote(work.instance, catalogue, options.version, said(options.by), said(options.why))
                    print(f"{options.version} is in use; `mediafm materialize` makes what is made from it")
                case "retire":
                    print(retired(catalogue))
                case _:
                    print(as_list(catalogue))
        except BadInput as error:
            print(f"mediafm: {error}", file=sys.stderr)
            return 1
    return 0


def said(text: str) -> str:
    """A name or a reason that a person gave, as one line. Raises BadInput for an empty or a very long one."""
    if not 0 < len(text.strip()) <= LONGEST_REASON:
        raise BadInput(
            f"--by and --why take 1 to {LONGEST_REASON} characters; the decision stands in the table for good"
        )
    return one_line(text.strip(), LONGEST_REASON)


def known(catalogue: Catalogue, encoder_version: str) -> str:
    """The encoder's version, if it is one that the configured spaces can be read with. Raises BadInput."""
    if encoder_version not in catalogue.encoders:
        raise BadInput(f"there is no encoder {printable(encoder_version, 60)}; `mediafm encoders` lists them")
    if catalogue.encoders[encoder_version] != catalogue.encoder_space():
        raise BadInput(
            f"the encoder {encoder_version} reads other embedding spaces than are configured: it reads "
            f"{catalogue.encoders[encoder_version]}, configured is {catalogue.encoder_space()}; configure its own first"
        )
    return encoder_version


def as_list(catalogue: Catalogue) -> str:
    """A line for each encoder, the newest first."""
    if not catalogue.encoders:
        return "no encoder yet; `mediafm materialize` trains one when titles are there"
    decided = {row["encoder_version"]: row for row in catalogue.promotions}
    titles: dict[str, int] = {}
    for version, _ in catalogue.stored_in(CONTEXT):
        titles[version] = titles.get(version, 0) + 1
    lines = []
    for version, space in reversed([*catalogue.encoders.items()]):
        row = decided.get(version)
        state = "in use" if version == catalogue.promoted else "not decided on" if row is None else "held back"
        if row and row["promoted"] and version != catalogue.promoted:
            state = "was in use"
        why = f"{row['decided_at']:%Y-%m-%d %H:%M} by {row['by']}: {row['why']}" if row else ""
        other = "" if space == catalogue.encoder_space() else " (other embedding spaces)"
        lines.append(f"{version}  {state:<14}  {titles.get(version, 0):>6} titles{other}  {why}".rstrip())
    return "\n".join(lines)


def compared(catalogue: Catalogue, encoder_version: str) -> str:
    """The figures of the last decision on the encoder that went by any."""
    known(catalogue, encoder_version)
    rows = [row for row in catalogue.promotions if row["encoder_version"] == encoder_version]
    if not rows:
        raise BadInput(f"the encoder {encoder_version} has not been decided on; materialise {PROMOTIONS}")
    row = next((row for row in reversed(rows) if json.loads(row["comparison"])), rows[-1])
    lines = [f"{encoder_version} against {row['previous'] or 'none'}, by {row['by']}: {row['why']}"]
    for task in json.loads(row["comparison"]):
        lines.append(
            f"{task['task']:<16}{task['in_use']:.3f} -> {task['candidate']:.3f}  {task['difference']:+.3f} "
            f"({task['low']:+.3f} to {task['high']:+.3f}){'  worse' if task['regressed'] else ''}  {task['titles']} "
            f"titles, {task['metric']}"
        )
    return "\n".join(lines)


def embed(catalogue: Catalogue, encoder_version: str) -> int:
    """Read with the encoder whatever title it can read and has not read. Returns 1 when a title failed."""
    other = catalogue.with_encoder(known(catalogue, encoder_version))
    titles = sorted(other.titles_in("fused_embeddings").keys() & other.titles_in("global_embeddings").keys())
    made, failed = read_titles(other, titles, print)
    print(f"{made} titles read with {encoder_version}, {failed} failed")
    return 1 if failed else 0


def promote(instance: dg.DagsterInstance, catalogue: Catalogue, encoder_version: str, by: str, why: str) -> None:
    """Put an encoder to use, in one commit, and tell Dagster. Raises BadInput where that would leave titles without
    contextual embeddings; nothing has changed then."""
    other = catalogue.with_encoder(known(catalogue, encoder_version))
    if missing := titles_without(other):
        raise BadInput(
            f"{encoder_version} has not read {len(missing)} titles as they are now "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); run `mediafm encoders embed "
            f"{encoder_version}` first"
        )
    row = promotions.decision(catalogue, encoder_version, promoted=True, by=by, why=why)
    catalogue.lake.append(PROMOTIONS, row)
    events = [dg.AssetMaterialization(PROMOTIONS, tags={"dagster/data_version": encoder_version})]
    for event in events + promotions.news_of_titles(instance, other):
        instance.report_runless_asset_event(event)


def retired(catalogue: Catalogue) -> str:
    """Take out what old encoders made, and say what that frees."""
    freed = promotions.retire(catalogue.lake, catalogue.promotions, catalogue.resources["gate"].keep)
    lines = [f"{version}: {size / 1e6:.1f} MB" for version, size in sorted(freed.items())]
    return "\n".join([*lines, f"{len(freed)} encoders retired; maintenance frees the disk after a week"])

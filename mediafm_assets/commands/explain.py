"""`mediafm explain`: what a row was made from, table by table, down to the hashes of the film's bytes."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from mediafm_assets.graph.stage import ROOT, Stages
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue, digest
from mediafm_assets.pages.timeline import clock
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput, one_line, printable
from resources.lake import TABLES, Damaged, DeltaLake, PartitionMissing

if TYPE_CHECKING:
    import polars as pl

INPUT = "dagster/input_data_version/"
EVENTS = 200
"""Of a partition, the newest that are looked through for the run that made a version."""
SAYING = ("detector", "encoder", "space", "track", "text", "probe_version", "head_version")
"""Columns that say by what, or from which words, a row was made."""


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    explain = commands.add_parser(
        "explain", help="from which film, cut, frames, cues, weights, code and run a row came"
    )
    explain.add_argument("row", metavar="TITLE[:SHOT]", help="a title id, and the number of one of its shots, from 0")
    explain.add_argument("table", metavar="TABLE", help="a table that is made title by title")
    explain.add_argument(
        "--encoder", metavar="VERSION", help="of this encoder, in use or retired, in tables by encoder"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command. Returns 0, 1 for a row that the lake does not have, 2 for a wrong question."""
    configured, stages = resources(), all_stages()
    if options.table not in stages.title_tables or options.table not in TABLES:
        known = ", ".join(table for table in stages.title_tables if table in TABLES)
        print(f"mediafm: {printable(options.table)} is no table that is made title by title: {known}", file=sys.stderr)
        return 2
    title_id, colon, number = options.row.partition(":")
    if colon and not (number.isascii() and number.isdigit() and len(number) < 10):
        print(f"mediafm: {printable(number)} is no shot: a shot is a number from 0", file=sys.stderr)
        return 2
    catalogue = Catalogue(configured["lake"], configured, stages)
    with dg.DagsterInstance.get() as instance:
        asked = Question(catalogue, instance, title_id, int(number) if colon else None, options.encoder)
        try:
            lines = list(asked.answer(options.table))
        except (BadInput, Damaged) as error:
            print(f"mediafm: {one_line(error)}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


@dataclass
class Question:
    """What is asked. shot: None for the whole title. encoder: None for the one in use."""

    catalogue: Catalogue
    instance: dg.DagsterInstance
    title_id: str
    shot: int | None
    encoder: str | None

    @property
    def lake(self) -> DeltaLake:
        return self.catalogue.lake

    @property
    def stages(self) -> Stages:
        return self.catalogue.stages

    def answer(self, table: str) -> Iterator[str]:
        """The table's line, then those of what it was made from, each once. Raises BadInput for what is not there."""
        if (self.title_id,) not in self.catalogue.stored_in(ROOT):
            raise BadInput(f"there is no title {printable(self.title_id)} in the lake; `mediafm status` looks for it")
        done: set[str] = set()
        todo: list[tuple[str, str | None]] = [(table, None)]
        while todo:
            name, version = todo.pop(0)
            if name in done:
                continue
            done.add(name)
            if name in self.stages.title_tables and name in TABLES:
                lines, inputs = self.of_table(name, version, asked=name == table)
                todo += inputs
                yield from lines
            elif version:
                yield f"{name}: version {version}"
                if name == PROMOTIONS:
                    yield from self.of_encoder(version)

    def of_table(self, table: str, version: str | None, asked: bool) -> tuple[list[str], list[tuple[str, str | None]]]:
        """Lines on the title's rows of the table in that version, and what they were made from with its version."""
        partition = self.catalogue.partition(table, self.title_id)
        if self.encoder is not None and "encoder_version" in partition:
            partition["encoder_version"] = self.encoder
        if "" in partition.values():
            raise BadInput("no encoder is in use yet; --encoder names one that `mediafm encoders` lists")
        try:
            rows = self.lake.read_as_made(table, partition, version)
        except PartitionMissing as error:
            if asked:
                raise BadInput(error) from error
            return [f"{table}: version {version}, which the lake has no more"], []
        made = rows["data_version"][0]
        tags, run_id, when = self.event(table, made)
        wanted = self.catalogue.made_now(table, self.title_id) if self.encoder is None else None
        lines = [f"{table}: version {made}" + (", stale by now" if wanted not in (None, made) else "")]
        if "encoder_version" in partition:
            lines.append(f"  encoder {partition['encoder_version']}")
        code = tags.get("dagster/code_version")
        lines.append(
            f"  run {run_id or 'not known to this Dagster instance'}{when}" + (f", code {code}" if code else "")
        )
        lines += [f"  {line}" for line in self.facts(table, rows)]
        inputs = {tag.removeprefix(INPUT): made for tag, made in tags.items() if tag.startswith(INPUT)}
        if not inputs:  # nobody recorded them; then as they are
            inputs = dict.fromkeys(self.stages.dependencies(table), "")
        found = [(name, inputs[name] or None) for name in self.stages.dependencies(table) if name in inputs]
        if self.encoder is not None and PROMOTIONS in inputs:
            found = [(name, self.encoder if name == PROMOTIONS else made) for name, made in found]
        return lines, found

    def event(self, table: str, version: str) -> tuple[dict[str, str], str, str]:
        """The tags of the event that told Dagster of the version, its run and when that was."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(table), asset_partitions=[self.title_id])
        found: tuple[dict[str, str], str, str] = ({}, "", "")
        for record in self.instance.fetch_materializations(wanted, limit=EVENTS).records:
            event = record.asset_materialization
            if event and event.tags and event.tags.get("dagster/data_version") == version:
                when = f" on {_utc(record.timestamp)}"
                found = dict(event.tags), record.run_id, when
                up_to_date = event.metadata.get("up_to_date")
                if up_to_date is None or not up_to_date.value:  # the run that made it, not one that found it fresh
                    return found
        return found

    def facts(self, table: str, rows: "pl.DataFrame") -> Iterator[str]:
        """What the rows themselves say of where they come from."""
        import polars as pl

        if table == ROOT:
            row = rows.row(0, named=True)
            yield f"film {printable(row['media_uri'].rpartition('/')[2])}: sha256 {row['media_sha256']}"
            for track in row["text_tracks"]:
                yield f"{printable(track['name'])}: sha256 {track['sha256']}"
            return
        by_shot = "shot_index" in rows.columns
        if self.shot is not None and by_shot:
            last = rows["shot_index"].to_list()[-1]
            rows = rows.filter(pl.col("shot_index") == self.shot)
            if rows.is_empty():
                raise BadInput(f"{table} of {self.title_id} has no shot {self.shot}; its shots are 0 to {last}")
        elif by_shot:
            yield f"{rows['shot_index'].n_unique()} shots"
        if self.shot is not None and by_shot:
            row = rows.row(0, named=True)
            if "start_s" in row:
                yield f"shot {self.shot}: {clock(row['start_s'], True)} to {clock(row['end_s'], True)}"
            if row.get("start_frame") is not None:
                yield f"frames {row['start_frame']} to {row['end_frame'] - 1}"
            if "frame_index" in row:
                seen = rows.drop_nulls("jpeg")["frame_index"].to_list()
                yield f"frames {', '.join(map(str, seen))}" if seen else "no frames: the title has no picture"
        for name in SAYING:
            if name in rows.columns and rows[name].n_unique() == 1 and rows[name][0]:
                yield f"{name.replace('_', ' ')}: {one_line(rows[name][0], 400)}"

    def of_encoder(self, version: str) -> Iterator[str]:
        """The encoder's weights, by their hashes together."""
        try:
            rows = self.lake.read_as_made("encoder", {"encoder_version": version})
        except PartitionMissing:
            yield f"encoder: {version}, whose weights the lake has no more"
            return
        yield f"encoder: {version}, {len(rows)} tensors, hash of their sha256s {digest(*rows['sha256'])}"
        yield f"  trained on: {one_line(rows['space'][0], 400)}"


def _utc(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"

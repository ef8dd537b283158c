"""The books: what each stage took for each title, as the run itself measured it, in the table `costs`.

A run's step writes its rows in one commit when it ends, and while it is long, every minute; each time it replaces its
own rows only, so that nothing is booked twice, and a process that is killed loses a minute of its books at most. What
failed is booked too: it was paid for.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mediafm_assets.graph.forecast import COSTS, Expected, code_of
from mediafm_assets.graph.stage import Stage
from mediafm_assets.graph.versions import Catalogue, digest
from resources.lake import TABLES, typed_rows
from resources.machine import gpu_allocations, gpus, machine

BOOKED_EVERY_S = 60.0


@dataclass
class Books:
    """What one step of a run took so far.

    notes:    what the stage in hand tells the UI, of which come tokens, dollars and texts that were cached.
    expected: what the stages were expected to take, by stage and title.
    """

    catalogue: Catalogue
    run_id: str
    step: str
    notes: Mapping[str, Any]
    expected: dict[tuple[str, str | None], Expected] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    booked_at: float = field(default_factory=time.monotonic)

    def expect(self, steps: Iterable[Expected]) -> None:
        """Take note of what is planned, before it is done."""
        self.expected |= {(step.stage, step.title_id): step for step in steps}

    @contextmanager
    def measured(
        self, stage: Stage, title_id: str | None, partition_of: Callable[[str], Mapping[str, str]]
    ) -> Iterator[None]:
        """Book what is done within. title_id: None for what is made once for all titles. partition_of: of a table, the
        partition that is written."""
        started, allocated, made = time.monotonic(), gpu_allocations(), False
        try:
            yield
            made = True
        finally:
            seconds = time.monotonic() - started
            on_gpu = gpu_allocations() > allocated or (stage.pool == "gpu" and bool(gpus()))
            tables = [table for table in stage.tables if made and table in TABLES]
            lake, planned = self.catalogue.lake, self.expected.get((stage.name, title_id))
            self.rows.append(
                {
                    "title_id": title_id,
                    "stage": stage.name,
                    "made": made,
                    "seconds": seconds,
                    "gpu_seconds": seconds if on_gpu else 0.0,
                    "film_s": film_seconds(self.catalogue, title_id),
                    "bytes": sum(lake.partition_bytes(table, partition_of(table)) for table in tables),
                    **spent(self.notes),
                    "planned_seconds": planned and planned.seconds,
                    "planned_tokens": planned and planned.tokens,
                    "planned_dollars": planned and planned.dollars,
                    "machine": machine(),
                    "code": code_of(stage, self.catalogue),
                    "materialised_at": datetime.now(UTC),
                }
            )

    def write_now_and_then(self) -> None:
        """Write the books, unless that was done a short while ago."""
        if time.monotonic() - self.booked_at > BOOKED_EVERY_S:
            self.write()

    def write(self) -> None:
        """Put everything that was measured so far into the table, in one commit."""
        if self.rows:
            version = digest(self.run_id, json.dumps(self.rows, default=str))
            partition = {"run_id": self.run_id, "step": self.step}
            self.catalogue.lake.write(COSTS, partition, typed_rows(COSTS, self.rows), version)
        self.booked_at = time.monotonic()


def spent(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens, dollars and the share of texts that were paid for before, from what a stage noted of a paid service."""
    if "tokens" not in notes:
        return {"tokens": 0, "dollars": 0.0, "cached_share": None}
    texts = notes["from_cache"] + notes["sent"]
    cached = notes["from_cache"] / texts if texts else None
    return {"tokens": notes["tokens"], "dollars": notes["cost_usd"], "cached_share": cached}


def film_seconds(catalogue: Catalogue, title_id: str | None) -> float | None:
    """How long the film is; without a title, all films together. None while that is not known, and of a title that is
    live, of whose film only the end is new."""
    if title_id is None:
        return float(catalogue.lake.read_whole("titles")["duration_s"].sum())
    row = catalogue.title(title_id)
    return row["duration_s"] if row and not row["live"] else None

"""The lake: Delta tables, declared once, written whole or not at all."""

from resources.lake.completion import ContractError
from resources.lake.contracts import checks, violations
from resources.lake.delta import DeltaLake, PartitionMissing
from resources.lake.lineage import column_lineage
from resources.lake.reading import Damaged
from resources.lake.schemas import arrow_schema, column_schema, polars_schema, typed_rows, vectors
from resources.lake.tables import TABLES

__all__ = [
    "TABLES",
    "ContractError",
    "Damaged",
    "DeltaLake",
    "PartitionMissing",
    "arrow_schema",
    "checks",
    "column_lineage",
    "column_schema",
    "polars_schema",
    "typed_rows",
    "vectors",
    "violations",
]

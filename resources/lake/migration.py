"""A table whose declared columns are not those that it was created with.

Columns may come, nullable or with a default, and go. The table's Delta schema then changes in one commit, and no data
file is written: in older files a column that came is null, and in newer ones a column that went. The latter stays in
the Delta schema, nullable: Delta drops a column only with column mapping, which not every reader of the lake knows. So
processes of the older and the newer declarations can work on one lake.
"""

from typing import TYPE_CHECKING

from resources.lake.log import DeltaLog
from resources.lake.schemas import arrow_schema
from resources.lake.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa


class OtherTable(Exception):
    """The table cannot get the declared columns. The message goes on after the table's name."""


def changed_fields(table: str, log: DeltaLog) -> "list[pa.Field]":
    """The columns that the table lacks or does not allow to be null, though by now they have to be; all nullable.

    Raises OtherTable for a declaration that needs its files written anew.
    """
    (found, partitioned_by), declared = log.created_with(), arrow_schema(table)
    if found is None:
        return []
    if partitioned_by != TABLES[table].partition_by:
        raise OtherTable(
            f"is partitioned by {', '.join(partitioned_by)} and not, as declared, by "
            f"{', '.join(TABLES[table].partition_by)}. {_MAKE_ANEW}"
        )
    of_table = {field.name: field for field in found}
    changed = []
    for field in declared:
        there = of_table.pop(field.name, None)
        if there is None and not field.nullable:
            raise OtherTable(
                f"has no column {field.name}, which is declared neither nullable nor with a default; declare it so. "
                f"{_OR_MAKE_ANEW}"
            )
        if there is not None and there.type != field.type:
            raise OtherTable(
                f"holds {field.name} as {there.type}, and not as {field.type}, as declared; give the column another "
                f"name. {_OR_MAKE_ANEW}"
            )
        if there is None:
            changed.append(field)
        elif field.nullable and not there.nullable:
            changed.append(there.with_nullable(True))  # as it was described: Delta takes no other description here
    gone = [field.with_nullable(True) for field in of_table.values() if not field.nullable]
    return changed + gone


_MAKE_ANEW = "Move the table's folder out of the lake: `mediafm materialize` makes it anew."
_OR_MAKE_ANEW = "Or move the table's folder out of the lake: `mediafm materialize` makes it anew."

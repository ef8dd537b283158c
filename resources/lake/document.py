"""docs/tables.md, from the declarations: `python -m resources.lake.document > docs/tables.md`."""

from resources.lake.tables import TABLES


def as_markdown() -> str:
    """docs/tables.md."""
    lines = [
        "# Tables",
        "",
        "Delta tables in the lake, one folder each. Generated: `python -m resources.lake.document > docs/tables.md`.",
        "",
        "Vectors are lists of float32; those with different `encoder` or `space` values must not be compared.",
        "Times are seconds from the start of the media. `data_version` is the same in all rows of a partition.",
    ]
    for table in TABLES.values():
        key = ", ".join(f"`{name}`" for name in (*table.partition_by, *table.key))
        partitions = ", ".join(f"`{name}`" for name in table.partition_by)
        replaced = any(column.name == "data_version" for column in table.columns)
        whole = "it is replaced whole" if replaced else "rows are only added"
        divided = f"Partitioned by {partitions}." if partitions else f"Not partitioned; {whole}."
        lines += [
            "",
            f"## {table.name}",
            "",
            table.description,
            "",
            f"{divided} A row is named by {key}.",
        ]
        lines += ["", "| column | type | |", "|---|---|---|"]
        for column in table.columns:
            kind = f"{column.type}, {column.length} numbers" if column.length else column.type
            nullable = ", nullable" if column.nullable else ""
            default = "" if column.default is None else f", {column.default} where null"
            lines.append(f"| `{column.name}` | {kind}{nullable}{default} | {column.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")

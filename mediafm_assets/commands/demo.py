"""`mediafm demo`: a small rendered catalogue through the whole graph, and what came of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mediafm_assets.commands import headless
from mediafm_assets.commands.progress import progress_bar
from mediafm_assets.defs.evaluation import as_markdown
from mediafm_assets.graph.materialise import preflight
from mediafm_assets.settings import ConfigurationError, resources
from resources.lake import TABLES, DeltaLake


def demo() -> int:
    """Render the demo catalogue into the landing zone and load the encoders meanwhile, materialise everything, say what
    there is. Returns the exit status of the materialisation."""
    from resources.demo import render_catalogue

    configured = resources()
    landing = configured["landing"].uri
    if "://" in landing:
        raise ConfigurationError("the demo renders into a folder; unset MEDIAFM_LANDING or make it a folder")
    with progress_bar(0, "rendering films") as bar, ThreadPoolExecutor(1) as beside:

        def show(done: int, total: int) -> None:
            if not done:  # other processes render, and nothing is there that could be up to date
                beside.submit(preflight, configured)
            bar.total = total
            bar.update(done - bar.n)

        render_catalogue(Path(landing), progress=show)
    status = headless.materialize([], None)
    print(summary(configured["lake"]))
    return status


def summary(lake: DeltaLake) -> str:
    """Partitions and rows per table, the probes' results, where the lake is, and what to try next."""
    import polars as pl

    lines = ["", f"{'table':<24}{'partitions':>11}{'rows':>9}"]
    for table in TABLES:
        rows = lake.scan(table).select(pl.len()).collect().item()
        lines.append(f"{table:<24}{len(lake.data_versions(table)):>11}{rows:>9}")
    probed = lake.data_versions("probe_metrics")
    promoted = lake.read_whole("encoder_promotions").filter("promoted").sort("decided_at")["encoder_version"]
    if len(promoted) and (promoted[-1],) in probed:
        metrics = lake.read("probe_metrics", encoder_version=promoted[-1])
        lines += ["", f"Linear probes on the encoder {promoted[-1]}:", as_markdown(metrics)]
        lines.append("These films are drawings: the scores show that the machinery works, nothing more.")
    lines += [
        "",
        f"The lake is in {lake.uri}. Next:",
        "  .venv/bin/mediafm serve                 search, watch and look through the titles: http://localhost:8000",
        "  make ui                                 see the graph, its runs and its tables in Dagster",
        "  .venv/bin/mediafm land FOLDER           land a film, title.json last; the UI's sensor takes it from there",
        "  .venv/bin/mediafm materialize           the same without the UI",
        "  .venv/bin/python -c \"import polars as pl; print(pl.scan_delta('data/lake/shots').collect())\"",
    ]
    return "\n".join(lines)

"""The encoder, trained over all titles, and what it makes of each title's shots."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.shown import as_metadata, picture
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.run_folder import RunFolder
from resources.errors import BadInput
from resources.lake import DeltaLake, vectors

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from model.config import Config
    from model.encoder import Encoder
    from model.store import StoredTitle


GROWTH_BEFORE_TRAINING = 0.1
"""A catalogue that has grown by this share since the last training is trained on again."""


def training_due(catalogue: Catalogue) -> bool:
    """Whether to train now: without an encoder for the configured space, or when a tenth is new."""
    titles = len(catalogue.stored_in("fused_embeddings"))
    if catalogue.newest_encoder is None:
        return titles > 0
    return titles >= trained_on(catalogue.lake, catalogue.newest_encoder)["titles"] * (1 + GROWTH_BEFORE_TRAINING)


def lake_at_present(catalogue: Catalogue) -> DeltaLake:
    """The tables that a training reads, as they are now: what is written meanwhile is for the next one."""
    return catalogue.lake.at_present("titles", "fused_embeddings", "global_embeddings")


def training_config(catalogue: Catalogue) -> "Config":
    config: Config = catalogue.resources["encoder_config"].config()
    return config


def training_version(catalogue: Catalogue) -> str:
    """Of an encoder trained now: of its configuration, and what it is trained on. Raises BadInput without titles."""
    titles = catalogue.once(training_titles)
    code = catalogue.stages.recipe["encoder"].code
    return digest(code, training_config(catalogue).identity(), *(f"{title} {made}" for title, made in titles.items()))


def training_titles(catalogue: Catalogue) -> dict[str, str]:
    """The titles to train on, each with the version of its vectors. Titles without fused vectors are left out.

    Raises BadInput when some titles' vectors lie in another embedding space than the one now configured.
    """
    lake = catalogue.once(lake_at_present)
    fused, of_titles = (lake.data_versions(table) for table in ("fused_embeddings", "global_embeddings"))
    both = sorted(title for (title,) in fused.keys() & of_titles.keys())
    if not both:
        raise BadInput("no title has fused and global embeddings yet; materialise fused_embeddings first")
    elsewhere = set(both) & in_another_space(catalogue, lake)
    if elsewhere:
        raise BadInput(
            "these titles' embeddings lie in another space than the one now configured; rematerialise them before "
            f"training: {', '.join(sorted(elsewhere))}"
        )
    # The series decides with whom a title is held out.
    series = dict(lake.scan("titles").select("title_id", "series_id").collect().rows())
    return {title: digest(fused[(title,)], of_titles[(title,)], series[title]) for title in both}


def in_another_space(catalogue: Catalogue, lake: DeltaLake) -> set[str]:
    """The titles whose fused vectors or title embeddings no encoder of the configured spaces can read."""
    import polars as pl

    spaces = lake.scan("fused_embeddings").select("title_id", "space").unique().collect()
    encoders = lake.scan("global_embeddings").select("title_id", "encoder").collect()
    return set(spaces.filter(pl.col("space") != catalogue.fused_space())["title_id"]) | set(
        encoders.filter(pl.col("encoder") != catalogue.space("title_encoder"))["title_id"]
    )


def stored_titles(
    lake: DeltaLake, versions: Mapping[str, str], wanted: Iterable[str], space: str
) -> "Iterator[StoredTitle]":
    """What the trainer is given of each wanted title."""
    from model.store import StoredTitle

    for title_id in wanted:
        rows = lake.read("fused_embeddings", title_id=title_id)
        yield StoredTitle(
            title_id=title_id,
            series_id=lake.read("titles", title_id=title_id)["series_id"][0],
            version=versions[title_id],
            space=space,
            vectors=vectors(rows),
            global_embedding=lake.read("global_embeddings", title_id=title_id)["embedding"][0].to_numpy(),
        )


def update_store(path: Path, lake: DeltaLake, titles: Mapping[str, str], space: str) -> None:
    """Make the trainer's memory-mapped vectors hold exactly these titles; only those that it lacks are copied."""
    from model.store import Store

    keep = Store.versions(path) & set(titles.items())
    missing = sorted(titles.keys() - {title for title, _ in keep})
    source = f"fused_embeddings version {lake.table_version('fused_embeddings')}"
    Store.update(path, stored_titles(lake, titles, missing, space), keep=keep, source=source)


def encoder_rows(run: Path, space: str, about: Mapping[str, Any]) -> "pl.DataFrame":
    """The encoder that a training run exported, as rows of the table `encoder`, a tensor each."""
    import polars as pl

    from model.checkpoint import tensors
    from model.inference import load

    columns = ("name", "dtype", "shape", "data", "sha256")
    config, metrics = (json.loads((run / name).read_text()) for name in ("config.json", "metrics.json"))
    return pl.DataFrame(list(tensors(load(run / "export"))), schema=columns, orient="row").with_columns(
        pl.lit(space).alias("space"),
        pl.lit(json.dumps({"model": config, **about})).alias("config"),
        pl.lit(json.dumps(metrics)).alias("metrics"),
        pl.lit(datetime.now(UTC)).alias("created_at"),
    )


def figures(run: Path) -> dict[str, Any]:
    """A finished training's figures and learning curve, as the UI shows and plots them."""
    from model.reports import skill_and_interval
    from resources.pictures import training_chart

    metrics = json.loads((run / "metrics.json").read_text())
    shown = {name: metrics[name] for name in ("steps", "shots", "shots_per_s", "parameters", "precision")}
    if metrics["warning"]:
        shown["warning"] = metrics["warning"]
    if validation := metrics["validation"]:
        names = ("loss", "cosine", "skill", "best_trivial", "effective_rank", "blend")
        shown |= {name: validation[name] for name in names if name in validation}
        skills = validation["skills"]
        shown |= {f"skill_{part}": of["skill"] for part, of in skills.items() if part != "all"}
        parts = list(validation["cosines"]["encoder"])
        table = [f"| cosine at masked shots | {' | '.join(parts)} |", "| --- |" + " --- |" * len(parts)]
        for predictor, cosines in validation["cosines"].items():
            table.append(f"| {predictor} | {' | '.join(f'{cosines[part]:.4f}' for part in parts)} |")
        skills = " | ".join(skill_and_interval(skills[part]) for part in parts)
        table.append(f"| skill over the best without a model | {skills} |")
        shown["validation"] = dg.MetadataValue.md("\n".join(table))
    lines = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    chart = training_chart(lines, validation["skills"] if validation else {})
    shown["learning_curve"] = picture(chart, "loss by step, and skill by modality with its interval")
    return shown


def trained_on(lake: DeltaLake, encoder_version: str) -> dict[str, Any]:
    """What that encoder was trained on: number of titles, Delta versions of the tables read, whether from an earlier
    encoder's weights."""
    import polars as pl

    rows = lake.scan("encoder").filter(pl.col("encoder_version") == encoder_version)
    about: dict[str, Any] = json.loads(rows.select("config").head(1).collect().item())
    return about


def read_encoder(lake: DeltaLake, encoder_version: str) -> "Encoder":
    """The encoder of that version. Raises ValueError when its tensors do not fit its configuration or checksums."""
    return _read_encoder(lake.uri, tuple(lake.storage_options.items()), encoder_version)


@lru_cache(maxsize=1)
def _read_encoder(lake_uri: str, storage_options: tuple[tuple[str, str], ...], encoder_version: str) -> "Encoder":
    from model.config import Config
    from model.inference import load

    lake = DeltaLake(uri=lake_uri, storage_options=dict(storage_options))
    rows = lake.read("encoder", encoder_version=encoder_version)
    config = Config.from_json(json.dumps(json.loads(rows["config"][0])["model"]))
    return load(rows.select("name", "dtype", "shape", "data", "sha256").rows(), config)


def contextual_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Read every shot in the context of its title with the encoder in use."""
    import numpy as np
    import polars as pl

    from model.inference import published
    from resources.pictures import curve_and_map

    trained = read_encoder(run.lake, run.catalogue.encoder_version or "")
    fused = run.read("fused_embeddings", title_id)
    title = run.read("global_embeddings", title_id)["embedding"][0].to_numpy()
    made = published(trained, vectors(fused), title)
    rows = fused.select("shot_index", "start_s", "end_s")
    run.draw(
        "neighbours_and_map",
        "left, how like each shot is to the next; right, the shots in two dimensions, darker ones first",
        lambda: curve_and_map(made["embedding"], np.arange(len(fused))),
    )
    yield "contextual_embeddings", rows.with_columns(pl.Series(name, list(rows_of)) for name, rows_of in made.items())


def encoder(run: CatalogueRun) -> "Rows":
    """Train the encoder by masked shot modelling on all titles' fused vectors."""
    import polars as pl

    catalogue, job = run.catalogue, run.resources.training
    titles, present = catalogue.once(training_titles), catalogue.once(lake_at_present)
    config, space = training_config(catalogue), catalogue.encoder_space()
    update_store(job.store, present, titles, space)
    folder, trained, in_use = job.run_folder(run.version), catalogue.stored_in("encoder"), catalogue.encoder_version
    earlier = job.run_folder(trained[(in_use,)]) if in_use else None
    RunFolder(folder).begin(config, titles, RunFolder(earlier) if earlier else None)
    job.train(run.context, folder)

    started = datetime.fromtimestamp((folder / "config.json").stat().st_mtime, UTC)
    run.partition = {"encoder_version": f"{started:%Y%m%dT%H%M%SZ}-{run.version[:8]}"}
    about: dict[str, Any] = {
        "titles": len(titles),
        "delta_versions": present.pinned,
        "warm_start": (folder / "init").exists(),
    }
    run.notes |= about
    yield "encoder_training", pl.read_ndjson(folder / "training.jsonl")
    run.notes |= figures(folder)
    yield "encoder", encoder_rows(folder, space, about)
    # What this one began with, the next one begins with too, if this one is held back.
    others = (job.run_folder(version) for version in trained.values() if version != run.version)
    for needless in (folder / "checkpoints", *(other for other in others if other != earlier)):
        shutil.rmtree(needless, ignore_errors=True)


def has_learnt_context(catalogue: Catalogue) -> dg.AssetCheckResult:
    """On titles that were held out, the encoder predicts masked shots better than any predictor without a model."""
    rows = catalogue.lake.read("encoder", encoder_version=catalogue.newest_encoder or "")
    metrics = json.loads(rows["metrics"][0])
    warning: str | None = metrics["warning"]
    skill = (metrics.get("validation") or {}).get("skill")
    return dg.AssetCheckResult(
        passed=warning is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=warning or (skill and f"skill {skill:.3f} over the best predictor without a model"),
        metadata={} if skill is None else as_metadata({"skill": skill}),
    )


TRAINED_ON = ("fused_embeddings", "global_embeddings", "titles")

STAGES = (
    Stage(
        (Recipe("encoder", TRAINED_ON, "encoder_config"), Recipe("encoder_training", TRAINED_ON, "encoder_config")),
        "model",
        encoder,
        scope="catalogue",
        kinds=frozenset({"pytorch"}),
        version=training_version,
        due=training_due,
        uses=frozenset({"training"}),
        pool="gpu",
        checks=(has_learnt_context,),
    ),
    Stage(
        (Recipe("contextual_embeddings", ("fused_embeddings", "global_embeddings", "encoder_promotions"), code="2"),),
        "model",
        contextual_embeddings,
        kinds=frozenset({"pytorch"}),
    ),
)

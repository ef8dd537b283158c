"""The encoder, trained over all titles, and what it makes of each title's shots."""

import base64
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph import TITLE_RESOURCES, table_spec
from mediafm_assets.materialise import Stage, TitleRun, catalogue_of
from mediafm_assets.versions import ENCODER_CODE, Catalogue, digest
from resources.errors import BadInput
from resources.lake import DeltaLake, vectors
from resources.training import TrainingJob, begin_run, learning_curve_png

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.materialise import Rows
    from model.config import Config
    from model.encoder import Encoder
    from model.store import StoredTitle


class EncoderConfig(dg.ConfigurableResource[Any]):
    """The encoder's size and training recipe.

    preset:    "embedded" (4 layers, 256 wide) or "reference" (12 layers, 768 wide).
    overrides: fields of `model.config.Config` that differ from the preset, as a JSON object.
    """

    preset: str = "embedded"
    overrides: str = "{}"

    def config_key(self) -> str:
        return f"{self.preset} {self.overrides}" if json.loads(self.overrides) else self.preset

    def config(self) -> "Config":
        """Raises ValueError for an unknown preset or field, or a value out of range."""
        from model.config import Config

        if self.preset not in ("embedded", "reference"):
            raise ValueError(f"The encoder's preset is {self.preset!r}; it must be 'embedded' or 'reference'.")
        base = json.loads(getattr(Config, self.preset)().to_json())
        return Config.from_json(json.dumps(base | json.loads(self.overrides)))


class Contextualiser(dg.ConfigurableResource[Any]):
    """Which of the encoder's layers the contextual embeddings are read from.

    layer: 0 (the projected input) to the number of blocks; None, the default, for the last.
    """

    layer: int | None = None

    def config_key(self) -> str:
        return "last layer" if self.layer is None else f"layer {self.layer}"

    def space(self) -> str:
        return self.config_key()


def training_titles(catalogue: Catalogue, lake: DeltaLake) -> dict[str, str]:
    """The titles to train on, each with the version of its vectors. Titles without fused vectors are left out.

    Raises BadInput when some titles' vectors lie in another embedding space than the one now configured.
    """
    import polars as pl

    fused, of_titles = (lake.data_versions(table) for table in ("fused_embeddings", "global_embeddings"))
    both = sorted(title for (title,) in fused.keys() & of_titles.keys())
    if not both:
        raise BadInput("no title has fused and global embeddings yet; materialise fused_embeddings first")
    spaces = lake.scan("fused_embeddings").select("title_id", "space").unique().collect()
    encoders = lake.scan("global_embeddings").select("title_id", "encoder").collect()
    elsewhere = set(spaces.filter(pl.col("space") != catalogue.fused_space())["title_id"]) | set(
        encoders.filter(pl.col("encoder") != catalogue.space("title_encoder"))["title_id"]
    )
    if elsewhere & set(both):
        raise BadInput(
            "these titles' embeddings lie in another space than the one now configured; rematerialise them before "
            f"training: {', '.join(sorted(elsewhere & set(both)))}"
        )
    # The series decides with whom a title is held out.
    series = dict(lake.scan("titles").select("title_id", "series_id").collect().rows())
    return {title: digest(fused[(title,)], of_titles[(title,)], series[title]) for title in both}


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
    metrics = json.loads((run / "metrics.json").read_text())
    shown = {name: metrics[name] for name in ("steps", "shots", "shots_per_s", "parameters", "precision")}
    if metrics["warning"]:
        shown["warning"] = metrics["warning"]
    if validation := metrics["validation"]:
        shown |= {name: validation[name] for name in ("loss", "cosine", "skill", "best_trivial", "effective_rank")}
        parts = list(validation["cosines"]["encoder"])
        lines = [f"| cosine at masked shots | {' | '.join(parts)} |", "| --- |" + " --- |" * len(parts)]
        for predictor, cosines in validation["cosines"].items():
            lines.append(f"| {predictor} | {' | '.join(f'{cosines[part]:.4f}' for part in parts)} |")
        shown["validation"] = dg.MetadataValue.md("\n".join(lines))
    curve = base64.b64encode(learning_curve_png(run)).decode()
    shown["learning_curve"] = dg.MetadataValue.md(f"![loss by step](data:image/png;base64,{curve})")
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
    """Read every shot in the context of its title with the newest encoder for the configured embedding spaces."""
    import polars as pl

    from model.inference import contextualise

    trained = read_encoder(run.lake, run.catalogue.encoder_version or "")
    fused = run.read("fused_embeddings", title_id)
    title = run.read("global_embeddings", title_id)["embedding"][0].to_numpy()
    contextual = contextualise(trained, vectors(fused), title, layer=run.resources.contextualiser.layer)
    rows = fused.select("shot_index", "start_s", "end_s").with_columns(pl.Series("embedding", list(contextual)))
    yield "contextual_embeddings", rows


STAGES = (Stage(("contextual_embeddings",), "model", contextual_embeddings, frozenset({"pytorch"})),)


def encoder_assets(encoder_config: EncoderConfig) -> dg.AssetsDefinition:
    """The encoder and how its training went, for a configuration."""

    @dg.multi_asset(
        name="encoder",
        specs=[
            table_spec(
                "encoder",
                group_name="model",
                deps=["fused_embeddings", "global_embeddings"],
                kinds={"pytorch"},
                code_version=f"{ENCODER_CODE} {encoder_config.config_key()}",
            ),
            table_spec("encoder_training", group_name="model", deps=["fused_embeddings"], kinds={"pytorch"}),
        ],
        required_resource_keys=TITLE_RESOURCES | {"training", "encoder_config"},
        pool="gpu",
    )
    def encoder(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        """Train the encoder by masked shot modelling on all titles' fused vectors."""
        import polars as pl

        lake: DeltaLake = context.resources.lake
        job: TrainingJob = context.resources.training
        config = context.resources.encoder_config.config()
        catalogue = catalogue_of(context)
        # What is written from here on is for the next training.
        present = lake.at_present("titles", "fused_embeddings", "global_embeddings")
        try:
            titles = training_titles(catalogue, present)
        except BadInput as error:
            raise dg.Failure(f"encoder: {error}", allow_retries=False) from error
        version = digest(ENCODER_CODE, config.to_json(), *(f"{title} {made}" for title, made in titles.items()))

        stored = catalogue.stored_in("encoder")
        if version in stored.values():
            context.log.info("encoder: nothing changed since the last training, nothing to do")
            for table in ("encoder_training", "encoder"):
                yield dg.MaterializeResult(table, metadata={"up_to_date": True}, data_version=dg.DataVersion(version))
            return

        space = catalogue.encoder_space()
        update_store(job.store, present, titles, space)
        run, newest = job.run_folder(version), catalogue.encoder_version
        earlier = job.run_folder(stored[(newest,)]) if newest else None
        begin_run(run, config.to_json(), titles, earlier)
        job.train(context, run)

        started = datetime.fromtimestamp((run / "config.json").stat().st_mtime, UTC)
        partition = {"encoder_version": f"{started:%Y%m%dT%H%M%SZ}-{version[:8]}"}
        about: dict[str, Any] = {
            "titles": len(titles),
            "delta_versions": present.pinned,
            "warm_start": (run / "init").exists(),
        }
        # The encoder is written last: a version that readers can see is whole.
        lake.write("encoder_training", partition, pl.read_ndjson(run / "training.jsonl"), version)
        lake.write("encoder", partition, encoder_rows(run, space, about), version)
        shown: dict[str, dict[str, Any]] = {"encoder_training": {}, "encoder": figures(run)}
        for table, more in shown.items():
            yield dg.MaterializeResult(
                table,
                metadata={**lake.write_metadata(table, partition), **partition, **about, **more},
                data_version=dg.DataVersion(version),
            )
        for needless in (run / "checkpoints", *([earlier] if earlier else [])):
            shutil.rmtree(needless, ignore_errors=True)

    return encoder

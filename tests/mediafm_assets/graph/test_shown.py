"""What the UI is told: of assets before they are made, and of what was made."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediafm_assets.definitions import defs
from mediafm_assets.graph.shown import as_metadata, rounded
from resources.lake import TABLES
from tests.mediafm_assets.conftest import Places

WITHOUT_ASSET = {"approvals", "costs", "failures", "text_cache"}
SPECS = {spec.key.to_user_string(): spec for spec in defs().resolve_all_asset_specs()}


def test_every_table_but_the_books_is_an_asset() -> None:
    assert TABLES.keys() - SPECS.keys() == WITHOUT_ASSET


@pytest.mark.parametrize("table", sorted(TABLES.keys() - WITHOUT_ASSET))
def test_every_asset_with_a_table_has_its_name_place_columns_source_and_documentation(table: str) -> None:
    metadata = SPECS[table].metadata
    assert metadata["dagster/table_name"] == table
    assert metadata["dagster/uri"].endswith(f"/{table}")
    assert [column.name for column in metadata["dagster/column_schema"].columns] == [
        column.name for column in TABLES[table].columns
    ]
    code, documentation = metadata["dagster/code_references"].code_references
    with open(code.file_path) as file:
        assert file.read().splitlines()[code.line_number - 1].startswith("def ")
    with open(documentation.file_path) as file:
        assert file.read().splitlines()[documentation.line_number - 1] == f"## {table}"


@pytest.mark.parametrize("table", sorted(TABLES.keys() - WITHOUT_ASSET))
def test_a_columns_lineage_names_columns_that_are_there_of_assets_before_it(table: str) -> None:
    graph = defs().resolve_asset_graph()
    before = graph.get_ancestor_asset_keys(dg.AssetKey(table))
    for column, sources in SPECS[table].metadata["dagster/column_lineage"].deps_by_column.items():
        assert TABLES[table].column(column)
        for source in sources:
            assert source.asset_key in before
            assert TABLES[source.asset_key.to_user_string()].column(source.column_name)


def test_the_vectors_of_every_table_have_a_lineage() -> None:
    vectors = [(t, c.name) for t in TABLES.keys() - WITHOUT_ASSET for c in TABLES[t].columns if "float32" in c.type]
    assert [
        (table, column)
        for table, column in vectors
        if column not in SPECS[table].metadata["dagster/column_lineage"].deps_by_column
    ] == []


def test_a_column_says_what_it_is_made_from_since_dagsters_page_has_no_place_for_its_lineage() -> None:
    columns = {column.name: column for column in SPECS["fused_embeddings"].metadata["dagster/column_schema"].columns}
    assert columns["start_s"].description.endswith(" From `shots.start_s`.")
    assert columns["embedding"].description.endswith(
        " From `video_embeddings.embedding`, `audio_embeddings.embedding`, `text_embeddings.embedding`."
    )
    assert "From" not in columns["data_version"].description


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_is_shown_in_four_digits_near_to_what_it_is(number: float) -> None:
    shown = rounded(np.float32(number))
    assert shown == pytest.approx(number, rel=5e-4)
    assert len(f"{shown:.15g}".lstrip("-0.").split("e")[0].replace(".", "").rstrip("0")) <= 4


def test_metadata_is_made_of_what_dagster_takes_and_json_holds() -> None:
    numbers = {"recall": np.float32(0.1), "shots": np.int64(3), "fresh": True, "loss": float("nan"), "note": "as it is"}
    shown = as_metadata(numbers)
    assert shown == {"recall": 0.1, "shots": 3, "fresh": True, "loss": "nan", "note": "as it is"}
    assert dg.AssetMaterialization("asset", metadata=shown).metadata["recall"] == dg.MetadataValue.float(0.1)
    json.dumps(shown, allow_nan=False)


def test_dg_lists_the_checkouts_definitions(tmp_path: Path) -> None:
    program = [str(Path(sys.executable).with_name("dg")), "list", "defs", "--json"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    listed = subprocess.run(
        program, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, check=True
    )
    assert {asset["asset_key"] for asset in json.loads(listed.stdout)["assets"]} == SPECS.keys()


PICTURES = {
    "shots": "contact_sheet",
    "video_embeddings": "self_similarity",
    "audio_embeddings": "sound",
    "contextual_embeddings": "neighbours_and_map",
    "scenes": "neighbours_and_map",
    "encoder": "learning_curve",
    "probe_metrics": "chart",
}


@pytest.mark.parametrize(("asset", "name"), PICTURES.items())
def test_an_assets_page_has_a_small_picture_with_words_for_those_who_do_not_see_it(
    places: Places, asset: str, name: str
) -> None:
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    text = str(event.asset_materialization.metadata[name].value)
    alternative, data = text.removeprefix("![").removesuffix(")").split("](data:image/webp;base64,")
    assert len(alternative) > 10
    assert len(text) <= 48_000
    assert base64.b64decode(data, validate=True)[8:12] == b"WEBP"


def test_every_materialisation_has_a_number_to_plot(places: Places) -> None:
    with dg.DagsterInstance.get() as instance:
        not_made = {"ablations", "approval", "clip_embeddings", "drops", "label_files", "maintenance", "seqclip"}
        for asset in SPECS.keys() - not_made:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None, asset
            assert event.asset_materialization is not None
            values = event.asset_materialization.metadata.values()
            assert [v for v in values if isinstance(v, dg.IntMetadataValue | dg.FloatMetadataValue)], asset

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from model.checkpoint import Checkpoints, Progress, export, from_tensors, read_export, tensors, training_state
from model.config import Config
from model.encoder import Encoder
from model.files import write_atomically


def same(a: Encoder, b: Encoder) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_an_encoder_survives_its_tensor_rows_in_any_order(small: Config) -> None:
    encoder = Encoder(small)
    rows = list(tensors(encoder))
    assert sum(len(row.data) for row in rows) == 4 * sum(p.numel() for p in encoder.parameters())
    assert same(from_tensors(reversed(rows), small), encoder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[1:], "missing .'cls'"),
        (lambda rows: [*rows, rows[0]], "cls comes twice"),
        (lambda rows: [rows[0]._replace(name="class"), *rows[1:]], "unknown .'class'"),
        (lambda rows: [rows[0]._replace(dtype="float16"), *rows[1:]], "cls has type float16"),
        (lambda rows: [rows[0]._replace(shape=(31,)), *rows[1:]], r"do not fill its shape \(31,\)"),
        (lambda rows: [rows[0]._replace(shape=(2, 16)), *rows[1:]], r"cls has shape \(2, 16\)"),
        (lambda rows: [rows[0]._replace(data=bytes(len(rows[0].data))), *rows[1:]], "cls is damaged"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(small: Config, change, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_tensors(change(list(tensors(Encoder(small)))), small)


def test_a_row_says_what_it_holds(small: Config) -> None:
    encoder = Encoder(small)
    row = next(row for row in tensors(encoder) if row.name == "blocks.1.up.weight")
    assert (row.dtype, row.shape) == ("float32", (128, 32))
    assert row.sha256 == hashlib.sha256(row.data).hexdigest()
    np.testing.assert_array_equal(
        np.frombuffer(row.data, "<f4").reshape(row.shape), encoder.blocks[1].up.weight.detach().numpy()
    )


def test_an_export_is_a_folder_that_safetensors_and_json_readers_open(tmp_path: Path, small: Config) -> None:
    encoder = Encoder(small)
    export(dict(encoder.named_parameters()), small, tmp_path, {"space": "s"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    described = json.loads((tmp_path / "config.json").read_text())
    assert (described["model_type"], described["space"], described["hidden"]) == ("mediafm", "s", 32)
    assert set(load_file(tmp_path / "model.safetensors")) == {name for name, _ in encoder.named_parameters()}
    assert same(read_export(tmp_path), encoder)


def test_an_export_that_is_missing_damaged_or_of_another_size_is_refused(tmp_path: Path, small: Config) -> None:
    with pytest.raises(ValueError, match="not an exported encoder"):
        read_export(tmp_path)
    encoder = Encoder(small)
    export(dict(encoder.named_parameters()), dataclasses.replace(small, hidden=64), tmp_path, {})
    with pytest.raises(ValueError, match=r"Weight cls has shape \(32,\)"):
        read_export(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_export(tmp_path)


def test_an_encoder_exported_before_widths_were_part_of_its_configuration_is_read(
    tmp_path: Path, small: Config
) -> None:
    encoder = Encoder(small)
    export(dict(encoder.named_parameters()), small, tmp_path, {})
    described = json.loads((tmp_path / "config.json").read_text())
    assert described.pop("modalities") == [["video", 768], ["audio", 768], ["text", 768]]
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert same(read_export(tmp_path), encoder)
    assert read_export(tmp_path).config == small


def test_an_encoder_of_other_blocks_keeps_them(tmp_path: Path, small: Config) -> None:
    config = dataclasses.replace(small, modalities=(("pose", 3), ("smell", 5)))
    encoder = Encoder(config)
    export(dict(encoder.named_parameters()), config, tmp_path, {})
    assert read_export(tmp_path).config.blocks == {"pose": slice(0, 3), "smell": slice(3, 8)}


def test_a_checkpoint_from_before_widths_were_part_of_the_configuration_is_gone_on_from(
    tmp_path: Path, small: Config
) -> None:
    checkpoints = Checkpoints(tmp_path, small, "data")
    weights = training_state(Encoder(small), {}, None)
    run = {"config": dataclasses.asdict(small), "data": "data", "progress": dataclasses.asdict(Progress(step=4))}
    del run["config"]["modalities"]
    write_atomically(checkpoints.path(4), save(weights, metadata={"run": json.dumps(run)}))
    found = checkpoints.latest()
    assert found is not None
    assert found[1].step == 4
    other = dataclasses.replace(small, modalities=(("video", 768), ("audio", 1536)))
    with pytest.raises(ValueError, match=r"another configuration \(modalities"):
        Checkpoints(tmp_path, other, "data").latest()

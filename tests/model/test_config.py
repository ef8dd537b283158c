import dataclasses
import json
from pathlib import Path

import pytest

from model.config import Config


@pytest.mark.parametrize("config", [Config.embedded(), Config.reference()])
def test_a_configuration_survives_its_json(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


def test_the_reference_profile_has_the_published_size() -> None:
    config = Config.reference()
    assert (config.layers, config.hidden, config.max_shots, config.mask_ratio) == (12, 768, 512, 0.2)
    assert (config.optimizer, config.loss, config.mask_span) == ("muon", "cosine", 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden": 100, "heads": 3}, "multiple of twice the heads"),
        ({"mask_ratio": 0.0}, "mask_ratio must lie between 0 and 1"),
        ({"mask_ratio_end": 1.0}, "mask_ratio_end"),
        ({"layers": 0}, "layers must be a whole number"),
        ({"positions": "absolute"}, "positions must be one of learned, sinusoidal, rotary"),
        ({"stride": 600}, "stride must not exceed"),
        ({"minimum_groups": 1}, "minimum_groups"),
        ({"muon_lr": 0.0}, "muon_lr must be above 0"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"modalities": ()}, "at least one name"),
        ({"modalities": (("video", 0),)}, r"holds \('video', 0\)"),
        ({"modalities": (("../video", 3),)}, "a name in small letters"),
        ({"modalities": (("video", 3), ("video", 4))}, "names video twice"),
        ({"modalities": (("all", 3),)}, "all cannot name a modality"),
        ({"modalities": 3}, "modalities must be a list"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(Config(), **change)


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown fields: laers"):
        Config.from_json(json.dumps({"laers": 3}))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Config.from_json(text)


def test_a_configuration_from_before_widths_were_part_of_it_means_the_three_of_then() -> None:
    stored = (Path(__file__).parent / "config_before_modalities.json").read_text()
    config = Config.from_json(stored)
    assert config.modalities == (("video", 768), ("audio", 768), ("text", 768))
    assert config.fused_dim == 2304
    assert config == dataclasses.replace(Config.embedded(), modalities=config.modalities, blend=False, base_width=None)


def test_the_identity_of_what_could_be_written_before_is_what_was_written_then() -> None:
    stored = (Path(__file__).parent / "config_before_modalities.json").read_text()
    assert Config.from_json(stored).identity() == stored.rstrip()
    other = dataclasses.replace(Config.from_json(stored), modalities=(("video", 768), ("audio", 768)))
    assert other.identity() != stored.rstrip()


def test_blocks_of_any_widths_lie_one_after_the_other() -> None:
    config = Config.from_json(json.dumps({"modalities": [["pose", 3], ["smell", 5]]}))
    assert config.fused_dim == 8
    assert config.blocks == {"pose": slice(0, 3), "smell": slice(3, 8)}
    assert Config.from_json(config.to_json()) == config

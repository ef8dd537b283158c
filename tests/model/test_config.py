import dataclasses
import json

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

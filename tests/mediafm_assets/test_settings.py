"""The environment's variables: what they may be, and what is said of what they may not."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mediafm_assets.settings import (
    AblationBudget,
    ConfigurationError,
    EncoderConfig,
    Environment,
    FrameSampler,
    Fusion,
    HighlightLength,
    resources,
)
from mediafm_assets.stages import all_stages
from resources.encoders import OmniEncoder

README = Path(__file__).parents[2] / "README.md"


def test_a_profile_decides_what_no_variable_does() -> None:
    configured = resources({"MEDIAFM_PROFILE": "reference", "MEDIAFM_AUDIO_ENCODER": "logmel"})
    kinds = [configured[f"{part}_encoder"].kind for part in ("video", "audio", "text", "title")]
    assert kinds == ["clip", "logmel", "openai", "openai"]
    assert configured["encoder_config"].preset == "reference"
    assert configured["title_encoder"].dimensions == 3072
    assert configured["seqclip_config"].base == configured["video_encoder"].model


def test_a_variable_that_is_set_to_nothing_has_its_default() -> None:
    assert resources({"MEDIAFM_DETECTOR": "", "MEDIAFM_TITLES_PER_RUN": ""})["titles_per_run"] == 200


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MEDIAFM_PROFILE", "fast"),
        ("MEDIAFM_DETECTOR", "magic"),
        ("MEDIAFM_FRAMES_PER_SHOT", "0"),
        ("MEDIAFM_FRAMES_PER_SHOT", "many"),
        ("MEDIAFM_TITLES_PER_RUN", "1.5"),
        ("MEDIAFM_VIDEO_ENCODER", "clap"),
        ("MEDIAFM_FUSION", "sum"),
        ("MEDIAFM_ENCODER_OVERRIDES", "[]"),
        ("MEDIAFM_ENCODER_OVERRIDES", "not json"),
        ("MEDIAFM_ASK_ABOVE", "1.5"),
        ("MEDIAFM_ASK_ABOVE", "-0.1"),
        ("MEDIAFM_ASK_ABOVE", "nan"),
        ("MEDIAFM_ASK_ABOVE", "some"),
        ("MEDIAFM_LANDING_QUEUE", "landing"),
        ("MEDIAFM_LANDING_QUEUE", "https://sqs.us-east-1.amazonaws.com/1/landing"),  # of a folder
        ("MEDIAFM_LANDING_RELIST_S", "0"),
        ("MEDIAFM_RUN_TAGS", "not json"),
        ("MEDIAFM_RUN_TAGS", '{"encoder": "big"}'),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable} is {re.escape(repr(value))}: "):
        resources({variable: value})


def test_all_wrong_variables_are_named_at_once_and_no_other_is_quoted() -> None:
    wrong = {"MEDIAFM_FUSION": "sum", "MEDIAFM_DETECTOR": "magic", "OPENAI_API_KEY": "a-secret"}
    with pytest.raises(ConfigurationError) as said:
        resources(wrong)
    assert "MEDIAFM_FUSION" in str(said.value)
    assert "MEDIAFM_DETECTOR" in str(said.value)
    assert "a-secret" not in str(said.value)


@pytest.mark.parametrize(
    ("resource", "values"),
    [
        (FrameSampler, {"frames_per_shot": 0}),
        (FrameSampler, {"short_side": -1}),
        (Fusion, {"kind": "sum", "omni": OmniEncoder()}),
        (HighlightLength, {"length_s": 0}),
        (EncoderConfig, {"preset": "huge"}),
        (AblationBudget, {"seeds": 0}),
        (AblationBudget, {"steps": 0}),
    ],
)
def test_a_resource_refuses_values_out_of_range(resource: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        resource(**values)


def test_every_resource_that_a_stage_names_is_configured() -> None:
    named = {key for stage in all_stages().all for key in stage.resource_keys} | all_stages().resource_keys
    assert named <= resources({}).keys()


def test_every_variable_of_the_readme_is_read() -> None:
    known = {field.alias for field in Environment.model_fields.values()}
    assert set(re.findall(r"`(MEDIAFM_[A-Z_]+)`", README.read_text())) <= known

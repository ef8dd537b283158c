"""Configuration: every resource of this package, two profiles of defaults, and each part settable on its own through
the environment (`Environment`)."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from resources.encoders import (
    AUDIO_ENCODERS,
    TEXT_ENCODERS,
    VIDEO_ENCODERS,
    AudioEncoder,
    OmniEncoder,
    TextEncoder,
    VideoEncoder,
)
from resources.encoders.clips.encoder import CLIP_ENCODERS, ClipEncoders
from resources.errors import BadInput, Unavailable, printable
from resources.lake import DeltaLake
from resources.landing import LandingZone
from resources.shots import SHOT_DETECTORS, ShotDetector
from resources.training import TrainingJob
from resources.webhook import Webhook

if TYPE_CHECKING:
    from model.config import Config
    from model.seqclip import FineTuning

PROJECT = Path(__file__).resolve().parents[1]
"""The checkout: the default landing zone, lake and Dagster instance lie in it."""

Profile = Literal["embedded", "reference"]
FusionKind = Literal["balanced", "as_published", "omni"]


class ConfigurationError(Exception):
    """The environment or the command line asks for something that cannot be had; the message names the variable."""


class FrameSampler(dg.ConfigurableResource[Any]):
    """Which frames of a shot are kept.

    frames_per_shot: evenly spaced over the shot; a shorter shot gives all it has.
    short_side:      of the kept pictures, in pixels; smaller films are not enlarged.
    """

    frames_per_shot: int = Field(default=8, ge=1)
    short_side: int = Field(default=224, ge=1)

    def config_key(self) -> str:
        return f"{self.frames_per_shot} frames of {self.short_side} pixels"

    def space(self) -> str:
        return self.config_key()


class Fusion(dg.ConfigurableResource[Any]):
    """How a shot's modalities become one vector.

    kind: "balanced" (the three embeddings, each present one unit-normed first), "as_published" (concatenated as they
        are) or "omni" (a multimodal model reads frames, sound and words together, in place of the three).
    omni: that model.
    """

    kind: FusionKind = "balanced"
    omni: OmniEncoder

    def config_key(self) -> str:
        return self.omni.config_key() if self.kind == "omni" else self.kind

    def space(self) -> str:
        return self.omni.space() if self.kind == "omni" else self.kind

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when everything is ready to work."""
        return self.omni.preflight() if self.kind == "omni" else []


class EncoderConfig(dg.ConfigurableResource[Any]):
    """The encoder's size and training recipe.

    preset:    "embedded" (4 layers, 256 wide) or "reference" (12 layers, 768 wide).
    overrides: fields of `model.config.Config` that differ from the preset, as a JSON object.
    """

    preset: Profile = "embedded"
    overrides: str = "{}"

    def config_key(self) -> str:
        return self.preset if self.overrides.strip() == "{}" else f"{self.preset} {self.overrides}"

    def config(self) -> "Config":
        """Raises ValueError for an unknown field, or a value out of range."""
        from model.config import Config

        base = json.loads(getattr(Config, self.preset)().to_json())
        return Config.from_json(json.dumps(base | json.loads(self.overrides)))


class Gate(dg.ConfigurableResource[Any]):
    """What a newly trained encoder has to keep to come into use, and how long old ones are kept.

    level:     of the bounds of its losses, of all tasks together.
    tolerance: a loss that does not count, in each task's metric.
    keep:      encoders whose embeddings stay in the lake, beside the one in use.
    """

    level: float = Field(default=0.975, gt=0.5, lt=1)
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    keep: int = Field(default=3, ge=1)


class HighlightLength(dg.ConfigurableResource[Any]):
    """How long highlights are.

    length_s: about so many seconds; None, the default, for the length of the labelled clips that editors chose.
    """

    length_s: float | None = Field(default=None, gt=0, le=3600)

    def config_key(self) -> str:
        return "labelled clips' length" if self.length_s is None else f"{self.length_s} s"

    def space(self) -> str:
        return self.config_key()


class AblationBudget(dg.ConfigurableResource[Any]):
    """How much each variant of an ablation is trained.

    seeds: trainings of each, from as many seeds. steps: of each training.
    """

    seeds: int = Field(default=2, ge=1, le=20)
    steps: int = Field(default=60, ge=1)

    def config_key(self) -> str:
        return f"{self.seeds} seeds, {self.steps} steps"


class SeqClipConfig(dg.ConfigurableResource[Any]):
    """What is fine-tuned, how, and where the results are kept.

    base:      the CLIP-style checkpoint to begin with: a folder, or a name on the model hub; empty when there is none.
    overrides: fields of `model.seqclip.FineTuning` that differ from its defaults, as a JSON object.
    folder:    holds a checkpoint folder for each version. The video encoder may name them: none is ever deleted.
    """

    base: str
    overrides: str
    folder: str

    def config_key(self) -> str:
        return f"{self.base} {self.overrides}"

    def base_folder(self) -> Path:
        """The checkpoint's folder. Raises Unavailable, in a sentence, when there is none that can be fine-tuned."""
        if not self.base:
            raise Unavailable(
                "no CLIP checkpoint to fine-tune is configured; set MEDIAFM_SEQCLIP_BASE to a checkpoint's folder or "
                "its name on the model hub, or MEDIAFM_VIDEO_ENCODER to clip"
            )
        from resources.encoders.video.clip_model import output_dimensions
        from resources.encoders.weights import checkpoint_folder

        folder = checkpoint_folder(self.base)
        output_dimensions(folder)  # refuses what has not two towers
        if json.loads((folder / "config.json").read_text())["model_type"] == "siglip2":
            raise Unavailable(
                f"the checkpoint {self.base} reads pictures of any shape and cannot be fine-tuned here; "
                "choose one of a fixed size, such as google/siglip2-base-patch16-224"
            )
        if (folder / "seqclip.json").exists():
            first = json.loads((folder / "seqclip.json").read_text())["base"]
            raise Unavailable(
                f"the checkpoint {self.base} is a SeqCLIP fine-tune already, and titles that it was trained on would "
                f"be held out now; set MEDIAFM_SEQCLIP_BASE to what it was made from, {first}"
            )
        return folder

    def settings(self) -> "FineTuning":
        """Raises BadInput for an unknown field or a value out of range."""
        from model.seqclip import FineTuning

        try:
            return FineTuning.from_json(self.overrides)
        except ValueError as error:
            raise BadInput(f"MEDIAFM_SEQCLIP_OVERRIDES: {error}") from error


def one_of(known: Collection[str]) -> AfterValidator:
    """Refuses names that are not among those known."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"it must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def names(value: object) -> object:
    """Names separated by commas, as a list."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def web_address(value: SecretStr) -> SecretStr:
    """Refuses what is no address of a web server."""
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be an address that begins with https:// or http://")
    return value


class Environment(BaseModel):
    """The variables that configure everything. What is not set, or set to nothing, has its default; of the encoders it
    is the profile's."""

    model_config = ConfigDict(frozen=True)

    profile: Profile = Field(
        "embedded", alias="MEDIAFM_PROFILE", description="no key, no model hub, CPU; or as published"
    )
    landing: str = Field(
        str(PROJECT / "data" / "landing"), alias="MEDIAFM_LANDING", description="a folder or s3://bucket/prefix"
    )
    landing_queue: str = Field(
        "",
        alias="MEDIAFM_LANDING_QUEUE",
        description="URL of the SQS queue that S3 tells of changes in the landing zone's bucket; for large ones",
    )
    landing_relist_s: float = Field(
        3600.0,
        alias="MEDIAFM_LANDING_RELIST_S",
        gt=0,
        description="seconds between whole listings of a landing zone with a queue, in case an event was lost",
    )
    lake: str = Field(
        str(PROJECT / "data" / "lake"), alias="MEDIAFM_LAKE", description="a folder or s3://bucket/prefix"
    )
    postgres_url: SecretStr | None = Field(
        None,
        alias="MEDIAFM_POSTGRES_URL",
        description="postgresql+psycopg2://user:password@host:port/database for Dagster's runs and events, instead of "
        "SQLite; read through $DAGSTER_HOME/dagster.yaml, so that the password stands in no file",
    )
    detector: Annotated[str, one_of(SHOT_DETECTORS)] = Field(
        "transnetv2", alias="MEDIAFM_DETECTOR", description="adaptive: PySceneDetect's AdaptiveDetector"
    )
    frames_per_shot: int = Field(8, alias="MEDIAFM_FRAMES_PER_SHOT", ge=1, description="sampled frames of a shot")
    video_encoder: Annotated[str, one_of(VIDEO_ENCODERS)] | None = Field(None, alias="MEDIAFM_VIDEO_ENCODER")
    video_model: str = Field(
        "openai/clip-vit-large-patch14",
        alias="MEDIAFM_VIDEO_MODEL",
        description="hub name or folder of the CLIP checkpoint",
    )
    audio_encoder: Annotated[str, one_of(AUDIO_ENCODERS)] | None = Field(None, alias="MEDIAFM_AUDIO_ENCODER")
    audio_model: str = Field(
        "facebook/wav2vec2-base",
        alias="MEDIAFM_AUDIO_MODEL",
        description="hub name or folder of the wav2vec 2.0 checkpoint",
    )
    text_encoder: Annotated[str, one_of(TEXT_ENCODERS)] | None = Field(
        None, alias="MEDIAFM_TEXT_ENCODER", description="openai: any compatible server, by OPENAI_BASE_URL"
    )
    text_model: str = Field("text-embedding-3-large", alias="MEDIAFM_TEXT_MODEL", description="the API's model")
    fusion: FusionKind = Field(
        "balanced",
        alias="MEDIAFM_FUSION",
        description="omni: Qwen3-Omni reads each shot's frames, sound and words together",
    )
    omni_model: str = Field("", alias="MEDIAFM_OMNI_MODEL", description="folder of the Qwen3-Omni checkpoint")
    encoder: Profile | None = Field(
        None, alias="MEDIAFM_ENCODER", description="size and recipe of the contextual encoder"
    )
    encoder_overrides: str = Field(
        "{}",
        alias="MEDIAFM_ENCODER_OVERRIDES",
        description="fields of model.config.Config that differ, as a JSON object",
    )
    clip_encoders: Annotated[tuple[Annotated[str, one_of(CLIP_ENCODERS)], ...], BeforeValidator(names)] = Field(
        (),
        alias="MEDIAFM_CLIP_ENCODERS",
        description="encoders of clips to compare with, separated by commas: mean_frames (free), vertex, marengo, nova",
    )
    clip_folder: str = Field(
        "", alias="MEDIAFM_CLIP_FOLDER", description="s3://bucket/prefix where marengo finds clips and leaves vectors"
    )
    vertex_location: str = Field(
        "us-central1", alias="MEDIAFM_VERTEX_LOCATION", description="Google's region in which vertex is asked"
    )
    gate_level: float = Field(
        0.975,
        alias="MEDIAFM_GATE_LEVEL",
        gt=0.5,
        lt=1,
        description="how sure it must be that a new encoder is worse for it to be held back",
    )
    gate_tolerance: float = Field(
        0.01,
        alias="MEDIAFM_GATE_TOLERANCE",
        ge=0,
        lt=1,
        description="a loss at a task that does not count, in the task's metric",
    )
    keep_encoders: int = Field(
        3, alias="MEDIAFM_KEEP_ENCODERS", ge=1, description="encoders whose embeddings stay, beside the one in use"
    )
    highlight_s: float | None = Field(
        None,
        alias="MEDIAFM_HIGHLIGHT_S",
        gt=0,
        le=3600,
        description="seconds of a highlight, about; else labelled clips'",
    )
    ablation_seeds: int = Field(
        2, alias="MEDIAFM_ABLATION_SEEDS", ge=1, le=20, description="trainings of each variant that ablations compare"
    )
    ablation_steps: int = Field(60, alias="MEDIAFM_ABLATION_STEPS", ge=1, description="steps of each of them")
    titles_per_run: int = Field(
        200, alias="MEDIAFM_TITLES_PER_RUN", ge=1, description="titles in one run of a backlog or backfill"
    )
    ask_above: float = Field(
        0.1,
        alias="MEDIAFM_ASK_ABOVE",
        ge=0,
        le=1,
        description="share of the titles that the daemon makes again for another configuration unasked; 1: never ask",
    )
    run_tags: Json[dict[str, dict[str, str | dict[str, Any]]]] = Field(
        "{}",
        alias="MEDIAFM_RUN_TAGS",
        validate_default=True,
        description='tags of the daemon\'s runs, {"title" or another stage: {tag: value}}: what machine a run needs',
    )
    alert_webhook: Annotated[SecretStr, AfterValidator(web_address)] | None = Field(
        None,
        alias="MEDIAFM_ALERT_WEBHOOK",
        description="an incoming webhook of Slack, Mattermost or the like, which is told of every failed run",
    )
    ui_url: str = Field("", alias="MEDIAFM_UI_URL", description="address of Dagster's UI, for the links in alerts")
    training_processes: int = Field(
        1, alias="MEDIAFM_TRAINING_PROCESSES", ge=1, description="ranks of a training, one per GPU"
    )
    seqclip_base: str | None = Field(
        None,
        alias="MEDIAFM_SEQCLIP_BASE",
        description="hub name or folder of the CLIP checkpoint to fine-tune; else the video encoder's, if it is clip",
    )
    seqclip_overrides: str = Field(
        "{}",
        alias="MEDIAFM_SEQCLIP_OVERRIDES",
        description="fields of model.seqclip.FineTuning that differ, as a JSON object",
    )

    @field_validator("landing_queue")
    @classmethod
    def _queue_of_a_bucket(cls, value: str, others: ValidationInfo) -> str:
        if not value.startswith(("https://", "http://")):
            raise ValueError("it must be a queue's URL, which begins with https://")
        if not str(others.data.get("landing", "s3://")).startswith("s3://"):
            raise ValueError("it needs a landing zone in a bucket, MEDIAFM_LANDING=s3://bucket/prefix")
        return value

    @field_validator("encoder_overrides")
    @classmethod
    def _object(cls, value: str) -> str:
        try:
            if isinstance(json.loads(value), dict):
                return value
        except json.JSONDecodeError:
            pass
        raise ValueError("it must be a JSON object")


SECRETS = frozenset(
    field.alias for field in Environment.model_fields.values() if field.alias and "SecretStr" in str(field.annotation)
)
"""Variables whose values are shown nowhere."""


class Defaults(BaseModel):
    """What a profile stands for, where the environment says nothing."""

    video: str
    audio: str
    text: str
    encoder: Profile


PROFILES: Mapping[Profile, Defaults] = {
    "embedded": Defaults(video="efficientnet", audio="aisfx", text="minilm", encoder="embedded"),
    "reference": Defaults(video="clip", audio="wav2vec2", text="openai", encoder="reference"),
}


def dagster_home() -> Path:
    """The Dagster instance's folder: DAGSTER_HOME, else the project's own."""
    return Path(os.environ.get("DAGSTER_HOME") or PROJECT / ".dagster")


def environment(env: Mapping[str, str] = os.environ) -> Environment:
    """What the variables say. Raises ConfigurationError, naming them, for values that are not allowed."""
    given = {name: value for name, value in env.items() if name.startswith("MEDIAFM_") and value}
    try:
        return Environment.model_validate(given)
    except ValidationError as error:
        wrong = [(str(problem["loc"][0]), problem["msg"].removeprefix("Value error, ")) for problem in error.errors()]
        shown = {name: "" if name in SECRETS else f"is {printable(given[name])!r}: " for name, _ in wrong}
        said = "; ".join(f"{name} {shown[name]}{message}" for name, message in wrong)
        raise ConfigurationError(said) from None


def resources(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The graph's resources by key, as the environment configures them. Raises ConfigurationError as `environment`."""
    asked = environment(env)
    profile = PROFILES[asked.profile]
    video, text = asked.video_encoder or profile.video, asked.text_encoder or profile.text
    # Through Dagster's EnvVar, so that the UI shows the variable's name and not what it holds.
    alerts = {"webhook": Webhook(url=dg.EnvVar("MEDIAFM_ALERT_WEBHOOK"))} if asked.alert_webhook else {}
    return {
        **alerts,
        "ui_url": asked.ui_url,
        "titles_per_run": asked.titles_per_run,
        "ask_above": asked.ask_above,
        "run_tags": {
            stage: {tag: value if isinstance(value, str) else json.dumps(value) for tag, value in tags.items()}
            for stage, tags in asked.run_tags.items()
        },
        "landing": LandingZone(uri=asked.landing, queue=asked.landing_queue, relist_s=asked.landing_relist_s),
        "lake": DeltaLake(uri=asked.lake),
        "shot_detector": ShotDetector(detector=asked.detector),
        "frame_sampler": FrameSampler(frames_per_shot=asked.frames_per_shot),
        "video_encoder": VideoEncoder(kind=video, model=asked.video_model),
        "clip_encoders": ClipEncoders(
            names=list(asked.clip_encoders),
            video=VideoEncoder(kind=video, model=asked.video_model),
            vertex_location=asked.vertex_location,
            s3_folder=asked.clip_folder,
        ),
        "audio_encoder": AudioEncoder(kind=asked.audio_encoder or profile.audio, model=asked.audio_model),
        "text_encoder": TextEncoder(kind=text, model=asked.text_model, lake=asked.lake),
        "title_encoder": TextEncoder(
            kind=text,
            model=asked.text_model,
            dimensions=3072
            if (text, asked.text_model) == ("openai", "text-embedding-3-large")
            else 768,  # as published
            lake=asked.lake,
        ),
        "fusion": Fusion(kind=asked.fusion, omni=OmniEncoder(model=asked.omni_model)),
        "encoder_config": EncoderConfig(preset=asked.encoder or profile.encoder, overrides=asked.encoder_overrides),
        "gate": Gate(level=asked.gate_level, tolerance=asked.gate_tolerance, keep=asked.keep_encoders),
        "ablation_budget": AblationBudget(seeds=asked.ablation_seeds, steps=asked.ablation_steps),
        "highlight_length": HighlightLength(length_s=asked.highlight_s),
        "training": TrainingJob(folder=str(dagster_home() / "training"), processes=asked.training_processes),
        "seqclip_config": SeqClipConfig(
            base=asked.seqclip_base or (asked.video_model if video == "clip" else ""),
            overrides=asked.seqclip_overrides,
            folder=str(dagster_home() / "seqclip"),
        ),
    }

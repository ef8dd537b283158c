"""Clip encoders: the free one on real clips, the paid ones' real clients against servers that enforce their limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.encoders import VideoEncoder
from resources.encoders.clips import bedrock, vertex
from resources.encoders.clips.encoder import CLIP_ENCODERS, ClipEncoder, ClipEncoders
from resources.encoders.clips.mean_frames import FRAMES
from resources.errors import BadInput, Unavailable
from resources.media import cut_clips
from resources.shots import sample_frames
from tests.resources.clip_services import (
    AWS_KEY,
    GOOGLE_TOKEN,
    BedrockServer,
    VertexServer,
    account_file,
    running,
    vector_of,
)
from tests.resources.films import render, scenes, tone

KEY = "ab" * 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 2 s with sound."""
    folder = tmp_path_factory.mktemp("clip")
    film = render(folder / "f.mkv", scenes([25, 50]), 25, sound={"eng": tone(300, 3)})
    ((_, cut),) = cut_clips(film, [(1.0, 3.0)], folder)
    return cut


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[VertexServer]:
    server = VertexServer()
    with running(server):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account_file(server, tmp_path / "account.json")))
        monkeypatch.setattr(vertex, "ADDRESS", server.url)
        yield server


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[BedrockServer]:
    server = BedrockServer()
    with running(server):
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", server.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", AWS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-sees")
        yield server


def encoder(name: str, video: str = "descriptors", **settings: Any) -> ClipEncoder:
    (made,) = ClipEncoders(video=VideoEncoder(kind=video), names=[name], **settings).encoders().values()
    return made


def test_an_unknown_encoder_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="'magic' is unknown; choose mean_frames or vertex or marengo or nova"):
        ClipEncoders(video=VideoEncoder(), names=["magic"])


def test_every_paid_encoder_has_limits_and_a_price() -> None:
    made = ClipEncoders(video=VideoEncoder(), names=list(CLIP_ENCODERS)).encoders()
    assert {name: one.limits.longest_s for name, one in made.items()} == {
        "mean_frames": np.inf,
        "vertex": 120,
        "marengo": 14_400,
        "nova": 30,
    }
    assert {name: round(one.dollars(10), 6) for name, one in made.items()} == {
        "mean_frames": 0,
        "vertex": 0.01,
        "marengo": 0.007,
        "nova": 0.007,
    }
    assert len({one.space() for one in made.values()}) == 4


def test_mean_frames_is_what_the_video_encoder_says_of_the_clips_pictures(clip: Path) -> None:
    made = encoder("mean_frames").embed(clip, 2.0, KEY)
    (expected,) = VideoEncoder(kind="descriptors").embed([[frame.jpeg for frame in sample_frames(clip, FRAMES)]])
    np.testing.assert_array_equal(made, expected)
    assert encoder("mean_frames").space() != encoder("mean_frames", "efficientnet").space()


# --- Vertex AI ---


def test_vertex_embeds_a_clip_as_one_interval(google: VertexServer, clip: Path) -> None:
    made = encoder("vertex").embed(clip, 2.0, KEY)
    np.testing.assert_allclose(made, vector_of(clip.read_bytes(), 1408))
    assert len(google.paid) == 1


@pytest.mark.parametrize("fault", ["429", "500"])
def test_vertex_asks_again_when_it_is_told_to(google: VertexServer, clip: Path, fault: str) -> None:
    google.faults = [fault]
    assert encoder("vertex").embed(clip, 2.0, KEY).shape == (1408,)
    assert google.attempts == 2


@pytest.mark.parametrize(
    ("faults", "error", "said"),
    [
        (["429"] * 3, Unavailable, "still answers 429 after 1 retries .Quota exceeded"),
        (["403"], Unavailable, "refuses the account .403: Permission denied.* Vertex AI User"),
        (["413"], BadInput, "refuses the clip .413: "),
        (["empty"], BadInput, "holds no embedding of the clip"),
    ],
)
def test_vertex_says_in_words_why_it_embeds_nothing(
    google: VertexServer,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[str],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(vertex, "RETRIES", 1)
    google.faults = faults
    with pytest.raises(error, match=said) as raised:
        encoder("vertex").embed(clip, 2.0, KEY)
    assert GOOGLE_TOKEN not in str(raised.value)
    assert not google.paid


def test_vertex_without_credentials_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "there-is-none.json"))
    with pytest.raises(Unavailable, match="set GOOGLE_APPLICATION_CREDENTIALS"):
        encoder("vertex").embed(clip, 2.0, KEY)


def test_what_is_no_film_is_refused_by_vertex(google: VertexServer, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"nothing" * 9)
    with pytest.raises(BadInput, match=r"refuses the clip .400: Invalid argument"):
        encoder("vertex").embed(tmp_path / "clip.mp4", 2.0, KEY)


# --- Amazon Nova ---


def test_nova_embeds_picture_and_sound_together(amazon: BedrockServer, clip: Path) -> None:
    amazon.faults = ["429", "500"]
    made = encoder("nova").embed(clip, 2.0, KEY)
    np.testing.assert_allclose(made, vector_of(clip.read_bytes(), 3072))
    assert (len(amazon.paid), amazon.attempts) == (1, 3)


@pytest.mark.parametrize(
    ("faults", "error", "said"),
    [
        (["429"] * 3, Unavailable, "ThrottlingException: Too many requests; 1 retries"),
        (["403"], Unavailable, "refuses the key .AccessDeniedException: .* enable the model"),
        (["413"], BadInput, "refuses the clip .RequestEntityTooLargeException"),
        (["empty"], BadInput, "holds no embedding of the clip"),
    ],
)
def test_nova_says_in_words_why_it_embeds_nothing(
    amazon: BedrockServer,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[str],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(bedrock, "RETRIES", 1)
    amazon.faults = faults
    with pytest.raises(error, match=said) as raised:
        encoder("nova").embed(clip, 2.0, KEY)
    assert "a-secret" not in str(raised.value)
    assert not amazon.paid


def test_a_key_that_amazon_does_not_know_is_refused_in_words(
    amazon: BedrockServer, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    with pytest.raises(Unavailable, match=r"refuses the key .UnrecognizedClientException"):
        encoder("nova").embed(clip, 2.0, KEY)


# --- Marengo ---


@pytest.fixture
def marengo(bucket: Any, amazon: BedrockServer) -> ClipEncoder:
    return encoder("marengo", s3_folder="s3://films/compared", job_poll_s=0.01)


def test_marengo_starts_a_job_and_reads_what_it_wrote(marengo: ClipEncoder, amazon: BedrockServer, clip: Path) -> None:
    amazon.polls = 3
    made = marengo.embed(clip, 2.0, KEY)
    parts = [vector_of(clip.read_bytes() + option, 512) for option in (b"visual", b"audio")]
    np.testing.assert_allclose(made, np.mean([part / np.linalg.norm(part) for part in parts], axis=0))
    assert len(amazon.jobs) == 1
    np.testing.assert_allclose(marengo.embed(clip, 2.0, KEY), made)
    assert len(amazon.jobs) == 1  # what lies on S3 is not paid again


def test_a_job_that_never_ends_is_given_up_and_taken_up_again_later(
    marengo: ClipEncoder, amazon: BedrockServer, clip: Path
) -> None:
    amazon.polls = None
    hasty = encoder("marengo", s3_folder="s3://films/compared", job_poll_s=0.01, job_timeout_s=0.1)
    with pytest.raises(Unavailable, match=r"has not ended after 0\.1 s .* not paid again"):
        hasty.embed(clip, 2.0, KEY)
    amazon.polls = 1
    assert marengo.embed(clip, 2.0, KEY).shape == (512,)
    assert len(amazon.jobs) == 1


def test_marengo_says_in_words_why_it_embeds_nothing(
    marengo: ClipEncoder, amazon: BedrockServer, clip: Path, bucket: Any
) -> None:
    amazon.faults = ["failed", "empty", "403"]
    with pytest.raises(BadInput, match="job failed: The video holds no picture"):
        marengo.embed(clip, 2.0, "01" * 32)
    with pytest.raises(BadInput, match="holds no embedding of the clip"):
        marengo.embed(clip, 2.0, "02" * 32)
    with pytest.raises(Unavailable, match=r"refuses the key .AccessDeniedException"):
        marengo.embed(clip, 2.0, "03" * 32)
    amazon.longest_s = 1.0
    with pytest.raises(BadInput, match=r"refuses the clip .ValidationException: The video is too large"):
        marengo.embed(clip, 2.0, "04" * 32)
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        encoder("marengo", s3_folder="s3://no-such-bucket").embed(clip, 2.0, KEY)


def test_marengo_without_a_folder_on_s3_says_what_to_set(amazon: BedrockServer, clip: Path) -> None:
    with pytest.raises(Unavailable, match="set MEDIAFM_CLIP_FOLDER"):
        encoder("marengo").embed(clip, 2.0, KEY)

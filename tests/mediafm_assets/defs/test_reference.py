"""The reference profile through the whole graph: real encoder code on small checkpoints, the real client on a local
server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mediafm_assets.commands.cli import main
from tests.mediafm_assets.conftest import WEIGHTLESS, Places
from tests.resources.checkpoints import save_clip, save_wav2vec
from tests.resources.openai_server import GOOD_KEY, OpenAIServer, openai_server


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_clip(folder / "clip")
    save_wav2vec(folder / "wav2vec2", "group")
    return folder


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def reference(checkpoints: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    for name, value in {
        **dict.fromkeys(WEIGHTLESS, ""),
        "MEDIAFM_PROFILE": "reference",
        "MEDIAFM_VIDEO_MODEL": str(checkpoints / "clip"),
        "MEDIAFM_AUDIO_MODEL": str(checkpoints / "wav2vec2"),
        "OPENAI_API_KEY": GOOD_KEY,
        "OPENAI_BASE_URL": server.url,
    }.items():
        monkeypatch.setenv(name, value)
    return server


def only(places: Places, count: int) -> list[str]:
    """Keep the first titles of the landing zone."""
    titles = sorted((places.landing / "titles").iterdir())
    for title in titles[count:]:
        shutil.rmtree(title)
    return [title.name for title in titles[:count]]


def test_switching_to_the_reference_profile_remakes_what_depends_on_it_and_mixes_no_spaces(
    places: Places, reference: OpenAIServer
) -> None:
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    before = {title: places.versions(title) for title in titles}
    assert main(["materialize"]) == 0
    for title in titles:
        after = places.versions(title)
        assert {table for table in after if after[table] == before[title][table]} == {"titles", "shots", "shot_frames"}
        assert len(places.lake.read("global_embeddings", title_id=title)["embedding"][0]) == 3072
    assert places.lake.scan("fused_embeddings").collect()["space"].n_unique() == 1
    encoders = sorted(version for (version,) in places.lake.data_versions("encoder"))
    assert len(encoders) == 2, "an encoder for the new space was trained without being asked for"
    made = {title for version, title in places.lake.data_versions("contextual_embeddings") if version == encoders[-1]}
    assert made == set(titles)

    asked = len(reference.requests)
    assert main(["materialize"]) == 0
    assert len(reference.requests) == asked, "nothing is paid for twice"


def test_one_new_subtitle_line_is_one_text_paid_for(places: Places, reference: OpenAIServer) -> None:
    title = next(t for t in only(places, 1))
    assert main(["materialize", "--no-train"]) == 0
    asked = len(reference.requests)
    subtitles = next((places.landing / "titles" / title).glob("*.srt"))
    lines = subtitles.read_text().splitlines()
    lines[next(number for number, line in enumerate(lines) if "-->" in line) + 1] = "A line that was never said before."
    subtitles.write_text("\n".join(lines))
    assert main(["materialize", "--no-train"]) == 0
    texts = [text for request in reference.requests[asked:] for text in request]
    assert len(texts) == 1
    assert "A line that was never said before." in texts[0]
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("text_embeddings"))
        assert event
        assert event.asset_materialization
        assert event.asset_materialization.metadata["sent"].value == 1
        assert GOOD_KEY not in str(event.asset_materialization.metadata)


def test_training_refuses_a_lake_with_two_spaces_and_names_the_titles(
    places: Places, reference: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = sorted(path.name for path in (places.landing / "titles").iterdir())
    assert main(["materialize", "--title", titles[0], "--train"]) == 1
    said = capsys.readouterr().err
    assert "lie in another space" in said
    assert all(title in said for title in titles[1:])
    assert len(places.lake.data_versions("encoder")) == 1


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [("OPENAI_API_KEY", "", "OPENAI_API_KEY"), ("MEDIAFM_VIDEO_MODEL", "/no/such/checkpoint", "/no/such/checkpoint")],
)
def test_what_is_missing_is_named_before_any_work_starts(
    places: Places,
    reference: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    named: str,
) -> None:
    files = places.files()
    monkeypatch.setenv(variable, value)
    assert main(["materialize"]) == 2
    assert named in capsys.readouterr().err
    assert places.files() == files

"""Shots read by one multimodal model in place of three encoders: from landing to contextual rows, search and plan."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mediafm_assets.commands.cli import main
from mediafm_assets.defs.ablations import study_of
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.fusion import fuse
from model.modalities import WIDTHS, blocks_of
from resources.encoders import OmniEncoder
from resources.encoders.omni.encoder import Shot
from resources.errors import BadInput
from resources.lake import vectors
from resources.media import probe, shot_audio
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.title_runs import titles_of
from tests.resources.checkpoints import change_weights, save_qwen3_omni
from tests.resources.films import spoken

TALK = "only-heard"


@dataclass
class Read:
    """Films and a podcast that were read so, and the versions of the films before."""

    places: Places
    checkpoint: Path
    before: dict[str, dict[str, str]]

    def use(self, monkeypatch: pytest.MonkeyPatch, places: Places | None = None) -> None:
        (places or self.places).use(monkeypatch)
        monkeypatch.setenv("MEDIAFM_FUSION", "omni")
        monkeypatch.setenv("MEDIAFM_OMNI_MODEL", str(self.checkpoint))


@pytest.fixture(scope="module")
def read(finished: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    root = tmp_path_factory.mktemp("omni")
    places = finished.copy(root / "places")
    found = Read(places, save_qwen3_omni(root / "checkpoint"), {t: places.versions(t) for t in titles_of(places)})
    film = places.landing / "titles" / titles_of(places)[0] / "film.mp4"
    folder = root / TALK
    folder.mkdir()
    spoken(folder / "talk.mp3", next(shot_audio(film, [(0, probe(film).duration_s)])))
    (folder / "title.json").write_text(json.dumps({"title": "Only heard"}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        found.use(monkeypatch)
        assert main(["land", str(folder)]) == 0
        assert main(["plan"]) == 0
        assert main(["materialize"]) == 0
        yield found


def test_every_title_has_contextual_rows_of_an_encoder_for_the_new_space(read: Read) -> None:
    lake = read.places.lake
    spaces = lake.scan("encoder").select("encoder_version", "space").unique().collect().sort("encoder_version").rows()
    assert len(spaces) == 2
    (version, space) = spaces[-1]
    assert " | qwen3-omni:" in space
    assert lake.scan("fused_embeddings").select("space").unique().collect().item() in space
    made = {title for encoder, title in lake.data_versions("contextual_embeddings") if encoder == version}
    assert made == {*read.before, TALK}


def test_the_vectors_of_the_modalities_stay_as_they_are(read: Read) -> None:
    for title, before in read.before.items():
        now = read.places.versions(title)
        assert {table for table in now if now[table] != before[table]} == {"fused_embeddings", "contextual_embeddings"}


def test_a_fused_vector_is_what_the_model_gives_for_frames_sound_and_words(read: Read) -> None:
    lake, title = read.places.lake, titles_of(read.places)[0]
    fused = lake.read("fused_embeddings", title_id=title)
    shot = fused.row(2, named=True)
    frames = lake.read("shot_frames", title_id=title).filter(shot_index=2)["jpeg"].to_list()
    film = read.places.landing / "titles" / title / "film.mp4"
    (samples,) = shot_audio(film, [(shot["start_s"], shot["end_s"])])
    words = lake.read("text_embeddings", title_id=title)["text"][2]
    (blocks,) = OmniEncoder(model=str(read.checkpoint)).embed(
        [Shot(shot["end_s"] - shot["start_s"], frames, samples, words)]
    )
    expected = fuse({name: (block[None], np.array([block.any()])) for name, block in blocks.items()})[0]
    assert vectors(fused)[2] == pytest.approx(expected, abs=1e-3)  # the model may multiply in bfloat16


def test_an_absent_modality_is_flagged_and_its_block_is_zero(read: Read) -> None:
    lake, titles = read.places.lake, titles_of(read.places)
    _whole, silent, wordless, *_ = [title for title in titles if title != TALK]
    for title, absent in {silent: "audio", wordless: "text", TALK: "video"}.items():
        rows = lake.read("fused_embeddings", title_id=title)
        for name, block in blocks_of(WIDTHS).items():
            has = vectors(rows)[:, block].any(axis=1)
            assert rows[f"has_{name}"].to_list() == has.tolist()
            assert name != absent or not has.any()
        assert np.linalg.norm(vectors(rows), axis=1) == pytest.approx(1, abs=1e-5)


def test_nothing_is_read_twice(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read.places.files()
    assert main(["materialize"]) == 0
    assert read.places.files() == files


def test_a_corrected_line_is_one_shot_read_again(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = read.places.copy(tmp_path / "copy")
    read.use(monkeypatch, places)
    embed, given = OmniEncoder.embed, []

    def counted(self: OmniEncoder, shots: Iterable[Shot]) -> Any:
        def told() -> Iterator[Shot]:
            for shot in shots:
                given.append(shot)
                yield shot

        return embed(self, told())

    monkeypatch.setattr(OmniEncoder, "embed", counted)
    title = titles_of(places)[0]
    subtitles = next((places.landing / "titles" / title).glob("*.srt"))
    lines = subtitles.read_text().splitlines()
    lines[next(number for number, line in enumerate(lines) if "-->" in line) + 1] = "A line that was never said before."
    subtitles.write_text("\n".join(lines))
    assert main(["materialize", "--title", title, "--no-train"]) == 0
    assert len(given) == 1
    assert "A line that was never said before." in given[0].words
    assert places.versions(title)["fused_embeddings"] != read.places.versions(title)["fused_embeddings"]


def test_words_are_searched_for_in_the_space_of_what_was_read(
    read: Read, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, title = read.places.lake, titles_of(read.places)[0]
    words = next(text for text in lake.read("text_embeddings", title_id=title)["text"] if text)
    assert main(["search", words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shots"]
    assert main(["search", "--like", f"{TALK}:0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shots"]
    monkeypatch.setenv("MEDIAFM_FUSION", "balanced")
    assert main(["search", words, "--json"]) != 0
    assert "another space" in capsys.readouterr().err


def test_ablations_say_that_they_join_other_vectors(read: Read) -> None:
    with pytest.raises(BadInput, match="set it to balanced or as_published"):
        study_of(Catalogue(read.places.lake, resources(), all_stages()))


def test_the_plan_and_status_know_of_it(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = read.places.copy(tmp_path / "copy")
    read.use(monkeypatch, places)
    assert main(["plan", "--json"]) == 0
    assert main(["status", "--why"]) in (0, 1)
    monkeypatch.setenv("MEDIAFM_FUSION", "balanced")
    capsys.readouterr()
    assert main(["plan"]) == 0
    assert "fused_embeddings" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["materialize", "plan"])
def test_a_folder_that_is_no_checkpoint_is_named_before_any_work(
    read: Read,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    files = read.places.files()
    monkeypatch.setenv("MEDIAFM_OMNI_MODEL", "/no/such/checkpoint")
    assert main([command]) == 2
    assert "There is no folder /no/such/checkpoint" in capsys.readouterr().err
    assert read.places.files() == files


def test_nan_from_the_model_is_the_titles_failure_and_its_rows_stay(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["thinker.model.layers.0.self_attn.q_proj.weight"].fill_(torch.nan)

    places = read.places.copy(tmp_path / "copy")
    read.use(monkeypatch, places)
    spoilt = change_weights(read.checkpoint, tmp_path / "spoilt", spoil)
    monkeypatch.setenv("MEDIAFM_OMNI_MODEL", str(spoilt))
    title = titles_of(places)[0]
    assert main(["materialize", "--title", title, "--no-train"]) == 1
    assert "gives NaN or infinity" in capsys.readouterr().err
    assert places.lake.read("failures", title_id=title)["stage"].item() == "fused_embeddings"
    assert places.versions(title) == read.places.versions(title)
    shutil.rmtree(spoilt)

"""From what a row came, by the command: down to the bytes' hashes, also of what is no longer in use."""

import hashlib

import pytest

from mediafm_assets.commands.cli import main
from tests.mediafm_assets.conftest import Places


def first_title(places: Places) -> str:
    return min((places.landing / "titles").iterdir()).name


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_shot_in_context_is_followed_to_encoder_cues_frames_cut_and_bytes(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    title = first_title(places)
    lines = explained(capsys, f"{title}:3", "contextual_embeddings")
    told = "\n".join(lines)
    ((encoder, _),) = {key for key in places.lake.data_versions("contextual_embeddings") if key[1] == title}
    film = places.landing / "titles" / title / "film.mp4"
    assert f"film film.mp4: sha256 {hashlib.sha256(film.read_bytes()).hexdigest()}" in told
    assert f"encoder: {encoder}, " in told
    shot = places.lake.read("shots", title_id=title).row(3, named=True)
    assert f"  frames {shot['start_frame']} to {shot['end_frame'] - 1}" in lines
    frames = places.lake.read("shot_frames", title_id=title).filter(shot_index=3)["frame_index"].to_list()
    assert f"  frames {', '.join(map(str, frames))}" in lines
    assert f"  detector: {shot['detector']}" in lines
    assert "  track: film.en.srt" in lines
    for table, version in places.versions(title).items():
        assert f"{table}: version {version}" in lines
    assert all(
        "run not known" not in line
        for line in lines[lines.index(f"shots: version {places.versions(title)['shots']}") :]
    )


def test_a_row_that_was_retired_is_found_in_the_history(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    title = first_title(places)
    ((encoder, _),) = {key for key in places.lake.data_versions("contextual_embeddings") if key[1] == title}
    version = places.versions(title)["contextual_embeddings"]
    places.lake.delete("contextual_embeddings", {"encoder_version": encoder, "title_id": title})
    places.lake.delete("encoder", {"encoder_version": encoder})
    lines = explained(capsys, f"{title}:0", "contextual_embeddings", "--encoder", encoder)
    assert lines[0] == f"contextual_embeddings: version {version}"
    assert f"  encoder {encoder}" in lines
    assert any(line.startswith(f"encoder: {encoder}, ") and "tensors" in line for line in lines)
    assert any(line.startswith("  film film.mp4: sha256 ") for line in lines)


@pytest.mark.parametrize(
    ("row", "table", "status", "sentence"),
    [
        ("nobody", "shots", 1, "there is no title nobody in the lake"),
        ("../x:1", "shots", 1, "there is no title ../x in the lake"),
        ("TITLE:999", "shots", 1, "has no shot 999; its shots are 0 to 7"),
        ("TITLE:-1", "shots", 2, "-1 is no shot: a shot is a number from 0"),
        ("TITLE:", "shots", 2, " is no shot"),
        ("TITLE:\u0663", "shots", 2, " is no shot"),
        ("TITLE:3", "encoder", 2, "encoder is no table that is made title by title: titles, shots, "),
        ("TITLE:3", "\x1b[31m; drop", 2, " is no table that is made title by title"),
    ],
)
def test_a_question_that_has_no_answer_is_one_sentence(
    places: Places, row: str, table: str, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["explain", row.replace("TITLE", first_title(places)), table]) == status
    told = capsys.readouterr()
    assert not told.out
    (line,) = told.err.splitlines()
    assert sentence in line
    assert line.startswith("mediafm: ")
    assert "\x1b" not in line


def test_an_encoder_that_never_was_is_one_sentence(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{first_title(places)}:0", "contextual_embeddings", "--encoder", "never"]) == 1
    assert "in the lake no more" not in capsys.readouterr().out

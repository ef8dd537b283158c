"""Landing a title folder: what is refused, and in which order what is copied, in a folder and on S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resources.errors import BadInput, Unavailable
from resources.landing import LandingZone

SRT = "1\n00:00:01,000 --> 00:00:02,000\nHello.\n"


@pytest.fixture(scope="session")
def film(small_catalogue: Path) -> Path:
    return next((small_catalogue / "titles").glob("*/film.mp4"))


@pytest.fixture
def folder(tmp_path: Path, film: Path) -> Path:
    """A title folder that can be landed, outside of any landing zone."""
    folder = tmp_path / "night-train"
    folder.mkdir()
    shutil.copyfile(film, folder / "film.mp4")
    (folder / "film.en.srt").write_text(SRT)
    (folder / "title.json").write_text('{"title": "Night Train"}')
    return folder


@pytest.fixture
def zone(tmp_path: Path) -> LandingZone:
    (tmp_path / "zone").mkdir()
    return LandingZone(uri=str(tmp_path / "zone"), settle_s=0)


@pytest.fixture(params=["folder", "s3"])
def any_zone(request: pytest.FixtureRequest, zone: LandingZone) -> LandingZone:
    if request.param == "folder":
        return zone
    request.getfixturevalue("bucket")
    return LandingZone(uri="s3://films/in")


def names(zone: LandingZone, title_id: str = "night-train") -> list[str]:
    """All that lies in the landed folder, hidden files included."""
    return sorted(path.name for path in (Path(zone.uri) / "titles" / title_id).iterdir())


def test_a_landed_folder_is_a_drop_with_the_same_contents(any_zone: LandingZone, folder: Path) -> None:
    (folder / "poster.jpg").write_bytes(b"x")
    assert any_zone.land(folder, "night-train") == ["film.mp4", "film.en.srt", "title.json"]
    (drop,) = any_zone.look().drops
    assert (drop.title_id, drop.title, drop.media) == ("night-train", "Night Train", "film.mp4")
    assert [track.name for track in drop.text_tracks] == ["film.en.srt"]
    with any_zone.local(drop, "film.mp4") as path:
        assert path.read_bytes() == (folder / "film.mp4").read_bytes()


def test_a_changed_drop_takes_the_place_of_the_one_before(any_zone: LandingZone, folder: Path, film: Path) -> None:
    any_zone.land(folder, "night-train")
    before = any_zone.drop("night-train")
    (folder / "film.mp4").rename(folder / "cut2.mkv")
    (folder / "film.en.srt").rename(folder / "cut2.de.srt")
    (folder / "title.json").write_text('{"title": "Night Train 2"}')
    any_zone.land(folder, "night-train")
    after = any_zone.drop("night-train")
    assert (after.title, after.media) == ("Night Train 2", "cut2.mkv")
    assert [track.name for track in after.text_tracks] == ["cut2.de.srt"]
    assert after.drop_fingerprint != before.drop_fingerprint


def test_with_a_title_no_title_json_is_needed(zone: LandingZone, folder: Path) -> None:
    (folder / "title.json").unlink()
    zone.land(folder, "night-train", title="Été")
    assert zone.drop("night-train").title == "Été"
    assert not (folder / "title.json").exists()


@pytest.mark.parametrize(
    ("title_id", "title", "files", "reason"),
    [
        ("a b", None, {}, '"a b" is not a title id'),
        ("../x", None, {}, "is not a title id"),
        ("t", None, {"title.json": None}, "no title.json; write one"),
        ("t", "x", {}, "has a title.json"),
        ("t", " ", {"title.json": None}, 'no "title"'),
        ("t", "\udcff", {"title.json": None}, "not JSON in UTF-8"),
        ("t", None, {"title.json": "{"}, "title.json is not JSON"),
        ("t", None, {"film.mp4": None}, "no media file"),
        ("t", None, {"second.mp4": "x"}, "several files that could be the film"),
        ("t", None, {"film.mp4": "not a film"}, "film.mp4"),
        ("t", None, {"film.mp4": ""}, "film.mp4 is empty"),
        ("t", None, {"film.en.srt": "1\nno times\n"}, "film.en.srt is not a readable subtitle file"),
    ],
)
def test_a_folder_that_cannot_work_is_refused_and_the_drop_before_it_stays(
    zone: LandingZone, folder: Path, title_id: str, title: str | None, files: dict[str, str | None], reason: str
) -> None:
    zone.land(folder, "t")
    before = zone.drop("t")
    for name, text in files.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(BadInput) as refused:
        zone.land(folder, title_id, title)
    assert reason in str(refused.value)
    assert zone.look().drops == [before]


def test_a_link_out_of_the_folder_is_not_copied(zone: LandingZone, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.srt").write_text(SRT)
    (folder / "film.de.srt").symlink_to(tmp_path / "secret.srt")
    with pytest.raises(BadInput, match=r"film\.de\.srt is a link that leads out"):
        zone.land(folder, "night-train")


def test_what_lies_in_the_landing_zone_already_is_not_copied_onto_itself(zone: LandingZone, folder: Path) -> None:
    zone.land(folder, "night-train")
    landed = Path(zone.uri) / "titles" / "night-train"
    with pytest.raises(BadInput, match="lies in the landing zone already"):
        zone.land(landed, "night-train")
    assert names(zone) == ["film.en.srt", "film.mp4", "title.json"]
    zone.land(landed, "another")
    assert [drop.title_id for drop in zone.look().drops] == ["another", "night-train"]


def test_a_folder_that_is_not_there_and_a_zone_that_takes_no_files_are_told_apart(
    zone: LandingZone, folder: Path
) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        zone.land(folder / "nothing", "t")
    (Path(zone.uri) / "titles").write_text("a file where a folder should be")
    with pytest.raises(Unavailable, match=r"landing zone \(Not a directory\); see to that and repeat"):
        zone.land(folder, "t")


def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket: Any, folder: Path) -> None:
    for act in (lambda zone: zone.look(), lambda zone: zone.land(folder, "t")):
        with pytest.raises(BadInput) as refused:
            act(LandingZone(uri="s3://nowhere"))
        assert "NoSuchBucket" in str(refused.value)
        assert str(refused.value).isprintable()


def test_s3_that_does_not_answer_is_no_titles_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(Unavailable, match="S3 was not reached"):
        LandingZone(uri="s3://films").look()


def test_a_call_that_was_killed_leaves_no_complete_drop_and_is_repeated(zone: LandingZone, folder: Path) -> None:
    zone.land(folder, "night-train")
    pipe = folder.parent / "pipe"
    os.mkfifo(pipe)
    # Copies the first half of a film, then waits for bytes that never come: a copy that is killed half way.
    program = (
        "import sys; from pathlib import Path; from resources.landing.places import Folder\n"
        "place = Folder(Path(sys.argv[1])); place.remove('titles/night-train/title.json')\n"
        "place.put('titles/night-train/film.mp4', open(sys.argv[2], 'rb'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, zone.uri, str(pipe)], cwd=Path(__file__).parents[3])
    with open(pipe, "wb") as half:
        half.write(bytes(4 << 20))
        half.flush()
        while not [name for name in names(zone) if name.startswith(".")]:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    look = zone.look()
    assert not look.drops
    assert [waiting.title_id for waiting in look.waiting] == ["night-train"]
    assert (Path(zone.uri) / "titles/night-train/film.mp4").read_bytes() == (folder / "film.mp4").read_bytes()
    zone.land(folder, "night-train")
    assert names(zone) == ["film.en.srt", "film.mp4", "title.json"]
    assert [drop.title_id for drop in zone.look().drops] == ["night-train"]


def test_the_command_lands_a_folder_under_its_name_or_the_one_given(
    zone: LandingZone,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mediafm_assets.commands.cli import main

    monkeypatch.setenv("MEDIAFM_LANDING", zone.uri)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert main(["land", str(folder)]) == 0
    assert main(["land", str(folder), "--id", "other"]) == 0
    assert [drop.title_id for drop in zone.look().drops] == ["night-train", "other"]
    capsys.readouterr()
    (folder / "title.json").write_text(json.dumps({"title": 1}))
    assert main(["land", str(folder)]) == 1
    assert main(["land", str(folder), "--id", "\x1b[31mred\n"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith('night-train: the "title" of title.json is not a text')
    assert r'"\x1b[31mred\n" is not a title id' in said[1]

"""The landing zone, in a folder and on S3: what is complete, what waits, what is refused and in which words."""

import hashlib
import json
import os
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.errors import BadInput, Unavailable
from resources.landing import CaptionedClip, Drop, LandingZone
from resources.landing.places import MOST_FILES
from resources.timed_text import TextTrack

LONG_AGO = time.time() - 3600


def land(root: Path, title_id: str, said: Any = None, **files: bytes) -> Path:
    """A title folder with film.mp4 (unless files are given) and title.json, an hour old."""
    folder = root / "titles" / title_id
    folder.mkdir(parents=True)
    for name, data in (files or {"film_mp4": b"film"}).items():
        (folder / name.replace("_", ".")).write_bytes(data)
    raw = said if isinstance(said, bytes) else json.dumps({"title": "A Film"} if said is None else said).encode()
    (folder / "title.json").write_bytes(raw)
    age(folder)
    return folder


def age(folder: Path, when: float = LONG_AGO) -> None:
    for path in folder.iterdir():
        if not path.is_symlink():
            os.utime(path, (when, when))


def only_problem(root: Path) -> str:
    landing = LandingZone(uri=str(root)).look()
    assert not landing.drops
    assert not landing.waiting
    (problem,) = landing.problems
    assert problem.reason.isprintable()
    assert len(problem.reason) < 500
    return problem.reason


def test_a_complete_folder_is_a_drop_with_everything_title_json_said(tmp_path: Path) -> None:
    said = {
        "title": "Film",
        "type": "episode",
        "synopsis": "Things happen.",
        "tags": ["a", "b"],
        "genres": ["Drama"],
        "language": "en",
        "series_id": "s1",
        "media": "film.mp4",
        "year": 1999,
        "cast": {"lead": ["X"]},
    }
    folder = land(tmp_path, "t-1.x_Y", said)
    (drop,) = LandingZone(uri=str(tmp_path)).look().drops
    assert drop == Drop(
        title_id="t-1.x_Y",
        title="Film",
        type="episode",
        synopsis="Things happen.",
        tags=["a", "b"],
        genres=["Drama"],
        language="en",
        series_id="s1",
        media="film.mp4",
        media_uri=str(folder / "film.mp4"),
        text_tracks=[],
        extra={"year": 1999, "cast": {"lead": ["X"]}},
        drop_fingerprint=drop.drop_fingerprint,
        files=drop.files,
        landed_at=datetime.fromtimestamp((folder / "title.json").stat().st_mtime, UTC),
    )
    assert len(drop.drop_fingerprint) == 32
    assert drop.files.keys() == {"film.mp4", "title.json"}
    assert LandingZone(uri=str(tmp_path)).drop("t-1.x_Y") == drop


def test_only_the_title_is_required_and_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    land(tmp_path, "t", b"\xef\xbb\xbf" + '{"title": "Été", "tags": null}'.encode())
    (drop,) = LandingZone(uri=str(tmp_path)).look().drops
    assert (drop.title, drop.type, drop.synopsis, drop.tags, drop.genres) == ("Été", "movie", "", [], [])
    assert (drop.language, drop.series_id, drop.media, drop.extra) == (None, None, "film.mp4", {})


def test_the_real_titles_are_all_drops(media: Path) -> None:
    landing = LandingZone(uri=str(media)).look()
    assert [drop.title_id for drop in landing.drops] == sorted(path.name for path in (media / "titles").iterdir())
    assert not landing.problems
    assert not landing.waiting
    sintel = next(drop for drop in landing.drops if drop.title_id == "sintel-trailer")
    assert [(t.language, t.kind) for t in sintel.text_tracks] == [("en", "speaker"), ("en", None), ("es", None)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"title": "x", "n": NaN}', "not JSON in UTF-8 (NaN is not a finite number)"),
        (b'{"title": "x", "n": [{"m": -1e999}]}', "not JSON in UTF-8 (-1e999 is not a finite number)"),
        (b'{"title": "x", "n": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"title": "x", "n": ' + b"[" * 101 + b"]" * 101 + b"}", "nested more than 100 levels deep"),
        (b'{"title": "\\ud800"}', "not JSON in UTF-8"),
        (b'{"title": "' + b"x" * (1 << 20) + b'"}', "larger than 1024 KiB"),
        (["title"], "not a JSON object"),
        ({}, 'no "title"'),
        ({"title": None}, 'no "title"'),
        ({"title": " "}, 'no "title"'),
        ({"title": 7}, '"title" of title.json is not a text'),
        ({"title": "x", "tags": "a"}, '"tags" of title.json is not a list of texts'),
        ({"title": "x", "genres": [1]}, '"genres" of title.json is not a list of texts'),
        ({"title": "x", "language": ["en"]}, '"language" of title.json is not a text'),
        ({"title": "x", "media": 3}, '"media" of title.json is not a file name'),
        ({"title": "x", "media": "other.mp4"}, "other.mp4 is not in the title's folder"),
        ({"title": "x", "media": "../t2/film.mp4"}, "not a plain file name"),
        ({"title": "x", "media": "/etc/passwd"}, "not a plain file name"),
        ({"title": "x", "media": ".."}, "not a plain file name"),
        ({"title": "x", "media": ""}, "not a plain file name"),
        ({"title": "x", "media": "a\0b"}, "not a plain file name"),
        ({"title": "x", "media": "\x1b[31mred\nnext/" + "x" * 100_000}, r'"\x1b[31mred\nnext/xxx'),
    ],
)
def test_a_title_json_that_cannot_work_is_one_problem_and_no_drop(tmp_path: Path, said: Any, reason: str) -> None:
    land(tmp_path, "t", said)
    assert reason in only_problem(tmp_path)
    with pytest.raises(BadInput) as refused:
        LandingZone(uri=str(tmp_path)).drop("t")
    assert reason in str(refused.value)


@pytest.mark.parametrize("title_id", ["a b", "it's", "ä", "_x", "-x", "x" * 129, 'a"b', "a%2e", "x\ny"])
def test_an_illegal_title_id_is_a_problem_and_reaches_nothing(tmp_path: Path, title_id: str) -> None:
    land(tmp_path, title_id)
    assert "is not a title id" in only_problem(tmp_path)
    with pytest.raises(BadInput, match="is not a title id"):
        LandingZone(uri=str(tmp_path)).drop(title_id)


def test_a_refused_id_is_shown_without_doing_anything_to_the_terminal(tmp_path: Path) -> None:
    land(tmp_path, "a\x1b[2J\u202eb\nc")
    (problem,) = LandingZone(uri=str(tmp_path)).look().problems
    assert problem.title_id == r"a\x1b[2J\u202eb\nc"
    assert r'"a\x1b[2J\u202eb\nc" is not a title id' in problem.reason


@pytest.mark.parametrize("title_id", ["..", ".", "../x", "/etc", "", "a/b"])
def test_a_title_id_that_is_a_path_is_refused(tmp_path: Path, title_id: str) -> None:
    land(tmp_path, "t")
    with pytest.raises(BadInput, match="is not a title id"):
        LandingZone(uri=str(tmp_path)).drop(title_id)


def test_a_title_id_may_be_as_long_as_128_and_may_contain_dots(tmp_path: Path) -> None:
    land(tmp_path, "x" * 128)
    land(tmp_path, "a..b")
    assert len(LandingZone(uri=str(tmp_path)).look().drops) == 2


def test_one_bad_folder_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    land(tmp_path, "bad", b"nonsense")
    land(tmp_path, "good")
    landing = LandingZone(uri=str(tmp_path)).look()
    assert [drop.title_id for drop in landing.drops] == ["good"]
    assert [problem.title_id for problem in landing.problems] == ["bad"]


def test_a_folder_without_title_json_waits(tmp_path: Path) -> None:
    (land(tmp_path, "t") / "title.json").unlink()
    landing = LandingZone(uri=str(tmp_path)).look()
    assert not landing.drops
    assert not landing.problems
    (waiting,) = landing.waiting
    assert waiting.title_id == "t"
    assert "no title.json yet" in waiting.reason


@pytest.mark.parametrize("offset_s", [0, 1])
def test_a_file_that_may_still_grow_waits_and_then_lands(tmp_path: Path, offset_s: float) -> None:
    folder = land(tmp_path, "t")
    os.utime(folder / "film.mp4", (time.time() + offset_s,) * 2)
    (waiting,) = LandingZone(uri=str(tmp_path), settle_s=60).look().waiting
    assert "film.mp4 changed less than 60 s ago" in waiting.reason
    age(folder)
    assert LandingZone(uri=str(tmp_path), settle_s=60).look().drops


def test_a_clock_that_is_days_ahead_does_not_make_a_title_wait_for_ever(tmp_path: Path) -> None:
    age(land(tmp_path, "t"), time.time() + 5 * 86400)
    assert LandingZone(uri=str(tmp_path)).look().drops


def test_without_a_name_the_one_film_among_the_files_is_taken(tmp_path: Path) -> None:
    land(tmp_path, "a", None, film_mkv=b"f", film_srt=b"s", poster_jpg=b"p")
    land(tmp_path, "b", None, film_strange=b"f", film_en_vtt=b"s")
    drops = LandingZone(uri=str(tmp_path)).look().drops
    assert [drop.media for drop in drops] == ["film.mkv", "film.strange"]


def test_several_films_and_no_name_is_a_problem_that_says_what_to_write(tmp_path: Path) -> None:
    land(tmp_path, "t", None, one_mp4=b"1", two_mkv=b"2")
    assert 'one.mp4, two.mkv); name one as "media"' in only_problem(tmp_path)


def test_no_film_at_all_is_a_problem(tmp_path: Path) -> None:
    land(tmp_path, "t", None, film_srt=b"s")
    assert "no media file" in only_problem(tmp_path)


def test_hidden_files_and_subfolders_are_not_there(tmp_path: Path) -> None:
    folder = land(tmp_path, "t")
    before = LandingZone(uri=str(tmp_path)).look().drops
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "extras").mkdir()
    (folder / "extras" / "second.mp4").write_bytes(b"x")
    (tmp_path / "titles" / ".trash").mkdir()
    (tmp_path / "titles" / "note.txt").write_text("x")
    assert LandingZone(uri=str(tmp_path)).look().drops == before


@pytest.mark.parametrize("name", ["film.mp4", "film.srt", "title.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = land(tmp_path, "t")
    secret = tmp_path / "secret"
    secret.write_bytes(b'{"title": "x"}')
    os.utime(secret, (LONG_AGO, LONG_AGO))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert f"{name} is a link that leads out" in only_problem(tmp_path)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = land(tmp_path, "t", {"title": "x", "media": "film.mov"})
    (folder / "film.mov").symlink_to("film.mp4")
    zone = LandingZone(uri=str(tmp_path))
    (drop,) = zone.look().drops
    with zone.local(drop, "film.mov") as path:
        assert path.read_bytes() == b"film"


def test_a_title_folder_that_is_a_link_out_of_the_landing_zone_is_refused(tmp_path: Path) -> None:
    elsewhere = land(tmp_path / "elsewhere", "secret")
    (tmp_path / "zone" / "titles").mkdir(parents=True)
    (tmp_path / "zone" / "titles" / "t").symlink_to(elsewhere)
    assert "the folder is a link that leads out of the landing zone" in only_problem(tmp_path / "zone")
    with pytest.raises(BadInput, match="a link that leads out of the landing zone"):
        LandingZone(uri=str(tmp_path / "zone")).drop("t")


def test_a_title_folder_may_be_a_link_within_the_landing_zone_and_the_zone_itself_a_link(tmp_path: Path) -> None:
    folder = land(tmp_path / "disk", "t")
    (folder.parent / "u").symlink_to("t")
    (tmp_path / "zone").symlink_to(tmp_path / "disk")
    landing = LandingZone(uri=str(tmp_path / "zone")).look()
    assert [drop.title_id for drop in landing.drops] == ["t", "u"]


@pytest.mark.parametrize("folder", ["titles", "labels", "pairs"])
def test_the_folders_of_the_zone_are_no_links_out_of_it_either(tmp_path: Path, folder: str) -> None:
    land(tmp_path / "disk", "t")
    write_labels(tmp_path / "disk", "clip_tone", "jsonl", ROWS)
    write_pairs(tmp_path / "disk", {"caption": "x", "video": "clip.mp4"})
    (tmp_path / "zone").mkdir()
    (tmp_path / "zone" / folder).symlink_to(tmp_path / "disk" / folder)
    zone = LandingZone(uri=str(tmp_path / "zone"))
    reads = {"titles": zone.look, "labels": lambda: zone.labels("clip_tone"), "pairs": zone.captioned_clips}
    with pytest.raises(BadInput, match="a link that leads out of the landing zone"):
        reads[folder]()


def test_a_label_file_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, "clip_tone", "jsonl", ROWS)
    (tmp_path / "labels" / "clip_tone.jsonl").rename(tmp_path / "secret.jsonl")
    (tmp_path / "labels" / "clip_tone.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(BadInput, match=r"clip_tone\.jsonl is a link that leads out of the folder of labels"):
        LandingZone(uri=str(tmp_path)).labels("clip_tone")


def test_a_folder_of_very_many_files_is_a_problem_of_its_title_alone(tmp_path: Path) -> None:
    folder = land(tmp_path, "crowded")
    for number in range(MOST_FILES - 2):
        (folder / f"{number}.en.srt").touch()
    age(folder)
    assert len(LandingZone(uri=str(tmp_path)).look().drops) == 1
    (folder / "one-more.en.srt").touch()
    assert f"the folder has more than {MOST_FILES:,} files" in only_problem(tmp_path)
    land(tmp_path, "quiet")
    assert [drop.title_id for drop in LandingZone(uri=str(tmp_path)).look().drops] == ["quiet"]


@pytest.mark.parametrize(("name", "size", "reason"), [
    ("film.en.srt", 1 << 30, "film.en.srt is over 16 MiB, which no subtitle track is"),
    ("film.mp4", (1 << 40) + 1, "film.mp4 is larger than 1 TiB"),
])  # fmt: skip
def test_a_file_that_is_much_too_large_is_refused_unread(tmp_path: Path, name: str, size: int, reason: str) -> None:
    folder = land(tmp_path, "large")
    with (folder / name).open("wb") as file:
        file.truncate(size)  # sparse: it takes no room
    age(folder)
    assert reason in only_problem(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["title.json", "."])
def test_what_may_not_be_read_is_a_problem_of_its_title_alone(tmp_path: Path, name: str) -> None:
    land(tmp_path, "good")
    locked = land(tmp_path, "locked") / name
    locked.chmod(0)
    landing = LandingZone(uri=str(tmp_path)).look()
    locked.chmod(0o700)
    assert [drop.title_id for drop in landing.drops] == ["good"]
    assert "Permission denied" in landing.problems[0].reason


def test_a_pipe_instead_of_a_film_does_not_block(tmp_path: Path) -> None:
    folder = land(tmp_path, "t", {"title": "x", "media": "film.mp4"})
    (folder / "film.mp4").unlink()
    os.mkfifo(folder / "film.mp4")
    assert "film.mp4 is not in the title's folder" in only_problem(tmp_path)


@pytest.mark.parametrize(
    ("name", "format_", "language", "kind"),
    [
        ("film.en.srt", "srt", "en", None),
        ("film.en.ad.vtt", "vtt", "en", "ad"),
        ("film.DE.SDH.VTT", "vtt", "de", "sdh"),
        ("film.sdh.de.vtt", "vtt", "de", "sdh"),
        ("film.pt-BR.ttml", "ttml", "pt-BR", None),
        ("film.pt-br.dfxp", "ttml", "pt-BR", None),
        ("film.zh-hant-tw.ass", "ass", "zh-Hant-TW", None),
        ("film.spa-419.ssa", "ssa", "spa-419", None),
        ("film.srt", "srt", None, None),
        ("film.sdh.srt", "srt", None, "sdh"),
        ("en.srt", "srt", "en", None),
        ("the.other.film.fr.srt", "srt", "fr", None),
        ("the.big.lebowski.srt", "srt", None, None),
    ],
)
def test_a_tracks_language_and_kind_are_read_from_its_name(
    tmp_path: Path, name: str, format_: str, language: str | None, kind: str | None
) -> None:
    folder = land(tmp_path, "t")
    (folder / name).write_text("x")
    age(folder)
    (drop,) = LandingZone(uri=str(tmp_path)).look().drops
    assert drop.text_tracks == [TextTrack(name, format_, language, kind)]


def test_dots_in_the_films_own_name_are_no_language(tmp_path: Path) -> None:
    land(tmp_path, "t", {"title": "x", "media": "ice.age.mp4"}, ice_age_mp4=b"f", ice_age_srt=b"s", ice_age_it_srt=b"s")
    (drop,) = LandingZone(uri=str(tmp_path)).look().drops
    assert [(track.name, track.language) for track in drop.text_tracks] == [
        ("ice.age.it.srt", "it"),
        ("ice.age.srt", None),
    ]


def test_any_change_of_any_file_changes_the_fingerprint_and_nothing_else_does(tmp_path: Path) -> None:
    folder = land(tmp_path, "t", None, film_mp4=b"film", film_srt=b"text")
    zone = LandingZone(uri=str(tmp_path))
    seen = {zone.drop("t").drop_fingerprint}
    assert zone.drop("t").drop_fingerprint in seen
    (folder / "film.mp4").write_bytes(b"longer film")
    age(folder)
    seen.add(zone.drop("t").drop_fingerprint)
    os.utime(folder / "film.srt", (LONG_AGO, LONG_AGO + 1))
    seen.add(zone.drop("t").drop_fingerprint)
    (folder / "film.srt").rename(folder / "film.en.srt")
    seen.add(zone.drop("t").drop_fingerprint)
    (folder / "title.json").write_text('{"title": "Another"}')
    age(folder)
    seen.add(zone.drop("t").drop_fingerprint)
    assert len(seen) == 5


def test_files_are_opened_only_within_their_drop(tmp_path: Path) -> None:
    land(tmp_path, "t")
    land(tmp_path, "u")
    zone = LandingZone(uri=str(tmp_path))
    drop = zone.drop("t")
    with zone.local(drop, "film.mp4") as path:
        assert path.read_bytes() == b"film"
    assert zone.sha256(drop, "film.mp4") == hashlib.sha256(b"film").hexdigest()
    for name in ("../u/film.mp4", "/etc/passwd", "..", "missing.mp4", ""):
        with pytest.raises(BadInput), zone.local(drop, name):
            pass
        with pytest.raises(BadInput):
            zone.sha256(drop, name)


def test_a_landing_zone_that_is_not_there_says_how_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="MEDIAFM_LANDING"):
        LandingZone(uri=str(tmp_path / "nowhere")).look()
    assert LandingZone(uri=str(tmp_path)).look().drops == []


ROWS = [
    {"clip_id": "c1", "title_id": "t", "start_s": 0.0, "end_s": 4.5, "labels": ["happy", "sad"]},
    {"clip_id": "c2", "title_id": "u", "start_s": 4.5, "end_s": 9.0, "labels": []},
]


def write_labels(root: Path, task: str, extension: str, rows: list[dict[str, Any]]) -> None:
    (root / "labels").mkdir(exist_ok=True)
    path = root / "labels" / f"{task}.{extension}"
    if extension == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif extension == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        cells = [[";".join(v) if isinstance(v, list) else str(v) for v in row.values()] for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row) for row in cells)]))


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_labels_read_the_same_from_every_format(tmp_path: Path, extension: str) -> None:
    write_labels(tmp_path, "clip_tone", extension, ROWS)
    zone = LandingZone(uri=str(tmp_path))
    labels = zone.labels("clip_tone")
    assert labels is not None
    assert (labels.refused, labels.refused_rows) == ([], 0)
    assert labels.rows.to_dicts() == ROWS
    assert labels.rows.schema == {
        "clip_id": pl.String,
        "title_id": pl.String,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        "labels": pl.List(pl.String),
    }
    before = zone.label_fingerprint("clip_tone")
    write_labels(tmp_path, "clip_tone", extension, ROWS[:1])
    assert zone.label_fingerprint("clip_tone") != before


def test_scores_and_yes_or_no_labels_have_their_own_columns(tmp_path: Path) -> None:
    row = {key: ROWS[0][key] for key in ("clip_id", "title_id", "start_s", "end_s")}
    write_labels(tmp_path, "clip_popularity", "csv", [row | {"score": 0.125}])
    write_labels(tmp_path, "clip_retrieval", "jsonl", [row | {"label": 1}])
    zone = LandingZone(uri=str(tmp_path))
    popularity, retrieval = zone.labels("clip_popularity"), zone.labels("clip_retrieval")
    assert popularity is not None
    assert retrieval is not None
    assert popularity.rows["score"].to_list() == [0.125]
    assert retrieval.rows["label"].to_list() == [1]


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_a_labelled_scene_is_its_title_and_its_span(tmp_path: Path, extension: str) -> None:
    scenes: list[dict[str, Any]] = [
        {"title_id": "t", "start_s": 0.0, "end_s": 4.5},
        {"title_id": "t", "start_s": 4.5, "end_s": 9.0},
        {"title_id": "t", "start_s": 4.5, "end_s": 8.0},
        {"title_id": "t", "start_s": 9.0, "end_s": 9.0},
        {"title_id": "u", "start_s": 4.5, "end_s": 9.0},
    ]
    write_labels(tmp_path, "scenes", extension, scenes)
    labels = LandingZone(uri=str(tmp_path)).labels("scenes")
    assert labels is not None
    names = ["t at 0.000 s", "t at 4.500 s", "u at 4.500 s"]
    kept = [{"clip_id": name, **scenes[n]} for name, n in zip(names, (0, 1, 4), strict=True)]
    assert labels.rows.to_dicts() == kept
    line = {"csv": 1, "jsonl": 0, "parquet": 0}[extension]
    assert [str(refused) for refused in labels.refused] == [
        f'scenes.{extension}, line {3 + line}: the scene "t at 4.500 s" is already in line {2 + line}',
        f"scenes.{extension}, line {4 + line}: start_s 9 and end_s 9 are not 0 <= start_s < end_s",
    ]


def test_nobody_dropped_labels_and_none_come(tmp_path: Path) -> None:
    zone = LandingZone(uri=str(tmp_path))
    assert zone.labels("clip_tone") is None
    assert zone.label_fingerprint("clip_tone") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_id": ""}, "clip_id must be"),
        ({"clip_id": 7}, "clip_id must be"),
        ({"title_id": "../x"}, "not a legal title id"),
        ({"title_id": None}, "not a legal title id"),
        ({"start_s": -1}, "0 <= start_s < end_s"),
        ({"start_s": 9.0}, "0 <= start_s < end_s"),
        ({"start_s": "soon"}, "start_s must be a number"),
        ({"end_s": "inf"}, "end_s is not finite"),
        ({"end_s": "nan"}, "end_s is not finite"),
        ({"end_s": 10**400}, "end_s must be a number"),
        ({"labels": None}, "labels must be a list"),
        ({"labels": [1]}, "labels must be a list"),
        ({"labels": "[1, "}, "begins with ["),
        ({"labels": ["x"] * 1001}, "more than 1000"),
        ({"clip_id": "c1"}, "already in line 1"),
    ],
)
def test_a_bad_label_row_is_refused_by_file_and_line_and_the_others_count(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    write_labels(tmp_path, "clip_tone", "jsonl", [ROWS[0], ROWS[1] | change, ROWS[1] | {"clip_id": "c3"}])
    labels = LandingZone(uri=str(tmp_path)).labels("clip_tone")
    assert labels is not None
    assert labels.rows["clip_id"].to_list() == ["c1", "c3"]
    (refused,) = labels.refused
    assert (refused.file, refused.line) == ("clip_tone.jsonl", 2)
    assert str(refused).startswith("clip_tone.jsonl, line 2: ")
    assert reason in str(refused)
    assert str(refused).isprintable()


@pytest.mark.parametrize(
    ("name", "data", "refused"),
    [
        (
            "clip_tone.jsonl",
            b'\n{\n[1]\n\xff\n{"clip_id": "c", "title_id": "t", "start_s": 0, "end_s": 1, "labels": ["a"]}',
            ["line 2: this is not JSON", "line 3: this is not a JSON object", "line 4: the text is not UTF-8"],
        ),
        (
            "clip_tone.csv",
            b'clip_id,title_id,start_s,end_s,labels\nc,t,0,1,a\nd,t,0,1,\xff\ne,t,0,1\nf,t,0,1,a,b\n\ng,t,0,1,a"b"\nh,t,0,1,"b',
            [
                "line 3: the text is not UTF-8",
                "line 4: labels must be a list",
                "line 5: it has 6 cells, and the header 5",
                "line 8: this is not CSV",
            ],
        ),
    ],
)
def test_a_line_that_is_not_even_text_is_refused_alone(
    tmp_path: Path, name: str, data: bytes, refused: list[str]
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_bytes(data)
    labels = LandingZone(uri=str(tmp_path)).labels("clip_tone")
    assert labels is not None
    assert labels.rows["clip_id"][0] == "c"
    assert labels.refused_rows == len(refused)
    for found, expected in zip(labels.refused, refused, strict=True):
        assert str(found).startswith(f"{name}, {expected}")


def test_of_many_bad_rows_the_first_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    write_labels(tmp_path, "clip_tone", "jsonl", [ROWS[0]] * 100)
    labels = LandingZone(uri=str(tmp_path)).labels("clip_tone")
    assert labels is not None
    assert (len(labels.rows), len(labels.refused), labels.refused_rows) == (1, 50, 99)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("clip_tone.jsonl", b"{}\n", "line 1: clip_id"),
        ("clip_tone.jsonl", b"\n{\n", "line 2: this is not JSON"),
        ("clip_tone.jsonl", b"[1]\n", "line 1: this is not a JSON object"),
        ("clip_tone.jsonl", b"\n\xff\n", "line 2: the text is not UTF-8"),
        ("clip_tone.csv", b'clip_id,title_id\n"a', "this is not CSV"),
        ("clip_tone.csv", b"clip_id,title_id,start_s,end_s,labels\n", "it has no rows"),
        ("clip_tone.jsonl", b"", "it has no rows"),
        ("clip_tone.parquet", b"PAR1 nonsense", "cannot be read as Parquet"),
        ("clip_retrieval.csv", b"clip_id,title_id,start_s,end_s,label\nc,t,0,1,2\n", "line 2: label is 2"),
        ("clip_popularity.csv", b"clip_id,title_id,start_s,end_s,score\nc,t,0,1,nan\n", "line 2: score is not finite"),
    ],
)
def test_a_label_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_bytes(data)
    with pytest.raises(BadInput) as refused:
        LandingZone(uri=str(tmp_path)).labels(name.split(".")[0])
    assert name in str(refused.value)
    assert reason in str(refused.value)


def test_two_label_files_block_their_task_alone(tmp_path: Path) -> None:
    write_labels(tmp_path, "clip_tone", "csv", ROWS)
    write_labels(tmp_path, "clip_tone", "jsonl", ROWS)
    write_labels(tmp_path, "clip_genre", "jsonl", ROWS)
    zone = LandingZone(uri=str(tmp_path))
    for read in (zone.labels, zone.label_fingerprint):
        with pytest.raises(BadInput, match=r"clip_tone\.csv and clip_tone\.jsonl; keep one"):
            read("clip_tone")
        assert read("clip_genre") is not None


def test_a_small_parquet_file_that_stands_for_very_many_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels" / "clip_tone.parquet"
    pl.DataFrame({"clip_id": pl.repeat("c", 6_000_000, eager=True)}).write_parquet(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadInput, match="6000000 rows"):
        LandingZone(uri=str(tmp_path)).labels("clip_tone")


def test_a_json_list_in_csv_keeps_labels_with_semicolons(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "clip_tone.csv").write_text(
        'clip_id,title_id,start_s,end_s,labels\nc,t,0,1,"[""a;b"", ""c""]"\n'
    )
    labels = LandingZone(uri=str(tmp_path)).labels("clip_tone")
    assert labels is not None
    assert labels.rows["labels"].to_list() == [["a;b", "c"]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary()
    | st.dictionaries(st.sampled_from(["title", "tags", "media", "series_id", "x"]), JSON).map(
        lambda said: json.dumps({"title": "a", **said}).encode()
    )
)
def test_any_title_json_is_a_drop_that_others_can_read_or_a_problem_in_one_line(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "titles" / "t"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "film.mp4").write_bytes(b"film")
    (folder / "title.json").write_bytes(data)
    age(folder)
    landing = LandingZone(uri=str(tmp_path)).look()
    assert len(landing.drops) + len(landing.problems) == 1
    for problem in landing.problems:
        assert problem.reason.isprintable()
    for drop in landing.drops:
        json.dumps(drop.extra, allow_nan=False, ensure_ascii=False).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.binary(max_size=20)
        | st.dictionaries(st.sampled_from([*ROWS[0], "score"]), JSON, max_size=2).map(
            lambda change: json.dumps({**ROWS[0], "score": 1, **change}).encode()
        ),
        max_size=5,
    ),
    st.sampled_from(["clip_tone", "clip_popularity"]),
)
def test_of_any_label_file_each_row_is_used_or_refused_in_one_line(
    tmp_path: Path, lines: list[bytes], task: str
) -> None:
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / f"{task}.jsonl").write_bytes(b"\n".join(lines))
    rows = sum(1 for line in b"\n".join(lines).split(b"\n") if line.strip())
    try:
        labels = LandingZone(uri=str(tmp_path)).labels(task)
    except BadInput:
        return  # no row can be used
    assert labels is not None
    assert len(labels.rows) + labels.refused_rows == rows
    assert all(str(refused).isprintable() for refused in labels.refused)


def write_pairs(root: Path, *lines: Any, name: str = "a.jsonl") -> None:
    """A pairs file and a video beside it. Lines that are bytes are written as they are."""
    (root / "pairs").mkdir(exist_ok=True)
    (root / "pairs" / "clip.mp4").write_bytes(b"film")
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (root / "pairs" / name).write_bytes(b"\n".join(raw) + b"\n\n")


def test_captioned_clips_are_spans_of_titles_and_videos_beside_their_file(tmp_path: Path) -> None:
    zone = LandingZone(uri=str(tmp_path))
    assert zone.captioned_clips() is None
    write_pairs(tmp_path, {"caption": "A red door.", "title_id": "t", "start_s": 1, "end_s": 2.5}, name="b.JSONL")
    write_pairs(tmp_path, b"", {"caption": "Ein Hund läuft", "video": "clip.mp4", "licence": "CC0"})
    clips = zone.captioned_clips()
    assert clips == [
        CaptionedClip("Ein Hund läuft", "pairs/a.jsonl, line 2", "clip.mp4"),
        CaptionedClip("A red door.", "pairs/b.JSONL, line 1", None, "t", 1.0, 2.5),
    ]
    assert zone.video_sha256(clips[0]) == hashlib.sha256(b"film").hexdigest()
    with zone.local_video(clips[0]) as path:
        assert path.read_bytes() == b"film"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "this is not JSON"),
        (b"[" * 100_000, "this is not JSON"),
        (b"7", "this is not a JSON object"),
        (b"\xff", "the text is not UTF-8"),
        ({"video": "clip.mp4"}, "caption must be a text"),
        ({"caption": " \t", "video": "clip.mp4"}, "caption must be a text"),
        ({"caption": ["x"], "video": "clip.mp4"}, "caption must be a text"),
        ({"caption": "x" * 4097, "video": "clip.mp4"}, "1 to 4096 characters"),
        (b'{"caption": "\\ud800", "video": "clip.mp4"}', "surrogates not allowed"),
        ({"caption": "x"}, "names neither a video nor a title_id"),
        ({"caption": "x", "video": "clip.mp4", "title_id": "t"}, "both a video and a title_id"),
        ({"caption": "x", "video": 7}, "video must be the name of a file"),
        ({"caption": "x", "video": "other.mp4"}, "other.mp4 is not in the folder of pairs"),
        ({"caption": "x", "video": "../titles/t/film.mp4"}, "not a plain file name"),
        ({"caption": "x", "video": "/etc/passwd"}, "not a plain file name"),
        ({"caption": "x", "video": ""}, "not a plain file name"),
        ({"caption": "x", "video": "out.mp4"}, "a link that leads out of the folder of pairs"),
        ({"caption": "x", "title_id": "../x", "start_s": 0, "end_s": 1}, "not a legal title id"),
        ({"caption": "x", "title_id": "t' or 1=1", "start_s": 0, "end_s": 1}, "not a legal title id"),
        ({"caption": "x", "title_id": "t", "start_s": 0}, "end_s must be a number"),
        ({"caption": "x", "title_id": "t", "start_s": 0, "end_s": 10**400}, "end_s must be a number"),
        ({"caption": "x", "title_id": "t", "start_s": 2, "end_s": 2}, "0 <= start_s < end_s"),
        (b'{"caption": "x", "title_id": "t", "start_s": 0, "end_s": NaN}', "end_s is not finite"),
    ],
)
def test_a_bad_line_of_captioned_clips_is_named_with_its_file(tmp_path: Path, line: Any, reason: str) -> None:
    write_pairs(tmp_path, {"caption": "x", "video": "clip.mp4"}, line)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "pairs" / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(BadInput) as refused:
        LandingZone(uri=str(tmp_path)).captioned_clips()
    assert str(refused.value).startswith("pairs/a.jsonl, line 2: ")
    assert reason in str(refused.value)


def test_pairs_files_beyond_the_limit_are_refused_unread(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with open(tmp_path / "pairs" / "a.jsonl", "ab") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(BadInput, match="larger than 256 MiB"):
        LandingZone(uri=str(tmp_path)).captioned_clips()


def test_titles_labels_and_captioned_clips_land_from_s3_as_from_a_folder(bucket: Any) -> None:
    objects = {
        "in/titles/t/title.json": b'{"title": "A Film", "media": "film.mp4"}',
        "in/titles/t/film.mp4": b"film",
        "in/titles/t/film.en.srt": b"text",
        "in/titles/t/extras/second.mp4": b"x",
        "in/titles/u/film.mp4": b"film",
        "in/titles/bad id/title.json": b'{"title": "A Film"}',
        "in/titles/loose.txt": b"x",
        "in/labels/clip_tone.jsonl": json.dumps(ROWS[0]).encode(),
        "in/pairs/clips.jsonl": b'{"caption": "A film.", "video": "clip.mp4"}',
        "in/pairs/clip.mp4": b"clip",
        "elsewhere/titles/v/title.json": b"{}",
    }
    for key, data in objects.items():
        bucket.put_object(Bucket="films", Key=key, Body=data)
    zone = LandingZone(uri="s3://films/in/")
    landing = zone.look()
    (drop,) = landing.drops
    assert (drop.title_id, drop.media, drop.media_uri) == ("t", "film.mp4", "s3://films/in/titles/t/film.mp4")
    assert drop.text_tracks == [TextTrack("film.en.srt", "srt", "en", None)]
    assert [problem.title_id for problem in landing.problems] == ["bad id"]
    assert [waiting.title_id for waiting in landing.waiting] == ["u"]
    with zone.local(drop, "film.mp4") as path:
        assert path.read_bytes() == b"film"
        assert path.suffix == ".mp4"
    assert not path.exists()
    assert zone.sha256(drop, "film.mp4") == hashlib.sha256(b"film").hexdigest()
    for name in ("../u/film.mp4", "extras/second.mp4", "missing.mp4"):
        with pytest.raises(BadInput), zone.local(drop, name):
            pass
    labels = zone.labels("clip_tone")
    assert labels is not None
    assert labels.rows.to_dicts() == ROWS[:1]
    (clip,) = zone.captioned_clips() or []
    assert (clip.caption, clip.video) == ("A film.", "clip.mp4")
    assert zone.video_sha256(clip) == hashlib.sha256(b"clip").hexdigest()
    with zone.local_video(clip) as path:
        assert path.read_bytes() == b"clip"
    assert not path.exists()

    bucket.put_object(Bucket="films", Key="in/titles/t/title.json", Body=b'{"title": "Another"}')
    changed = zone.drop("t")
    assert changed.title == "Another"
    assert changed.drop_fingerprint != drop.drop_fingerprint


def test_more_titles_than_one_s3_listing_holds_are_all_seen(bucket: Any) -> None:
    def put(i: int) -> None:
        bucket.put_object(Bucket="films", Key=f"titles/t{i:04}/title.json", Body=b'{"title": "A Film"}')
        bucket.put_object(Bucket="films", Key=f"titles/t{i:04}/film.mp4", Body=b"film")

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(put, range(520)))
    assert len(LandingZone(uri="s3://films").look().drops) == 520


def test_a_crowded_folder_of_a_bucket_hides_none_of_its_neighbours(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.landing.places.MOST_FILES", 3)
    for title_id in ("a", "crowd", "crowd0", "crowd.2", "z"):
        bucket.put_object(Bucket="films", Key=f"titles/{title_id}/title.json", Body=b'{"title": "A Film"}')
        bucket.put_object(Bucket="films", Key=f"titles/{title_id}/film.mp4", Body=b"film")
    for name in (".hidden", "deep/er/1", "deep/er/2", "zzz"):
        bucket.put_object(Bucket="films", Key=f"titles/crowd/{name}", Body=b"")
    landing = LandingZone(uri="s3://films").look()
    assert [drop.title_id for drop in landing.drops] == ["a", "crowd.2", "crowd0", "z"]
    assert [problem.title_id for problem in landing.problems] == ["crowd"]


def test_a_film_that_the_disk_has_no_room_for_is_not_begun_to_be_copied(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Bucket="films", Key="titles/t/title.json", Body=b'{"title": "A Film"}')
    bucket.put_object(Bucket="films", Key="titles/t/film.mp4", Body=b"film")
    zone = LandingZone(uri="s3://films")
    full = namedtuple("Usage", "total used free")(10, 7, 3)
    monkeypatch.setattr("resources.landing.places.shutil.disk_usage", lambda _: full)
    with pytest.raises(Unavailable, match="set TMPDIR"), zone.local(zone.drop("t"), "film.mp4"):
        pass

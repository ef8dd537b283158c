"""Folders of live titles: what of them is the film, and what waits."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from resources.errors import BadInput
from resources.landing import Drop, Landing, LandingZone, Part, places
from resources.landing.live import STOPPED_S
from resources.media import Joined


class Folder:
    """A live title's folder; its files are old enough to be settled."""

    def __init__(self, root: Path) -> None:
        self.zone = LandingZone(uri=str(root))
        self.path = root / "titles" / "evening"
        self.path.mkdir(parents=True)

    def put(self, name: str, data: bytes = b"", age_s: float = 60.0) -> None:
        (self.path / name).write_bytes(data or name.encode())
        then = time.time() - age_s
        os.utime(self.path / name, (then, then))

    def says(self, live: bool = True, age_s: float = 60.0, **more: object) -> None:
        self.put("title.json", json.dumps({"title": "Evening", "live": live, **more}).encode(), age_s)

    def look(self) -> Landing:
        return self.zone.look()

    @property
    def drop(self) -> Drop:
        return self.zone.drop("evening")

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.drop.parts]

    def take(self, before: Sequence[Part] = ()) -> Drop:
        return self.zone.take(self.drop, before)

    def film(self, drop: Drop) -> bytes:
        with self.zone.media(drop) as film:
            assert isinstance(film, Joined)
            with film.open() as stream:
                return stream.read()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.says()
    return made


# ---- which files ---------------------------------------------------------------------------------------------------


def test_segments_are_joined_by_their_numbers(folder: Folder) -> None:
    for number in (10, 9, 11, 8):
        folder.put(f"seg{number}.ts")
    folder.put("list.m3u8", b"#EXTM3U")
    assert folder.drop.live
    assert folder.names == ["seg8.ts", "seg9.ts", "seg10.ts", "seg11.ts"]
    assert folder.film(folder.drop) == b"seg8.tsseg9.tsseg10.tsseg11.ts"


def test_a_playlist_that_is_written_anew_changes_nothing(folder: Folder) -> None:
    folder.put("seg1.ts")
    folder.put("list.m3u8", b"#EXTM3U")
    before = folder.drop
    folder.put("list.m3u8", b"#EXTM3U\n#", age_s=0)
    assert folder.drop.drop_fingerprint == before.drop_fingerprint


def test_what_comes_after_a_missing_segment_waits_for_it_while_the_title_is_live(folder: Folder) -> None:
    for number in (1, 2, 4):
        folder.put(f"seg{number}.ts")
    before = folder.drop
    assert folder.names == ["seg1.ts", "seg2.ts"]
    assert before.waits == "the segment between seg2.ts and seg4.ts"
    folder.put("seg5.ts")
    assert folder.drop.drop_fingerprint == before.drop_fingerprint
    folder.put("seg3.ts")
    assert folder.names == [f"seg{number}.ts" for number in range(1, 6)]
    assert folder.drop.drop_fingerprint != before.drop_fingerprint


def test_when_it_is_over_what_is_missing_stays_missing(folder: Folder) -> None:
    for number in (1, 2, 4):
        folder.put(f"seg{number}.ts")
    folder.says(live=False)
    assert not folder.drop.live
    assert folder.names == ["seg1.ts", "seg2.ts", "seg4.ts"]


def test_numbers_that_are_times_miss_none(folder: Folder) -> None:
    for number in (0, 180000, 357000):
        folder.put(f"chunk-{number}.ts")
    assert folder.names == ["chunk-0.ts", "chunk-180000.ts", "chunk-357000.ts"]


def test_a_segment_that_is_still_being_written_waits_and_those_after_it(folder: Folder) -> None:
    folder.put("seg1.ts")
    folder.put("seg2.ts", age_s=0)
    folder.put("seg3.ts")
    assert folder.names == ["seg1.ts"]


def test_the_init_segment_comes_first_and_is_waited_for(folder: Folder) -> None:
    folder.put("seg1.m4s")
    folder.put("seg2.m4s")
    assert [wait.reason for wait in folder.look().waiting] == [
        "the film waits for the init segment, whose name has init in it"
    ]
    folder.put("init.mp4")
    assert folder.names == ["init.mp4", "seg1.m4s", "seg2.m4s"]


def test_segments_of_several_streams_are_refused(folder: Folder) -> None:
    for name in ("init.mp4", "v0-1.m4s", "v0-2.m4s", "a1-1.m4s", "a1-2.m4s"):
        folder.put(name)
    (problem,) = folder.look().problems
    assert "several streams or files (a1-….m4s, v0-….m4s)" in problem.reason


def test_two_segments_with_one_number_are_refused(folder: Folder) -> None:
    folder.put("seg1.ts", b"a")
    folder.put("seg01.ts", b"aa")
    (problem,) = folder.look().problems
    assert "seg01.ts and seg1.ts have the same number" in problem.reason


def test_a_live_title_without_any_film_waits(folder: Folder) -> None:
    assert [wait.reason for wait in folder.look().waiting] == ["the film waits for its first file"]


def test_a_live_title_that_has_stopped_is_said_and_stays_usable(folder: Folder) -> None:
    folder.says(age_s=2 * STOPPED_S)
    folder.put("seg1.ts", age_s=2 * STOPPED_S)
    folder.put("seg3.ts", age_s=1.5 * STOPPED_S)
    landing = folder.look()
    assert [drop.title_id for drop in landing.drops] == ["evening"]
    (stopped,) = landing.stopped
    assert "though it is live; it waits for the segment between seg1.ts and seg3.ts" in stopped.reason
    folder.put("seg2.ts")
    assert not folder.look().stopped


def test_thousands_of_segments_are_listed_without_being_opened(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        folder.put(f"seg{number:05}.ts", b"x" * (1 + number % 7))

    opened = []
    open_file = places.Folder.open

    def watched(place: places.Folder, path: str, start: int = 0) -> IO[bytes]:
        opened.append(path)
        return open_file(place, path, start)

    monkeypatch.setattr(places.Folder, "open", watched)
    assert len(folder.look().drops[0].parts) == 3000
    assert opened == ["titles/evening/title.json"]


def test_a_live_folder_is_not_landed_by_the_command(folder: Folder, tmp_path: Path) -> None:
    folder.put("seg1.ts")
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="says live"):
        LandingZone(uri=str(tmp_path / "other")).land(folder.path, "evening")


# ---- what was taken ------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_read_while_it_is_live(folder: Folder) -> None:
    folder.put("seg1.ts")
    before = folder.take().parts
    folder.put("seg1.ts", b"sEg1.ts")  # as long as before: nobody looks into it
    folder.put("seg2.ts")
    assert folder.take(before).parts[:1] == before
    folder.says(live=False)
    now = folder.take(before)
    assert now.parts[:1] != before
    assert folder.film(now) == b"sEg1.tsseg2.ts"


def test_a_repeated_segment_is_read_once(folder: Folder) -> None:
    for number, data in ((1, b"aaaa"), (2, b"bbbb"), (3, b"bbbb"), (4, b"cccc")):
        folder.put(f"seg{number}.ts", data)
    drop = folder.take()
    assert folder.film(drop) == b"aaaabbbbcccc"
    folder.put("seg2.ts", b"bbbb", age_s=30.0)  # sent again
    assert folder.take(drop.parts) == drop


def test_a_growing_file_is_taken_as_far_as_it_is_there_and_read_no_further(folder: Folder) -> None:
    folder.put("film.ts", b"0123456789", age_s=0)
    first = folder.take()
    folder.put("film.ts", b"0123456789abc", age_s=0)
    second = folder.take(first.parts)
    assert first.drop_fingerprint != second.drop_fingerprint
    assert [part.bytes for part in second.parts] == [10, 3]
    assert second.parts[:1] == first.parts
    assert folder.film(first) == b"0123456789"
    assert folder.film(second) == b"0123456789abc"


@pytest.mark.parametrize("data", [b"01234", b""])
def test_a_growing_file_that_became_shorter_is_refused(folder: Folder, data: bytes) -> None:
    folder.put("film.ts", b"0123456789")
    before = folder.take()
    (folder.path / "film.ts").write_bytes(data)
    with pytest.raises(BadInput, match=r"may only grow|waits for its first bytes"):
        folder.take(before.parts)
    with pytest.raises(BadInput, match="may only grow"), folder.zone.media(before):
        pass


def test_what_was_taken_is_shown_from_anywhere_as_one_film(folder: Folder) -> None:
    for number, data in ((1, b"aaaa"), (2, b"bbbb"), (3, b"bbbb"), (4, b"cccc")):
        folder.put(f"seg{number}.ts", data)
    taken = folder.take().parts
    folder.put("seg5.ts")
    film, whole = folder.zone.film(folder.drop.title_id, taken), b"aaaabbbbcccc"
    assert (film.name, film.size) == ("seg1.ts", len(whole))
    for start in range(len(whole)):
        for end in range(start + 1, len(whole) + 1):
            assert b"".join(film.pieces(start, end)) == whole[start:end]
    assert folder.zone.film(folder.drop.title_id, folder.take(taken).parts).version != film.version
    (folder.path / "seg4.ts").write_bytes(b"c")
    with pytest.raises(BadInput, match="may only grow"):
        folder.zone.film(folder.drop.title_id, taken)


def test_segments_that_are_gone_are_refused_until_it_is_over(folder: Folder) -> None:
    for number in (1, 2, 3):
        folder.put(f"seg{number}.ts")
    before = folder.take().parts
    (folder.path / "seg1.ts").unlink()
    with pytest.raises(BadInput, match="have changed or are gone"):
        folder.take(before)
    folder.says(live=False)
    assert folder.film(folder.take(before)) == b"seg2.tsseg3.ts"


def test_the_whole_has_the_hash_of_one_file_of_its_bytes(folder: Folder, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder.put(f"seg{number}.ts")
    live = folder.take()
    folder.says(live=False)
    whole = Folder(tmp_path / "whole")
    whole.put("title.json", b'{"title": "Evening"}')
    whole.put("film.ts", b"seg1.tsseg2.tsseg3.ts")
    assert folder.zone.media_sha256(folder.take(live.parts)) == whole.zone.media_sha256(whole.drop)
    assert folder.zone.media_sha256(live) != whole.zone.media_sha256(whole.drop)


def test_a_bucket_is_read_as_a_folder_is(bucket: Any) -> None:
    def put(name: str, data: bytes) -> None:
        bucket.put_object(Bucket="films", Key=f"in/titles/evening/{name}", Body=data)

    zone = LandingZone(uri="s3://films/in")
    put("title.json", b'{"title": "Evening", "live": true}')
    put("film.ts", b"0123456789")
    first = zone.take(zone.drop("evening"), ())
    put("film.ts", b"0123456789abc")
    second = zone.take(zone.drop("evening"), first.parts)
    assert [part.bytes for part in second.parts] == [10, 3]
    put("title.json", b'{"title": "Evening", "live": false}')
    assert zone.take(zone.drop("evening"), second.parts).parts == second.parts
    with zone.media(second) as film:
        assert isinstance(film, Joined)
        with film.open() as stream:
            assert stream.read() == b"0123456789abc"

"""Subtitle files, real, odd and hostile, become cues; cues find their shots."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import BadInput
from resources.timed_text import Cue, align, choose_track, read_cues
from resources.timed_text.cues import MAX_CUE_CHARS, MAX_CUES
from resources.timed_text.reading import MAX_BYTES

# Number of cues in each odd file; None: refused. Files with a doubtful count say why.
ODD = {
    "exo_empty.vtt": 0,
    "exo_frame_rate.ttml": 2,
    "exo_invalid_timecodes.ssa": 1,  # four of five lines lack a start or an end
    "exo_multiple_regions.ttml": None,  # binds a reserved prefix: not well-formed
    "exo_overlapping_timecodes.ssa": 7,
    "exo_rubies.ttml": 8,
    "exo_typical.srt": 3,
    "exo_typical.ssa": 3,
    "exo_typical.vtt": 2,
    "exo_typical_missing_sequence.srt": 3,
    "exo_typical_utf16be.srt": 3,
    "exo_typical_utf16le.srt": 3,
    "exo_typical_with_bad_timestamps.vtt": 2,
    "exo_typical_with_comments.vtt": 2,
    "exo_typical_with_tags.srt": 14,
    "exo_with_bad_cue_header.vtt": 2,
    "exo_with_rubies.vtt": 4,
    "exo_with_vertical.vtt": 3,
    "exo_with_x-timestamp-map_header.vtt": None,  # 266 hours: a broadcast clock
    "popcorn_data.ssa": 3,
    "popcorn_data.ttml": 10,
    "pysrt_capability_tester.srt": 35,  # 37, of which two last no time
    "pysrt_empty.srt": 5,  # seven, of which two are blank
    "pysrt_invalid.srt": 1,  # lacks milliseconds, but says clearly when
    "pysrt_no-indexes.srt": 7,
    "vttjs_japanese.vtt": 1,
    "vttjs_junk_characters.vtt": 1,
    "vttjs_regions.vtt": 6,
    "webvttpy_invalid.vtt": 7,  # only its header is missing
    "webvttpy_invalid_format4.srt": 0,  # one cue without text
    "webvttpy_invalid_timeframe.srt": 5,
    "webvttpy_invalid_timeframe.vtt": 6,
    "webvttpy_invalid_timeframe_in_cue_text.vtt": 3,
    "webvttpy_metadata_headers_multiline.vtt": 2,
    "webvttpy_missing_caption_text.srt": 4,
    "webvttpy_missing_timeframe.srt": 4,
    "webvttpy_missing_timeframe.vtt": 6,
    "webvttpy_styles.vtt": 1,
    "webvttpy_youtube_dl.vtt": 4,
    "windows-1252.sv.srt": 81,
    "full_films/elephants-dream-clip.en.srt": 8,
    "full_films/elephants-dream-clip.pt.srt": 8,
    "full_films/elephants-dream.ar.vtt": 77,
    "full_films/elephants-dream.ja.vtt": 77,
    "full_films/elephants-dream.ru.vtt": 84,
    "full_films/lunchroom-manners.en.srt": 107,
    "full_films/lunchroom-manners.en.vtt": 107,
    "full_films/sintel-short.mdn.de.vtt": 14,
    "full_films/sintel-short.mdn.es.vtt": 14,
}

TTML = '<tt xmlns="http://www.w3.org/ns/ttml" xmlns:tts="http://www.w3.org/ns/ttml#styling"><body>{}</body></tt>'
ASS = "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Layer, Start, End, Style, Text\n"


def cues_of(folder: Path, content: str | bytes, name: str = "film.en.srt") -> list[Cue]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_cues(path)


@pytest.mark.parametrize(("name", "count"), ODD.items(), ids=list(ODD))
def test_every_odd_subtitle_file_gives_its_cues_or_a_refusal_that_names_it(
    media: Path, name: str, count: int | None
) -> None:
    path = media / "odd" / "subtitles" / name
    if count is None:
        with pytest.raises(BadInput, match=path.name):
            read_cues(path)
        return
    cues = read_cues(path)
    assert len(cues) == count
    assert cues == sorted(cues)
    for cue in cues:
        assert 0 <= cue.start_s < cue.end_s < 99 * 3600
        assert cue.text == "\n".join(" ".join(line.split()) for line in cue.text.split("\n"))
        assert not any(mark in cue.text for mark in ("NOTE", "-->", "::cue"))


def test_no_odd_subtitle_file_is_forgotten(media: Path) -> None:
    folder = media / "odd" / "subtitles"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(ODD)


def test_utf_16_files_say_the_same_as_the_utf_8_one(media: Path) -> None:
    folder = media / "odd" / "subtitles"
    plain = read_cues(folder / "exo_typical.srt")
    assert read_cues(folder / "exo_typical_utf16le.srt") == plain
    assert read_cues(folder / "exo_typical_utf16be.srt") == plain


def test_swedish_letters_of_windows_1252_are_right(media: Path) -> None:
    text = "\n".join(cue.text for cue in read_cues(media / "odd" / "subtitles" / "windows-1252.sv.srt"))
    assert "Till vänster kan vi se...\nSer vi..." in text
    assert "Allt är säkert." in text
    assert set("åäöÄ") <= set(text)


def test_voice_and_class_tags_go_and_comments_are_no_cues(media: Path) -> None:
    tagged = media / "titles" / "sintel-trailer" / "sintel-trailer.en-speaker.vtt"
    assert read_cues(tagged) == read_cues(tagged.with_name("sintel-trailer.en.vtt"))
    youtube = read_cues(media / "odd" / "subtitles" / "webvttpy_youtube_dl.vtt")
    assert [cue.text for cue in youtube] == ["yeah", "yeah\nwhat"] + ["this will happen is I'm telling"] * 2


def test_ttml_times_nest_and_ruby_annotations_go(media: Path) -> None:
    popcorn = read_cues(media / "odd" / "subtitles" / "popcorn_data.ttml")
    assert (popcorn[4].start_s, popcorn[4].end_s) == pytest.approx((22.76, 25.15))
    assert popcorn[2].text == "Not all subtitles need to be\ndirectly overlaid on the film."
    rubies = {cue.text for cue in read_cues(media / "odd" / "subtitles" / "exo_rubies.ttml")}
    assert rubies == {"Cue with annotated text.", "Cue with text."}


SAME_CUES = {
    "srt": "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i>, <b>you</b> &amp; you.\n{\\an8}Second  line \n\n"
    "2\n00:00:03,000 --> 00:00:04,000\n42\n",
    "vtt": "WEBVTT - a film\n\nSTYLE\n::cue { color: red }\n\nNOTE not a cue\n\nfirst\n00:01.000 --> 00:02.500 line:0\n"
    "<v.loud Ann><c.red>Hello</c>, <00:01.500>you &amp; you.</v>\nSecond line\n\n00:03.000 --> 00:04.000\n42",
    "ass": ASS + "Comment: 0,0:00:00.00,0:00:09.00,Default,not shown\n"
    "Dialogue: 0,0:00:03.00,0:00:04.00,Default,{\\i1}42\n"
    "Dialogue: 0,0:00:03.00,0:00:04.00,Default,{\\p1}m 0 0 l 9 9{\\p0}\n"
    "Dialogue: 0,0:00:01.00,0:00:02.50,Default,{\\pos(1,2)}Hello, you & you.\\NSecond\\hline\n",
    "ttml": TTML.format(
        '<div begin="1s"><p begin="0s" dur="1500ms">Hello, <span tts:color="red">you</span>\n &amp; you.<br/>'
        'Second line</p><p begin="00:00:02" end="00:00:03.000">42</p></div>'
    ),
}


@pytest.mark.parametrize("format_", SAME_CUES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_all_formats_encodings_and_line_ends_say_the_same(
    tmp_path: Path, format_: str, encoding: str, line_end: str
) -> None:
    content = SAME_CUES[format_].replace("\n", line_end).encode(encoding)
    expected = [Cue(1.0, 2.5, "Hello, you & you.\nSecond line"), Cue(3.0, 4.0, "42")]
    assert cues_of(tmp_path, content, f"film.en.{format_}") == expected
    # The name may be wrong: the content decides.
    assert cues_of(tmp_path, content, "film.en.srt") == expected


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("cp1252", "Déjà vu, ça va être très bien — où êtes-vous allé?"),
        ("cp1252", "Não sei onde ele está. Você é a única razão, coração."),
        ("cp1252", "¿Dónde estás, señor? Mañana será otro día."),
        ("cp1252", "Schöne Grüße aus München, über die Straße."),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy. Děkuji za všechno."),
        ("cp1254", "Günaydın, bugün nasılsınız? Teşekkür ederim, her şey çok güzel. Değil mi?"),
        ("cp1251", "Слева мы видим большой старый дом. Всё в порядке, не правда ли?"),
        ("cp1253", "Καλημέρα σας, πώς είστε σήμερα; Όλα είναι καλά."),
        ("shift_jis", "左に見えるのは…すべて安全、完璧に安全だ。危ない！"),
        ("gb18030", "你好，今天天气真的很好。你要去哪里？我们一起去吧。"),
        ("euc_kr", "안녕하세요 오늘은 날씨가 정말 좋습니다. 어디에 가십니까?"),
    ],
)
def test_legacy_encodings_are_recognised(tmp_path: Path, encoding: str, sentence: str) -> None:
    content = f"1\n00:00:01,000 --> 00:00:02,000\n{sentence}\n".encode(encoding)
    assert cues_of(tmp_path, content) == [Cue(1.0, 2.0, sentence)]


def test_a_line_that_only_looks_like_markup_is_dialogue(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nI <3 you, 2 < 3 and 5 > 4 &lt;b&gt;\n{laughs}\n\n"
    assert [cue.text for cue in cues_of(tmp_path, content)] == ["I <3 you, 2 < 3 and 5 > 4 <b>\n(laughs)"]


def test_an_srt_cue_goes_on_after_a_blank_line_within_it(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nfirst\n\nstill first\n\n2\n00:00:03,000 --> 00:00:04,000\nsecond"
    assert [cue.text for cue in cues_of(tmp_path, content)] == ["first\nstill first", "second"]


def test_cues_out_of_order_are_sorted_and_backward_or_empty_ones_left_out(tmp_path: Path) -> None:
    content = (
        "00:00:05,000 --> 00:00:06,000\nlater\n\n00:00:01,000 --> 00:00:02,000\nearlier\n\n"
        "00:00:04,000 --> 00:00:03,000\nbackward\n\n00:00:03,000 --> 00:00:03,000\nno time\n\n"
        "00:00:03,000 --> 00:00:04,000\n<i> </i>\n"
    )
    assert [cue.text for cue in cues_of(tmp_path, content)] == ["earlier", "later"]


@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff", "WEBVTT", "WEBVTT\n\nNOTE nothing is said\n", ASS])
def test_an_empty_track_gives_no_cues(tmp_path: Path, content: str) -> None:
    assert cues_of(tmp_path, content) == []
    assert cues_of(tmp_path, TTML.format("<div/>"), "film.ttml") == []


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (b"This is a letter, not a subtitle file.\n", "no cue with usable times"),
        (b"1\n00:00:aa --> 00:00:bb\nHello\n", "1 lines with '-->'"),
        (b"WEBVTT\n\nfrom --> to\nHello\n", "no cue with usable times"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xff\xfe", "not text"),
        (b"\xff\xfe1\x00\n", "mark but is not"),
        (b"\xef\xbb\xbf\xff\xff", "mark but is not"),
        (ASS.encode() + b"Dialogue: 0,soon,later,Default,Hello\n", "none has usable times"),
        (TTML.format("<div><p>for ever</p></div>").encode(), "none has an end time"),
        (TTML.format("<div><p begin='1s' end='2s'>").encode(), "not well-formed"),
        (b"<tt><body><p begin='1s' end='2s'>no namespace</p></body></tt>", "not TTML"),
    ],
)
def test_a_file_without_a_readable_cue_is_refused_in_one_sentence(tmp_path: Path, content: bytes, because: str) -> None:
    with pytest.raises(BadInput, match=because) as refusal:
        cues_of(tmp_path, content)
    assert "film.en.srt" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE tt [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
        '<!DOCTYPE tt [<!ENTITY c SYSTEM "{secret}">]>',
        '<!DOCTYPE tt SYSTEM "{secret}">',
    ],
)
def test_ttml_that_declares_entities_is_refused_and_opens_nothing(
    tmp_path: Path, declaration: str, encoding: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    document = declaration.replace("{secret}", secret.as_uri())
    document += TTML.format('<div><p begin="1s" end="2s">said &c;</p></div>')
    with pytest.raises(BadInput, match="document type") as refusal:
        cues_of(tmp_path, document.encode(encoding), "film.ttml")
    assert "the secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ('tickRate="0"', 'says tickRate="0", which must be a whole number of ticks'),
        ('frameRate="0"', 'says frameRate="0"'),
        ('frameRateMultiplier="1 0"', 'says frameRateMultiplier="1 0"'),
        ('timeBase="clock"', "clock times say nothing"),
        ('dropMode="dropPAL"', "must be nonDrop or dropNTSC"),
    ],
)
def test_ttml_with_a_clock_that_cannot_be_read_says_which(tmp_path: Path, parameter: str, reason: str) -> None:
    document = f'<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" ttp:{parameter}>'
    with pytest.raises(BadInput) as refused:
        cues_of(tmp_path, document + '<body><div><p begin="5t" end="9t">a</p></div></body></tt>', "film.ttml")
    assert reason in str(refused.value)
    assert "Error" not in str(refused.value)


def test_ttml_whose_sequence_goes_on_after_an_endless_paragraph_is_refused_in_words(tmp_path: Path) -> None:
    endless = '<div timeContainer="seq"><p>a</p><p begin="1s">b</p></div>'
    with pytest.raises(BadInput, match=r"film\.ttml is not TTML that can be read: its elements, or their times"):
        cues_of(tmp_path, TTML.format(endless), "film.ttml")


@pytest.mark.parametrize(
    "style", ['tts:fontSize="big"', 'tts:ruby="x"', 'tts:color="" tts:origin="0"', 'xml:space="x"', 'region="nowhere"']
)
def test_a_style_that_cannot_be_read_costs_no_dialogue(tmp_path: Path, style: str) -> None:
    body = f'<div {style}><p {style} begin="1s" end="2s">a <metadata/>b <span {style}>c</span></p></div>'
    assert cues_of(tmp_path, TTML.format(body), "film.ttml") == [(1.0, 2.0, "a b c")]


def test_ttml_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    deep = "<span>" * 20_000 + "x" + "</span>" * 20_000
    with pytest.raises(BadInput, match=r"film\.ttml nests its elements more than 100 deep"):
        cues_of(tmp_path, TTML.format(f'<div><p begin="1s" end="2s">{deep}</p></div>'), "film.ttml")


def test_a_file_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.srt"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadInput, match=r"huge\.srt is over 16 MiB"):
        read_cues(path)


@pytest.mark.parametrize(
    ("head", "cue", "tail"),
    [
        ("", "00:00:01,000 --> 00:00:02,000\nx\n\n", ""),
        (ASS, "Dialogue: 0,0:00:01.00,0:00:02.00,Default,x\n", ""),
    ],
)
def test_more_cues_than_any_film_has_are_refused(tmp_path: Path, head: str, cue: str, tail: str) -> None:
    with pytest.raises(BadInput, match="over 50000 cues"):
        cues_of(tmp_path, head + cue * (MAX_CUES + 1) + tail)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["<a", "{", "<rt>", "\n1 ", "&amp", "<", "a "])
def test_text_made_to_stall_a_parser_is_read_in_good_time(tmp_path: Path, piece: str) -> None:
    cue = "00:00:01,000 --> 00:00:02,000\n"
    assert len(cues_of(tmp_path, "WEBVTT\n\n" + cue + piece * (2**20 // len(piece)))) <= 1
    assert len(cues_of(tmp_path, cue + "x" + piece * (2**20 // len(piece)))) == 1


class SubtitleTrack(NamedTuple):
    name: str
    language: str | None
    kind: str | None = None
    format: str = "srt"


@pytest.mark.parametrize(
    ("tracks", "language", "chosen"),
    [
        ([("a.srt", "de", None), ("b.srt", "en", None)], "en", "b.srt"),
        ([("a.srt", "en", "sdh"), ("b.srt", "en", None)], "en", "b.srt"),
        ([("a.vtt", "en", "ad"), ("b.srt", "en", "sdh"), ("c.srt", "en", "forced")], "en", "b.srt"),
        ([("a.vtt", "en", "ad"), ("b.srt", "de", None)], "en", "a.vtt"),
        ([("a.srt", "pt-PT", None), ("b.srt", "pt-BR", None)], "pt-BR", "b.srt"),
        ([("a.srt", "de", None), ("b.srt", "pt_br", None)], "pt", "b.srt"),
        ([("a.srt", "de", None), ("b.srt", "pt", None)], "pt-BR", "b.srt"),
        ([("a.srt", "pt-BR", None), ("b.srt", "pt", None)], "pt", "b.srt"),
        ([("b.srt", "fr", None), ("a.srt", "de", None)], "en", "a.srt"),
        ([("b.srt", "de", None), ("film.srt", None, None)], "en", "film.srt"),
        ([("b.srt", "fr", None), ("a.srt", "de", "ad")], None, "b.srt"),
        ([("a.srt", "est", None), ("b.srt", "es", None)], "es", "b.srt"),
    ],
)
def test_the_track_in_the_titles_language_with_its_dialogue_is_chosen(
    tracks: list[tuple[str, str | None, str | None]], language: str | None, chosen: str
) -> None:
    options = [SubtitleTrack(*track) for track in tracks]
    for order in (options, options[::-1]):
        track = choose_track(order, language)
        assert track is not None
        assert track.name == chosen


def test_no_tracks_give_no_track() -> None:
    assert choose_track([], "en") is None


def test_a_cue_across_a_cut_is_told_by_the_halves_rule() -> None:
    shots = [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0), (6.0, 16.0)]
    cues = [
        Cue(1.0, 3.0, "half in each"),
        Cue(1.5, 3.6, "mostly second"),
        Cue(3.0, 5.0, "half of the second, all of the third"),
        Cue(5.0, 6.0, "between the shots"),
        Cue(20.0, 21.0, "after the end"),
    ]
    assert align(cues, shots) == [
        "half in each",
        "half in each\nmostly second\nhalf of the second, all of the third",
        "half of the second, all of the third",
        "",
    ]
    # Too little of either for the half: the shot with the most gets it.
    assert align([Cue(0.5, 3.5, "thin")], [(0.0, 0.9), (3.2, 9.0)]) == ["thin", ""]


def brute_force_align(cues: list[Cue], shots: list[tuple[float, float]]) -> list[str]:
    texts: list[list[str]] = [[] for _ in shots]
    for cue in sorted(cues):
        overlaps = [max(0.0, min(end, cue.end_s) - max(start, cue.start_s)) for start, end in shots]
        halves = [
            overlap > 0 and overlap >= 0.5 * min(end - start, cue.end_s - cue.start_s)
            for overlap, (start, end) in zip(overlaps, shots, strict=True)
        ]
        if not any(halves) and max(overlaps, default=0.0) > 0:
            halves[overlaps.index(max(overlaps))] = True
        for index, belongs in enumerate(halves):
            if belongs:
                texts[index].append(cue.text)
    return ["\n".join(lines) for lines in texts]


ticks = st.integers(0, 60)


@st.composite
def cues_and_shots(draw: st.DrawFn) -> tuple[list[Cue], list[tuple[float, float]]]:
    spans = draw(st.lists(st.tuples(ticks, st.integers(1, 30)), max_size=8))
    cues = [Cue(start / 8, (start + length) / 8, f"c{i}") for i, (start, length) in enumerate(spans)]
    bounds = sorted(draw(st.sets(ticks, max_size=14)))
    shots = [(a / 8, b / 8) for a, b in pairwise(bounds)]
    # Shots of real media tile the title; a hole here and there must not confuse the merge.
    return cues, [shot for shot in shots if draw(st.integers(0, 5))]


@given(cues_and_shots())
def test_alignment_equals_the_rule_applied_to_every_pair(given_: tuple[list[Cue], list[tuple[float, float]]]) -> None:
    cues, shots = given_
    texts = align(cues, shots)
    assert texts == brute_force_align(cues, shots)
    placed = "\n".join(texts).split("\n")
    for cue in cues:
        overlaps_one = any(min(end, cue.end_s) > max(start, cue.start_s) for start, end in shots)
        assert (cue.text in placed) == overlaps_one


def test_a_track_whose_cues_all_last_the_whole_film_is_refused_before_it_fills_the_memory() -> None:
    cues = [Cue(0.0, 10_000.0, "x" * MAX_CUE_CHARS) for _ in range(100)]
    with pytest.raises(BadInput, match="overlap"):
        align(cues, [(float(i), i + 1.0) for i in range(10_000)])

"""The pages and the JSON over a real server, a real lake and real films."""

import html
import http.client
import io
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import polars as pl
import pytest
from openapi_spec_validator import validate
from PIL import Image

from mediafm_assets.pages.catalogue import FRESH_S
from model.modalities import WIDTHS, blocks_of
from model.ranking import RANK_CONSTANT
from resources.encoders import TextEncoder
from resources.lake import DeltaLake, vectors
from resources.search_index import IndexedTitle, SearchIndex, index_uri
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.pages.conftest import BARE, SCRIPT, Site, serving

QUERY = "tell me about the sea and the fire"


def all_rows(lake: DeltaLake, table: str, ids: list[str]) -> pl.DataFrame:
    return pl.concat([lake.read(table, title_id=title_id) for title_id in ids])


def nearest(table: pl.DataFrame, query: np.ndarray, block: slice) -> list[tuple[str, int]]:
    """Shots by cosine with the query, as a reader of the tables would find them."""
    matrix = vectors(table)[:, block].astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    cosines = np.where(norms > 0, matrix @ query / np.maximum(norms * np.linalg.norm(query), 1e-12), -1)
    order = np.argsort(-cosines, kind="stable")
    return [(table["title_id"][int(i)], table["shot_index"][int(i)]) for i in order if cosines[i] > 0]


def places_of(answer: Any) -> list[tuple[str, int]]:
    return [(hit["title_id"], hit["shot_index"]) for hit in answer["shots"]]


# ---- search ----------------------------------------------------------------------------------------------------------


def test_words_find_the_shots_whose_text_vectors_are_nearest(site: Site) -> None:
    answer = site.get("/api/search", params={"q": QUERY, "k": 5}).json()
    query = TextEncoder(kind="hashed", dimensions=768).embed([QUERY])[0]
    fused = all_rows(site.lake, "fused_embeddings", site.ids)
    assert places_of(answer) == nearest(fused, query, slice(1536, 2304))[:5]
    for hit in answer["shots"]:
        assert [match["modality"] for match in hit["matches"]] == ["text"]
        texts = site.lake.read("text_embeddings", title_id=hit["title_id"])
        assert hit["text"] == texts["text"][hit["shot_index"]] != ""


def test_a_shot_finds_those_whose_fused_vectors_are_nearest_and_not_itself(site: Site) -> None:
    title = site.ids[0]
    answer = site.get("/api/search", params={"like": f"{title}:2", "k": 6}).json()
    fused = all_rows(site.lake, "fused_embeddings", site.ids)
    query = vectors(site.lake.read("fused_embeddings", title_id=title))[2]
    expected = [place for place in nearest(fused, query, slice(None)) if place != (title, 2)]
    assert places_of(answer) == expected[:6]
    for hit in answer["shots"]:
        found = vectors(site.lake.read("fused_embeddings", title_id=hit["title_id"]))[hit["shot_index"]]
        shares = {name: found[block] @ query[block] for name, block in blocks_of(WIDTHS).items() if query[block].any()}
        (match,) = hit["matches"]
        assert match["modality"] == max(shares, key=lambda name: shares[name])
        assert match["parts"] == pytest.approx(shares, abs=1e-4)
        assert sum(match["parts"].values()) == pytest.approx(match["score"], abs=1e-3)


def test_words_and_a_shot_together_are_joined_by_reciprocal_rank(site: Site) -> None:
    k = 5
    like = f"{site.ids[0]}:2"
    both, words, shot = (
        site.get("/api/search", params={**asked, "k": n}).json()
        for asked, n in (({"q": QUERY, "like": like}, k), ({"q": QUERY}, 2 * k + 1), ({"like": like}, 2 * k))
    )
    # The shot that is asked for is no answer to the words either.
    lists = [[place for place in places_of(one) if place != (site.ids[0], 2)][: 2 * k] for one in (words, shot)]
    scores: dict[tuple[str, int], float] = {}
    for found in lists:
        for rank, place in enumerate(found, 1):
            scores[place] = scores.get(place, 0) + 1 / (RANK_CONSTANT + rank)
    last = 2 * k
    # Of equal scores, what the words found comes first.
    ranks = {place: [found.index(place) if place in found else last for found in lists] for place in scores}
    assert places_of(both) == sorted(scores, key=lambda place: (-scores[place], ranks[place]))[:k]


def test_a_search_in_a_title_finds_nothing_of_another(site: Site) -> None:
    answer = site.get("/api/search", params={"q": QUERY, "title": site.ids[0], "k": 100}).json()
    assert {hit["title_id"] for hit in answer["shots"]} == {site.ids[0]}
    assert answer["titles"] == []


def test_a_page_of_results_shows_stills_times_titles_and_why(site: Site) -> None:
    page = site.get("/search", params={"q": QUERY})
    assert page.status_code == 200
    hits = site.get("/api/search", params={"q": QUERY, "k": 24}).json()["shots"]
    stills = re.findall(r'src="(/titles/[^"]+/shots/\d+\.jpg)"', page.text)
    assert stills == [f"/titles/{hit['title_id']}/shots/{hit['shot_index']}.jpg" for hit in hits]
    assert page.text.count("chip text") == len(hits)
    assert "<mark>the</mark>" in page.text.lower()
    assert Image.open(io.BytesIO(site.get(stills[0]).content)).format == "JPEG"


def test_a_still_is_the_middle_one_of_the_shots_frames(site: Site) -> None:
    title = site.ids[0]
    frames = site.lake.read("shot_frames", title_id=title)
    for shot in frames["shot_index"].unique():
        of_shot = frames.filter(pl.col("shot_index") == shot).sort("frame_index")["jpeg"]
        assert site.get(f"/titles/{title}/shots/{shot}.jpg").content == of_shot[len(of_shot) // 2]


def test_generations_are_compared_on_one_shot(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    (title, *_) = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))
    (older,) = {version for version, _ in places.lake.data_versions("contextual_embeddings")}
    newer = "99990101T000000-abc"
    generator = np.random.default_rng(0)
    for _, title_id in places.lake.data_versions("contextual_embeddings"):
        own = places.lake.read("contextual_embeddings", encoder_version=older, title_id=title_id)
        other = generator.normal(size=(len(own), 16)).astype(np.float32)
        made = own.drop("encoder_version").with_columns(pl.Series("embedding", list(other)))
        places.lake.write("contextual_embeddings", {"encoder_version": newer, "title_id": title_id}, made, "6" * 32)
    encoder = places.lake.read("encoder", encoder_version=older).drop("encoder_version")
    places.lake.write("encoder", {"encoder_version": newer}, encoder, "6" * 32)
    with serving(places) as url:
        asked = {"like": f"{title}:1", "encoder": [older, newer], "k": 4}
        answers = httpx2.get(f"{url}/api/compare", params=asked, timeout=30).json()
        page = httpx2.get(f"{url}/encoders", params={"like": f"{title}:1"}, timeout=30)
    assert [one["encoder_version"] for one in answers] == [older, newer]
    for one in answers:
        table = places.lake.read("contextual_embeddings", encoder_version=one["encoder_version"])
        own = table.filter((pl.col("title_id") == title) & (pl.col("shot_index") == 1))
        expected = [place for place in nearest(table, vectors(own)[0], slice(None)) if place != (title, 1)]
        assert places_of(one) == expected[:4]
    assert page.status_code == 200
    assert page.text.count(older) > 2
    assert "nearest shots are the same" in page.text


# ---- a title's page --------------------------------------------------------------------------------------------------


def test_a_titles_page_shows_what_the_tables_say(site: Site) -> None:
    page = html.unescape(site.get(f"/titles/{site.ids[0]}").text)
    view = site.get(f"/api/titles/{site.ids[0]}").json()
    shots = view["shots"]
    assert len(shots) == len(site.lake.read("shots", title_id=site.ids[0]))
    for shot in shots:
        assert f"/titles/{site.ids[0]}/shots/{shot['shot_index']}.jpg" in page
    assert page.count("<h3>Scene ") == len(view["scenes"]) == -(-len(shots) // 3)
    for shown in ("calm", "0.81", "tense", "Drama", "The probe does not beat chance: 0.11 to 0.32 against 0.14."):
        assert shown in page
    assert re.search(r'data-t="[\d.]+"[^>]*>shot 2</a>', page)
    assert page.count('class="break"') == len(view["ad_breaks"]) == 2
    assert "food, cars" in page
    assert "Highlight 1" in page
    assert "0.77, mostly by what is seen" in page
    assert f"/titles/{site.ids[1]}/poster.jpg" in page
    assert page.count("<polyline") == 2


def test_the_curve_is_the_cosine_of_neighbouring_shots(site: Site) -> None:
    cosines = site.get(f"/api/titles/{site.ids[0]}").json()["cosines"]
    fused = vectors(site.lake.read("fused_embeddings", title_id=site.ids[0]))
    np.testing.assert_allclose(cosines["fused"], np.sum(fused[:-1] * fused[1:], axis=1), atol=1e-4)
    assert cosines.keys() == {"fused", "contextual"}


def test_the_words_of_the_shots_are_captions(site: Site) -> None:
    said = site.get(f"/titles/{site.ids[0]}/words.vtt")
    assert said.headers["content-type"].startswith("text/vtt")
    texts = [row["text"] for row in site.get(f"/api/titles/{site.ids[0]}").json()["shots"] if row["text"].strip()]
    assert said.text.count(" --> ") == len(texts) > 0


def test_a_title_without_shots_has_a_page_that_says_so(site: Site) -> None:
    page = site.get(f"/titles/{BARE}")
    assert page.status_code == 200
    assert "There are no shots of this title yet." in page.text
    assert site.get(f"/api/titles/{BARE}").json()["shots"] == []
    assert site.get(f"/titles/{BARE}/poster.jpg").headers["content-type"] == "image/svg+xml"
    for path in (f"/titles/{BARE}/shots/0.jpg", f"/api/search?like={BARE}:0"):
        assert site.get(path).status_code == 404


def test_the_film_is_sent_in_the_parts_that_are_asked_for(site: Site) -> None:
    title = site.ids[0]
    (name,) = [
        path for path in (site.places.landing / "titles" / title).iterdir() if path.suffix in (".mp4", ".mkv", ".webm")
    ]
    film, path = name.read_bytes(), f"/titles/{title}/film"
    whole = site.get(path)
    assert whole.content == film
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        (f"bytes={len(film) - 5}-", len(film) - 5, len(film)),
        ("bytes=-7", len(film) - 7, len(film)),
        (f"bytes=5-{len(film) * 2}", 5, len(film)),
    ):
        part = site.get(path, headers={"Range": asked})
        assert part.status_code == 206
        assert part.content == film[start:end]
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(film)}"
    for asked in (f"bytes={len(film)}-", "bytes=9-3", "bytes=-0"):
        assert site.get(path, headers={"Range": asked}).status_code == 416
    for asked in ("bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=abc"):
        assert site.get(path, headers={"Range": asked}).content == film
    changed = site.get(path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, film)
    head = httpx2.head(site.url + path, timeout=30)
    assert (head.headers["content-length"], head.content) == (str(len(film)), b"")


def test_the_film_of_a_landing_zone_on_s3_is_read_in_parts(site: Site, bucket: Any) -> None:
    title = site.ids[0]
    for path in (site.places.landing / "titles" / title).iterdir():
        bucket.upload_file(str(path), "films", f"zone/titles/{title}/{path.name}")
    with serving(site.places, MEDIAFM_LANDING="s3://films/zone") as url:
        part = httpx2.get(f"{url}/titles/{title}/film", headers={"Range": "bytes=1000-1999"}, timeout=30)
    assert part.status_code == 206
    assert part.content == site.get(f"/titles/{title}/film").content[1000:2000]


# ---- what may go wrong -----------------------------------------------------------------------------------------------

CONTROL = "bell\x07"
REFUSED = {
    "/search": 400,
    "/search?q=": 400,
    "/search?q=%20%0A": 400,
    f"/search?q={'x' * 1001}": 400,
    f"/search?q={quote(CONTROL)}": 400,
    "/search?q=a%00b": 400,
    "/search?q=sea&k=0": 400,
    "/search?q=sea&k=101": 400,
    "/search?q=sea&k=ten": 400,
    "/search?q=sea&k=" + "9" * 5000: 400,
    "/search?q=sea&title=nobody": 404,
    "/search?q=sea&" + "&".join(f"title={i}" for i in range(21)): 400,
    "/search?like=nonsense": 404,
    "/search?like=../../etc/passwd:1": 404,
    "/search?like=nobody:1": 404,
    "/encoders?like=nobody:1": 404,
    "/encoders?like=nobody:1&encoder=nobody": 404,
    "/titles/nobody": 404,
    "/titles/..%2f..%2fetc%2fpasswd": 404,
    "/titles/%27%20OR%201%3D1%20--": 404,
    "/titles/a%00b": 404,
    "/titles/nobody/film": 404,
    "/titles/nobody/shots/1.jpg": 404,
    "/titles/nobody/shots/99999999999999999999999.jpg": 404,
    "/static/../app.py": 404,
    "/static/%2e%2e/app.py": 404,
    "/?page=0": 404,
    "/?page=-1": 404,
    "/?page=2": 404,
    "/nowhere": 404,
    "/api/search": 400,
    "/api/titles/nobody": 404,
    "/api/compare": 400,
    "/api/nowhere": 404,
}


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path[:50])
def test_what_cannot_be_answered_is_refused_in_one_sentence(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code == REFUSED[path]
    if path.startswith("/api"):
        sentence = answer.json()["error"]
    else:
        (sentence,) = re.findall(r'role="alert">(.*?)</p>', answer.text, re.DOTALL)
    assert 10 < len(sentence) < 200
    assert "Traceback" not in answer.text
    assert str(site.places.root) not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "'; DROP TABLE shots; --",
        "../../etc/passwd",
        "%",
        "\\",
        "title_id = 'x' OR 1=1",
        SCRIPT,
        "🎬 море",
        "{{7*7}}",
        '"',
    ],
)
def test_fragments_of_sql_paths_and_markup_are_words_like_any_others(site: Site, query: str) -> None:
    answer = site.get("/search", params={"q": query})
    assert answer.status_code == 200
    assert html.escape(query, quote=False) in answer.text.replace("&#39;", "'").replace("&#34;", '"')
    assert "<script>window" not in answer.text
    assert site.get("/api/search", params={"q": query}).json()["query"] == query


def test_a_megabyte_is_refused_in_one_sentence(site: Site) -> None:
    server = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=30)
    server.request("GET", "/search?q=" + "x" * 1_000_000)
    answer = server.getresponse()
    page = answer.read().decode()
    assert answer.status == 400
    assert "The query has 1,000,000 characters; ask in at most 1,000." in page
    assert len(page) < 10_000


def test_what_is_larger_than_any_question_is_not_read_and_the_server_goes_on(site: Site) -> None:
    host, port = site.url.removeprefix("http://").split(":")
    # It closes the connection before it has it all.
    with socket.create_connection((host, int(port)), timeout=30) as server, suppress(OSError):
        server.sendall(b"GET /search?q=" + b"x" * 30_000_000)
        assert server.recv(12) in (b"HTTP/1.1 400", b"")
    assert site.get("/").status_code == 200


def test_texts_of_titles_are_escaped_everywhere(site: Site) -> None:
    title = site.ids[1]
    for path in ("/", f"/titles/{title}", f"/search?q=fire&title={title}", f"/search?like={title}:0"):
        page = site.get(path)
        assert page.status_code == 200
        assert "<script>window" not in page.text, path
        assert html.escape(SCRIPT) in page.text, path


def test_nothing_is_told_of_a_deleted_title(site: Site) -> None:
    assert (site.gone,) in site.lake.data_versions("fused_embeddings")
    answer = site.get("/api/search", params={"q": QUERY, "k": 100})
    assert site.gone not in answer.text
    assert site.gone not in site.get("/api/titles").text
    for path in (f"/titles/{site.gone}", f"/titles/{site.gone}/film", f"/titles/{site.gone}/shots/0.jpg"):
        assert site.get(path).status_code == 404
    assert site.get(f"/search?like={site.gone}:0").status_code == 404
    assert site.get("/search", params={"q": QUERY, "title": site.gone}).status_code == 404


def test_a_lake_without_an_encoder_is_searched_and_shown(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    for table in ("encoder", "encoder_training", "contextual_embeddings", "probe_metrics"):
        shutil.rmtree(places.root / "lake" / table)
    (title, *_) = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))
    with serving(places) as url:
        for path in ("/", f"/search?q={QUERY}", f"/titles/{title}", "/encoders", f"/encoders?like={title}:0"):
            answer = httpx2.get(url + path, timeout=30)
            assert answer.status_code == 200, path
        assert "There is no encoder yet." in answer.text
        assert httpx2.get(f"{url}/api/titles/{title}", timeout=30).json()["cosines"].keys() == {"fused"}


def test_an_empty_lake_is_shown_and_left_empty(empty_places: Places) -> None:
    with serving(empty_places) as url:
        assert "No title is registered yet." in httpx2.get(url, timeout=30).text
        assert "There is no search index yet" in httpx2.get(f"{url}/search?q=sea", timeout=30).text
        assert httpx2.get(f"{url}/api/encoders", timeout=30).json() == []
    assert not (empty_places.root / "lake").exists()


def test_vectors_of_another_space_are_refused_and_never_compared(site: Site) -> None:
    with serving(site.places, MEDIAFM_FUSION="as_published") as url:
        for path in ("/api/search?q=sea", f"/api/search?like={site.ids[0]}:0"):
            answer = httpx2.get(url + path, timeout=30)
            assert answer.status_code == 400
            assert "another space" in answer.json()["error"]


def test_a_part_that_cannot_be_read_is_one_sentence(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    (title, other, *_) = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))
    (file,) = places.lake.partition_files("shots", {"title_id": title})
    Path(file).write_bytes(b"PAR1 nothing of the kind")
    with serving(places) as url:
        answer = httpx2.get(f"{url}/titles/{title}", timeout=30)
        assert answer.status_code == 503
        assert "mediafm verify" in answer.text
        assert httpx2.get(f"{url}/titles/{other}", timeout=30).status_code == 200


def test_a_damaged_title_is_left_out_and_the_others_are_found(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    first, second, *others = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))
    for table, title in (("titles", first), ("shots", second)):
        (file,) = places.lake.partition_files(table, {"title_id": title})
        Path(file).write_bytes(b"PAR1 nothing of the kind")
    with serving(places) as url:
        listed = {row["title_id"] for row in httpx2.get(f"{url}/api/titles", timeout=30).json()["titles"]}
        assert listed == {second, *others}
        answer = httpx2.get(f"{url}/api/search", params={"q": QUERY, "k": 100}, timeout=30).json()
        assert {hit["title_id"] for hit in answer["shots"]} <= set(others)
        assert answer["shots"]


def test_a_landed_title_is_found_and_a_deleted_one_is_not(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    lake = places.lake
    (title, *_) = sorted(title_id for (title_id,) in lake.data_versions("titles"))
    with serving(places) as url:

        def found(k: int = 100) -> list[str]:
            time.sleep(1.1 * FRESH_S)
            answer = httpx2.get(f"{url}/api/search", params={"q": QUERY, "k": k}, timeout=30).json()
            return [hit["title_id"] for hit in answer["shots"]]

        before = found(3)
        assert "newcomer" not in found()
        for table in ("shots", "text_embeddings", "fused_embeddings", "titles"):
            copied = lake.read(table, title_id=title).drop("title_id")
            lake.write(table, {"title_id": "newcomer"}, copied, "5" * 32)
        index_title(lake, "newcomer")
        assert "newcomer" in found()
        assert httpx2.get(f"{url}/titles/newcomer", timeout=30).status_code == 200
        lake.delete("titles", {"title_id": "newcomer"})
        assert "newcomer" not in found()
        assert found(3) == before, "what was deleted takes no place among the best"


def index_title(lake: DeltaLake, title_id: str) -> None:
    """Put the title's fused vectors into the lake's index, as the stage does."""
    rows = lake.read("fused_embeddings", title_id=title_id)
    index = SearchIndex.there(index_uri(lake.uri), None)
    assert index is not None
    shots, starts, ends = (rows[name].to_numpy() for name in ("shot_index", "start_s", "end_s"))
    index.upsert([IndexedTitle(title_id, "5" * 32, shots, starts, ends, vectors(rows))])


def test_a_lake_without_an_index_is_one_sentence(finished: Places, tmp_path: Path) -> None:
    places = finished.copy(tmp_path / "places")
    shutil.rmtree(places.root / "lake" / "search_index")
    title = sorted(title_id for (title_id,) in places.lake.data_versions("titles"))[0]
    said = "There is no search index yet; `mediafm materialize` makes it."
    with serving(places) as url:
        for path in ("/api/search?q=sea", f"/api/search?like={title}:0"):
            answer = httpx2.get(url + path, timeout=30)
            assert (answer.status_code, answer.json()["error"]) == (400, said)
        page = httpx2.get(f"{url}/search?q=sea", timeout=30)
        assert page.status_code == 400
        assert said in html.unescape(page.text)
        assert httpx2.get(f"{url}/titles/{title}", timeout=30).status_code == 200
    assert not (places.root / "lake" / "search_index").exists()


# ---- the application -------------------------------------------------------------------------------------------------


def test_every_answer_forbids_what_comes_from_elsewhere(site: Site) -> None:
    for path in ("/", "/nowhere", "/api/titles", f"/titles/{site.ids[0]}/film", "/static/pages.css"):
        headers = site.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_pages_name_nothing_outside(site: Site) -> None:
    for path in ("/", f"/titles/{site.ids[0]}", f"/search?q={QUERY}", "/encoders", "/api"):
        page = site.get(path).text
        assert not re.findall(r'(?:src|href|action)="(?!/|#)[^"]*"', page), path
        assert "style=" not in page
        assert not re.findall(r"<script(?! src=)", page)


def test_it_only_reads(site: Site) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in site.places.root.rglob("*") if path.is_file()}

    before = state()
    for path in ("/", f"/titles/{site.ids[0]}", f"/search?q={QUERY}", "/encoders", f"/titles/{site.ids[0]}/film"):
        assert site.get(path).status_code == 200
        for method in ("POST", "PUT", "DELETE"):
            answer = httpx2.request(method, site.url + path, timeout=30)
            assert answer.status_code == 405
    assert state() == before


def test_a_name_that_is_not_this_machines_is_refused(site: Site) -> None:
    assert site.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    assert site.get("/", headers={"Host": "localhost:1"}).status_code == 200


def test_the_openapi_document_is_valid_and_tells_every_route(site: Site) -> None:
    document = site.get("/openapi.json").json()
    validate(document)
    assert set(document["paths"]) == {
        "/api/titles",
        "/api/titles/{title_id}",
        "/api/search",
        "/api/encoders",
        "/api/compare",
    }
    page = site.get("/api").text
    for path in document["paths"]:
        assert f"GET {path}" in page
    view = site.get(f"/api/titles/{site.ids[0]}").json()
    for name, row in (("titles", view["title"]), ("shots", view["shots"][0]), ("scenes", view["scenes"][0])):
        assert set(row) == set(document["components"]["schemas"][name]["properties"])

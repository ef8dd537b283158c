"""Text embeddings: hashed n-grams, and the real openai client against a local server that enforces limits and fails."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.encoders import TextEncoder
from resources.errors import Unavailable
from resources.lake import DeltaLake
from resources.lake.text_cache import key
from tests.resources.openai_server import GOOD_KEY, OpenAIServer, openai_server, tokens_of, vector_of

ROOT = Path(__file__).parents[3]


# --- Hashed n-grams ---


def test_hashed_texts_are_unit_vectors_of_the_asked_length() -> None:
    texts = ["Where is the rabbit?", "♪", "!", "a", "彼は学校に行きました", "x" * 20_000, "one\ttwo\nthree"]
    for dimensions in (768, 3072):
        vectors = TextEncoder(dimensions=dimensions).embed(texts)
        assert vectors.shape == (len(texts), dimensions)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert TextEncoder().embed([]).shape == (0, 768)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("Where is the rabbit?", "The rabbit is over there.", "I love chemistry."),
        ("She was running home", "they run home", "a cup of tea"),
        ("彼は昨日学校に行きました", "学校に行くのが好きです", "今日は天気がいいですね"),
        ("Где мой кролик?", "Мой кролик убежал", "Какая хорошая погода"),
        ("Wo ist der Hase?", "WO IST DER HASE", "Schönes Wetter heute"),
        ("ﾃﾚﾋﾞを見る", "テレビを見た", "今日は天気がいいですね"),
    ],
)
def test_texts_that_share_words_lie_nearer_in_any_language(text: str, near: str, far: str) -> None:
    vectors = TextEncoder().embed([text, near, far])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_long_unrelated_texts_do_not_all_look_alike() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(4000)]
    texts = [" ".join(rng.choice(words, 300)) for _ in range(8)]
    vectors = TextEncoder().embed(texts)
    assert np.abs((vectors @ vectors.T)[np.triu_indices(8, 1)]).max() < 0.5


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_that_is_not_blank_has_a_finite_vector(text: str) -> None:
    assert np.linalg.norm(TextEncoder().embed([text])[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["hashed", "openai"])
def test_a_blank_text_is_refused_and_never_reaches_a_model(kind: str, server: OpenAIServer) -> None:
    with pytest.raises(ValueError, match="blank"):
        TextEncoder(kind=kind, base_url=server.url).embed(["fine", " \n\t"])
    assert server.attempts == []


# --- The openai client ---


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", GOOD_KEY)
    with openai_server() as running:
        yield running


@pytest.fixture
def encoder(server: OpenAIServer, tmp_path: Path) -> TextEncoder:
    return TextEncoder(kind="openai", base_url=server.url, lake=str(tmp_path / "a lake"), timeout_s=5)


def expected(texts: list[str], dimensions: int = 768) -> np.ndarray:
    return np.stack([vector_of(text, dimensions) for text in texts])


def test_each_text_gets_its_own_vector_in_order(encoder: TextEncoder) -> None:
    texts = ["one", "two", "three", "two"]
    vectors = encoder.embed(texts)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected(texts), atol=1e-6)


def test_titles_get_3072_dimensions(server: OpenAIServer) -> None:
    vectors = TextEncoder(kind="openai", base_url=server.url, dimensions=3072).embed(["A film about a rabbit."])
    assert np.allclose(vectors, expected(["A film about a rabbit."], 3072), atol=1e-6)


def test_identical_texts_are_sent_once(encoder: TextEncoder, server: OpenAIServer) -> None:
    encoder.embed(["Yes.", "No.", "Yes."] * 50)
    assert server.requests == [["Yes.", "No."]]


def test_requests_stay_within_all_three_limits(encoder: TextEncoder, server: OpenAIServer) -> None:
    """The server refuses a request over any limit, so an answer shows that none was."""
    rng = np.random.default_rng(0)
    long_ones = [" ".join(rng.choice(["night", "rain", "路", "lumière"], 1500)) for _ in range(120)]
    texts = [*(f"line {i}" for i in range(5000)), *long_ones, "x" * 70_000]
    vectors = encoder.embed(texts)
    assert len(vectors) == len(texts)
    assert np.allclose(vectors[:5000], expected(texts[:5000]), atol=1e-6)
    assert len(server.requests) > 3
    assert max(map(len, server.requests)) == 2048


def test_a_text_over_the_limit_is_the_average_of_its_parts_by_length(
    encoder: TextEncoder, server: OpenAIServer
) -> None:
    text = " ".join(f"lantern {n} over dark water" for n in range(3000))
    (vector,) = encoder.embed([text])
    ((*parts,),) = server.requests
    assert len(parts) > 1
    assert " ".join(parts) == text
    assert all(tokens_of(part) <= 8192 for part in parts)
    mean = np.average(expected(parts), axis=0, weights=[len(part.encode()) for part in parts])
    assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_requests_run_side_by_side_but_no_more_than_asked(server: OpenAIServer) -> None:
    server.answer_takes_s = 0.3
    texts = [f"line {i}" for i in range(2048 * 5)]
    vectors = TextEncoder(kind="openai", base_url=server.url, concurrency=3).embed(texts)
    assert np.allclose(vectors[::500], expected(texts[::500]), atol=1e-6)
    assert 2 <= server.widest <= 3


def test_a_rate_budget_spreads_requests_over_time(server: OpenAIServer) -> None:
    """63,000 tokens a minute may go at once; the last 1,000 of these 64,000 have to be earned."""
    texts = [f"{n} {'x' * 7998}" for n in range(8)]
    encoder = TextEncoder(kind="openai", base_url=server.url, tokens_per_minute=63_000)
    encoder.embed(texts[:6])
    encoder.embed(texts[6:])
    assert len(server.attempts) == 2
    assert server.attempts[1] - server.attempts[0] > 0.5


def test_a_429_is_retried_after_the_time_the_server_names(encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = ["429", "429"]
    assert np.allclose(encoder.embed(["patience"]), expected(["patience"]), atol=1e-6)
    assert len(server.attempts) == 3
    assert np.diff(server.attempts).min() >= 0.2


@pytest.mark.parametrize("fault", ["500", "truncated", "cut_json", "missing"])
def test_a_passing_fault_is_ridden_out(fault: str, encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = [fault, fault]
    assert np.allclose(encoder.embed(["one", "two"]), expected(["one", "two"]), atol=1e-6)
    assert len(server.attempts) == 3


def test_an_answer_that_never_comes_is_asked_for_again(server: OpenAIServer) -> None:
    server.faults = ["hang"]
    encoder = TextEncoder(kind="openai", base_url=server.url, timeout_s=0.5)
    assert np.allclose(encoder.embed(["hello"]), expected(["hello"]), atol=1e-6)
    assert len(server.attempts) == 2


def test_vectors_are_placed_by_index_and_not_by_arrival(encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = ["shuffled"]
    texts = [f"line {i}" for i in range(20)]
    assert np.allclose(encoder.embed(texts), expected(texts), atol=1e-6)


def test_answers_that_stay_unreadable_fail_with_a_sentence(encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = ["cut_json"] * 20
    with pytest.raises(Unavailable, match="cannot be used"):
        encoder.embed(["hello"])
    assert len(server.attempts) <= 3


def test_a_service_that_stays_down_fails_with_a_sentence(encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = ["500"] * 50
    with pytest.raises(Unavailable, match=r"still answers 500 after \d+ retries"):
        encoder.embed(["hello"])


def test_a_wrong_dimension_fails_at_once(encoder: TextEncoder, server: OpenAIServer) -> None:
    server.faults = ["dimension"]
    with pytest.raises(Unavailable, match=r"512 numbers .* 768 were asked for"):
        encoder.embed(["hello"])
    assert len(server.attempts) == 1


def test_an_unknown_model_fails_at_once(server: OpenAIServer) -> None:
    with pytest.raises(Unavailable, match="nonesuch"):
        TextEncoder(kind="openai", model="nonesuch", base_url=server.url).embed(["hello"])
    assert len(server.attempts) == 1


def test_an_invalid_key_fails_at_once_naming_the_variable_and_not_the_key(
    encoder: TextEncoder, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-stale-secret")
    with pytest.raises(Unavailable, match="OPENAI_API_KEY") as failure:
        encoder.embed(["hello"])
    assert "sk-stale-secret" not in str(failure.value)
    assert server.attempts == []


def test_a_missing_key_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    encoder = TextEncoder(kind="openai")
    (problem,) = encoder.preflight()
    assert "OPENAI_API_KEY" in problem
    with pytest.raises(Unavailable, match="OPENAI_API_KEY"):
        encoder.embed(["hello"])
    monkeypatch.setenv("OPENAI_API_KEY", "anything")
    assert encoder.preflight() == []
    assert TextEncoder().preflight() == []
    with pytest.raises(ValueError, match="'bert' is unknown; choose hashed or minilm or openai"):
        TextEncoder(kind="bert")


def test_a_server_that_cannot_be_reached_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", GOOD_KEY)
    monkeypatch.setattr("resources.encoders.text.openai_service.RETRIES", 1)
    with pytest.raises(Unavailable, match="did not answer"):
        TextEncoder(kind="openai", base_url="http://127.0.0.1:9/v1").embed(["hello"])


# --- The cache ---


def test_nothing_is_paid_for_twice_across_encoders(encoder: TextEncoder, server: OpenAIServer) -> None:
    texts = [f"line {i}" for i in range(700)]
    encoder.embed(texts)
    again = TextEncoder(kind="openai", base_url=server.url, lake=encoder.lake)
    changed = [*texts[:300], "a new line", *texts[301:]]
    assert np.allclose(again.embed(changed), expected(changed), atol=1e-6)
    assert server.requests[1:] == [["a new line"]]


def test_models_and_dimensions_do_not_share_vectors(encoder: TextEncoder, server: OpenAIServer) -> None:
    encoder.embed(["hello"])
    other = TextEncoder(kind="openai", base_url=server.url, lake=encoder.lake, dimensions=256)
    assert other.embed(["hello"]).shape == (1, 256)
    assert len(server.requests) == 2
    assert encoder.space() != other.space()


def test_another_process_finds_what_this_one_paid_for(encoder: TextEncoder, server: OpenAIServer) -> None:
    encoder.embed(["shared"])
    script = (
        "import sys; from resources.encoders import TextEncoder\n"
        "encoder = TextEncoder(kind='openai', base_url=sys.argv[1], lake=sys.argv[2])\n"
        "encoder.embed(['shared']); encoder.embed(['of the other'])"
    )
    command = [sys.executable, "-c", script, server.url, encoder.lake]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    encoder.embed(["of the other"])
    assert server.requests == [["shared"], ["of the other"]]


def test_what_was_answered_before_a_failure_is_kept(encoder: TextEncoder, server: OpenAIServer) -> None:
    texts = [f"line {i}" for i in range(2048 + 5)]
    one_by_one = TextEncoder(kind="openai", base_url=server.url, lake=encoder.lake, concurrency=1)
    server.faults = ["", "dimension"]
    with pytest.raises(Unavailable):
        one_by_one.embed(texts)
    assert np.allclose(one_by_one.embed(texts), expected(texts), atol=1e-6)
    assert [len(request) for request in server.requests] == [2048, 5]


def test_a_process_killed_between_two_answers_has_paid_only_once(encoder: TextEncoder, server: OpenAIServer) -> None:
    """The second request hangs; by then the first answer must be in the cache."""
    server.faults = ["", "hang"]
    script = (
        "import sys; from resources.encoders import TextEncoder\n"
        "encoder = TextEncoder(kind='openai', base_url=sys.argv[1], lake=sys.argv[2], concurrency=1, timeout_s=60)\n"
        "encoder.embed([f'line {i}' for i in range(2048 + 5)])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url, encoder.lake], cwd=ROOT)
    table = Path(encoder.lake) / "text_cache" / "_delta_log"
    while len(list(table.glob("*.json"))) < 2 or len(server.attempts) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    encoder.embed([f"line {i}" for i in range(2048 + 5)])
    assert [len(request) for request in server.requests] == [2048, 5]


def test_many_at_once_fill_one_new_cache(server: OpenAIServer, tmp_path: Path) -> None:
    encoder = TextEncoder(kind="openai", base_url=server.url, lake=str(tmp_path / "lake"))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(encoder.embed, [[f"title {n} line {i}" for i in range(3)] for n in range(8)]))
    assert sum(map(len, server.requests)) == 24
    encoder.embed([f"title {n} line {i}" for i in range(3) for n in range(8)])
    assert sum(map(len, server.requests)) == 24


def test_what_was_paid_for_before_the_lake_knew_the_table_is_found(encoder: TextEncoder, server: OpenAIServer) -> None:
    """The table as it was written by delta-rs alone, in parts, without a data version."""
    texts = ["one", "two"]
    for text in texts:
        fields = {
            "key": pa.string(),
            "model": pa.string(),
            "dimensions": pa.int32(),
            "embedding": pa.list_(pa.float32()),
        }
        row = [key(encoder.model, 768, text), encoder.model, 768, vector_of(text, 768)]
        written = pa.table(
            {name: pa.array([value], kind) for (name, kind), value in zip(fields.items(), row, strict=True)},
            schema=pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()]),
        )
        write_deltalake(f"{encoder.lake}/text_cache", written, mode="append")
    vectors = encoder.embed([*texts, "three"])
    assert np.allclose(vectors, expected([*texts, "three"]), atol=1e-6)
    assert server.requests == [["three"]]


def test_a_damaged_part_of_the_cache_costs_only_itself(encoder: TextEncoder, server: OpenAIServer) -> None:
    for text in ("one", "two"):
        encoder.embed([text])
    lake = DeltaLake(uri=encoder.lake)
    damaged, _ = sorted(lake.partition_files("text_cache", {}))
    Path(damaged).write_bytes(b"")
    assert len(lake.discard_damaged("text_cache")) == 1
    encoder.embed(["one", "two"])
    assert len(server.requests) == 3


def test_tokens_and_cost_are_reported(encoder: TextEncoder, server: OpenAIServer) -> None:
    assert encoder.last_usage is None
    encoder.embed(["twelve bytes", "twelve bytes", "four"])
    usage = encoder.last_usage
    assert usage is not None
    assert (usage.texts, usage.sent, usage.from_cache, usage.requests, usage.tokens) == (3, 2, 0, 1, 4)
    assert usage.cost_usd == pytest.approx(4 * 0.13 / 1e6)
    encoder.embed(["four"])
    usage = encoder.last_usage
    assert usage is not None
    assert (usage.texts, usage.sent, usage.from_cache, usage.requests, usage.cost_usd) == (1, 0, 1, 0, 0.0)

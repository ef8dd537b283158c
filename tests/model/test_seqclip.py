"""Fine-tuning a small CLIP on synthetic clips: what it learns, that it is repeatable, that its result can be used."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.seqclip.fine_tune import fine_tune
from model.seqclip.pairs import Pair, hold_out, read_pairs, write_pairs
from model.seqclip.reader import Reader
from model.seqclip.recall import chance, recalls
from model.seqclip.settings import FineTuning
from model.seqclip.towers import SeqClip, contrast
from resources.encoders import VideoEncoder
from tests.resources.checkpoints import save_clip

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "yellow": (230, 220, 50)}
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SHAPES = ("circle", "square", "stripes")
QUICK = FineTuning(epochs=2, batch_size=16, frames=2, pretrained_lr=1e-4, held_out=0.3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over matrices this small are many times slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def clip(colour: str, shape: str, place: str, rng: np.random.Generator) -> list[bytes]:
    """Two noisy frames of a coloured shape that moves on one side of a grey picture."""
    y, x = np.mgrid[0:32, 0:32]
    jpegs = []
    for step in range(2):
        centre = 16 + 7 * np.array(STEPS[place]) + rng.uniform(-2, 2, 2) + step
        near = {
            "circle": (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 36,
            "square": np.maximum(abs(x - centre[0]), abs(y - centre[1])) < 5,
            "stripes": (np.maximum(abs(x - centre[0]), abs(y - centre[1])) < 7) & (x % 4 < 2),
        }[shape]
        picture = np.where(near[..., None], COLOURS[colour], rng.uniform(60, 140)) + rng.normal(0, 10, (32, 32, 3))
        file = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
        jpegs.append(file.getvalue())
    return jpegs


def catalogue(folder: Path, titles: int, shots: int) -> Path:
    rng = np.random.default_rng(4)
    kinds = [(colour, shape, place) for colour in COLOURS for shape in SHAPES for place in STEPS]
    pairs = []
    for title in range(titles):
        for kind in rng.permutation(len(kinds))[:shots]:
            colour, shape, place = kinds[kind]
            pairs.append((f"title-{title}", None, f"a {colour} {shape} {place}", clip(colour, shape, place, rng)))
    return write_pairs(folder, pairs)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalogue(tmp_path_factory.mktemp("few"), titles=6, shots=12)


def test_recall_on_titles_never_seen_rises_clearly(base: Path, tmp_path: Path) -> None:
    pairs = read_pairs(catalogue(tmp_path / "pairs", titles=10, shots=48))
    settings = FineTuning(epochs=10, batch_size=64, frames=2, pretrained_lr=1e-3, held_out=0.1)
    report = fine_tune(pairs, base, tmp_path / "tuned", settings, CPU)
    before, after = report["before"]["recall@5"], report["after"]["recall@5"]
    assert report["held_out_pairs"] == 48
    assert before < 0.3  # 5 of 48 by chance
    assert after > before + 0.4
    assert report["losses"][-1] < report["losses"][0]
    assert json.loads((tmp_path / "tuned" / "seqclip.json").read_text()) == report

    # The video encoder names the result, and its two towers find each other with the recall that was reported.
    _, held = hold_out(pairs, settings.held_out, settings.seed)
    encoder = VideoEncoder(kind="clip", model=str(tmp_path / "tuned"))
    assert encoder.preflight() == []
    assert encoder.space() != VideoEncoder(kind="clip", model=str(base)).space()
    videos = np.stack(list(encoder.embed([[frame.read_bytes() for frame in pair.frames] for pair in held])))
    ranked = np.argsort(-encoder.embed_texts([pair.caption for pair in held]) @ videos.T, axis=1)
    captions = np.array([pair.caption for pair in held])
    found = (captions[ranked[:, :5]] == captions[:, None]).any(1).mean()
    assert found == pytest.approx(after, abs=1 / 48)


def test_the_same_seed_gives_the_same_weights(base: Path, few: Path, tmp_path: Path) -> None:
    pairs = read_pairs(few)
    for name in ("one", "two"):
        fine_tune(pairs, base, tmp_path / name, QUICK, CPU)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_processes_share_the_batch_and_gather_their_negatives(base: Path, few: Path, tmp_path: Path) -> None:
    """Two processes end, up to rounding, with the weights of one: they saw the same batches and the same negatives."""
    from safetensors.torch import load_file

    options = ["--pairs", few, "--checkpoint", base, "--epochs", "2", "--batch-size", "16", "--frames", "2"]
    options += ["--pretrained-lr", "1e-4", "--held-out", "0.3"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for out, launcher in (("alone", []), ("shared", torchrun)):
        command = [sys.executable, *launcher, "-m", "model.seqclip", *options, "--out", tmp_path / out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert set(json.loads((tmp_path / out / "seqclip.json").read_text())) >= {"before", "after", "chance"}
    alone, shared, start = (load_file(f / "model.safetensors") for f in (tmp_path / "alone", tmp_path / "shared", base))
    assert max((alone[name] - start[name]).abs().max() for name in alone) > 1e-4
    # Adam turns rounding in a gradient near zero into a whole step: compare the bulk, not the last weight.
    apart = torch.cat([(alone[name] - shared[name]).abs().flatten() for name in alone])
    assert apart.quantile(0.99) < 1e-5


def test_a_checkpoint_of_another_width_gets_new_projections(few: Path, tmp_path: Path) -> None:
    narrow = save_clip(tmp_path / "narrow", dimensions=512)
    settings = FineTuning(epochs=1, batch_size=16, frames=1, pretrained_lr=0.0, new_lr=1e-3, held_out=0.3)
    fine_tune(read_pairs(few), narrow, tmp_path / "wide", settings, CPU)
    encoder = VideoEncoder(kind="clip", model=str(tmp_path / "wide"))
    assert encoder.preflight() == []
    assert encoder.embed_texts(["a red circle"]).shape == (1, 768)
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (narrow, tmp_path / "wide"))
    changed = {
        name for name in after if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }
    assert changed == {"visual_projection.weight", "text_projection.weight"}


def test_the_loss_is_lowest_when_each_clip_meets_its_caption() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    scale, numbers = torch.tensor(20.0), torch.arange(8)[:, None].expand(8, 2)
    assert contrast(vectors, vectors, scale, numbers) < 0.1
    assert contrast(vectors, vectors.roll(1, 0), scale, numbers) > 5


def test_clips_of_the_same_caption_and_captions_of_the_same_clip_are_no_negatives_of_each_other() -> None:
    vectors = torch.eye(4)[[0, 0, 1, 2]]
    scale, apart, alike = torch.tensor(20.0), torch.arange(4), torch.tensor([0, 0, 1, 2])
    assert contrast(vectors, vectors, scale, torch.stack([alike, apart], 1)) < 1e-3
    assert contrast(vectors, vectors, scale, torch.stack([apart, alike], 1)) < 1e-3
    assert contrast(vectors, vectors, scale, torch.stack([apart, apart], 1)) > 0.3


def test_titles_are_held_out_and_never_pairs_and_a_series_as_a_whole(few: Path) -> None:
    pairs = read_pairs(few)
    training, held = hold_out(pairs, 0.3, seed=1)
    assert len(training) + len(held) == len(pairs)
    assert not {pair.title_id for pair in training} & {pair.title_id for pair in held}
    assert {pair.title_id for pair in held} != {pair.title_id for pair in hold_out(pairs, 0.3, seed=2)[1]}
    with pytest.raises(ValueError, match="two titles"):
        hold_out([pair for pair in pairs if pair.title_id == "title-0"], 0.3, seed=1)
    episodes = [replace(pair, series_id="s" if pair.title_id < "title-4" else None) for pair in pairs]
    for seed in range(8):
        training, held = hold_out(episodes, 0.3, seed)
        assert len({pair.series_id for pair in held} & {pair.series_id for pair in training} - {None}) == 0
    with pytest.raises(ValueError, match="a series count as one"):
        hold_out([pair for pair in episodes if pair.series_id], 0.3, seed=1)


def test_pairs_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    said = "words\nin two lines"
    path = write_pairs(tmp_path, [("a", None, " ", [b"x"]), ("b", None, "words", []), ("c", "s", said, [b"x", b"y"])])
    (pair,) = read_pairs(path)
    assert (pair.title_id, pair.series_id, pair.caption, len(pair.frames)) == ("c", "s", said, 2)


def test_a_clip_with_many_captions_is_stored_once_and_found_by_each_of_them(base: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    clips = [clip(colour, shape, "left", rng) for colour in COLOURS for shape in SHAPES]
    captions = ("a red circle", "a still circle", "the circle")
    pairs = read_pairs(write_pairs(tmp_path, [("t", None, caption, c) for c in clips for caption in captions]))
    assert len(list((tmp_path / "frames").iterdir())) == len({jpeg for jpegs in clips for jpeg in jpegs})
    model = SeqClip(base, seed=0)
    found = recalls(model, Reader(base, model.towers.config, pairs, frames=2), pairs[:3], CPU)
    assert found == {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0}, "the one clip, not a third of its copies"
    by_lot = chance(pairs)
    assert by_lot["recall@10"] == 1.0, "every caption is every clip's"


def test_chance_is_the_share_that_the_nearest_have_of_all() -> None:
    pairs = [Pair("t", None, str(n % 20), (Path(f"{n}.jpg"),)) for n in range(40)]
    assert chance(pairs)["recall@1"] == pytest.approx(2 / 40)
    assert chance(pairs)["recall@5"] == pytest.approx(1 - (38 * 37 * 36 * 35 * 34) / (40 * 39 * 38 * 37 * 36))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"epochs": 0}', "epochs must be at least 1"),
        ('{"epochs": 1.5}', "epochs must be of type int"),
        ('{"bf16": 1}', "bf16 must be of type bool"),
        ('{"pretrained_lr": NaN}', "pretrained_lr must not be negative"),
        ('{"held_out": 1}', "between 0 and 1"),
        ('{"speed": 1}', "no settings speed"),
        ("[1]", "must be a JSON object"),
        ("fast", "Expecting value"),
    ],
)
def test_settings_that_cannot_be_used_are_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FineTuning.from_json(text)


def test_a_checkpoint_is_never_overwritten(base: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        fine_tune(read_pairs(few), base, tmp_path, QUICK, CPU)

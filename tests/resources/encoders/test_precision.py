"""Who multiplies in which number type: the same rule for all of them, on this processor and on a plain laptop's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.precision import matmul_dtype
from tests.resources.checkpoints import save_clip, save_qwen3_omni, save_wav2vec

PLAIN_LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Variables with which a better processor does what one with AVX2 and no AVX-512 does."""

PROGRAM = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import numpy as np, torch

from model.config import Config
from model.optim import orthogonalised
from model.precision import matmul_dtype
from model.store import Store, StoredTitle
from model.train import Run
from model.seqclip import FineTuning, write_pairs
from model.seqclip.fine_tune import fine_tune
from model.seqclip.pairs import read_pairs
from resources.encoders.audio import wav2vec2_model as wav2vec
from resources.encoders.omni import qwen3_omni_model as omni
from resources.encoders.video import clip_model as clip
from resources.shots import transnet
from PIL import Image

cpu = torch.device("cpu")
with tempfile.TemporaryDirectory() as folder:
    shots = np.eye(8, 2304, dtype=np.float32)
    titles = [StoredTitle(str(i), None, "1", "s", shots, shots[0, :768]) for i in range(8)]
    config = dataclasses.replace(Config.embedded(), layers=1, hidden=32, heads=2)
    run = Run(config, Store.update(Path(folder) / "store", titles), Path(folder) / "run", say=lambda _: None)
    Image.new("RGB", (32, 32)).save(Path(folder) / "picture.jpg")
    jpeg = (Path(folder) / "picture.jpg").read_bytes()
    pairs = read_pairs(write_pairs(Path(folder) / "pairs", [(str(i // 4), None, "a shot", [jpeg]) for i in range(8)]))
    settings = FineTuning(epochs=1, batch_size=2, frames=1, held_out=0.5, bf16=True)
    tuned = fine_tune(pairs, Path(sys.argv[1]), Path(folder) / "tuned", settings, cpu, say=lambda _: None)
used = {
    "encoder": run.dtype,
    "Muon": orthogonalised(torch.randn(1, 8, 8)).dtype,
    "TransNet V2": transnet._network("cpu")._quick.dtype,
    "CLIP": clip.load(Path(sys.argv[1]), "", "cpu", "bfloat16").model.dtype,
    "CLIP in float32": clip.load(Path(sys.argv[1]), "", "cpu", "float32").model.dtype,
    "wav2vec 2.0": wav2vec.load(Path(sys.argv[2]), "", "cpu", "bfloat16").model.dtype,
    "Qwen3-Omni": omni.load(Path(sys.argv[3]), "", "cpu", "bfloat16").model.dtype,
    "rule": matmul_dtype(cpu),
}
used["SeqCLIP"] = tuned["precision"]
print(json.dumps({name: str(dtype).removeprefix("torch.") for name, dtype in used.items()}))
"""


def used_types(variables: dict[str, str], *checkpoints: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, checkpoints)],
        env={**os.environ, **variables}, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used: dict[str, str] = json.loads(done.stdout)
    return used


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("checkpoints")
    clip, wav2vec = save_clip(folder / "clip"), save_wav2vec(folder / "wav2vec", "group")
    return clip, wav2vec, save_qwen3_omni(folder / "omni")


def test_a_plain_laptop_multiplies_everything_in_float32(checkpoints: tuple[Path, ...]) -> None:
    assert set(used_types(PLAIN_LAPTOP, *checkpoints).values()) == {"float32"}


def test_all_follow_the_rule_on_this_processor(checkpoints: tuple[Path, ...]) -> None:
    used = used_types({}, *checkpoints)
    assert used.pop("CLIP in float32") == "float32"
    assert set(used.values()) == {str(matmul_dtype(torch.device("cpu"))).removeprefix("torch.")}


def test_a_type_other_than_bf16_is_used_as_asked() -> None:
    assert matmul_dtype(torch.device("cpu"), torch.float32) == torch.float32
    assert matmul_dtype(torch.device("cpu"), torch.float16) == torch.float16


def test_bf16_is_slow_on_a_device_of_which_nothing_is_known() -> None:
    assert matmul_dtype(torch.device("meta")) == torch.float32

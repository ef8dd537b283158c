"""The reference encoders' speed through this project against the bare models, with random weights of the true sizes.

    python benchmarks/encoders.py [--dtype bfloat16] [--seconds 20]

ViT-L/14 from JPEG frames to shot vectors, against the same tower on pixel tensors that already lie on the device;
wav2vec2-base from samples of shots of 1 to 8 s, against the same model on equal-length tensors that already lie there.
Both in one run. The ratio is the share of the bare model's speed that is left; 0.9 is the target on an accelerator.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from resources.encoders import AudioEncoder, VideoEncoder

RATE = 16_000


def save_vit_l14(folder: Path) -> Path:
    """CLIP with openai/clip-vit-large-patch14's image tower; the text tower, which is not measured, is kept small."""
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**tower, "image_size": 224, "patch_size": 14}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=768)).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def save_wav2vec2_base(folder: Path) -> Path:
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)  # the defaults are base's
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    return folder


def picture(rng: np.random.Generator) -> bytes:
    """A 398 x 224 JPEG about as hard to decode as a film's frame."""
    coarse = Image.fromarray(rng.integers(0, 256, (28, 50, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((398, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def rate(step: Callable[[], object], units: float, seconds: float) -> float:
    """Units per second of a step that handles so many, over at least this long, after one step to warm up."""

    def settled() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    step()
    start, steps = settled(), 0
    while True:
        step()
        steps += 1
        if (passed := settled() - start) >= seconds:
            return steps * units / passed


def report(name: str, through: float, limit: float, unit: str) -> None:
    print(f"{name}: {through:.1f} of {limit:.1f} {unit}: {through / limit:.2f}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--batch-size", type=int, default=64, help="frames")
    parser.add_argument("--shots", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="least length of each measurement")
    arguments = parser.parse_args()
    device, dtype = torch.device("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, arguments.dtype)
    rng = np.random.default_rng(0)

    with tempfile.TemporaryDirectory() as folder:
        clip = save_vit_l14(Path(folder, "clip"))
        tower = CLIPModel.from_pretrained(clip, dtype=dtype).eval().to(device)
        pixels = torch.randn(arguments.batch_size, 3, 224, 224, device=device, dtype=dtype)
        limit = rate(lambda: tower.get_image_features(pixels), len(pixels), arguments.seconds)
        shots = [[picture(rng) for _ in range(8)] for _ in range(arguments.shots)]
        video = VideoEncoder(kind="clip", model=str(clip), dtype=arguments.dtype, batch_size=arguments.batch_size)
        through = rate(lambda: list(video.embed(shots)), 8 * len(shots), arguments.seconds)
        report(f"ViT-L/14 in {arguments.dtype} on {device.type}", through, limit, "frames/s")

        wav2vec = save_wav2vec2_base(Path(folder, "wav2vec2"))
        listener = Wav2Vec2Model.from_pretrained(wav2vec, dtype=dtype).eval().to(device)
        samples = torch.randn(13, int(4.5 * RATE), device=device, dtype=dtype)  # about what one batch holds
        limit = rate(lambda: listener(samples), samples.numel() / RATE, arguments.seconds)
        sounds = [rng.standard_normal(int(n * RATE)).astype(np.float32) for n in rng.uniform(1, 8, arguments.shots)]
        audio = AudioEncoder(kind="wav2vec2", model=str(wav2vec), dtype=arguments.dtype)
        through = rate(lambda: list(audio.embed(sounds)), sum(map(len, sounds)) / RATE, arguments.seconds)
        report(f"wav2vec2-base in {arguments.dtype} on {device.type}", through, limit, "x real time")


if __name__ == "__main__":
    main()

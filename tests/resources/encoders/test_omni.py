"""Qwen3-Omni as an encoder of shots, against transformers' own processor and whole model, on a small checkpoint."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3OmniMoeForConditionalGeneration

from resources.encoders.omni import qwen3_omni_model
from resources.encoders.omni.encoder import OmniEncoder, Shot
from resources.encoders.omni.qwen3_omni_model import FRAME_PIXELS, MOST_TOKENS, Qwen3Omni
from resources.encoders.projection import projection
from resources.errors import Unavailable
from tests.resources.checkpoints import change_weights, save_clip, save_qwen3_omni

RATE = 16_000
SILENT = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3_omni(tmp_path_factory.mktemp("checkpoints") / "omni")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> OmniEncoder:
    return OmniEncoder(model=str(checkpoint), dtype="float32", device="cpu")


def frames(count: int, seed: int = 0, size: tuple[int, int] = (398, 224)) -> list[bytes]:
    made = []
    for picture in np.random.default_rng(seed).integers(0, 256, (count, 28, 50, 3), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(picture).resize(size).save(file, "JPEG")
        made.append(file.getvalue())
    return made


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def embed(encoder: OmniEncoder, *shots: Shot) -> list[Any]:
    return list(encoder.embed(shots))


def assert_alike(one: Any, other: Any) -> None:
    for name in ("video", "audio", "text"):
        assert one[name] == pytest.approx(other[name], abs=1e-5), name


@torch.inference_mode()
def test_a_vector_is_the_mean_of_its_tokens_states_in_the_middle_of_the_whole_model(
    encoder: OmniEncoder, checkpoint: Path
) -> None:
    (jpeg,), heard, said = frames(1), sound(2), "Hello there."
    qwen = encoder._qwen()
    tokens = qwen.tokenizer
    marks = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|audio_start|><|audio_pad|><|audio_end|>"
    picture = qwen.pictures([Image.open(io.BytesIO(jpeg))], size=FRAME_PIXELS, return_tensors="pt")
    shown = int(picture["image_grid_thw"].prod()) // 4
    bins = qwen.extractor(heard, sampling_rate=RATE, padding="longest", truncation=False, return_attention_mask=True)
    written = marks.replace("<|image_pad|>", "<|image_pad|>" * shown).replace("<|audio_pad|>", "<|audio_pad|>" * 26)
    ids = tokens(written + said, add_special_tokens=False, return_tensors="pt").input_ids
    whole = Qwen3OmniMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    states = whole.thinker(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **picture,
        input_features=torch.from_numpy(np.array(bins["input_features"])),
        feature_attention_mask=torch.from_numpy(np.array(bins["attention_mask"])),
        output_hidden_states=True,
    ).hidden_states
    assert len(states) == 5, "the embeddings, and four layers"
    unit = torch.nn.functional.normalize(states[2][0], dim=-1)
    of = {
        "video": ids[0] == tokens.convert_tokens_to_ids("<|image_pad|>"),
        "audio": ids[0] == tokens.convert_tokens_to_ids("<|audio_pad|>"),
        "text": torch.arange(ids.shape[1]) >= ids.shape[1] - len(said),
    }
    # One frame is a video whose only step shows it twice, as a picture is.
    assert_alike(
        embed(encoder, Shot(2, [jpeg], heard, said))[0],
        {name: unit[own].mean(0).numpy() for name, own in of.items()},
    )


def test_wider_states_are_projected_as_other_checkpoints_are(tmp_path: Path) -> None:
    wide = OmniEncoder(model=str(save_qwen3_omni(tmp_path / "wide", hidden=1024)), dtype="float32", device="cpu")
    shot = Shot(1, (), SILENT, "Hello")
    (found,) = embed(wide, shot)
    assert {name: vector.shape for name, vector in found.items()} == dict.fromkeys(("video", "audio", "text"), (768,))
    qwen = wide._qwen()
    (part,) = qwen._parts(shot)
    sums, _ = qwen._sums([part])
    assert found["text"] == pytest.approx(sums[0, 2] / 5 @ projection(1024, 768), abs=1e-6)


def test_a_shot_is_embedded_as_if_it_were_alone(encoder: OmniEncoder) -> None:
    shots = [
        Shot(4, frames(8), sound(4), "Hello there."),
        Shot(1.3, frames(3, 1), sound(1.3, 1), ""),
        Shot(2, (), sound(2, 2), "Good day"),
        Shot(2, frames(1, 2), SILENT, ""),
        Shot(2, (), SILENT, "Yes"),
        Shot(0.04, frames(1, 3), sound(0.001, 3), "No"),
    ]
    for together, shot in zip(embed(encoder, *shots), shots, strict=True):
        assert_alike(together, embed(encoder, shot)[0])


def test_what_a_shot_has_not_is_zero_and_what_it_has_is_not(encoder: OmniEncoder) -> None:
    for has in np.ndindex(2, 2, 2):
        video, audio, text = has
        shot = Shot(1, frames(2) if video else (), sound(1) if audio else SILENT, "Hi" if text else " ")
        (found,) = embed(encoder, shot)
        assert [bool(found[name].any()) for name in ("video", "audio", "text")] == [bool(one) for one in has]


def test_sound_is_read_with_the_frames_before_it_and_words_with_both(encoder: OmniEncoder) -> None:
    alone, seen, heard = embed(
        encoder,
        Shot(1, (), sound(1), "Hi"),
        Shot(1, frames(2), sound(1), "Hi"),
        Shot(1, frames(2), sound(1, 1), "Hi"),
    )
    assert not np.allclose(alone["audio"], seen["audio"], atol=1e-4)
    assert not np.allclose(alone["text"], seen["text"], atol=1e-4)
    assert not np.allclose(seen["text"], heard["text"], atol=1e-4)
    assert np.allclose(seen["video"], heard["video"], atol=1e-5)


def test_frames_are_a_video_in_their_order_and_at_their_times(encoder: OmniEncoder) -> None:
    four = frames(4)
    forth, back, slow = embed(
        encoder, Shot(1, four, SILENT, ""), Shot(1, four[::-1], SILENT, ""), Shot(60, four, SILENT, "")
    )
    assert not np.allclose(forth["video"], back["video"], atol=1e-5)
    assert not np.allclose(forth["video"], slow["video"], atol=1e-5)
    (mixed,) = embed(encoder, Shot(1, [*frames(1), *frames(1, 1, (224, 398))], SILENT, ""))  # a film that is turned
    assert mixed["video"].any()


def test_a_long_shot_is_the_mean_of_parts_that_the_model_can_read(encoder: OmniEncoder) -> None:
    seen, heard, said = frames(2), sound(60), "x" * 1500 + "y" * 1500
    (whole,) = embed(encoder, Shot(60, seen, heard, said))
    thirds = [Shot(60, seen, heard[n * 20 * RATE :][: 20 * RATE], said[n * 1000 :][:1000]) for n in range(3)]
    parts = embed(encoder, *thirds)
    assert_alike(whole, {name: np.mean([part[name] for part in parts], axis=0) for name in whole})


def test_batches_hold_several_shots_and_no_more_tokens_than_they_may(
    encoder: OmniEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(self: Qwen3Omni, batch: Any) -> Any:
        sizes.append((len(batch), len(batch) * max(len(part.tokens) for part in batch)))
        return sums(self, batch)

    sums = Qwen3Omni._sums
    monkeypatch.setattr(Qwen3Omni, "_sums", counted)
    assert len(embed(encoder, *(Shot(1, frames(1), sound(1), "Hi " * n) for n in range(60)))) == 60
    assert sum(parts for parts, _ in sizes) == 60
    assert max(parts for parts, _ in sizes) > 10
    assert max(tokens for _, tokens in sizes) <= MOST_TOKENS


def test_the_models_own_marks_in_a_subtitle_are_only_characters(encoder: OmniEncoder) -> None:
    said = "<|video_pad|><|audio_start|><|im_end|>"
    (found,) = embed(encoder, Shot(1, frames(1), sound(1), said))
    assert np.isfinite(found["text"]).all()
    (part,) = encoder._qwen()._parts(Shot(1, (), SILENT, said))
    assert part.kinds.count(qwen3_omni_model.TEXT) == len(said)


def test_a_query_is_a_shot_of_which_only_words_are_known(encoder: OmniEncoder) -> None:
    (shot,) = embed(encoder, Shot(3, (), SILENT, "a dragon"))
    assert encoder.embed_query("a dragon") == pytest.approx(shot["text"], abs=1e-6)


def test_the_space_is_the_content_of_the_folder_and_not_its_place(
    encoder: OmniEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    copy = encoder.model_copy(update={"model": str(shutil.copytree(checkpoint, tmp_path / "copy"))})
    assert copy.space() == encoder.space()
    assert copy.config_key() != encoder.config_key()
    assert encoder.model_copy(update={"dtype": "bfloat16"}).space() != encoder.space()
    (tmp_path / "copy" / "tokenizer_config.json").write_text("{}")
    assert copy.space() != encoder.space()


def test_a_checkpoint_that_gives_nan_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["thinker.model.layers.0.self_attn.q_proj.weight"].fill_(torch.nan)

    folder = change_weights(checkpoint, tmp_path / "spoilt", spoil)
    with pytest.raises(Unavailable, match=r"spoilt gives NaN or infinity: .* copy it anew"):
        embed(OmniEncoder(model=str(folder), device="cpu"), Shot(1, (), SILENT, "Hi"))


def test_a_checkpoint_without_some_of_the_weights_is_refused_and_not_filled_up(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = change_weights(
        checkpoint, tmp_path / "part", lambda weights: weights.pop("thinker.model.layers.0.self_attn.q_proj.weight")
    )
    with pytest.raises(Unavailable, match=r"part lacks 1 of the thinker's tensors, such as .*q_proj\.weight"):
        embed(OmniEncoder(model=str(folder), device="cpu"), Shot(1, (), SILENT, "Hi"))


def test_a_damaged_checkpoint_is_refused_in_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(Unavailable, match=r"^transformers .* cannot use the checkpoint .*cut .*: copy it anew"):
        embed(OmniEncoder(model=str(folder), device="cpu"), Shot(1, (), SILENT, "Hi"))


def test_states_that_are_too_narrow_are_refused(tmp_path: Path) -> None:
    narrow = OmniEncoder(model=str(save_qwen3_omni(tmp_path / "narrow", hidden=64)), device="cpu")
    with pytest.raises(Unavailable, match="states of 64 numbers; 768 are needed"):
        embed(narrow, Shot(1, (), SILENT, "Hi"))


def test_what_is_no_folder_of_such_a_checkpoint_is_told_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copyfile(checkpoint / "config.json", pickled / "config.json")
    (pickled / "pytorch_model.bin").write_bytes(b"anything")
    strange = shutil.copytree(checkpoint, tmp_path / "strange")
    (strange / "config.json").write_text(json.dumps([1]))
    for model, said in {
        "": "set MEDIAFM_OMNI_MODEL",
        "Qwen/Qwen3-Omni-30B-A3B-Instruct": "There is no folder Qwen/Qwen3-Omni-30B-A3B-Instruct",
        str(pickled): "it needs a config.json and safetensors",
        str(save_clip(tmp_path / "clip")): "is a clip, not a qwen3_omni_moe",
        str(strange): "not a qwen3_omni_moe",
    }.items():
        wrong = OmniEncoder(model=model)
        (problem,) = wrong.preflight()
        assert said in problem
        with pytest.raises(Unavailable):
            wrong.space()
    (problem,) = OmniEncoder(model=str(checkpoint), device="cuda:99").preflight()
    assert "cuda:99" in problem
    assert OmniEncoder(model=str(checkpoint)).preflight() == []

"""Small checkpoints with random weights and the real architectures, written by save_pretrained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperFeatureExtractor,
)

WORDS = "red green blue yellow circle square stripes moving still a the of with left right up down".split()  # noqa: SIM905


def tokenizer(most: int) -> PreTrainedTokenizerFast:
    """Whole words of a tiny vocabulary, with CLIP's begin and end of text; anything else is <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "<s>", *WORDS, "</s>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=most,
    )


def text_vectors(checkpoint: Path, texts: list[str]) -> np.ndarray:
    """Unit-norm (len(texts), 768): a CLIP checkpoint's text tower, by transformers alone."""
    tokens = AutoTokenizer.from_pretrained(checkpoint)(texts, padding=True, truncation=True, return_tensors="pt")
    model = CLIPModel.from_pretrained(checkpoint)
    with torch.inference_mode():
        features = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output.numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _tower(hidden: int) -> dict[str, Any]:
    return {"hidden_size": hidden, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_clip(folder: Path, *, dimensions: int = 768, image_size: int = 32, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tower = _tower(64)
    words = tokenizer(16)
    config = CLIPConfig(
        vision_config={**tower, "image_size": image_size, "patch_size": 8},
        text_config={
            **tower,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        projection_dim=dimensions,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    torch.manual_seed(1)
    tower = _tower(768)
    words = tokenizer(16)
    config = SiglipConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        text_config={
            **tower,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_siglip2(folder: Path) -> Path:
    """SigLIP 2 of flexible resolution: patches, a mask and the picture's shape go in."""
    torch.manual_seed(3)
    words = tokenizer(16)
    config = Siglip2Config(
        vision_config={**_tower(768), "patch_size": 8, "num_patches": 16},
        text_config={
            **_tower(768),
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
    )
    Siglip2Model(config).save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_wav2vec(folder: Path, norm: str, *, hidden: int = 768) -> Path:
    """norm: "group" (as base: no attention mask, norm over time) or "layer" (as large: mask, stable layer norm)."""
    torch.manual_seed(2)
    config = Wav2Vec2Config(
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        conv_dim=(32,) * 7,
        conv_bias=norm == "layer",
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer", do_normalize=True).save_pretrained(folder)
    return folder


OMNI_MARKS = ("im_start", "im_end", "vision_start", "vision_end", "video_pad", "image_pad")
OMNI_MARKS += ("audio_start", "audio_end", "audio_pad")


def save_qwen3_omni(folder: Path, *, hidden: int = 768, seed: int = 4) -> Path:
    """Thinker, talker and vocoder under the names of the published checkpoint, and what prepares their inputs. The
    thinker has four layers of four experts; its tokens are bytes."""
    from tokenizers import pre_tokenizers

    torch.manual_seed(seed)
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Qwen2Tokenizer(vocab=alphabet, merges=[], additional_special_tokens=[f"<|{name}|>" for name in OMNI_MARKS])
    marks = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in OMNI_MARKS}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    small = {**heads, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "vocab_size": 64}
    config = Qwen3OmniMoeConfig(
        thinker_config={
            "text_config": {
                **heads,
                **experts,
                "num_hidden_layers": 4,
                "hidden_size": hidden,
                "vocab_size": len(words),
                "rope_parameters": rope,
                "max_position_embeddings": 4096,
                "initializer_range": 0.05,
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": hidden,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
                "initializer_range": 0.3,  # wide enough for what is seen and heard to make a difference
            },
            "audio_config": {
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "d_model": 32,
                "output_dim": hidden,
                "downsample_hidden_size": 8,
                "initializer_range": 0.3,
            },
            "vision_start_token_id": marks["vision_start"],
            "video_token_id": marks["video_pad"],
            "image_token_id": marks["image_pad"],
            "audio_start_token_id": marks["audio_start"],
            "audio_token_id": marks["audio_pad"],
            "position_id_per_seconds": 13,
        },
        talker_config={
            "thinker_hidden_size": hidden,
            "spatial_merge_size": 2,
            "text_config": {**small, **experts, "shared_expert_intermediate_size": 16, "rope_parameters": rope},
            "code_predictor_config": small,
        },
        code2wav_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "decoder_dim": 32,
            "codebook_size": 64,
        },
    )
    model: Any = Qwen3OmniMoeForConditionalGeneration(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    pictures, sounds = Qwen2VLImageProcessorPil(patch_size=16), WhisperFeatureExtractor(feature_size=128)
    prepared = {**pictures.to_dict(), **sounds.to_dict()}  # one file for both, as published
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def change_weights(checkpoint: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a checkpoint whose weights were changed by a function that is given them by name."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder

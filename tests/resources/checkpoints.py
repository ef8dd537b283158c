"""Small checkpoints with random weights and the real architectures, written by save_pretrained."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
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

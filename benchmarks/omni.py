"""What Qwen3-Omni takes for a shot at its true size: estimates from its configuration alone, no weights and no GPU.

    python benchmarks/omni.py [--tflops 200]

The model's classes are built without memory (PyTorch's meta device) from the published configuration of
Qwen/Qwen3-Omni-30B-A3B-Instruct, written down below, and their parameters counted. Operations are those of the matrix
products, two for each multiplication: every token (or patch) meets the parameters that it activates once, and attention
the keys that it sees. Seconds are operations by the sustained rate given, decoding and copying not counted. None of
this is a measurement.
"""

import argparse
import copy

import torch
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

THINKER = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 2048,
        "intermediate_size": 768,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]},
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [8, 16, 24],
    },
    "audio_config": {
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "d_model": 1280,
        "output_dim": 2048,
    },
}
SECONDS, FRAMES, FRAME, WORDS = 4.5, 8, (288, 480), 15
"""Of a shot: its length, its frames and their size in pixels as the model reads them (224 x 398 brought to at least
131,072), its words' tokens."""


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def attention(n: int, width: int) -> float:
    """Operations of n queries on n keys and values of so many numbers."""
    return 4.0 * n**2 * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=200.0, help="sustained bf16 rate; an H100's peak is 989")
    rate = parser.parse_args().tflops

    config = Qwen3OmniMoeThinkerConfig(**copy.deepcopy(THINKER))
    with torch.device("meta"):
        whole = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    thinker = whole.model
    text = config.text_config
    layer = parameters(thinker.language_model.layers[0])
    half = text.num_hidden_layers // 2
    parts = {
        "vision tower": parameters(thinker.visual),
        "audio tower": parameters(thinker.audio_tower),
        "token embeddings": parameters(thinker.language_model.embed_tokens),
        f"{half} layers": half * layer,
    }
    loaded = sum(parts.values())
    print("Estimates from the configuration; nothing here was measured on the model.")
    print(f"thinker, whole: {parameters(whole) / 1e9:.1f} B parameters, {2 * parameters(whole) / 1e9:.0f} GB in bf16")
    print(f"thinker, as loaded here: {loaded / 1e9:.1f} B parameters, {2 * loaded / 1e9:.0f} GB in bf16")
    for name, count in parts.items():
        print(f"  {name}: {count / 1e9:.2f} B")

    vision, audio = config.vision_config, config.audio_config
    steps, patches = FRAMES // vision.temporal_patch_size, FRAME[0] * FRAME[1] // vision.patch_size**2
    seen, heard = steps * patches // vision.spatial_merge_size**2, round(13 * SECONDS)
    tokens = seen + heard + WORDS
    experts = parameters(thinker.language_model.layers[0].mlp.experts)
    active = layer - experts + experts * text.num_experts_per_tok // text.num_experts
    layer_attention = attention(tokens, text.num_attention_heads * text.head_dim) / 2  # causal
    flops = {
        "vision tower": steps
        * (2 * patches * parts["vision tower"] + vision.depth * attention(patches, vision.hidden_size)),
        "audio tower": 2 * heard * parts["audio tower"] + audio.encoder_layers * attention(heard, audio.d_model),
        f"{half} layers": half * (2 * tokens * active + layer_attention),
    }
    total = sum(flops.values())
    print(f"a shot of {SECONDS} s: {seen} tokens of {FRAMES} frames, {heard} of sound, {WORDS} of words")
    for name, count in flops.items():
        print(f"  {name}: {count / 1e12:.2f} TFLOP")
    seconds = total / (rate * 1e12)
    print(
        f"at {rate:g} TFLOP/s sustained: {seconds:.3g} s a shot, {seconds / SECONDS * 3600:.3g} s for each hour of film"
    )


if __name__ == "__main__":
    main()

"""What the SeqCLIP fine-tune is worth on films that it was not trained on: text-to-video recall of the untuned towers
beside the tuned ones and beside chance, in one run.

    python benchmarks/seqclip.py [--titles 24] [--shots 32] [--seeds 3] [--folder EMPTY_OR_EARLIER]

Renders a demo catalogue, lands it, materialises it, and materialises the asset `seqclip` as anybody would: from the
catalogue's own shots and cues, then from a pairs file that says what is to be seen in each shot. The base is a small
CLIP with random weights, so its recall should be chance. Titles are held out (a series as a whole), others for each
seed; a caption finds any clip that has it. The films are drawings: the figures show that the fine-tune learns what
carries over to other films, nothing about real ones.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SETTINGS = {"epochs": 20, "batch_size": 64, "frames": 2, "pretrained_lr": 1e-3, "held_out": 0.2}
"""CLIP4Clip's rates are for pretrained weights; these begin at random."""


def save_base(folder: Path, captions: Iterable[str]) -> Path:
    """A CLIP of two small towers with random weights, whose words are those of the captions."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    spoken = sorted({word for caption in captions for word in re.findall(r"\w+|[^\w\s]+", caption.lower())})
    numbers = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", *spoken, "</s>"])}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    ids = {f"{name}_token_id": numbers[f"<{mark}>"] for name, mark in {"pad": "pad", "bos": "s", "eos": "/s"}.items()}

    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 48, "patch_size": 8},
        text_config={**tower, "vocab_size": len(numbers), "max_position_embeddings": 32, **ids},
        projection_dim=768,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"height": 48, "width": 48}, do_center_crop=False).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **special).save_pretrained(folder)
    return folder


def descriptions(truth: Path) -> Iterator[dict[str, Any]]:
    """A pairs file's lines: for each shot of a rendered title, the setting, the act (its light and colours), and where
    somebody stands who speaks."""
    title = json.loads(truth.read_text())
    for shot in title["shots"]:
        scene = title["scenes"][shot["scene"]]
        caption = f"the {scene['setting']}, {scene['act']}"
        if scene["sound"] == "dialogue":
            caption += f", somebody on the {'left' if shot['viewpoint'] == 'A' else 'right'}"
        times = {"start_s": shot["start_frame"] / title["fps"], "end_s": shot["end_frame"] / title["fps"]}
        yield {"caption": caption, "title_id": title["title_id"], **times}


def fine_tuned(seed: int) -> dict[str, Any]:
    """Materialise the asset with that seed; its metadata."""
    import dagster as dg

    from mediafm_assets.commands.headless import driver

    os.environ["MEDIAFM_SEQCLIP_OVERRIDES"] = json.dumps({**SETTINGS, "seed": seed})
    with driver() as work:
        if not work.run(["seqclip"]):
            raise SystemExit("\n".join(work.failures))
        event = work.instance.get_latest_materialization_event(dg.AssetKey("seqclip"))
    assert event
    assert event.asset_materialization
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def compare(what: str, seeds: int) -> None:
    runs = [fine_tuned(seed) for seed in range(seeds)]
    held = ", ".join(str(run["held_out_pairs"]) for run in runs)
    print(f"\n{what}: {runs[0]['pairs']} pairs of {runs[0]['titles']} titles, held out {held}; {seeds} seeds")
    print(f"  {'':10}{'untuned':>9}{'tuned':>9}{'chance':>9}{'tuned / untuned':>17}   tuned, seed by seed")
    for name in ("recall@1", "recall@5", "recall@10"):
        before, after, chance = ([run[f"{name}_{when}"] for run in runs] for when in ("before", "after", "chance"))
        means = [statistics.mean(values) for values in (before, after, chance)]
        ratio = f"{means[1] / means[0]:.1f}" if means[0] else "-"
        figures = "".join(f"{mean:9.3f}" for mean in means)
        print(f"  {name:10}{figures}{ratio:>17}   {', '.join(f'{value:.3f}' for value in after)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=24)
    parser.add_argument("--shots", type=int, default=32, help="of a title")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the catalogue and the checkpoints here; default: do not")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        measure((given.folder or Path(passing)).absolute(), given.titles, given.shots, given.seeds)


def measure(root: Path, titles: int, shots: int, seeds: int) -> None:
    from mediafm_assets.commands.cli import main as mediafm
    from resources.demo import render_catalogue
    from resources.lake import DeltaLake

    os.environ |= {
        "MEDIAFM_LANDING": str(root / "landing"),
        "MEDIAFM_LAKE": str(root / "lake"),
        "DAGSTER_HOME": str(root / "home"),
        "MEDIAFM_PROFILE": "embedded",
        "MEDIAFM_DETECTOR": "adaptive",  # fast; which cuts it finds matters little here
        "MEDIAFM_SEQCLIP_BASE": str(root / "base"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    catalogue = render_catalogue(root / "landing", titles, shots_per_title=shots)
    lines = [line for title in catalogue.title_ids for line in descriptions(catalogue.truth / f"{title}.json")]
    pairs = root / "landing" / "pairs" / "descriptions.jsonl"
    pairs.unlink(missing_ok=True)
    if mediafm(["materialize", "--no-train"]):
        raise SystemExit("the catalogue could not be materialised")
    cues = DeltaLake(uri=str(root / "lake")).scan("text_embeddings").select("text").collect()["text"].to_list()
    save_base(root / "base", [*cues, *(line["caption"] for line in lines)])

    compare("the catalogue's own shots and cues", seeds)
    pairs.parent.mkdir(exist_ok=True)
    pairs.write_text("\n".join(map(json.dumps, lines)))
    compare("a pairs file of what is to be seen", seeds)


if __name__ == "__main__":
    main()

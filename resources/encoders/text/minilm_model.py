"""What a text means and says: MiniLM joined with hashed n-grams, 768 numbers.

    meaning    384    all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; tuned by sentence-transformers on a billion
                      pairs): the mean of its token states
    wording    384    `hashed_ngrams`: names, and the many languages that MiniLM has not read

MEANING of the energy is the meaning's. A text longer than the model reads is cut, and its parts weigh by their tokens.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from resources.encoders.packaged_weights import MINILM, MINILM_CONFIG, MINILM_TOKENIZER, packaged_file, unreadable
from resources.encoders.text.hashed_ngrams import hash_texts
from resources.errors import Unavailable

WIDTH = 384  # of the model
MEANING = 0.75
LONGEST = 256  # tokens
BATCH = 32


class MiniLM:
    """The model and its tokenizer. Use `load`, which keeps one per process."""

    def __init__(self, device: str) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        self.device = torch.device(device)
        self.tokenizer = Tokenizer.from_file(str(packaged_file(MINILM_TOKENIZER)))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.no_padding()
        model: Any = BertModel(BertConfig.from_json_file(packaged_file(MINILM_CONFIG)))
        state = load_file(packaged_file(MINILM))
        state.pop("embeddings.position_ids", None)  # a counter that transformers no longer keeps
        model.load_state_dict(state)
        self.model = model.eval().to(self.device)

    def embed(self, texts: Sequence[str], dimensions: int) -> np.ndarray:
        """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text."""
        wording = hash_texts(texts, dimensions - WIDTH)
        if not texts:
            return np.zeros((0, dimensions), np.float32)
        joined = [math.sqrt(MEANING) * self.meaning(texts), math.sqrt(1 - MEANING) * wording]
        return np.concatenate(joined, 1).astype(np.float32)

    @torch.inference_mode()
    def meaning(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm (len(texts), 384) float32; texts of like length share a batch."""
        parts = [
            (text, part.ids)
            for text, encoding in enumerate(self.tokenizer.encode_batch(list(texts)))
            for part in (encoding, *encoding.overflowing)
        ]
        parts.sort(key=lambda part: len(part[1]))
        sums = np.zeros((len(texts), WIDTH))
        for start in range(0, len(parts), BATCH):
            batch = parts[start : start + BATCH]
            ids = np.zeros((len(batch), len(batch[-1][1])), np.int64)
            mask = np.zeros_like(ids)
            for row, (_, tokens) in enumerate(batch):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            own = torch.from_numpy(mask).to(self.device)
            states = self.model(torch.from_numpy(ids).to(self.device), attention_mask=own).last_hidden_state
            totals = (states * own[..., None]).sum(1).cpu().numpy()  # a mean times its tokens
            np.add.at(sums, [text for text, _ in batch], totals)
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@functools.lru_cache(maxsize=2)
def load(device: str) -> MiniLM:
    """The model, loaded once per process; raises Unavailable for files that are missing, others, or unreadable."""
    try:
        return MiniLM(device)
    except Unavailable:
        raise
    except Exception as error:  # whatever a tokenizers or transformers of another version says
        raise unreadable(MINILM, error) from error

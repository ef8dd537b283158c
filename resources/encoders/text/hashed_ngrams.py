"""What a text says, in hashed word and character n-grams, without a learned model.

A third of the vector is words and pairs of words, the rest is runs of three to five characters in a word (a language
without spaces, or an inflected one, is carried by those), both by scikit-learn's signed feature hashing (Weinberger
et al. 2009). Counts enter as signed square roots, so that one word said ten times does not own the vector.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

WORD_WEIGHT = 4  # in counts; after the square root a word weighs as much as two runs


def hash_texts(texts: Sequence[str], dimensions: int) -> np.ndarray:
    """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text, which has no n-grams."""
    if any(not text.strip() for text in texts):
        raise ValueError("a blank text has no embedding")
    if not texts:
        return np.zeros((0, dimensions), np.float32)
    words, characters = _vectorizers(dimensions)
    # A word says more than one run of its characters. The blocks are not normed one by one: a sentence of a language
    # without spaces is a single "word", and its chance collisions would then weigh as much as all its characters.
    counts = np.concatenate([WORD_WEIGHT * words.transform(texts).toarray(), characters.transform(texts).toarray()], 1)
    roots = np.sign(counts) * np.sqrt(np.abs(counts))
    return (roots / np.linalg.norm(roots, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def _vectorizers(dimensions: int) -> tuple[HashingVectorizer, HashingVectorizer]:
    share: Callable[..., Any] = functools.partial(HashingVectorizer, preprocessor=_fold, norm=None, dtype=np.float32)
    words = share(n_features=dimensions // 3, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    characters = share(n_features=dimensions - dimensions // 3, analyzer="char_wb", ngram_range=(3, 5))
    return words, characters


def _fold(text: str) -> str:
    """Full-width and half-width forms, ligatures and case made one."""
    return unicodedata.normalize("NFKC", text).casefold()

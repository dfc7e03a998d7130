# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A text's words as numbers (ours): words, pairs of words and pieces of words, each hashed to one of some buckets.

What an encoder's embedding blurs, the very words, the expert `words` reads. No text and no vocabulary
goes with a model. Shapes: B posts, N n-grams.
"""

import unicodedata
import zlib
from itertools import pairwise

import numpy as np

BUCKETS = 2**15  # 0 pads; checkpoints depend on this number and on the hash
PIECES = range(2, 6)  # letters of a piece of a word, its ends included
MOST_LETTERS = 1000  # of a text; what comes after is not read


def ngram_ids(text: str) -> list[int]:
    """The buckets of a text's n-grams, from 1 on, each once and in order; of a text of white space alone none."""
    text = unicodedata.normalize("NFKC", text[:MOST_LETTERS]).lower()[:MOST_LETTERS]
    # by category, since vowel signs are no word characters to regular expressions
    words = "".join(c if c == "_" or unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
    found = {f"w {word}" for word in words} | {f"w {one} {two}" for one, two in pairwise(words)}
    for word in text.split():
        word = f" {word} "
        found |= {f"p{word[start : start + size]}" for size in PIECES for start in range(len(word) - size + 1)}
    return sorted({zlib.crc32(ngram.encode("utf-8", "replace")) % (BUCKETS - 1) + 1 for ngram in found})


def padded(ids: list) -> np.ndarray:
    """Lists of buckets as int64 (B, N), N at least 1, with 0 after the end."""
    rows = np.zeros((len(ids), max(1, *(len(row) for row in ids))), np.int64)
    for row, values in zip(rows, ids, strict=True):
        row[: len(values)] = values
    return rows

"""Loads a sentence model from a directory (scripts/demo gives it the mount) and prints real similarities.

    python scripts/demo.py MOUNT [REFERENCE]

With REFERENCE, the same files on an ordinary disk, it also checks that both give the very same numbers.
"""

from __future__ import annotations

import sys
import time

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

SENTENCES = [
    "The cat sits outside in the sun.",
    "A kitten is lying in the sunshine.",
    "The stock market fell sharply today.",
]


def embed(folder: str) -> torch.Tensor:
    """One unit vector a sentence: mean of the token vectors, as the model's card says."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)


def main(mount: str, reference: str | None = None) -> int:
    logging.disable_progress_bar()
    began = time.monotonic()
    vectors = embed(mount)
    print(f"loaded and computed in {time.monotonic() - began:.1f} s")
    for other in (1, 2):
        print(f"  {vectors[0] @ vectors[other]:.3f}  {SENTENCES[0]!r} ~ {SENTENCES[other]!r}")
    if reference is not None:
        same = torch.equal(vectors, embed(reference))
        print("the very same numbers as from the files on disk" if same else "NOT the numbers of the files on disk")
        return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The repo most contract tests look at."""

from __future__ import annotations

from tests.hub import Content, Synthetic

CONFIG = b'{"architectures": ["Tiny"]}\n' * 40
WEIGHTS = Synthetic(3_000_000, seed=1)
ODD_NAME = "sub dir/ä #1?%20.txt"

FILES: dict[str, Content] = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "empty.txt": b"",
    ODD_NAME: b"odd",
    "sub/a.bin": b"123",
}

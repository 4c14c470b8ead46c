"""Files to serve. Incompressible, cheap to make, and no two MiB of a file alike. No state."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from .rig import MIB


def big(path: Path, size: int) -> Path:
    """``size`` random bytes: 8 MiB of them, turned by another amount each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = os.urandom(8 * MIB)
    with open(path, "wb") as file:
        for number in range(-(-size // len(pattern))):
            turn = number * 4099 % len(pattern)
            file.write((pattern[turn:] + pattern[:turn])[: min(len(pattern), size - number * len(pattern))])
    return path


def safetensors(path: Path, count: int, each: int) -> Path:
    """``count`` float32 tensors of ``each`` bytes, called ``t0``, ``t1``, …"""
    header = json.dumps(
        {
            f"t{number}": {"dtype": "F32", "shape": [each // 4], "data_offsets": [number * each, (number + 1) * each]}
            for number in range(count)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    big(path, count * each)
    with open(path, "r+b") as file:  # overwrites the first bytes of t0, whose values no test reads
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + count * each)
    return path


def many(folder: Path, count: int) -> Path:
    """``count`` small files of 1 to 19 KB in folders of a hundred."""
    for number in range(count):
        path = folder / f"part{number // 100}" / f"file{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number}\n".encode() * (250 + number * 37 % 3000))
    return folder

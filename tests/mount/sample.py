"""The repo that programs read: names people really use, sizes where blocks end, git files and LFS files.

``write`` lays it out in an ordinary folder, to be served and to be compared with. Values only.
"""

from __future__ import annotations

from pathlib import Path

from tests.hub import Synthetic

BLOCK = 262144  # of the cache's format
BIG = Synthetic(9 * (1 << 20) + 5, seed=1)

NAMES = [
    "with space.txt",
    "#1 100%?.txt",
    "a%20b.txt",
    "ä€𝄞.txt",  # composed, three bytes, four bytes
    "a\u0308.txt",  # decomposed: another name than the composed one
    "-dash.txt",
    ".hidden",
    "quote\"s'&amp;.txt",
    "x" * 251 + ".txt",  # 255 bytes, the most a name may have
    "ü" * 125 + ".json",  # also 255 bytes
    "odd folder/#%3F ?/deep.bin",
]

FILES: dict[str, bytes | Synthetic] = {
    "config.json": b'{"architectures": ["Tiny"]}\n' * 40,
    "README.md": b"# Tiny\n",
    "weights.safetensors": BIG,
    "empty.txt": b"",
    "blocks/one-less.bin": Synthetic(BLOCK - 1, seed=2),
    "blocks/one.bin": Synthetic(BLOCK, seed=3),
    "blocks/one-more.bin": Synthetic(BLOCK + 1, seed=4),
    "blocks/in-git.txt": Synthetic(BLOCK + 1, seed=5).read(0, BLOCK + 1),
    **{f"names/{name}": f"this is {name}\n".encode() for name in NAMES},
}


def content(path: str) -> bytes:
    found = FILES[path]
    return found if isinstance(found, bytes) else found.read(0, found.size)


def write(folder: Path) -> Path:
    """All of FILES below ``folder``, which is given back."""
    for path in FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content(path))
    return folder

"""Content and its identities: git blob sha1, LFS pointer and sha256, and the CDN's own hash.

`repos` calls it when a commit is made. Blobs are immutable values; `Synthetic` files are written once, by the thread
that commits them.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .wire import FilePart, Part

# What the Hub's default .gitattributes sends to LFS, as far as model and dataset repos use it.
_LFS_SUFFIXES = (
    ".7z .arrow .bin .bz2 .ckpt .ftz .gguf .gz .h5 .joblib .mlmodel .model .msgpack .npy .npz .onnx .ot .parquet "
    ".pb .pickle .pkl .pt .pth .rar .safetensors .tar .tflite .tgz .wasm .xz .zip .zst .ttf .mp4 .mp3 .wav .flac "
    ".ogg .webm"
)
LFS_SUFFIXES = frozenset(_LFS_SUFFIXES.split())
LFS_SIZE = 10 * 1000 * 1000  # the Hub refuses bigger files outside LFS
SYNTHETIC_BLOCK = 1 << 20
READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A big file whose bytes are computed from size and seed, so that no part needs the file.

    Every 1 MiB block starts with its own number and is a different rotation of one random block, so that bytes
    of another offset never match.
    """

    size: int
    seed: int = 0

    def _block(self, base: bytes, index: int) -> bytes:
        turn = (index * 7919) % len(base)
        return (struct.pack("<qq", self.seed, index) + base[turn:] + base[:turn])[:SYNTHETIC_BLOCK]

    def read(self, offset: int, length: int) -> bytes:
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        base = random.Random(self.seed).randbytes(SYNTHETIC_BLOCK)
        first = offset // SYNTHETIC_BLOCK
        data = b"".join(self._block(base, index) for index in range(first, -(-stop // SYNTHETIC_BLOCK)))
        return data[offset - first * SYNTHETIC_BLOCK : stop - first * SYNTHETIC_BLOCK]

    def write(self, directory: Path) -> Path:
        base = random.Random(self.seed).randbytes(SYNTHETIC_BLOCK)
        with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
            for index in range(-(-self.size // SYNTHETIC_BLOCK)):
                file.write(self._block(base, index)[: min(SYNTHETIC_BLOCK, self.size - index * SYNTHETIC_BLOCK)])
        return Path(file.name)


Content = bytes | Path | Synthetic


@dataclass(frozen=True, slots=True)
class Blob:
    """One content with its git object name, and the sha256 of LFS content."""

    size: int
    oid: str  # git blob sha1 of the content, or of the pointer file when the content is in LFS
    sha256: str | None
    source: bytes | Path

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    @property
    def pointer(self) -> bytes:
        assert self.sha256 is not None
        return pointer_text(self.sha256, self.size)

    @property
    def cdn_hash(self) -> str:
        """Returns the CDN's name of the content: like a Xet hash, stable, 64 hex digits, and not its sha256."""
        assert self.sha256 is not None
        return hashlib.sha256(b"cdn " + self.sha256.encode()).hexdigest()

    def parts(self, start: int = 0, stop: int | None = None) -> list[Part]:
        stop = self.size if stop is None else stop
        if start >= stop:
            return []
        if isinstance(self.source, bytes):
            return [self.source[start:stop]]
        return [FilePart(self.source, start, stop - start)]

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def pointer_text(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_object_sha1(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def wants_lfs(path: str, size: int) -> bool:
    """Returns whether the Hub would store the file as LFS: by its suffix, or by its size."""
    name = path.rpartition("/")[2].lower()
    return size > LFS_SIZE or ("." in name and "." + name.rpartition(".")[2] in LFS_SUFFIXES)


class BlobMaker:
    """Makes blobs, keeping synthetic files in a temporary folder and the digests of files it has read.

    Called under the hub's lock.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._digests: dict[tuple[str, Path, int, int], str] = {}
        self._written: dict[Synthetic, Path] = {}

    def make(self, content: Content, lfs: bool) -> Blob:
        source: bytes | Path
        if isinstance(content, Synthetic):
            if content not in self._written:
                self._directory = self._directory or Path(tempfile.mkdtemp(prefix="hub-"))
                self._written[content] = content.write(self._directory)
            source = self._written[content]
        else:
            source = content
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if lfs:
            sha256 = self._digest("sha256", source, b"")
            return Blob(size, git_object_sha1("blob", pointer_text(sha256, size)), sha256, source)
        return Blob(size, self._digest("sha1", source, f"blob {size}\0".encode()), None, source)

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _digest(self, algorithm: str, source: bytes | Path, start: bytes) -> str:
        digest = hashlib.new(algorithm, start)
        if isinstance(source, bytes):
            digest.update(source)
            return digest.hexdigest()
        stat = source.stat()
        key = (algorithm, source, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            with source.open("rb") as file:
                while piece := file.read(READ_SIZE):
                    digest.update(piece)
            self._digests[key] = digest.hexdigest()
        return self._digests[key]


def size_of(content: Content) -> int:
    if isinstance(content, Synthetic):
        return content.size
    return len(content) if isinstance(content, bytes) else content.stat().st_size

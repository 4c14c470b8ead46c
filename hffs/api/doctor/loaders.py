"""Options with which programs of this Python load from a mount best.

Only packages installed beside hffs are found; none of them is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Final

from ...config import Settings
from .finding import Area, DoctorFinding

_AREA: Final = Area("loaders")
# vLLM prefetches by default on NFS and Lustre only (its default_loader.py, 0.33), and maps other file systems lazily.
_HINTS: Final = {
    "vllm": "--safetensors-load-strategy=prefetch reads ahead through all files at once",
    "transformers": "from_pretrained(MOUNTPOINT) maps the files; no option is needed",
    "diffusers": "DiffusionPipeline.from_pretrained(MOUNTPOINT); no option is needed",
    "datasets": "load_dataset(MOUNTPOINT) copies to Arrow below HF_HOME, which must be writable",
    "llama_cpp_python": "the whole file is read at load; use_mmap=False reads it in order",
}


def check(_: Settings) -> Iterator[DoctorFinding]:
    found = False
    for name, hint in _HINTS.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found = True
        yield _AREA.ok(f"{name.replace('_', '-')} {version}: {hint}")
    if not found:
        yield _AREA.ok("none is installed beside hffs; the documentation names their options")

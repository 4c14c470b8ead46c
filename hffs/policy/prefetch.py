"""Which small files to prefetch: those that a loader opens first.

Used once by ``--prefetch small``, after listing. A pure function of the listing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..model import Entry, RepoType

# Bounds promised in the interface. 1 MiB is one or two round trips; 64 MiB and 256 files are a second on 1 Gbit/s with
# 8 workers at 30 ms; more would be noticed by users.
SMALL: Final = 1024 * 1024
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_FILES: Final = 256

# Files that from_pretrained of transformers and diffusers opens before any weights.
_FIRST: Final = frozenset({
    "config.json", "generation_config.json", "model_index.json", "tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
    "preprocessor_config.json", "processor_config.json", "scheduler_config.json", "adapter_config.json",
    "chat_template.jinja", "modules.json", "params.json",
})  # fmt: skip
_TEXT: Final = (".json", ".txt", ".jinja", ".model", ".py", ".yaml", ".yml", ".toml", ".tiktoken", ".spm")
# Metadata of datasets and spaces; `load_from_disk` keeps the last three beside its data.
_METADATA: Final = frozenset({
    ".huggingface.yaml", "dataset_infos.json", "requirements.txt", "packages.txt",
    "dataset_info.json", "dataset_dict.json", "state.json",
})  # fmt: skip


def small_files(entries: Iterable[Entry], *, repo_type: RepoType, requests_left: int | None = None) -> list[Entry]:
    """Returns the files to prefetch, most useful first: below 1 MiB each, at most 256 files and 64 MiB in all.

    All small files of a model; README and metadata files of a dataset or space. Uses at most half of ``requests_left``
    (None: unknown), of which each file costs one. Empty files and files without a size are left out.
    """
    rank = _model_rank if repo_type is RepoType.MODEL else _metadata_rank
    ranked = []
    for entry in entries:
        if entry.kind != "file" or not entry.size or entry.size >= SMALL:
            continue
        usefulness = rank(entry)
        if usefulness is not None:
            ranked.append((usefulness, entry.path.count("/"), entry.path, entry.size, entry))
    left = MOST_BYTES
    most = MOST_FILES if requests_left is None else min(MOST_FILES, max(requests_left, 0) // 2)
    chosen: list[Entry] = []
    for _, _, _, size, entry in sorted(ranked, key=lambda row: row[:3]):
        if len(chosen) >= most:
            break
        if size <= left:
            chosen.append(entry)
            left -= size
    return chosen


def _model_rank(entry: Entry) -> int:
    name = entry.name.lower()
    if name in _FIRST or name.endswith(".index.json"):
        return 0
    if name.endswith(_TEXT):
        return 1
    return 3 if name.startswith((".", "readme", "license")) else 2


def _metadata_rank(entry: Entry) -> int | None:
    name = entry.name.lower()
    at_root = not entry.parent
    if at_root and (name == "readme" or name.startswith("readme.")):
        return 0
    if name in _METADATA or (at_root and name.endswith((".yaml", ".yml"))):
        return 1
    return None

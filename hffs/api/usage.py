"""Sums over files: how many, their bytes, their local bytes; in all, by type, by folder.

Used for ``info`` and ``du``, of repos and of mounts alike. Pure arithmetic on values; imports nothing slow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple


class LocalShare(NamedTuple):
    """A file and its local bytes; ``size`` None while unknown."""

    path: str
    size: int | None
    bytes_local: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Files together, under the ``name`` of what they share; ``bytes_local`` of ``bytes_total`` are on the disk."""

    name: str
    files: int
    bytes_total: int
    bytes_local: int


def total(files: Iterable[LocalShare]) -> Usage:
    """All of them together, without a name."""
    known = list(files)
    return Usage("", len(known), sum(file.size or 0 for file in known), sum(file.bytes_local for file in known))


def by_type(files: Iterable[LocalShare]) -> list[Usage]:
    """By file name extension: ``.safetensors``; "" where there is none (``LICENSE``). Biggest first."""
    return _grouped(files, lambda path: os.path.splitext(path)[1].lower())


def by_folder(files: Iterable[LocalShare], root: str) -> list[Usage]:
    """By the first folder below ``root``; "" for files in ``root`` itself. Biggest first."""
    skip = len(root) + 1 if root else 0
    return _grouped(files, lambda path: path[skip:].rpartition("/")[0].partition("/")[0])


def _grouped(files: Iterable[LocalShare], name_of: Callable[[str], str]) -> list[Usage]:
    groups: dict[str, list[LocalShare]] = {}
    for file in files:
        groups.setdefault(name_of(file.path), []).append(file)
    found = [replace(total(group), name=name) for name, group in groups.items()]
    return sorted(found, key=lambda usage: (-usage.bytes_total, usage.name))

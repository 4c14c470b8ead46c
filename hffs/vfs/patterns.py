"""Which files of a repo are visible: ``--include`` and ``--exclude``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable


class Patterns:
    """``include`` and ``exclude`` as huggingface_hub means ``allow_patterns`` and ``ignore_patterns``: fnmatch over the
    whole path from the repo's root; a pattern that ends in ``/`` matches everything below."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [_everything_below(pattern) for pattern in include]
        self._exclude = [_everything_below(pattern) for pattern in exclude]

    def __bool__(self) -> bool:
        return bool(self._include or self._exclude)

    def match(self, path: str) -> bool:
        if self._include and not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._include):
            return False
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._exclude)


def _everything_below(pattern: str) -> str:
    return pattern + "*" if pattern.endswith("/") else pattern

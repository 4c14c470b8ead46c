"""The prefetch of small files ends with its mount at any moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hffs.daemon.prefetch import FIRST, Prefetch
from hffs.sources.base import OpenAccess
from hffs.vfs import Filesystem


def test_a_mount_can_end_while_the_first_files_are_requested(
    filesystem_of: Callable[..., Filesystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = filesystem_of({f"{number}.json": 10 for number in range(2 * FIRST)})
    content = filesystem.view.snapshot.files
    prefetch = Prefetch(filesystem.view, OpenAccess())
    wanted: list[str] = []

    def want(entry: object) -> None:
        wanted.append(str(entry))
        prefetch.stop()

    monkeypatch.setattr(content, "prefetch", want)
    prefetch.begin()
    assert len(wanted) == 1

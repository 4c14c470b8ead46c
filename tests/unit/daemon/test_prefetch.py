"""What is fetched before anybody asks ends with its mount, whatever it is at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hffs.daemon.prefetch import FIRST, Prefetch
from hffs.sources.base import OpenAccess
from hffs.vfs import Filesystem


def test_a_mount_that_ends_while_the_first_files_are_wanted_does_not_stumble_over_that(
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

"""Verifies a cache directory blob by blob: every block by its CRC alone, and finds what killed processes left.

No hash is computed and no listing is read: it is the fast check after a crash or of a suspicious disk. Mending drops
what is bad, so that it is fetched again when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..cache import Layout, StoredBlob, blob_info
from ..cache.blob_info import BlobInfo
from ..cache.integrity import check_blob
from ..cache.integrity.leftovers import Leftover, leftovers
from ..errors import HffsError
from ..model import RemoteFile
from .verify import CheckedFile, IsCancelled, Requirements, Verdict, crc_mismatch

_FIX = "run it again with --fix"


@dataclass(slots=True, eq=False, kw_only=True)
class _Blob(CheckedFile):
    info: BlobInfo
    bad: tuple[range, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class _Unused(CheckedFile):
    leftover: Leftover


class BlockSource:
    """``fix`` also removes leftovers. Raises CacheUnusable for a cache of a newer version."""

    def __init__(self, layout: Layout, *, fix: bool) -> None:
        layout.check_version()
        self.name = "the cache"
        self.require = Requirements(())
        self._layout = layout
        self._fix = fix

    def files(self, cancelled: IsCancelled) -> Iterator[CheckedFile]:
        for info in blob_info.scan(self._layout):
            if cancelled():
                return
            yield _Blob(info.paths.data, info.size, info.etag, info.bytes_local, info=info)
        for leftover in leftovers(self._layout):
            yield _Unused(leftover.path, None, None, 0, leftover=leftover)

    def check(self, file: CheckedFile, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
        try:
            if isinstance(file, _Unused):
                if self._fix:
                    file.leftover.remove()
                file.warn("leftover", file.leftover.what, "" if self._fix else _FIX, mended=self._fix)
                return "others"
            assert isinstance(file, _Blob)
            return self._check(file, file.info, cancelled, count)
        except OSError as error:
            return file.damage("unreadable", f"it cannot be read: {error.strerror}")
        except HffsError as error:
            return file.damage("unreadable", error.what, error.remedy)

    def _check(self, file: _Blob, info: BlobInfo, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
        if info.newer:
            file.warn("newer", f"{info.unusable}: not checked")
            return "plausible"
        if info.unusable:
            if os.path.exists(info.paths.state):
                return file.damage("unreadable", info.unusable, _FIX)
            mended = self._fix and _evict(info)
            file.warn("leftover", info.unusable, "" if mended else _FIX, mended=mended)
            return "others"
        # Before its blocks are checked, which clears the record of a damaged blob.
        if check_blob.is_record_outdated(info.paths, clear=self._fix):
            what = "it was written after it was verified, and is verified again when it is used"
            file.warn("mark", what, mended=self._fix)
        found = check_blob.check_blob(info.paths, None, cancelled, count)
        if found.bad:
            file.bad = found.bad
            return file.damage("blocks", crc_mismatch(found.bad), _FIX)
        return "plausible"

    def repair(self, file: CheckedFile) -> None:
        """Drops what is bad. Raises HffsError where it is in use."""
        assert isinstance(file, _Blob)
        if not (check_blob.drop_blocks(file.info.paths, file.bad) if file.bad else _evict(file.info)):
            raise HffsError("it is in use", "run it again later")

    def replace(self, file: CheckedFile, content: RemoteFile, stored: StoredBlob) -> None:
        """Nothing is fetched."""


def _evict(info: BlobInfo) -> bool:
    return blob_info.evict(info).kept == "" and blob_info.inspect(info.paths) is None

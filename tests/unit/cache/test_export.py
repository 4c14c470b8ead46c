"""Exported files: link, reflink or copy, refusals, and no partial files."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob, export_file, safe_below
from hffs.errors import BlockAbsent, CacheUnusable, HffsError, NameRefused, NoSpace
from tests.unit.cache.content import publish_all
from tests.unit.cache.exported import (
    BLOB,
    CONTENT,
    COPIED,
    LINKED,
    data_file,
    mode,
    names,
    temporaries,
    whole,
)

pytestmark = pytest.mark.usefixtures("as_on_ext4")


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


# Exports


def test_a_small_blob_is_exported_as_an_editable_copy(layout: Layout, stored: StoredBlob, tmp_path: Path) -> None:
    laid = tmp_path / "to" / "deep" / "config.json"
    assert export_file(stored, str(laid)) == "copy"
    assert laid.read_bytes() == CONTENT
    assert (mode(laid), mode(laid.parent), mode(tmp_path / "to")) == (0o644, 0o755, 0o755)
    assert names(laid.parent) == ["config.json"]
    laid.write_bytes(b"mine")
    assert data_file(layout).read_bytes() == CONTENT
    assert stored.verified


def test_a_big_blob_is_exported_as_a_read_only_hard_link(
    layout: Layout, stored: StoredBlob, store: BlobStore, tmp_path: Path
) -> None:
    laid = tmp_path / "to" / "model.safetensors"
    assert export_file(stored, str(laid), copy_below=len(CONTENT)) == "link"
    assert laid.samefile(data_file(layout))
    assert mode(laid) == 0o444
    assert names(laid.parent) == ["model.safetensors"]
    assert stored.verified  # the new name and mode cost no second hash, in any process
    assert store.state(BLOB) == "verified"
    other_store = BlobStore(layout, boot_id="this boot")
    other = other_store.open(BLOB)
    assert other.verified
    assert other.read(0, len(CONTENT)) == CONTENT
    other_store.close()


def test_a_blob_just_below_the_limit_is_copied(stored: StoredBlob, tmp_path: Path) -> None:
    assert export_file(stored, str(tmp_path / "laid"), copy_below=len(CONTENT) + 1) == "copy"


def test_an_empty_blob_is_an_empty_file(store: BlobStore, tmp_path: Path) -> None:
    laid = tmp_path / "__init__.py"
    assert export_file(whole(store, b""), str(laid)) == "copy"
    assert laid.read_bytes() == b""


def test_a_second_export_keeps_a_link_and_replaces_a_copy(stored: StoredBlob, tmp_path: Path) -> None:
    link, copy = tmp_path / "link", tmp_path / "copy"
    export_file(stored, str(link), copy_below=LINKED)
    export_file(stored, str(copy))
    before = link.stat()
    assert export_file(stored, str(link), copy_below=LINKED) == "same"
    assert link.stat() == before
    copy.write_bytes(CONTENT[:-1] + b"!")  # same size: only its bytes differ
    assert export_file(stored, str(copy)) == "copy"
    assert copy.read_bytes() == CONTENT


def test_an_existing_file_is_replaced_and_links_are_not_followed(stored: StoredBlob, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "target").write_text("not to be touched")
    (tmp_path / "symlink").symlink_to("target")
    os.link(tmp_path / "target", tmp_path / "hard link")
    for name in ("old", "symlink", "hard link"):
        for copy_below in (LINKED, COPIED):
            (tmp_path / "before").unlink(missing_ok=True)
            export_file(stored, str(tmp_path / name), copy_below=copy_below)
            assert (tmp_path / name).read_bytes() == CONTENT
            assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "target").read_text() == "not to be touched"


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_the_umask_applies_to_copies_and_links(store: BlobStore, tmp_path: Path, umask: int) -> None:
    os.umask(umask)
    copy, link = tmp_path / "to" / "copy", tmp_path / "to" / "link"
    stored = whole(store)
    export_file(stored, str(copy))
    export_file(stored, str(link), copy_below=LINKED)
    assert (mode(copy), mode(link), mode(copy.parent)) == (0o644 & ~umask, (0o444 & ~umask) | 0o400, 0o755 & ~umask)


def test_a_second_link_leaves_the_mode_of_the_first(stored: StoredBlob, tmp_path: Path) -> None:
    export_file(stored, str(tmp_path / "for all"), copy_below=LINKED)
    os.umask(0o077)
    export_file(stored, str(tmp_path / "for me"), copy_below=LINKED)
    assert mode(tmp_path / "for all") == 0o444


def test_a_name_of_maximal_length_can_be_exported(stored: StoredBlob, tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        assert export_file(stored, str(tmp_path / "to" / name), copy_below=LINKED) == "link"
        assert export_file(stored, str(tmp_path / "to" / name[1:]), copy_below=COPIED) == "copy"
    assert len(names(tmp_path / "to")) == 4


def test_where_no_link_can_be_made_it_is_copied(
    stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", refused)
    assert export_file(stored, str(tmp_path / "laid"), copy_below=LINKED) == "copy"
    assert (tmp_path / "laid").read_bytes() == CONTENT
    assert stored.verified


def test_across_file_systems_it_is_copied(layout: Layout, stored: StoredBlob) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == layout.root.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        laid = Path(folder) / "laid"
        assert export_file(stored, str(laid), copy_below=LINKED) == "copy"
        assert laid.read_bytes() == CONTENT
        assert mode(laid) == 0o644
        assert names(laid.parent) == ["laid"]
    assert stored.verified


def test_a_reflink_is_tried_first(stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def clone(target: int, request: int, source: int) -> int:
        asked.append(request)
        os.pwrite(target, os.pread(source, len(CONTENT), 0), 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    for copy_below in (LINKED, COPIED):
        assert export_file(stored, str(tmp_path / "laid"), copy_below=copy_below) == "reflink"
        assert (tmp_path / "laid").read_bytes() == CONTENT
        assert mode(tmp_path / "laid") == 0o644
    assert asked == [0x40049409, 0x40049409]
    assert stored.verified


# Refusals and failures


def test_only_a_complete_verified_blob_is_exported(store: BlobStore, tmp_path: Path) -> None:
    stored = store.open(BLOB)
    with pytest.raises(BlockAbsent, match="is not complete in the cache"):
        export_file(stored, str(tmp_path / "to" / "laid"))
    publish_all(stored, CONTENT)
    with pytest.raises(HffsError, match="has not been verified"):
        export_file(stored, str(tmp_path / "to" / "laid"))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("copy_below", [LINKED, COPIED])
def test_an_unwritable_destination_changes_nothing(
    layout: Layout, stored: StoredBlob, tmp_path: Path, copy_below: int
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("in the way")
    before = data_file(layout).stat().st_mode
    for name, reason in (("folder", "Is a directory"), ("file/laid", "Not a directory"), ("n" * 256, "too long")):
        with pytest.raises(CacheUnusable, match=rf"the file .*{reason}.*choose another"):
            export_file(stored, str(tmp_path / name), copy_below=copy_below)
    assert (tmp_path / "file").read_text() == "in the way"
    assert not temporaries(tmp_path)
    assert data_file(layout).stat().st_mode == before  # it is not shared
    assert data_file(layout).stat().st_nlink == 1
    assert stored.verified


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, HffsError)])
def test_a_failed_copy_leaves_nothing(
    stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    laid = tmp_path / "laid"
    laid.write_text("what was there")
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        if data.nbytes <= 1000:
            raise OSError(number, os.strerror(number))
        return real(fd, data[: data.nbytes - 1000])  # short writes are carried on

    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "write", write)
        with pytest.raises(kind, match=r"the file .*laid"):
            export_file(stored, str(laid))
    assert laid.read_text() == "what was there"
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("way", ["reflink", "copy"])
def test_a_blob_changed_while_it_is_copied_is_not_exported(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    other_store = BlobStore(layout, boot_id="this boot")
    other = other_store.open(BLOB)

    def change(*arguments: Any) -> int:
        monkeypatch.undo()
        other.discard(range(1, 2))
        publish_all(other, CONTENT)
        if way == "copy":
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", change)
    with pytest.raises(BlockAbsent, match="was changed while it was copied"):
        export_file(stored, str(tmp_path / "to" / "laid"))
    assert names(tmp_path / "to") == []
    other_store.close()


def test_a_block_dropped_while_it_is_copied_raises(
    stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(*_: object) -> int:
        assert stored.discard(range(2, 3)) == 0  # not punched: a reflink or a passthrough reader may use it
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", drop)
    with pytest.raises(BlockAbsent, match="block 2 of"):
        export_file(stored, str(tmp_path / "to" / "laid"))
    assert names(tmp_path / "to") == []


def test_a_blob_dropped_before_the_link_is_not_linked(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(*_: object) -> int:
        stored.discard(range(2, 3))
        publish_all(stored, CONTENT)  # complete, but not hashed again
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", drop)
    with pytest.raises(HffsError, match="has not been verified"):
        export_file(stored, str(tmp_path / "to" / "laid"), copy_below=LINKED)
    assert names(tmp_path / "to") == []
    assert data_file(layout).stat().st_nlink == 1


# Names from a server


def test_a_plain_name_is_below_the_root(tmp_path: Path) -> None:
    root = os.path.realpath(tmp_path)
    for name in ("a", "a/b/c", "with space", "..a", "a..", ".hidden", "ü/漢", "a\\b", "x.hffs-1"):
        assert safe_below(root, name) == f"{root}/{name}"
    assert safe_below("/", "a") == "/a"


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/etc/passwd", ".", "..", "a/../b", "../a", "a/..", "./a", "a/./b", "a//b", "a/", "//a"),
        *("a\0b", "\ud800", ".a.hffs-0", "b/.a.hffs-15.link", ".a.hffs-0/b"),
    ],
)
def test_names_that_are_not_plain_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NameRefused):
        safe_below(str(tmp_path), name)


def test_links_that_lead_outside_the_root_are_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root beside"
    (root / "real" / "deep").mkdir(parents=True)
    outside.mkdir()
    (root / "in").symlink_to("real")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(outside)
    (root / "real" / "deep" / "far").symlink_to("../../../root beside")
    (root / "nowhere").symlink_to(tmp_path / "missing")
    (root / "last").symlink_to(outside / "file")
    inside = os.path.realpath(root)
    assert safe_below(str(root), "in/file") == f"{inside}/real/file"
    assert safe_below(str(root), "last") == f"{inside}/last"
    for name in ("out/file", "up/file", "in/deep/far/file", "nowhere/file", "out/new/file", "up/root beside/file"):
        with pytest.raises(NameRefused, match=r"leads out of .* through a symbolic link: remove that link"):
            safe_below(str(root), name)
    (tmp_path / "alias").symlink_to(root)  # links above the folder are followed
    assert safe_below(str(tmp_path / "alias"), "real/file") == f"{inside}/real/file"

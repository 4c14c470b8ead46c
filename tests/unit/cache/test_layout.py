"""Paths of a cache, and directories that cannot be one."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hffs.cache import Layout
from hffs.cache.store.layout import disk_error, etag_name, file_system_of, origin_id
from hffs.errors import CacheUnusable, NoSpace

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /net rw shared:5 master:1 - nfs4 server:/export rw,vers=4.2
31 30 254:0 /x /net/local rw - ext4 /dev/vda rw
32 22 0:41 / /a\\040b\\134c rw - fuse.sshfs host: rw
33 22 0:42 / /twice rw - tmpfs tmpfs rw
34 33 0:43 / /twice rw - 9p share rw
garbage
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_prepare_creates_private_directories_version_and_tag(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "deep" / "cache")
    layout.prepare()
    layout.prepare()
    assert [mode(path) for path in (layout.root, layout.blobs, layout.index)] == [0o700] * 3
    assert (layout.root / "version").read_text() == "1\n"
    assert (layout.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert {path.name for path in layout.root.iterdir()} == {"version", "CACHEDIR.TAG", "blobs", "index"}


def test_an_existing_root_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Layout(tmp_path).prepare()
    assert mode(tmp_path) == 0o755


def test_a_newer_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    (root / "version").write_text("2\n")
    with pytest.raises(CacheUnusable, match=r"newer hffs \(format 2\): upgrade hffs"):
        Layout(root).prepare()
    assert [path.name for path in root.iterdir()] == ["version"]


def test_an_unreadable_version_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "version").write_bytes(b"")
    Layout(tmp_path).prepare()
    assert (tmp_path / "version").read_text() == "1\n"


def test_a_file_in_the_way_raises_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnusable, match="file/cache cannot be used: Not a directory: check the disk") as caught:
        Layout(tmp_path / "file" / "cache").prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"),
        ("/net", "nfs4"),
        ("/net/deep/er", "nfs4"),
        ("/net/local/x", "ext4"),
        ("/network", "ext4"),
        ("/a b\\c/x", "fuse.sshfs"),
        ("/twice/x", "9p"),
    ],
)
def test_the_deepest_and_latest_mount_decides(path: str, kind: str) -> None:
    assert file_system_of(path, MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "fuseblk"])
def test_file_systems_without_dependable_locks_are_refused(tmp_path: Path, kind: str) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"22 1 254:0 / / rw - {kind} x rw\n")
    cache = tmp_path / "cache"
    with pytest.raises(CacheUnusable, match=f"of type {kind}, where .*: choose a --cache-dir on a local disk"):
        Layout(cache).prepare(mountinfo)
    assert not list(cache.iterdir())


def test_without_proc_only_the_probe_decides(tmp_path: Path) -> None:
    Layout(tmp_path / "cache").prepare(tmp_path / "no such file")


def test_a_file_system_without_holes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_holes(fd: int, start: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr("hffs.cache.store.layout.extents.punch", no_holes)
    with pytest.raises(CacheUnusable, match="without range locks or holes"):
        Layout(tmp_path).prepare()


def test_a_full_disk_is_no_reason_to_refuse_an_existing_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Layout(tmp_path / "cache").prepare()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    monkeypatch.setattr("hffs.cache.store.layout.atomic_write", full)
    Layout(tmp_path / "cache").prepare()
    with pytest.raises(NoSpace):
        Layout(tmp_path / "new").prepare()


@given(st.text())
@example("..")
@example(".hidden")
@example("a/b")
@example("")
@example("nul\0")
@example("line\n")
@example("x" * 129)
@example("\ud800")
def test_any_etag_becomes_one_harmless_name(etag: str) -> None:
    name = etag_name(etag)
    assert 0 < len(name) <= 128
    assert set(name) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-=")
    assert not name.startswith(".")


@given(st.text(), st.text())
def test_different_etags_have_different_names(one: str, other: str) -> None:
    assert (etag_name(one) == etag_name(other)) == (one == other)


def test_a_blobs_paths_follow_from_etag_and_origin(tmp_path: Path) -> None:
    etag, layout = "ab" + "0" * 38, Layout(tmp_path)
    place = layout.paths(etag, "https://hub.example")
    assert place.data == f"{tmp_path}/blobs/ab/{etag}/{origin_id('https://hub.example')}.data"
    assert place.data.removesuffix("data") == place.state.removesuffix("state") == place.lock.removesuffix("lock")
    assert origin_id("https://hub.example") != origin_id("https://mirror.example")
    assert len(origin_id("https://hub.example")) == 16


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_no_space(number: int) -> None:
    assert isinstance(disk_error(OSError(number, "full"), "x"), NoSpace)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, None])
def test_other_disk_errors_raise_cache_unusable_with_a_remedy(number: int | None) -> None:
    found = disk_error(OSError(number, "reason"), "the file")
    assert isinstance(found, CacheUnusable)
    assert "the file" in found.what
    assert found.remedy

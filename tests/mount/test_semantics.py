"""What the interface promises of the file system, sentence by sentence, seen through system calls."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub import Hub

from .conftest import Mount, SharedMount
from .mounted import Mounted, on_both_bindings
from .sample import BIG, FILES, content

pytestmark = on_both_bindings

WEIGHTS = "weights.safetensors"


# "Read-only: any change is EROFS."

CHANGES: dict[str, Callable[[Path], object]] = {
    "open to write": lambda root: os.open(root / WEIGHTS, os.O_WRONLY),
    "open to read and write": lambda root: os.open(root / WEIGHTS, os.O_RDWR),
    "open to append": lambda root: os.open(root / WEIGHTS, os.O_WRONLY | os.O_APPEND),
    "open to empty": lambda root: os.open(root / WEIGHTS, os.O_RDONLY | os.O_TRUNC),
    "create": lambda root: os.open(root / "new", os.O_WRONLY | os.O_CREAT),
    "create below a folder": lambda root: os.open(root / "blocks" / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "rmdir": lambda root: os.rmdir(root / "blocks"),
    "unlink": lambda root: os.unlink(root / WEIGHTS),
    "rename": lambda root: os.rename(root / WEIGHTS, root / "new"),
    "rename over": lambda root: os.rename(root / WEIGHTS, root / "empty.txt"),
    "link": lambda root: os.link(root / WEIGHTS, root / "new"),
    "symlink": lambda root: os.symlink("config.json", root / "new"),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFIFO | 0o600),
    "chmod": lambda root: os.chmod(root / WEIGHTS, 0o600),
    "chown": lambda root: os.chown(root / WEIGHTS, 1, 1),
    "utime": lambda root: os.utime(root / WEIGHTS, (1, 1)),
    "truncate": lambda root: os.truncate(root / WEIGHTS, 1),
    "setxattr": lambda root: os.setxattr(root / WEIGHTS, "user.mine", b"1"),
    "setxattr of ours": lambda root: os.setxattr(root / WEIGHTS, "user.hffs.state", b"verified"),
    "removexattr": lambda root: os.removexattr(root / WEIGHTS, "user.hffs.state"),
}


def test_any_change_is_refused_as_read_only(shared_mount: SharedMount) -> None:
    mounted, hub = shared_mount
    before = sorted(os.listdir(mounted.path))
    for change, attempt in CHANGES.items():
        with pytest.raises(OSError) as refused:
            attempt(mounted.path)
        assert refused.value.errno == errno.EROFS, (change, refused.value)
    assert not os.access(mounted / WEIGHTS, os.W_OK)
    assert sorted(os.listdir(mounted.path)) == before
    assert hub.journal.requests("cdn") == []


# Sizes, modes, dates, node numbers.


def test_stat_tells_exact_sizes_modes_and_the_commits_date(shared_mount: SharedMount) -> None:
    mounted, hub = shared_mount
    date = hub.repo("acme/tiny").find("main").date.timestamp()  # type: ignore[union-attr]
    for path in FILES:
        found = os.stat(mounted / path)
        assert found.st_size == len(content(path)), path
        assert stat.S_IFMT(found.st_mode) == stat.S_IFREG, path
        assert stat.S_IMODE(found.st_mode) == 0o444, path
        assert found.st_mtime == date, path
        assert found.st_blksize == 4096, path
        assert found.st_blocks > 0 or found.st_size == 0, path
        assert found.st_nlink == 1, path
    for folder in (mounted.path, mounted / "blocks", mounted / "names" / "odd folder"):
        found = os.stat(folder)
        assert found.st_mode == stat.S_IFDIR | 0o555
        assert found.st_mtime == date
    assert hub.journal.requests("cdn") == []


def test_node_numbers_are_distinct_and_the_same_after_another_mount(hub: Hub, mount: Mount, mounted: Mounted) -> None:
    def numbers(where: Mounted) -> dict[str, int]:
        return {path: os.stat(where / path).st_ino for path in [*FILES, "blocks", "names"]}

    first = numbers(mounted)
    assert len(set(first.values())) == len(first)
    listed = {entry.name: entry.inode() for entry in os.scandir(mounted.path)}
    assert listed["config.json"] == first["config.json"]
    mounted.unmount()
    assert numbers(mount("acme/tiny")) == first


def test_a_listing_is_complete_and_names_what_is_what(shared_mount: SharedMount) -> None:
    mounted = shared_mount.mounted

    def kinds(folder: str) -> dict[str, bool]:
        return {entry.name: entry.is_dir(follow_symlinks=False) for entry in os.scandir(mounted / folder)}

    for folder in ("", "blocks", "names", "names/odd folder"):
        below = [path.removeprefix(folder).lstrip("/") for path in FILES if path.startswith(folder)]
        assert kinds(folder) == {path.partition("/")[0]: "/" in path for path in below}


def test_names_that_do_not_exist_are_enoent_and_files_are_no_folders(shared_mount: SharedMount) -> None:
    mounted = shared_mount.mounted
    for missing in ("nope", "blocks/nope", "nope/nope", "CONFIG.JSON", "config.json "):
        with pytest.raises(FileNotFoundError):
            os.stat(mounted / missing)
    with pytest.raises(NotADirectoryError):
        os.stat(mounted / "config.json" / "x")
    with pytest.raises(IsADirectoryError):
        (mounted / "blocks").read_bytes()


def test_statfs_tells_of_the_caches_disk(shared_mount: SharedMount) -> None:
    mounted = shared_mount.mounted
    here, disk = os.statvfs(mounted.path), os.statvfs(mounted.commands.cache)
    assert here.f_blocks * here.f_frsize == pytest.approx(disk.f_blocks * disk.f_frsize, abs=4096)
    assert here.f_bavail * here.f_frsize == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)
    assert here.f_namemax == 255
    assert here.f_flag & os.ST_RDONLY


# Extended attributes.


def xattrs(path: Path) -> dict[str, str]:
    return {name: os.getxattr(path, name).decode() for name in os.listxattr(path)}


def test_extended_attributes_tell_what_a_file_is_and_how_much_is_here(hub: Hub, mounted: Mounted) -> None:
    repo = hub.repo("acme/tiny")
    digest = hashlib.sha256(content(WEIGHTS)).hexdigest()
    expected = {
        "user.hffs.commit": repo.commit_of("main"),
        "user.hffs.etag": digest,
        "user.hffs.sha256": digest,
        "user.hffs.local_bytes": "0",
        "user.hffs.state": "remote",
        "user.hffs.hash": "sha256 listing",
        "user.hffs.verification": "pending",
    }
    assert xattrs(mounted / WEIGHTS) == expected
    with (mounted / WEIGHTS).open("rb") as file:
        file.seek(BIG.size // 2)
        file.read(1)
    found = xattrs(mounted / WEIGHTS)
    assert found["user.hffs.state"] == "partial"
    assert 0 < int(found["user.hffs.local_bytes"]) < BIG.size
    (mounted / WEIGHTS).read_bytes()
    found = xattrs(mounted / WEIGHTS)
    assert found["user.hffs.state"] in ("local", "verified")
    assert found["user.hffs.local_bytes"] == str(BIG.size)


def test_a_git_file_has_its_object_name_for_etag_and_no_sha256(shared_mount: SharedMount) -> None:
    mounted = shared_mount.mounted
    data = content("config.json")
    found = xattrs(mounted / "config.json")
    assert found["user.hffs.etag"] == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert "user.hffs.sha256" not in found


def test_attributes_of_others_do_not_exist(shared_mount: SharedMount) -> None:
    mounted = shared_mount.mounted
    for name in ("security.selinux", "security.capability", "system.posix_acl_access", "user.other", "user.hffs.nope"):
        with pytest.raises(OSError) as refused:
            os.getxattr(mounted / WEIGHTS, name)
        assert refused.value.errno in (errno.ENODATA, errno.ENOTSUP), name

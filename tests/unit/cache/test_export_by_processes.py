"""Exports in separate processes: killed, several at once, not root, and on real disks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob, export_file
from hffs.errors import HffsError
from tests.support.blobs import verify_blob
from tests.unit.cache.content import ROOT, some_bytes
from tests.unit.cache.exported import (
    CONTENT,
    COPIED,
    LINKED,
    Child,
    data_file,
    names,
    temporaries,
    whole,
)

pytestmark = pytest.mark.usefixtures("as_on_ext4")


# Killed, and several at once


@pytest.mark.parametrize(("halting", "copy_below"), [("write", COPIED), ("rename", COPIED), ("rename", LINKED)])
def test_a_killed_export_shows_nothing_and_its_temporary_is_reused(
    layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path, halting: str, copy_below: int
) -> None:
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / "laid").write_text("what was there")
    for _ in range(3):
        with Child(layout, folder / "laid", copy_below, halting=halting) as dying:
            dying.go()
            assert dying.says() == "halted"
            assert (folder / "laid").read_text() == "what was there"
        verify_blob(stored, 0)  # a removed name costs a rehash
    assert (folder / "laid").read_text() == "what was there"
    left = [name for name in names(folder) if name != "laid"]
    assert left == [".laid.hffs-0"] + [".laid.hffs-0.link"] * (copy_below == LINKED)
    assert verify_blob(stored, 0)
    export_file(stored, str(folder / "laid"), copy_below=copy_below)
    assert (folder / "laid").read_bytes() == CONTENT
    assert names(folder) == ["laid"]
    assert stored.verified


def test_a_link_left_by_a_killed_process_is_removed_by_the_next_copy(
    layout: Layout, stored: StoredBlob, tmp_path: Path
) -> None:
    with Child(layout, tmp_path / "to" / "laid", LINKED, halting="rename") as dying:
        dying.go()
        assert dying.says() == "halted"
    assert len(names(tmp_path / "to")) == 2
    assert verify_blob(stored, 0)
    assert export_file(stored, str(tmp_path / "to" / "laid")) == "copy"
    assert names(tmp_path / "to") == ["laid"]


def test_the_temporary_file_of_a_living_process_is_left_alone(
    layout: Layout, stored: StoredBlob, tmp_path: Path
) -> None:
    folder = tmp_path / "to"
    with Child(layout, folder / "laid", halting="write") as slow:
        slow.go()
        assert slow.says() == "halted"
        export_file(stored, str(folder / "laid"))
        assert names(folder) == [".laid.hffs-0", "laid"]
    export_file(stored, str(folder / "laid"))
    assert names(folder) == ["laid"]


def test_two_processes_that_find_one_leftover_use_different_files(
    stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ".laid.hffs-0"
    place.write_text("left over")
    real, others = fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if not others and os.path.sameopenfile(fd, left):
            place.unlink()  # another process was faster, and writes already
            others.append(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL))
            real(others[0], fcntl.LOCK_EX)
        real(fd, operation)

    left = os.open(place, os.O_RDONLY)
    monkeypatch.setattr(fcntl, "flock", flock)
    export_file(stored, str(tmp_path / "laid"))
    assert os.path.samestat(os.fstat(others[0]), place.stat())
    assert (tmp_path / "laid").read_bytes() == CONTENT
    for fd in (left, *others):
        os.close(fd)


def test_other_files_with_a_temporary_name_are_left_alone(stored: StoredBlob, tmp_path: Path) -> None:
    (tmp_path / ".laid.hffs-0").mkdir()
    (tmp_path / ".laid.hffs-1").symlink_to("elsewhere")
    os.mkfifo(tmp_path / ".laid.hffs-2")
    before = names(tmp_path)
    export_file(stored, str(tmp_path / "laid"))
    assert names(tmp_path) == sorted([*before, "laid"])
    for number in range(3, 16):
        (tmp_path / f".laid.hffs-{number}").mkdir()
    with pytest.raises(HffsError, match=r"16 other processes are writing the file laid: .* or remove \.laid\.hffs-\*"):
        export_file(stored, str(tmp_path / "laid"))


def test_without_flock_no_file_of_another_process_is_lost(
    stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".laid.hffs-0").write_text("perhaps another's")
    lent = os.open(tmp_path / ".laid.hffs-0", os.O_RDONLY)  # stands for the cache's own descriptor, which has locks
    monkeypatch.setattr(stored, "dup_fd", lambda: lent)
    monkeypatch.setattr(fcntl, "flock", refused)
    export_file(stored, str(tmp_path / "laid"))
    assert (tmp_path / "laid").read_bytes() == CONTENT
    assert (tmp_path / ".laid.hffs-0").read_text() == "perhaps another's"


@pytest.mark.parametrize("copy_below", [LINKED, COPIED])
def test_two_processes_exporting_the_same_files_both_succeed(
    layout: Layout, stored: StoredBlob, tmp_path: Path, copy_below: int
) -> None:
    folder = tmp_path / "to"
    pattern = folder / "laid-{}"
    with Child(layout, pattern, copy_below, times=100) as one, Child(layout, pattern, copy_below, times=100) as other:
        one.go()
        other.go()
        assert (one.says(), other.says()) == ("laid", "laid")
    assert names(folder) == sorted(f"laid-{number}" for number in range(100))
    assert all((folder / name).read_bytes() == CONTENT for name in names(folder))
    assert stored.verified
    if copy_below == LINKED:
        assert data_file(layout).stat().st_nlink == 101


def test_two_blobs_exported_to_one_path_leave_one_of_them(
    layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path
) -> None:
    second = some_bytes(len(CONTENT), 2)
    whole(store, second).close()
    laid = tmp_path / "laid"
    laid.write_bytes(CONTENT)
    with Child(layout, laid, times=100) as one, Child(layout, laid, seed=2, times=100) as other:
        one.go()
        other.go()
        for _ in range(200):
            assert laid.read_bytes() in {CONTENT, second}
        assert (one.says(), other.says()) == ("laid", "laid")
    assert laid.read_bytes() in {CONTENT, second}
    assert not temporaries(tmp_path)


# Another user


READ_ONLY = """
import encodings.ascii, fcntl, os, sys  # encodings: Python may lie where only root can load it later
from pathlib import Path
from tests.support.blobs import verify_blob
from hffs.cache import BlobStore, Layout, export_file
from hffs.errors import BlockAbsent, CacheUnusable
from tests.unit.cache.content import blob_of, piece, publish_all, some_bytes
from tests.unit.cache.exported import no_reflink

fcntl.ioctl = no_reflink
home = Path(sys.argv[1])
if os.geteuid() == 0:
    os.chown(home, 65534, 65534)
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
content = some_bytes(600_000)
blob = blob_of(content)
layout = Layout(home / "cache")
layout.prepare()
store = BlobStore(layout)
stored = store.open(blob)
publish_all(stored, content)
assert verify_blob(stored, 0)
laid = home / "laid"
assert export_file(stored, str(laid), copy_below=1) == "link"
stored.close()
try:
    open(laid, "r+b")
except PermissionError:
    pass
else:
    raise AssertionError("the link can be written")
stored = store.open(blob)
assert stored.verified
assert stored.read(0, len(content)) == content
assert export_file(stored, str(home / "second"), copy_below=1) == "link"
assert stored.verified
fd = stored.dup_fd()
assert fd is not None
os.close(fd)
os.unlink(home / "second")
assert verify_blob(stored, 0)  # hashed again, and written down
assert stored.verified
assert stored.discard(range(1, 2)) == 0
with stored.lease(range(3)) as lease:
    try:
        stored.publish(lease, 1, piece(content, 1))
    except CacheUnusable:
        pass
    else:
        raise AssertionError("a file given away was written")
stored.close()
stored = store.open(blob)
assert stored.missing(range(3)) == [range(3)]
publish_all(stored, content)
assert verify_blob(stored, 0)
laid.unlink()
assert export_file(stored, str(laid), copy_below=1) == "link"
stored.close()
laid.chmod(0)  # the file is the user's, and so is its mode
stored = store.open(blob)
assert stored.missing(range(3)) == [range(3)]
print("passed")
"""


def test_a_user_who_is_not_root_reads_a_read_only_data_file() -> None:
    with tempfile.TemporaryDirectory() as home:  # not tmp_path, which only its owner may enter
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", READ_ONLY, home],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
    assert run.stdout == "passed\n", run.stderr


# Real disks


REFLINKS = """
import os, sys
from pathlib import Path
from tests.support.blobs import verify_blob
from hffs.cache import BlobStore, Layout, export_file
from tests.unit.cache.content import blob_of, publish_all, some_bytes

home = Path(sys.argv[1])
layout = Layout(home / "cache")
layout.prepare()
store = BlobStore(layout)
content = some_bytes((8 << 20) + 1000)
blob = blob_of(content)
stored = store.open(blob)
publish_all(stored, content)
assert verify_blob(stored, 0)
os.sync()
before = store.disk_free()
laid = [home / "to" / str(number) for number in range(20)]  # 160 MiB, were they copies
for each in laid:
    assert export_file(stored, str(each), copy_below=1) == "reflink"
os.sync()
assert before - store.disk_free() < len(content), (before, store.disk_free())
assert stored.verified
assert all(each.read_bytes() == content for each in laid)
assert not [name for name in os.listdir(home / "to") if name.startswith(".")]
with open(laid[0], "r+b") as file:
    file.write(b"mine")
assert stored.read(0, len(content)) == content
assert stored.discard(range(33)) == len(content)
publish_all(stored, content)
assert laid[0].read_bytes() == b"mine" + content[4:]
assert laid[1].read_bytes() == content
print("passed")
"""

FULL_DISK = """
import os, sys, tempfile
from pathlib import Path
from tests.support.blobs import verify_blob
from hffs.cache import BlobStore, Layout, export_file
from hffs.errors import NoSpace
from tests.unit.cache.content import blob_of, publish_all, some_bytes

with tempfile.TemporaryDirectory() as cache:
    layout = Layout(cache)
    layout.prepare()
    store = BlobStore(layout)
    content = some_bytes(3 << 20)
    stored = store.open(blob_of(content))
    publish_all(stored, content)
    assert verify_blob(stored, 0)
    laid = Path(sys.argv[1]) / "laid"
    try:
        export_file(stored, str(laid))
    except NoSpace as error:
        assert str(error) == f"no space left for the file {laid}: free some disk space or choose another folder", error
    else:
        raise AssertionError("3 MiB on a disk of 1 MiB")
    assert os.listdir(sys.argv[1]) == []
    store.close()
print("passed")
"""


def on_a_disk_of_its_own(tmp_path: Path, mount: str, script: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = mount + ' && exec "$2" -W ignore -c "$3" "$1"'
    run = subprocess.run(
        ["timeout", "-k5", "120", "unshare", "-m", "sh", "-ec", mounted, "sh", disk, sys.executable, script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IMAGE": str(tmp_path / "image")},
    )
    if any(word in run.stderr for word in ("ermission denied", "not permitted", "unknown filesystem", "loop device")):
        pytest.skip(f"this machine cannot mount that: {run.stderr.strip()}")
    assert run.stdout == "passed\n", run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_real_reflinks_share_the_disk_until_the_first_write(tmp_path: Path, kind: str) -> None:
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    mount = f'truncate -s 320M "$IMAGE" && mkfs.{kind} -q "$IMAGE" >&2 && mount -t {kind} -o loop "$IMAGE" "$1"'
    on_a_disk_of_its_own(tmp_path, mount, REFLINKS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_a_copy_onto_a_full_tmpfs_fails_cleanly(tmp_path: Path) -> None:
    on_a_disk_of_its_own(tmp_path, 'mount -t tmpfs -o size=1m small "$1"', FULL_DISK)

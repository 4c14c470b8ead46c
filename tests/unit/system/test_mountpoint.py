from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.control import mount_records
from hffs.control.messages import MountRecord
from hffs.errors import MountFailed, NotFound, UsageError
from hffs.system import mount_table, mountpoint

LINE = "36 35 98:0 / {where} rw,noatime master:1 shared:2 - {kind} {source} rw,errors=continue\n"


def refusal(path: str, runtime: str, device: str = "/dev/null") -> str:
    with pytest.raises(MountFailed) as caught:
        mountpoint.check(path, runtime, device)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def may_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the directories are checked, also without CAP_SYS_ADMIN, as in a container."""
    monkeypatch.setattr(mountpoint, "check_fuse", lambda device: None)


@pytest.mark.usefixtures("may_mount")
def test_check_returns_the_real_path_of_an_empty_directory(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mountpoint.check(f"{tmp_path}/link/../link/./", runtime) == f"{tmp_path}/real"


@pytest.mark.usefixtures("may_mount")
def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mountpoint.check("model", runtime) == f"{tmp_path}/model"


def test_a_missing_mountpoint_has_a_mkdir_remedy(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(NotFound, match="mkdir -p"):
        mountpoint.check(f"{tmp_path}/a/b", runtime)


@pytest.mark.parametrize("path", ["", " ", "/", "a\0b"])
def test_an_empty_path_is_a_usage_error(path: str, runtime: str) -> None:
    with pytest.raises(UsageError):
        mountpoint.check(path, runtime)


def test_a_file_or_nonempty_directory_is_refused(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in refusal(f"{tmp_path}/file", runtime)
    assert "not empty" in refusal(str(tmp_path), runtime)


def test_a_loop_of_links_is_refused(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop"):
        mountpoint.check(f"{tmp_path}/loop", runtime)


def test_another_mount_is_not_covered(runtime: str) -> None:
    assert refusal("/proc", runtime).startswith("/proc is already a mount (proc)")


def test_missing_fuse_has_a_remedy(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "mnt").mkdir()
    said = refusal(f"{tmp_path}/mnt", runtime, device=f"{tmp_path}/fuse")
    assert "modprobe fuse" in said
    assert "--device /dev/fuse" in said


@pytest.mark.usefixtures("may_mount")
def test_a_starting_or_lazily_unmounted_mount_is_not_replaced(
    tmp_path: Path, runtime: str, record: MountRecord
) -> None:
    (tmp_path / "mnt").mkdir()
    mount_records.write(runtime, {**record, "mountpoint": f"{tmp_path}/mnt"})
    assert f"process {os.getpid()} serves acme/tiny" in refusal(f"{tmp_path}/mnt", runtime)


@pytest.mark.usefixtures("may_mount")
def test_the_record_of_an_ended_mount_is_removed(tmp_path: Path, runtime: str, record: MountRecord) -> None:
    (tmp_path / "mnt").mkdir()
    written = mount_records.write(runtime, {**record, "mountpoint": f"{tmp_path}/mnt"})
    path = f"{runtime}/{os.listdir(runtime)[0]}"
    Path(path).write_text(Path(path).read_text().replace(f'"pid_start": {written["pid_start"]}', '"pid_start": 1'))
    assert mountpoint.check(f"{tmp_path}/mnt", runtime) == f"{tmp_path}/mnt"
    assert mount_records.every(runtime) == []


@settings(deadline=None)  # it touches the disk
@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_in_the_mount_table_is_decoded(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    """Blank, tab, newline, backslash and # are written as octal escapes (proc(5))."""
    written = b"/" + b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    table = tmp_path_factory.getbasetemp() / "mountinfo"
    if written.split() != [written]:  # other blanks are not escaped by the kernel and do not separate fields
        written = b"/plain"
    table.write_bytes(LINE.format(where="WHERE", kind="ext4", source="/dev/root").encode().replace(b"WHERE", written))
    [where] = mount_table.table(str(table))
    assert os.fsencode(where) in (b"/" + name, b"/plain")


def test_the_last_mount_on_a_mountpoint_is_the_visible_one(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    lines = [LINE.format(where="/mnt", kind=kind, source="x") for kind in ("tmpfs", "fuse.hffs")]
    table.write_text("".join(lines))
    found = mount_table.table(str(table))["/mnt"]
    assert (found.type, found.is_hffs, found.is_fuse) == ("fuse.hffs", True, True)


def fuse_at(*places: str) -> dict[str, mount_table.Mounted]:
    return {place: mount_table.Mounted(place, "fuse.hffs", "hffs:acme/tiny") for place in places}


@pytest.mark.parametrize(
    ("path", "real", "inside"),
    [
        ("/nowhere/mnt", "/nowhere/mnt", True),
        ("/nowhere/mnt/a/../b//c/.", "/nowhere/mnt/b/c", True),
        ("/nowhere/mnt/../other", "/nowhere/other", False),
        ("/nowhere/mnt/../../nowhere/mnt/x", "/nowhere/mnt/x", True),
        ("/nowhere/mnt2", "/nowhere/mnt2", False),
        ("/../..", "/", False),
    ],
)
def test_locate_finds_the_mount_of_a_path_without_accessing_it(path: str, real: str, inside: bool) -> None:
    found, outer = mount_table.locate(path, fuse_at("/nowhere/mnt"))
    assert (found, outer is not None) == (real, inside)


def test_locate_follows_links_up_to_a_mount(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere/mnt/sub")
    found, outer = mount_table.locate(f"{tmp_path}/link/deep", fuse_at("/nowhere/mnt"))
    assert found == "/nowhere/mnt/sub/deep"
    assert outer is not None


def test_a_fuse_root_as_in_a_rootless_container_is_ignored(tmp_path: Path) -> None:
    root = {"/": mount_table.Mounted("/", "fuse.fuse-overlayfs", "x")}
    assert mount_table.locate(str(tmp_path), root) == (str(tmp_path), None)


@settings(deadline=None)  # it touches the disk
@given(st.lists(st.sampled_from(["a", "b", "..", ".", "mnt", ""]), max_size=8))
def test_locate_without_links_normalises_the_path(words: list[str]) -> None:
    path = "/nowhere/" + "/".join(words)
    assert mount_table.locate(path, fuse_at("/nowhere/mnt"))[0] == os.path.normpath(path)


# With real mounts.


@pytest.mark.fuse
def test_a_stuck_hffs_mount_is_reported_from_its_record_at_once(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
fd = fuse(where); record()
for path, words in ((where, "already the mount of acme/tiny"), (where + "/sub", "inside the mount of acme/tiny")):
    try: mountpoint.check(path, run)
    except errors.MountFailed as error: assert words in str(error), error
    else: sys.exit("not refused")
assert mount_table.probe(where, 0.3) == errno.ETIMEDOUT
""")


@pytest.mark.fuse
def test_a_dead_hffs_mount_is_unmounted_and_its_mountpoint_used(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where)); dead_record()
assert mount_table.probe(where) == errno.ENOTCONN
assert mountpoint.check(where, run) == where
assert where not in mount_table.table() and mount_records.every(run) == [] and os.listdir(where) == []
""")


@pytest.mark.fuse
def test_another_users_dead_mount_is_reported_with_a_remedy(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
for kind in ("fuse.hffs", "fuse.sshfs"):
    os.close(fuse(where, kind))
    try: mountpoint.check(where, run)
    except errors.MountFailed as error: assert "dead" in str(error) and f"fusermount3 -u {where}" in str(error), error
    else: sys.exit("not refused")
    mount_table.detach(where, lazy=True)
""")


@pytest.mark.fuse
def test_a_path_inside_a_dead_file_system_is_refused_without_access(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where, "fuse.sshfs"))
try: mountpoint.check(where + "/sub/dir", run)
except errors.MountFailed as error: assert "does not answer" in str(error), error
else: sys.exit("not refused")
""")


@pytest.mark.fuse
def test_a_busy_mount_is_unmounted_only_lazily(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
assert ctypes.CDLL(None).mount(b"none", where.encode(), b"tmpfs", 0, None) == 0
with open(where + "/file", "w"):
    try: mount_table.detach(where)
    except errors.MountFailed as busy: assert "is busy: close the programs" in str(busy)
    else: sys.exit("not busy")
    mount_table.detach(where, lazy=True)
try: mount_table.detach(where)
except errors.MountNotFound: pass
else: sys.exit("still there")
""")


@pytest.mark.fuse
def test_an_unprivileged_unmount_distinguishes_busy_from_not_mounted(in_namespace: Callable[[str], None]) -> None:
    """The messages of fusermount3 are recognised (as root it only checks the type of the mount)."""
    in_namespace("""
assert mount_table._fusermount(where, lazy=False) == errno.EINVAL
fd = fuse(where)
os.close(fd)
assert mount_table._fusermount(where, lazy=True) == 0
assert where not in mount_table.table()
""")


@pytest.mark.fuse
def test_unmounting_a_dead_mount_removes_the_mount_and_its_files(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where)); dead_record()
assert [each["state"] for each in mounts.status(run)] == ["dead"]
assert mounts.unmount(where + "/some/file", runtime_dir=run) == where
assert where not in mount_table.table() and os.listdir(run) == []
""")


@pytest.mark.fuse
def test_unmounting_detaches_the_mount_of_an_unresponsive_daemon(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
fd = fuse(where)
held, closed = os.pipe()
child = os.fork()
if not child:  # the daemon: ends with its mount, when a read of /dev/fuse fails
    import time
    while where in mount_table.table(): time.sleep(0.01)
    os._exit(0)
record(child)
import threading
threading.Thread(target=os.waitpid, args=(child, 0)).start()
assert mounts.unmount("acme/tiny", runtime_dir=run) == where
assert where not in mount_table.table() and os.listdir(run) == []
""")


@pytest.mark.fuse
def test_a_mount_that_lost_its_record_can_be_unmounted(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where))
assert mounts.unmount(where, runtime_dir=run) == where
assert where not in mount_table.table()
""")

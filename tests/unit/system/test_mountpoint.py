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
    """The directories alone are looked at, wherever this runs (a container without CAP_SYS_ADMIN, say)."""
    monkeypatch.setattr(mountpoint, "check_fuse", lambda device: None)


@pytest.mark.usefixtures("may_mount")
def test_an_empty_directory_is_given_back_as_its_real_path(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mountpoint.check(f"{tmp_path}/link/../link/./", runtime) == f"{tmp_path}/real"


@pytest.mark.usefixtures("may_mount")
def test_a_relative_path_counts_from_the_working_directory(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mountpoint.check("model", runtime) == f"{tmp_path}/model"


def test_a_missing_mountpoint_says_how_to_make_it(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(NotFound, match="mkdir -p"):
        mountpoint.check(f"{tmp_path}/a/b", runtime)


@pytest.mark.parametrize("path", ["", " ", "/", "a\0b"])
def test_no_path_at_all_is_a_mistake_of_use(path: str, runtime: str) -> None:
    with pytest.raises(UsageError):
        mountpoint.check(path, runtime)


def test_a_file_and_a_full_directory_are_refused(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in refusal(f"{tmp_path}/file", runtime)
    assert "not empty" in refusal(str(tmp_path), runtime)


def test_a_loop_of_links_ends(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop"):
        mountpoint.check(f"{tmp_path}/loop", runtime)


def test_another_file_system_is_not_covered(runtime: str) -> None:
    assert refusal("/proc", runtime).startswith("/proc is already a mount (proc)")


def test_a_machine_without_fuse_says_how_to_get_it(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "mnt").mkdir()
    said = refusal(f"{tmp_path}/mnt", runtime, device=f"{tmp_path}/fuse")
    assert "modprobe fuse" in said
    assert "--device /dev/fuse" in said


@pytest.mark.usefixtures("may_mount")
def test_a_mount_in_the_making_or_in_its_last_use_is_not_disturbed(
    tmp_path: Path, runtime: str, record: MountRecord
) -> None:
    (tmp_path / "mnt").mkdir()
    mount_records.write(runtime, {**record, "mountpoint": f"{tmp_path}/mnt"})
    assert f"process {os.getpid()} serves acme/tiny" in refusal(f"{tmp_path}/mnt", runtime)


@pytest.mark.usefixtures("may_mount")
def test_the_record_of_a_mount_long_gone_is_taken_away(tmp_path: Path, runtime: str, record: MountRecord) -> None:
    (tmp_path / "mnt").mkdir()
    written = mount_records.write(runtime, {**record, "mountpoint": f"{tmp_path}/mnt"})
    path = f"{runtime}/{os.listdir(runtime)[0]}"
    Path(path).write_text(Path(path).read_text().replace(f'"pid_start": {written["pid_start"]}', '"pid_start": 1'))
    assert mountpoint.check(f"{tmp_path}/mnt", runtime) == f"{tmp_path}/mnt"
    assert mount_records.every(runtime) == []


@settings(deadline=None)  # it touches the disk
@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_in_the_mount_table_is_read_back(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    """Blank, tab, newline, backslash and # are written as octal escapes (proc(5))."""
    written = b"/" + b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    table = tmp_path_factory.getbasetemp() / "mountinfo"
    if written.split() != [written]:  # other blanks are not escaped by the kernel, nor do they part its words
        written = b"/plain"
    table.write_bytes(LINE.format(where="WHERE", kind="ext4", source="/dev/root").encode().replace(b"WHERE", written))
    [where] = mount_table.table(str(table))
    assert os.fsencode(where) in (b"/" + name, b"/plain")


def test_the_last_mount_on_a_mountpoint_is_the_one_seen(tmp_path: Path) -> None:
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
def test_a_path_is_found_in_its_mount_without_asking_the_mount(path: str, real: str, inside: bool) -> None:
    found, outer = mount_table.locate(path, fuse_at("/nowhere/mnt"))
    assert (found, outer is not None) == (real, inside)


def test_a_link_into_a_mount_is_followed_up_to_the_mount(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere/mnt/sub")
    found, outer = mount_table.locate(f"{tmp_path}/link/deep", fuse_at("/nowhere/mnt"))
    assert found == "/nowhere/mnt/sub/deep"
    assert outer is not None


def test_a_fuse_root_as_in_a_rootless_container_is_no_obstacle(tmp_path: Path) -> None:
    root = {"/": mount_table.Mounted("/", "fuse.fuse-overlayfs", "x")}
    assert mount_table.locate(str(tmp_path), root) == (str(tmp_path), None)


@settings(deadline=None)  # it touches the disk
@given(st.lists(st.sampled_from(["a", "b", "..", ".", "mnt", ""]), max_size=8))
def test_without_links_locating_is_normalising(words: list[str]) -> None:
    path = "/nowhere/" + "/".join(words)
    assert mount_table.locate(path, fuse_at("/nowhere/mnt"))[0] == os.path.normpath(path)


# With real mounts.


@pytest.mark.fuse
def test_a_mount_of_ours_that_is_stuck_is_told_from_its_record_at_once(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
fd = fuse(where); record()
for path, words in ((where, "already the mount of acme/tiny"), (where + "/sub", "inside the mount of acme/tiny")):
    try: mountpoint.check(path, run)
    except errors.MountFailed as told: assert words in str(told), told
    else: sys.exit("not refused")
assert mount_table.probe(where, 0.3) == errno.ETIMEDOUT
""")


@pytest.mark.fuse
def test_a_dead_mount_of_ours_is_taken_off_and_the_place_used(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where)); dead_record()
assert mount_table.probe(where) == errno.ENOTCONN
assert mountpoint.check(where, run) == where
assert where not in mount_table.table() and mount_records.every(run) == [] and os.listdir(where) == []
""")


@pytest.mark.fuse
def test_a_dead_mount_of_somebody_else_is_named_with_its_cure(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
for kind in ("fuse.hffs", "fuse.sshfs"):
    os.close(fuse(where, kind))
    try: mountpoint.check(where, run)
    except errors.MountFailed as told: assert "dead" in str(told) and f"fusermount3 -u {where}" in str(told), told
    else: sys.exit("not refused")
    mount_table.detach(where, lazy=True)
""")


@pytest.mark.fuse
def test_a_place_inside_a_dead_file_system_is_refused_without_touching_it(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where, "fuse.sshfs"))
try: mountpoint.check(where + "/sub/dir", run)
except errors.MountFailed as told: assert "does not answer" in str(told), told
else: sys.exit("not refused")
""")


@pytest.mark.fuse
def test_a_busy_mount_stays_unless_it_is_detached_lazily(in_namespace: Callable[[str], None]) -> None:
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
def test_an_unprivileged_unmount_tells_busy_from_not_mounted(in_namespace: Callable[[str], None]) -> None:
    """What fusermount3 says is understood (as root it needs the mount to be its own kind, no more)."""
    in_namespace("""
assert mount_table._fusermount(where, lazy=False) == errno.EINVAL
fd = fuse(where)
os.close(fd)
assert mount_table._fusermount(where, lazy=True) == 0
assert where not in mount_table.table()
""")


@pytest.mark.fuse
def test_unmounting_a_dead_mount_takes_off_the_mount_and_its_traces(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
os.close(fuse(where)); dead_record()
assert [each["state"] for each in mounts.status(run)] == ["dead"]
assert mounts.unmount(where + "/some/file", runtime_dir=run) == where
assert where not in mount_table.table() and os.listdir(run) == []
""")


@pytest.mark.fuse
def test_unmounting_helps_a_daemon_that_does_not_answer_out_of_the_way(in_namespace: Callable[[str], None]) -> None:
    in_namespace("""
fd = fuse(where)
held, closed = os.pipe()
child = os.fork()
if not child:  # the daemon: ends once its mount is gone, as a read of /dev/fuse then fails
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

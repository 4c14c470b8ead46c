from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.control import mount_records
from hffs.control.messages import MountRecord, record_path, socket_path
from hffs.errors import HffsError


def test_a_record_is_read_as_written(runtime: str, record: MountRecord) -> None:
    written = mount_records.write(runtime, record)
    assert mount_records.read(runtime, "/mnt/model") == written
    assert mount_records.every(runtime) == [written]
    assert {**written} == {**record, "pid_start": written["pid_start"]}


def test_the_record_of_this_process_is_alive(runtime: str, record: MountRecord) -> None:
    assert mount_records.alive(mount_records.write(runtime, record))


def test_a_record_whose_process_ended_is_dead(runtime: str, record: MountRecord) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    written = mount_records.write(runtime, {**record, "pid": child.pid})
    assert mount_records.alive(written)
    child.communicate()
    assert not mount_records.alive(written)


def test_a_mount_is_alive_while_its_supervisor_runs(runtime: str, record: MountRecord) -> None:
    """A supervisor starts another worker, and a worker without a supervisor is alive as well."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    serving = mount_records.write(runtime, {**record, "supervisor": {"pid": child.pid, "restarts": 0}})
    watching = mount_records.write(
        runtime, {**record, "pid": child.pid, "supervisor": {"pid": os.getpid(), "restarts": 0}}
    )
    assert mount_records.read(runtime, "/mnt/model") == watching
    assert mount_records.supervised(serving)
    child.communicate()
    assert (mount_records.served(serving), mount_records.supervised(serving), mount_records.alive(serving)) == (
        True,
        False,
        True,
    )
    assert (mount_records.served(watching), mount_records.supervised(watching), mount_records.alive(watching)) == (
        False,
        True,
        True,
    )
    assert not mount_records.supervised({**watching, "supervisor_start": 1})


def test_a_zombie_does_not_serve(runtime: str, record: MountRecord) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    written = mount_records.write(runtime, {**record, "pid": child.pid})
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    assert not mount_records.alive(written)
    child.wait()


def test_another_process_with_the_same_pid_is_not_the_daemon(runtime: str, record: MountRecord) -> None:
    written = mount_records.write(runtime, record)
    assert not mount_records.alive({**written, "pid_start": written["pid_start"] - 1})


def test_a_process_name_with_blanks_and_brackets_does_not_change_its_start(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    shutil.copy("/bin/cat", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        start = mount_records.process_start(child.pid)
        own = mount_records.process_start(os.getpid())
        assert start is not None
        assert own is not None
        assert start >= own


def test_no_record_is_written_for_a_missing_process(runtime: str, record: MountRecord) -> None:
    with pytest.raises(HffsError):
        mount_records.write(runtime, {**record, "pid": 2**22 + 1})


def test_records_and_their_directory_are_private(runtime: str, record: MountRecord) -> None:
    before = os.umask(0)
    try:
        mount_records.write(runtime, record)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(runtime).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(record_path(runtime, "/mnt/model")).st_mode) == 0o600
    assert sorted(os.listdir(runtime)) == [os.path.basename(record_path(runtime, "/mnt/model"))]


def test_a_directory_open_to_other_users_is_made_private(runtime: str) -> None:
    os.mkdir(runtime, 0o777)
    os.chmod(runtime, 0o777)
    mount_records.runtime_dir(runtime)
    assert stat.S_IMODE(os.stat(runtime).st_mode) == 0o700


def test_a_link_in_place_of_the_runtime_directory_is_refused(runtime: str, tmp_path: Path) -> None:
    os.symlink(tmp_path, runtime)
    with pytest.raises(HffsError, match="your own"):
        mount_records.runtime_dir(runtime)
    with pytest.raises(HffsError, match="your own"):
        mount_records.every(runtime)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a directory")
def test_another_users_runtime_directory_is_refused(runtime: str) -> None:
    os.mkdir(runtime, 0o777)
    os.chown(runtime, 65534, 65534)
    with pytest.raises(HffsError, match="your own"):
        mount_records.runtime_dir(runtime)
    with pytest.raises(HffsError, match="your own"):
        mount_records.every(runtime)


def test_removing_deletes_record_and_socket_and_is_idempotent(runtime: str, record: MountRecord) -> None:
    mount_records.write(runtime, record)
    Path(socket_path(runtime, "/mnt/model")).touch()
    mount_records.remove(runtime, "/mnt/model")
    mount_records.remove(runtime, "/mnt/model")
    assert os.listdir(runtime) == []


def test_a_missing_directory_has_no_records(runtime: str) -> None:
    assert mount_records.every(runtime) == []
    assert mount_records.read(runtime, "/mnt/model") is None


def test_a_record_under_another_file_name_is_ignored(runtime: str, record: MountRecord) -> None:
    mount_records.write(runtime, record)
    shutil.copy(record_path(runtime, "/mnt/model"), record_path(runtime, "/mnt/other"))
    assert mount_records.read(runtime, "/mnt/other") is None
    assert len(mount_records.every(runtime)) == 1


@pytest.mark.parametrize("where", ["\ud800", "/mnt/\ud800"])
def test_a_record_with_an_impossible_mountpoint_is_ignored(runtime: str, record: MountRecord, where: str) -> None:
    written = mount_records.write(runtime, record)
    with open(record_path(runtime, "/mnt/model"), "w", encoding="ascii") as file:
        json.dump({**written, "mountpoint": where}, file)
    os.mkdir(record_path(runtime, "/mnt/folder"))
    assert mount_records.every(runtime) == []


def test_a_mountpoint_that_is_not_utf8_is_preserved(runtime: str, record: MountRecord) -> None:
    where = os.fsdecode(b"/mnt/\xff model")
    mount_records.write(runtime, {**record, "mountpoint": where})
    assert [found["mountpoint"] for found in mount_records.every(runtime)] == [where]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_keys = ["mountpoint", "repo", "type", "revision", "commit", "pid", "pid_start", "started_at"]


@settings(deadline=None)  # it touches the disk
@given(st.binary() | (_json | st.fixed_dictionaries(dict.fromkeys(_keys, _json))).map(lambda v: json.dumps(v).encode()))
def test_a_damaged_record_is_ignored(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.getbasetemp() / "damaged"
    directory.mkdir(exist_ok=True)
    Path(record_path(str(directory), "/mnt/model")).write_bytes(content)
    assert mount_records.read(str(directory), "/mnt/model") is None
    assert mount_records.every(str(directory)) == []


def test_a_reader_never_sees_a_partial_record(runtime: str, record: MountRecord) -> None:
    """Every write replaces the file: a reader that opened the old one continues to read the old one."""
    mount_records.write(runtime, record)
    with open(record_path(runtime, "/mnt/model"), encoding="ascii") as old:
        mount_records.write(runtime, {**record, "repo": "acme/other"})
        assert json.load(old)["repo"] == "acme/tiny"
    found = mount_records.read(runtime, "/mnt/model")
    assert found is not None
    assert found["repo"] == "acme/other"

"""Files planted in place of sockets, records and logs, and files with hostile content."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hffs.control import client, mount_records
from hffs.control.http import Request
from hffs.control.messages import MountRecord, record_path
from hffs.daemon import launcher
from hffs.daemon.supervisor_link import Handover
from hffs.errors import HffsError, MountFailed, MountNotFound, UsageError
from hffs.fuse.kernel.journal import Journal
from hffs.system import mount_table
from hffs.system.log_setup import LogFormatter


def test_a_directory_that_others_may_write_to_is_not_used_until_it_is_empty(runtime: str) -> None:
    os.mkdir(runtime)
    os.chmod(runtime, 0o777)
    Path(runtime, "planted").touch()
    with pytest.raises(HffsError, match="others may write"):
        mount_records.runtime_dir(runtime)
    with pytest.raises(HffsError, match="chmod 700"):
        mount_records.every(runtime)
    os.unlink(f"{runtime}/planted")
    assert mount_records.runtime_dir(runtime) == runtime
    assert mount_records.every(runtime) == []


def place(runtime: str, content: bytes) -> str:
    """A file where the record of /mnt/model would be."""
    mount_records.runtime_dir(runtime)
    path = record_path(runtime, "/mnt/model")
    Path(path).write_bytes(content)
    return path


def test_a_link_in_place_of_a_record_is_not_read(runtime: str, record: MountRecord, tmp_path: Path) -> None:
    stored = mount_records.write(runtime, record)
    path = record_path(runtime, "/mnt/model")
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    assert mount_records.read(runtime, "/mnt/model") is None
    os.unlink(path)
    os.rename(tmp_path / "elsewhere", path)
    assert mount_records.read(runtime, "/mnt/model") == stored


def test_a_fifo_in_place_of_a_record_does_not_block(runtime: str) -> None:
    mount_records.runtime_dir(runtime)
    os.mkfifo(record_path(runtime, "/mnt/model"))
    assert mount_records.every(runtime) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
def test_a_record_of_another_user_is_not_read(runtime: str, record: MountRecord) -> None:
    mount_records.write(runtime, record)
    os.chown(record_path(runtime, "/mnt/model"), 65534, 65534)
    assert mount_records.every(runtime) == []


@pytest.mark.parametrize(
    "more",
    [
        {"started_at": float("nan")}, {"started_at": float("inf")}, {"started_at": 1e300}, {"started_at": -1},
        {"pid": True}, {"pid": -1}, {"pid": 10**400}, {"pid": "1"}, {"pid": None}, {"pid_start": [1]},
        {"supervisor": {"pid": float("inf")}}, {"supervisor": [1]}, {"repo": 5}, {"mountpoint": "/other"},
    ],
)  # fmt: skip
def test_a_record_of_impossible_values_is_ignored(runtime: str, record: MountRecord, more: dict[str, Any]) -> None:
    whole = {**record, "pid_start": 1}
    place(runtime, json.dumps(whole).encode())
    assert mount_records.read(runtime, "/mnt/model") == whole
    place(runtime, json.dumps({**whole, **more}).encode())
    assert mount_records.every(runtime) == []


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b"null", b" " * 70_000 + b"{}", b""])
def test_a_file_that_is_no_record_is_ignored(runtime: str, content: bytes) -> None:
    place(runtime, content)
    assert mount_records.every(runtime) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as another user")
def test_a_socket_of_another_user_is_not_used(runtime: str) -> None:
    mount_records.runtime_dir(runtime)
    path = f"{runtime}/x.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listen = (
            "import os, socket; os.setuid(65534); "
            f"s = socket.socket(fileno={listener.fileno()}); s.listen(); print(flush=True); input()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", listen],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            with pytest.raises(MountNotFound, match="another user listens"):
                client.ask(path, "GET", "/v1/status", 5)
            (answer,) = client.statuses([path])
            assert isinstance(answer, MountNotFound)
            child.communicate(b"\n")


def test_a_link_in_place_of_the_log_is_not_written_to(runtime: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    os.symlink(victim, tmp_path / "log")
    with pytest.raises(MountFailed):
        launcher._open_log(str(tmp_path / "log"), ours=True)
    assert victim.read_text() == "mine"


def test_a_link_in_place_of_the_journals_next_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    os.symlink(victim, tmp_path / "journal.tmp")
    journal = Journal(str(tmp_path / "journal"))
    journal.opened(5, 7, None)
    journal.close()
    assert victim.read_text() == "mine"
    again = Journal(str(tmp_path / "journal"), resume=True)
    assert again.nodes.keys() == {7}
    again.close()


# Hostile content.


@pytest.mark.parametrize(
    "line",
    [
        b"", b"-", b"1 2 0:3 / /x rw -", b"1 2 0:3 / /x rw - fuse.hffs", b"\xff" * 20, b"1 2 0:3 / /x\\777 rw - a b rw",
        b"1 2 0:3 / /x rw - fuse.hffs a b c - d",
    ],
)  # fmt: skip
def test_a_malformed_line_of_mountinfo_hides_no_other(line: bytes, tmp_path: Path) -> None:
    good = b"1 2 0:33 / /mnt/a\\040b rw,nosuid shared:1 - fuse.hffs  rw\n"  # its source is empty
    (tmp_path / "mountinfo").write_bytes(line + b"\n" + good)
    found = mount_table.table(str(tmp_path / "mountinfo"))
    assert found["/mnt/a b"] == mount_table.Mounted("/mnt/a b", "fuse.hffs", "", "0:33")
    assert "/x" not in found or found["/x"].type == "fuse.hffs" or "777" in repr(found)


def test_json_nested_too_deep_is_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        Request("POST", "/v1/hydrate", {}, b"[" * 60_000).json()
    with pytest.raises(HffsError):
        Handover.from_json("[" * 100_000, 0)


def test_a_log_record_is_one_line_whatever_names_are_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    name = "\x1b]0;owned\x07\n2026-01-01 ERROR forged: all is well\u202e\udcff"
    try:
        raise ValueError(name)
    except ValueError:
        record = logging.LogRecord("hffs", logging.ERROR, "x.py", 1, "event=x path=%s", (name,), sys.exc_info())
    handler.handle(record)
    (line,) = capsys.readouterr().err.splitlines()
    assert 'event=x path="\\u001b]0;owned\\u0007\\n2026-01-01 ERROR forged: all is well\\u202e\\udcff"' in line
    assert 'traceback="Traceback' in line
    assert line.isprintable()

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.api import mounts
from hffs.control import client, mount_records
from hffs.control.messages import MountRecord, Status, record_path, socket_path
from hffs.control.server import ControlServer, Request
from hffs.errors import DeadlineExceeded, MountFailed, MountNotFound, UsageError


def status_like(record: MountRecord, runtime: str, **more: Any) -> Status:
    found: Any = {
        **mounts.placeholder_status(record, "serving", "", runtime),
        "binding": "libfuse",
        "last_errors": [],
        **more,
    }
    return found


@contextmanager
def daemon(runtime: str, record: MountRecord, *, recorded: bool = True, **more: Any) -> Iterator[None]:
    """Serves a control socket like the daemon of ``record``, with its record beside it."""

    def unmount(request: Request) -> Any:
        raise MountFailed(f"{record['mountpoint']} is busy", f"close the programs that use it ({request.json()})")

    def files(request: Request) -> Any:
        return {"path": request.query["path"], "complete": True, "files": []}

    routes = {
        ("GET", "/v1/status"): lambda _: status_like(record, runtime, **more),
        ("GET", "/v1/files"): files,
        ("POST", "/v1/unmount"): unmount,
        ("GET", "/text"): lambda _: "plain é",
        ("GET", "/big"): lambda _: ["x" * 1000] * 5000,
    }
    server = ControlServer(socket_path(runtime, record["mountpoint"]), routes)
    server.start()
    if recorded:
        mount_records.write(runtime, record)
    try:
        yield
    finally:
        server.stop()
        mount_records.remove(runtime, record["mountpoint"])


@contextmanager
def serving_bytes(path: str, answer: bytes | None) -> Iterator[None]:
    """Serves a socket that sends these bytes to every client; None: it never answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer or b"")

        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        yield
        if answer is not None:
            thread.join(20)


def test_the_client_decodes_answers_of_the_server(runtime: str, record: MountRecord) -> None:
    with daemon(runtime, record):
        path = socket_path(runtime, record["mountpoint"])
        assert client.statuses([path]) == [status_like(record, runtime, uptime_s=pytest.approx(0, abs=2e9))]
        assert client.files(path, "a b/ü?#")["path"] == "a b/ü?#"
        assert client.ask(path, "GET", "/text", 5) == "plain é"
        assert len(client.ask(path, "GET", "/big", 20)) == 5000


def test_an_error_answer_is_raised_as_refused_with_its_message(runtime: str, record: MountRecord) -> None:
    with daemon(runtime, record):
        path = socket_path(runtime, record["mountpoint"])
        with pytest.raises(client.Refused, match=r"is busy: close the programs that use it \(\{'lazy': True\}\)"):
            client.unmount(path, lazy=True)
        with pytest.raises(client.Refused, match="there is no /v9"):
            client.ask(path, "GET", "/v9", 5)


def test_a_socket_without_a_listener_is_not_found(runtime: str) -> None:
    os.mkdir(runtime)
    with pytest.raises(MountNotFound):
        client.unmount(f"{runtime}/missing.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(f"{runtime}/dead.sock")
    with pytest.raises(MountNotFound):
        client.files(f"{runtime}/dead.sock")


def test_unresponsive_daemons_cost_one_timeout_together(runtime: str, record: MountRecord) -> None:
    os.mkdir(runtime)
    silent = [f"{runtime}/{number}.sock" for number in range(4)]
    with ExitStack() as stack:
        for path in silent:
            stack.enter_context(serving_bytes(path, None))
        stack.enter_context(daemon(runtime, record))
        began = time.monotonic()
        found = client.statuses([*silent, socket_path(runtime, record["mountpoint"])], timeout=1.0)
        assert time.monotonic() - began < 3.5  # in sequence they would take 4
    assert [type(each) for each in found] == [DeadlineExceeded] * 4 + [dict]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff",
    ],
)
def test_an_incomplete_answer_is_refused(runtime: str, answer: bytes) -> None:
    os.mkdir(runtime)
    with serving_bytes(f"{runtime}/x.sock", answer), pytest.raises(MountNotFound, match="incomplete answer"):
        client.ask(f"{runtime}/x.sock", "GET", "/", 5)


# Mounts.


def test_without_mounts_the_list_is_empty(runtime: str) -> None:
    assert mounts.status(runtime) == []
    with pytest.raises(MountNotFound):
        mounts.status_of("acme/tiny", runtime)


def test_the_status_of_a_live_mount_is_its_daemons(runtime: str, record: MountRecord) -> None:
    with daemon(runtime, record, requests=7):
        [found] = mounts.status(runtime)
    assert (found["state"], found["requests"]) == ("serving", 7)


def test_a_mount_without_its_process_is_dead_and_has_a_remedy(runtime: str, record: MountRecord) -> None:
    forget_process(runtime, record)
    [found] = mounts.status(runtime)
    assert (found["state"], found["repo"], found["files"]) == ("dead", "acme/tiny", None)
    assert "hffs unmount /mnt/model" in found["last_errors"][0]["what"]
    assert set(found) == Status.__required_keys__


def test_a_live_mount_without_an_answer_is_degraded(runtime: str, record: MountRecord) -> None:
    mount_records.write(runtime, record)
    with serving_bytes(socket_path(runtime, record["mountpoint"]), b""):
        [found] = mounts.status(runtime)
    assert found["state"] == "degraded"
    assert "incomplete answer" in found["last_errors"][0]["what"]


def forget_process(runtime: str, record: MountRecord) -> None:
    written = mount_records.write(runtime, record)
    path = record_path(runtime, record["mountpoint"])
    with open(path, encoding="ascii") as file:
        text = file.read()
    with open(path, "w", encoding="ascii") as file:
        file.write(text.replace(f'"pid_start": {written["pid_start"]}', '"pid_start": 1'))


def test_unmounting_a_dead_mount_removes_its_files(runtime: str, record: MountRecord) -> None:
    forget_process(runtime, record)
    assert mounts.unmount("/mnt/model", runtime_dir=runtime) == "/mnt/model"
    assert os.listdir(runtime) == []
    with pytest.raises(MountNotFound):
        mounts.unmount("/mnt/model", runtime_dir=runtime)


def test_listing_files_of_a_dead_mount_reports_that_it_is_dead(runtime: str, record: MountRecord) -> None:
    forget_process(runtime, record)
    with pytest.raises(MountFailed, match="is dead: hffs unmount /mnt/model"):
        mounts.files("/mnt/model", runtime)


def test_files_of_a_folder_are_requested_by_path_in_the_mount(runtime: str, record: MountRecord) -> None:
    with daemon(runtime, record):
        assert mounts.files("/mnt/model", runtime)[1]["path"] == ""
        assert mounts.files("acme/tiny", runtime)[1]["path"] == ""


@pytest.mark.parametrize(
    "target",
    ["/mnt/model", "/mnt/./model/", "acme/tiny", "hf://acme/tiny", "acme/tiny@main", "acme/tiny/config.json",
     "acme/tiny@0123456", "acme/tiny@main/sub"],
)  # fmt: skip
def test_a_mount_is_found_by_mountpoint_and_by_repo(runtime: str, record: MountRecord, target: str) -> None:
    mount_records.write(runtime, record)
    mount_records.write(runtime, {**record, "mountpoint": "/mnt/other", "repo": "acme/other"})
    assert [found["mountpoint"] for found in mounts.find(target, runtime)] == ["/mnt/model"]


@pytest.mark.parametrize(
    "target",
    ["/mnt", "/mnt/model2", "./acme/tiny", "acme/tin", "acme", "acme/tiny@other", "acme/tiny@012345", "acme/tiny@",
     "datasets/acme/tiny", "tiny", ""],
)  # fmt: skip
def test_a_target_that_is_not_mounted_is_not_found(runtime: str, record: MountRecord, target: str) -> None:
    mount_records.write(runtime, record)
    with pytest.raises(MountNotFound):
        mounts.find(target, runtime)


def test_repo_types_slashed_revisions_and_short_names_are_distinguished(runtime: str, record: MountRecord) -> None:
    mount_records.write(runtime, {**record, "mountpoint": "/mnt/a", "type": "dataset"})
    mount_records.write(runtime, {**record, "mountpoint": "/mnt/b", "revision": "refs/pr/1"})
    mount_records.write(runtime, {**record, "mountpoint": "/mnt/c", "repo": "gpt2"})
    for target, place in (
        ("datasets/acme/tiny", "/mnt/a"),
        ("acme/tiny@refs/pr/1", "/mnt/b"),
        ("acme/tiny@refs%2Fpr%2F1", "/mnt/b"),
        ("gpt2", "/mnt/c"),
    ):
        assert [found["mountpoint"] for found in mounts.find(target, runtime)] == [place]


def test_a_repo_mounted_twice_has_two_statuses_and_is_not_unmounted_by_name(runtime: str, record: MountRecord) -> None:
    with daemon(runtime, record), daemon(runtime, {**record, "mountpoint": "/mnt/second"}):
        assert len(mounts.status_of("acme/tiny", runtime)) == 2
        with pytest.raises(UsageError, match="/mnt/model, /mnt/second"):
            mounts.unmount("acme/tiny", runtime_dir=runtime)


@settings(deadline=None)  # it touches the disk
@given(st.text())
def test_any_text_is_a_target_that_is_found_or_not(tmp_path_factory: pytest.TempPathFactory, target: str) -> None:
    with pytest.raises((MountNotFound, UsageError)):
        mounts.find(target, str(tmp_path_factory.getbasetemp() / "none"))

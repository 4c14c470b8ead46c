"""sd_notify: the datagrams on real sockets of both kinds; a missing listener is no error."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs import config
from hffs.system.sd_notify import SdNotify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Returns the address as given by systemd, and its listening socket."""
    name = str(tmp_path / "n") if request.param == "path" else f"@hffs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.settimeout(10)
        yield name, listening


def test_each_word_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    notify = SdNotify(config.service_manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5000000"}))
    assert (notify.is_present, notify.watchdog_s) == (True, 5.0)
    for word in ("ready", "alive", "status serving:\n two\x00 lines\udc80 ü", "unheard of", "stopping", "reloading"):
        notify.send(word)
    received = [listening.recv(4096).decode() for _ in range(5)]
    assert received[:4] == ["READY=1", "WATCHDOG=1", "STATUS=serving: two\x00 lines? ü", "STOPPING=1"]
    reloading, at = received[4].split("\n")
    assert (reloading, at.split("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(at.split("=")[1]) > 0


def test_a_missing_listener_is_no_error() -> None:
    silent = SdNotify(None)
    silent.send("ready")
    assert (silent.is_present, silent.watchdog_s) == (False, None)
    missing = SdNotify({"address": "/nowhere/at/all", "watchdog_s": None})
    missing.send("ready")
    assert missing.is_present


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "vsock:2:9"}, None),
        ({"NOTIFY_SOCKET": "@x"}, {"address": "@x", "watchdog_s": None}),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, {"address": "/x", "watchdog_s": 30.0}),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, {"address": "/x", "watchdog_s": None}),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, {"address": "/x", "watchdog_s": None}),
        (
            {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
            {"address": "/x", "watchdog_s": None},
        ),
        ({"WATCHDOG_USEC": "30000000"}, None),
    ],
)
def test_the_service_manager_is_found_in_the_environment(environ: dict[str, str], found: object) -> None:
    assert config.service_manager(environ) == found
    ours = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert config.service_manager(ours) == {"address": "/x", "watchdog_s": 1.0}


def test_a_child_process_does_not_notify_the_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    from hffs.daemon import launcher

    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(launcher.environ())

"""`hffs status --watch` on a terminal, in a pipe and as JSON, while mounts start and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from hffs.control import mount_records
from hffs.control.messages import MountRecord

from .conftest import CHECKOUT, Daemon
from .terminal import CONTROL, on_a_terminal

WATCH = ("status", "--watch", "--interval", "0.05")


def record(mountpoint: str, pid: int) -> MountRecord:
    return {
        "mountpoint": mountpoint,
        "repo": "acme/tiny",
        "type": "model",
        "revision": "main",
        "commit": "0" * 40,
        "pid": pid,
        "started_at": 0.0,
    }


def leave_dead(runtime: str, mountpoint: str) -> None:
    """A mount whose daemon was killed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        mount_records.write(runtime, record(mountpoint, process.pid))
        process.kill()


def test_the_screen_follows_mounts_and_ctrl_c_restores_the_terminal(daemon: Daemon, runtime: str) -> None:
    daemon("/mnt/first")
    with on_a_terminal(*WATCH) as terminal:
        terminal.wait_for(r"\x1b\[\?1049h.*1 mount, .*/mnt/first ")
        daemon("/mnt/second", repo="acme/other")
        terminal.wait_for(r"2 mounts, .*/mnt/second +acme/other@main")
        leave_dead(runtime, "/mnt/third")
        terminal.wait_for(r"3 mounts, .*dead: reads fail until it is mounted again")
        for gone in ("/mnt/third", "/mnt/first"):
            mount_records.remove(runtime, gone)
        frame = terminal.wait_for(r"\x1b\[H\x1b\[1m1 mount, .*?\x1b\[H").rpartition("1 mount, ")[2]
        assert "/mnt/second" in frame
        assert "/mnt/first" not in frame
        mount_records.remove(runtime, "/mnt/second")
        terminal.wait_for("no mounts")
        terminal.press(b"\x03")
        assert terminal.end() == 0
    last = terminal.written
    assert last.rindex("\x1b[?1049l") > last.rindex("\x1b[?1049h"), "the screen of before is back"
    assert last.rindex("\x1b[?25h") > last.rindex("\x1b[?25l"), "and the cursor"
    assert CONTROL.sub("", last[last.rindex("\x1b[?1049l") :]).strip() in ("", "^C")


def test_a_resize_redraws_at_once(daemon: Daemon) -> None:
    daemon("/mnt/first")
    with on_a_terminal("status", "--watch", "--interval", "600") as terminal:
        terminal.wait_for("Ctrl-C ends *\x1b")
        terminal.resize(120, 30)
        frame = terminal.wait_for(r"\x1b\[H.*Ctrl-C ends")
        line = CONTROL.sub("", frame[frame.rindex("\x1b[H") :]).splitlines()[0]
        assert len(line) == 120
        terminal.press(b"\x03")
        assert terminal.end() == 0


def test_sigterm_ends_the_watch_and_restores_the_terminal(daemon: Daemon) -> None:
    daemon("/mnt/first")
    with on_a_terminal(*WATCH) as terminal:
        terminal.wait_for("Ctrl-C ends")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0
    assert terminal.written.rindex("\x1b[?1049l") > terminal.written.rindex("\x1b[?1049h")


def test_no_color_has_no_colours_and_a_dumb_terminal_plain_blocks(daemon: Daemon) -> None:
    daemon("/mnt/first", state="degraded")
    with on_a_terminal(*WATCH, NO_COLOR="1") as terminal:
        terminal.wait_for("Ctrl-C ends.*─")
        terminal.press(b"\x03")
        assert terminal.end() == 0
    assert "\x1b[3" not in terminal.written
    with on_a_terminal(*WATCH, TERM="dumb") as terminal:
        terminal.wait_for("cache .*cache ")
        terminal.press(b"\x03")
        assert terminal.end() == 0
    assert "\x1b" not in terminal.written


def test_doctor_has_no_colours_on_a_dumb_terminal(runtime: str) -> None:
    with on_a_terminal("doctor", "--endpoint", "http://127.0.0.1:9", TERM="dumb") as terminal:
        assert terminal.end() == 1
    assert "127.0.0.1:9" in terminal.written
    assert "\x1b" not in terminal.written


def test_a_target_must_be_mounted_at_the_start_and_may_end_later(daemon: Daemon, runtime: str) -> None:
    with on_a_terminal(*WATCH, "acme/tiny") as terminal:
        assert terminal.end() == 3
    assert terminal.written == "hffs: acme/tiny is not mounted: hffs status lists the mounts\r\n"
    daemon("/mnt/first")
    with on_a_terminal(*WATCH, "acme/tiny") as terminal:
        terminal.wait_for("1 mount, ")
        mount_records.remove(runtime, "/mnt/first")
        terminal.wait_for("no mounts")
        daemon("/mnt/again")
        terminal.wait_for("/mnt/again ")
        terminal.press(b"\x03")
        assert terminal.end() == 0


def piped(*words: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": CHECKOUT, "TERM": "xterm", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    command = [sys.executable, "-m", "hffs", *WATCH, *words]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environ, text=True)


def test_in_a_pipe_each_interval_prints_a_plain_block(daemon: Daemon) -> None:
    daemon("/mnt/first")
    with piped() as process:
        assert process.stdout is not None
        blocks: list[list[str]] = [[]]
        while len(blocks) < 3:
            line = process.stdout.readline().removesuffix("\n")
            blocks[-1].append(line) if line else blocks.append([])
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr and process.stderr.read()) == (0, "")
    assert [block[1:] for block in blocks[:2]] == [
        [
            "MOUNT       REPO            STATE    LOCAL                   SPEED  FETCHED",
            "/mnt/first  acme/tiny@main  serving  1.0M of 522.7M (<1 %)  2.9M/s     1.0M",
            "cache /var/cache/hffs: 1.0M, 20.0G free on disk",
        ]
    ] * 2
    assert all(block[0].endswith("Z") for block in blocks[:2])


@pytest.mark.parametrize("words", [[], ["/mnt/first"]])
def test_json_is_an_object_a_line(daemon: Daemon, runtime: str, words: list[str]) -> None:
    output = daemon("/mnt/first")
    with piped("--json", *words) as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline()) for _ in range(2)] == [{"mounts": [output]}] * 2
        mount_records.remove(runtime, "/mnt/first")
        while json.loads(process.stdout.readline())["mounts"]:
            pass
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr and process.stderr.read()) == (0, "")


def test_a_closed_output_pipe_ends_the_watch(daemon: Daemon, tmp_path: Path) -> None:
    daemon("/mnt/first")
    with piped("--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_one_mount_in_a_pipe_prints_its_details_each_time(daemon: Daemon) -> None:
    daemon("/mnt/first")
    with piped("/mnt/first") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "/mnt/first  acme/tiny@main\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

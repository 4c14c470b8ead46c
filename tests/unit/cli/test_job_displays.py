"""The progress screen of `hffs hydrate`, with synthetic snapshots of a job."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hffs.cli.display.progress_screen import job_lines
from hffs.cli.display.terminal_layout import ASCII, UNICODE, Marks, Page, drawn
from hffs.control.messages import Job

from .conftest import CHECKOUT
from .snapshots import BUSY, KEPT, PROGRAM, file, job


def printed(snapshot: Job, width: int, height: int = 24, marks: Marks = UNICODE) -> list[str]:
    page = Page(width + 2, height, marks)  # 2: the margin
    return [drawn(line, page) for line in job_lines(snapshot, page)]


def test_at_80_columns_lines_are_aligned_and_names_cut_in_the_middle() -> None:
    assert printed(BUSY, 80) == [
        "35.0M/s  ETA 9 s  3/12 files  4/10 workers  ━━━━───────  40 %   200.0M of 500.0M",
        "unet/diffusion_pyto…004.fp16.safetensors  ━━━━━━───────  50 %    50.0M of 100.0M",
        "text_encoder/model.safetensors            ━━━━━━━━━━━━━ 100 %          verifying",
        "模型/权重文件很长的…七八九十一二三四.bin  ─────────────  <1 %      1B of 1023.0M",
        "a\\x1b[2J[red]b                            ─────────────             3B of      ?",
        "empty                                     ─────────────             0B of     0B",
    ]


def test_at_160_columns_whole_names_and_long_bars() -> None:
    assert printed(BUSY, 160) == [
        "35.0M/s  ETA 9 s  3/12 files  4/10 workers                       ━━━━━━━━━━━━━━━━━━━━━━━━━━━━──────────────────────────────────────────  40 %   200.0M of 500.0M",  # noqa: E501
        "unet/diffusion_pytorch_model-00001-of-00004.fp16.safetensors     ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━───────────────────────────────────  50 %    50.0M of 100.0M",  # noqa: E501
        "text_encoder/model.safetensors                                   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100 %          verifying",  # noqa: E501
        "模型/权重文件很长的名字一二三四五六七八九十一二三四.bin          ──────────────────────────────────────────────────────────────────────  <1 %      1B of 1023.0M",  # noqa: E501
        "a\\x1b[2J[red]b                                                   ──────────────────────────────────────────────────────────────────────             3B of      ?",  # noqa: E501
        "empty                                                            ──────────────────────────────────────────────────────────────────────             0B of     0B",  # noqa: E501
    ]


def test_more_files_than_fit_are_counted() -> None:
    many = job(active=[file(f"{number}") for number in range(13)])
    lines = printed(many, 80)
    assert len(lines) == 12
    assert lines[-1] == "… and 3 more files"
    assert printed(many, 80, height=6)[-1] == "… and 10 more files"
    assert len(printed(many, 80, height=6)) == 5
    assert printed(job(active=[file(f"{number}") for number in range(11)]), 80)[-1] == "… and 1 more file"


def test_words_that_do_not_fit_are_dropped_from_the_end() -> None:
    long = job(eta_s=12000, files_done=1234, files_total=5678)
    assert printed(long, 80)[0].startswith("35.0M/s  ETA 3 h 20 min  1234/5678 files  ━")
    assert printed(long, 45)[0].startswith("35.0M/s  ")
    assert printed(long, 100)[0].startswith("35.0M/s  ETA 3 h 20 min  1234/5678 files  4/10 workers   ━")


def test_a_verification_without_workers_shows_none() -> None:
    looking = job(kind="verify", workers={"active": 0, "limit": 0, "bytes_per_s": 0, "why": "", "list": []})
    assert printed(looking, 80)[0].startswith("35.0M/s  ETA 9 s  3/12 files          ")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    lines = printed(BUSY, 80, marks=ASCII)
    assert all(line.isascii() and len(line) == 80 for line in lines)
    assert "######-------" in lines[1]
    assert lines[3].startswith("\\u6a21")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(NAMES, max_size=3), st.integers(36, 300), st.integers(0, 2**50), st.integers(0, 100))
def test_every_line_is_as_wide_as_the_terminal(names: list[str], width: int, whole: int, percent: int) -> None:
    here = whole * percent // 100
    snapshot = job(active=[file(name, whole, here) for name in names], bytes_done=here, bytes_total=whole)
    lines = printed(snapshot, width)
    assert [cell_len(line) for line in lines] == [width] * (len(names) + 1)


def on_a_terminal(how: str, *words: str, stop: bool = False, **environ: str) -> tuple[int, str]:
    """Exit code and everything written to a terminal of 80 columns; ``stop`` presses Ctrl-C once a file is drawn."""
    controller, terminal = pty.openpty()
    with open(controller, "r+b", buffering=0) as screen:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-c", PROGRAM, how, *words]
        more = {**os.environ, "PYTHONPATH": CHECKOUT, "TERM": "xterm", **environ}
        streams: Any = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        with subprocess.Popen(command, env=more, start_new_session=True, **streams) as process:
            os.close(terminal)
            written = b""
            with suppress(OSError):  # EIO: no process has the terminal open any more
                while piece := screen.read(65536):
                    written += piece
                    if stop and b"verifying" in written:
                        stop = False
                        screen.write(b"\x03")
    return process.returncode, written.decode().replace("\r\n", "\n")


def test_the_live_display_is_erased_and_the_summary_remains() -> None:
    code, written = on_a_terminal("at once", "acme/tiny")
    assert code == 0
    assert "\x1b[?25l" in written
    assert "\x1b[32m━" in written
    assert "\x1b[2J" not in written
    drawn, _, left = written.rpartition("\x1b[2K")
    assert "verifying" in drawn
    assert left == "acme/tiny: 12 files, 500.0M, verified; 100.0M fetched in 4.0 s (25.0M/s)\n"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).splitlines() if "━" in line]
    assert {cell_len(line) for line in lines} == {78}, "room for the ^C of a terminal"


def test_ctrl_c_restores_the_terminal() -> None:
    code, written = on_a_terminal("wait", "acme/tiny", stop=True)
    assert code == 130
    assert written.rpartition("\x1b[2K")[2] == f"hffs: interrupted: {KEPT}\n"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_no_color_turns_colours_of_the_display_off() -> None:
    _, written = on_a_terminal("at once", "acme/tiny", NO_COLOR="1")
    assert "━" in written
    assert "\x1b[3" not in written


@pytest.mark.parametrize(("words", "environ"), [(["--json"], {}), ([], {"TERM": "dumb"})])
def test_json_and_dumb_terminals_get_no_control_character(words: list[str], environ: dict[str, str]) -> None:
    code, written = on_a_terminal("at once", "acme/tiny", *words, **environ)
    assert code == 0
    assert all(line.isprintable() for line in written.splitlines())

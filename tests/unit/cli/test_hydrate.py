"""`hffs hydrate` with synthetic snapshots of a job: output, exit codes, cancellation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from hffs import cli
from hffs.cli import parser
from hffs.cli.commands import hydrate
from hffs.cli.display.job_displays import LogLines
from hffs.control.messages import Job
from hffs.errors import AccessDenied, HubUnreachable, worst

from .conftest import CHECKOUT
from .snapshots import KEPT, MIB, PROGRAM, done, error, file, job


class Followed:
    """Stands in for ``hffs.api.hydrate.follow``: yields the snapshots it is given, raises or calls the rest."""

    def __init__(self) -> None:
        self.script: list[Job | BaseException | Callable[[], object]] = []
        self.options: dict[str, Any] = {}
        self.ended = False

    def __call__(self, target: str, **options: Any) -> Iterator[Job]:
        self.options = {"target": target, **options}
        return self._play()

    def _play(self) -> Iterator[Job]:
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    step()
                else:
                    yield step
        finally:
            self.ended = True


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Followed:
    followed = Followed()
    module: Any = ModuleType("hffs.api.hydrate")
    module.follow = followed
    monkeypatch.setitem(sys.modules, "hffs.api.hydrate", module)
    return followed


def test_arguments_are_passed_to_the_api(follow: Followed) -> None:
    follow.script = [done()]
    words = "hydrate acme/tiny --revision v1 --type model --to out --include *.json --include a,b --workers 3 --force"
    assert cli.main(words.split()) == 0
    assert follow.options == {
        "target": "acme/tiny",
        "type": "model",
        "revision": "v1",
        "subfolder": None,
        "to": "out",
        "to_hf_cache": False,
        "force": True,
        "include": ("*.json", "a,b"),
        "workers": 3,
    }


def test_settings_of_a_hydration_are_options() -> None:
    args = parser.build().parse_args(["hydrate", "acme/tiny"])
    own = {"command", "target", "to", "to_hf_cache", "force", "json", "type", "revision", "subfolder"}
    settings = {"include", "exclude", "workers", "cache_dir", "hf_cache", "endpoint", "token_file", "runtime_dir"}
    assert settings <= set(vars(args)) - own


def test_json_is_an_object_a_line(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = error("b.bin", 6, "sha256 differs", "run it again")
    follow.script = [
        job(active=[file("a.bin")]),
        job(finished=[file("a.bin", state="done"), file("b.bin", state="failed")], errors=[wrong]),
        job("failed", errors=[wrong, error("c.bin", 5)], updated_at=1005.0),
    ]
    assert cli.main(["hydrate", "acme/tiny", "--json"]) == 6
    written = capsys.readouterr()
    totals = {
        "bytes_done": 200 * MIB,
        "bytes_total": 500 * MIB,
        "bytes_fetched": 100 * MIB,
        "files_done": 3,
        "files_total": 12,
    }
    now = {
        "updated_at": 1004.0,
        "bytes_per_s": 35.0 * MIB,
        "eta_s": 9.4,
        "workers": {"active": 4, "limit": 10, "why": "measuring"},
    }
    assert [json.loads(line) for line in written.out.splitlines()] == [
        {"event": "start", "id": "7", "kind": "hydrate", "target": "acme/tiny", "started_at": 1000.0, **totals},
        {"event": "progress", **totals, **now, "active": [file("a.bin")]},
        {"event": "file", **file("a.bin", state="done")},
        {"event": "file", **file("b.bin", state="failed")},
        {"event": "error", **wrong},
        {"event": "progress", **totals, **now, "active": []},
        {"event": "error", **error("c.bin", 5)},
        {"event": "end", "state": "failed", "exit_code": 6, "updated_at": 1005.0, **totals},
    ]
    assert written.err == "hffs: b.bin: sha256 differs: run it again\nhffs: c.bin: it broke\n"


def test_in_a_pipe_a_quick_job_prints_only_its_summary(
    follow: Followed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    follow.script = [job(), job(active=[file("a")]), done()]
    assert cli.main(["hydrate", "acme/tiny"]) == 0
    written = capsys.readouterr()
    assert (written.out, written.err) == (
        "acme/tiny: 12 files, 500.0M, verified; 100.0M fetched in 4.0 s (25.0M/s)\n",
        "",
    )


def test_log_lines_come_each_tenth_but_every_5_to_60_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    lines = LogLines(lambda: now)
    output = []
    for now, percent in [(0, 12), (4.9, 25), (5, 25), (9, 31), (10, 31), (60, 39), (70, 39), (75, 40), (80, 100)]:
        lines.show(job("done" if percent == 100 else "running", bytes_done=percent * 5 * MIB), [])
        output.append((now, capsys.readouterr().err))
    assert [(at, text) for at, text in output if text] == [
        (5, "acme/tiny: 125.0M of 500.0M (25 %), 3 of 12 files, 35.0M/s, ETA 9 s\n"),
        (10, "acme/tiny: 155.0M of 500.0M (31 %), 3 of 12 files, 35.0M/s, ETA 9 s\n"),
        (70, "acme/tiny: 195.0M of 500.0M (39 %), 3 of 12 files, 35.0M/s, ETA 9 s\n"),
        (75, "acme/tiny: 200.0M of 500.0M (40 %), 3 of 12 files, 35.0M/s, ETA 9 s\n"),
    ]


def test_a_log_line_while_the_size_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines(iter((0.0, 60.0)).__next__)
    for _ in range(2):
        lines.show(job(bytes_done=0, bytes_total=0, files_done=0, files_total=0, bytes_per_s=0, eta_s=None), [])
    assert capsys.readouterr().err == "acme/tiny: 0B of ?, 0 of 0 files, 0B/s, ETA ?\n"


@pytest.mark.parametrize(
    ("snapshot", "to", "expected"),
    [
        (done(), None, "acme/tiny: 12 files, 500.0M, verified; 100.0M fetched in 4.0 s (25.0M/s)"),
        (done(), "out", "acme/tiny: 12 files, 500.0M, verified, exported to out; 100.0M fetched in 4.0 s (25.0M/s)"),
        (done(bytes_fetched=0), None, "acme/tiny: 12 files, 500.0M, verified; nothing was fetched"),
        (done(files_total=1, updated_at=1000.0), None, "acme/tiny: 1 file, 500.0M, verified; 100.0M fetched in 0.0 s"),
        (done(updated_at=999.0), None, "acme/tiny: 12 files, 500.0M, verified; 100.0M fetched in 0.0 s"),
        (done(updated_at=8000.0), None, "acme/tiny: 12 files, 500.0M, verified; 100.0M fetched in 116 min (14.6K/s)"),
        (job("failed"), "out", "acme/tiny: 3 of 12 files, 200.0M of 500.0M; 100.0M fetched in 4.0 s (25.0M/s)"),
    ],
)
def test_the_summary_is_a_line(snapshot: Job, to: str | None, expected: str) -> None:
    assert hydrate.summary(snapshot, to) == expected


@pytest.mark.parametrize(
    ("codes", "code"),
    [((), 1), ((5,), 5), ((5, 5, 1), 1), ((5, 3), 3), ((3, 4), 4), ((4, 7, 5), 7), ((1, 7, 6), 6), ((2, 5), 1),
     ((130,), 1)],
)  # fmt: skip
def test_the_exit_code_is_that_of_the_worst_error(codes: tuple[int, ...], code: int) -> None:
    assert worst(codes) == code


def test_a_failure_names_ten_errors_and_counts_the_rest(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    first = [error(f"f{number}\x1b[2J", 5, "no answer", "try later") for number in range(10)]
    follow.script = [job(errors=first), job("failed", errors=[*first, error("", 7), error("late", 3)])]
    assert cli.main(["hydrate", "acme/tiny"]) == 7
    written = capsys.readouterr()
    assert written.out.startswith("acme/tiny: 3 of 12 files, 200.0M of 500.0M; ")
    named = [f"hffs: f{number}\\x1b[2J: no answer: try later" for number in range(10)]
    assert written.err.splitlines() == [*named, "hffs: and 2 more"]


def test_a_failure_without_a_reason_is_reported(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    follow.script = [job("failed")]
    assert cli.main(["hydrate", "acme/tiny"]) == 1
    assert capsys.readouterr().err == "hffs: the job failed without a reason\n"


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_job_that_cannot_start_is_one_line_and_an_exit_code(
    follow: Followed, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    follow.script = [AccessDenied("acme/tiny is gated", "ask for access")]
    assert cli.main(["hydrate", "acme/tiny", *words]) == 4
    assert capsys.readouterr() == ("", "hffs: acme/tiny is gated: ask for access\n")


def test_json_has_an_end_event_when_the_daemon_is_lost(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    follow.script = [job(finished=[file("a", state="done")]), HubUnreachable("gone", "look")]
    assert cli.main(["hydrate", "acme/tiny", "--json"]) == 5
    written = capsys.readouterr()
    events = [json.loads(line) for line in written.out.splitlines()]
    assert [event["event"] for event in events] == ["start", "file", "progress", "error", "end"]
    assert events[3] == {"event": "error", "path": "", "what": "gone", "remedy": "look", "exit_code": 5}
    assert (events[4]["state"], events[4]["exit_code"]) == ("failed", 5)
    assert written.err == "hffs: gone: look\n"


@pytest.mark.parametrize("interrupted", ["while it waits", "while it shows"])
def test_an_interrupted_job_is_cancelled(
    follow: Followed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    follow.script = [job(), KeyboardInterrupt(), done()]
    if interrupted == "while it shows":

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(LogLines, "show", stop)
    assert cli.main(["hydrate", "acme/tiny"]) == 130
    assert capsys.readouterr() == ("", f"hffs: interrupted: {KEPT}\n")
    assert follow.ended


def test_interrupted_json_has_an_end_event(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    follow.script = [job(), KeyboardInterrupt()]
    assert cli.main(["hydrate", "acme/tiny", "--json"]) == 130
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["state"], last["exit_code"]) == ("end", "cancelled", 130)


def test_a_job_cancelled_elsewhere_exits_with_130(follow: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    follow.script = [job("cancelled")]
    assert cli.main(["hydrate", "acme/tiny"]) == 130
    assert capsys.readouterr() == ("", f"hffs: cancelled: {KEPT}\n")


@pytest.fixture
def default_signals() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_interrupt_the_job(
    follow: Followed, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    follow.script = [job(), lambda: signal.raise_signal(number), done()]
    assert cli.main(["hydrate", "acme/tiny"]) == 130
    assert capsys.readouterr() == ("", f"hffs: interrupted: {KEPT}\n")
    assert follow.ended
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("default_signals")
def test_an_ignored_signal_stays_ignored(follow: Followed) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    follow.script = [job(), lambda: signal.raise_signal(signal.SIGHUP), done()]
    assert cli.main(["hydrate", "acme/tiny"]) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_closed_output_pipe_cancels_the_job() -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, "endless", "acme/tiny", "--json"]
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = {**os.environ, "PYTHONPATH": CHECKOUT}
    with subprocess.Popen(command, env=environ, text=True, **streams) as process:
        assert json.loads(process.stdout.readline())["event"] == "start"
        process.stdout.close()
        assert process.stderr.read() == "cancelled\n"
    assert process.returncode == 1


def test_the_help_names_the_options(hffs: Any) -> None:
    shown = hffs("hydrate", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(word in shown.stdout for word in ("TARGET", "--include", "--exclude", "--to DIR", "--force", "--json"))

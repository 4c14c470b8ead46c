"""The supervisor with workers that are a few lines of Python: what it keeps, how often it tries, when it gives up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hffs.daemon import supervisor
from hffs.daemon.supervisor import HOPELESS_DEATHS, LONGEST_PAUSE, SUSPICIOUS_DEATHS, WINDOW_SECONDS, pause_before

CHECKOUT = Path(__file__).parents[3]

# A worker: takes what it is told, hands over two descriptors if it is the first, notes its life, then does BODY.
WORKER = """
import json, os, signal, socket, sys, time
told = json.load(open(int(sys.argv[1])))
link = socket.socket(fileno=told["link_fd"])
first = told["handover"] is None
def note(**more):
    told_of = {"pid": os.getpid(), "ppid": os.getppid(), **{k: told[k] for k in ("handover", "supervisor",
               "refuse_resent", "report_fd", "spec")}, **more}
    with open(NOTES, "a") as notes: notes.write(json.dumps(told_of) + "\\n")
def hand_over():
    socket.send_fds(link, [b'{"a": "commit"}'], [os.open(DEVICE, os.O_RDWR), os.open(DEVICE, os.O_RDWR)])
def seen(fd):
    return os.readlink(f"/proc/self/fd/{fd}")
"""


class Trial:
    """A supervisor in a process of its own. ``clock`` is an expression."""

    def __init__(self, where: Path) -> None:
        self.notes = where / "notes"
        self.notes.touch()
        self.device = where / "device"
        self.device.touch()
        self.left = [where / "record", where / "socket"]
        for path in self.left:
            path.touch()
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, body: str, *, clock: str = "time.monotonic", report: int | None = None, pause: float = 1.0
    ) -> subprocess.Popen[str]:
        """``pause`` shortens those between two workers."""
        worker = f"NOTES, DEVICE = {str(self.notes)!r}, {str(self.device)!r}\n{WORKER}\n{body}"
        told: dict[str, Any] = {
            "spec": "as it stands",
            "mountpoint": "/nowhere/at/all",
            "leftovers": [str(path) for path in self.left],
            "report_fd": report,
            "worker": [sys.executable, "-c", worker],
        }
        code = f"""
import json, sys, time
from hffs.daemon import supervisor
pause_before = supervisor.pause_before
supervisor.pause_before = lambda deaths: pause_before(deaths) * {pause}
sys.exit(supervisor.Supervisor(json.load(sys.stdin), {clock}).run())
"""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=CHECKOUT, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[] if report is None else [report],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told))
        self.process.stdin.close()
        self.process.stdin = None
        return self.process

    def ended(self) -> tuple[int, str]:
        assert self.process is not None
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def workers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.communicate(timeout=10)
        for worker in made.workers():
            if worker["pid"] != os.getpid() and Path(f"/proc/{worker['pid']}").exists():
                os.kill(worker["pid"], signal.SIGKILL)


def test_a_worker_that_ends_well_ends_it_well(trial: Trial) -> None:
    trial.start("hand_over(); note()")
    assert trial.ended() == (0, "")
    (only,) = trial.workers()
    assert only["spec"] == "as it stands"
    assert all(path.exists() for path in trial.left), "an orderly worker removes them itself"


def test_a_worker_that_never_served_is_not_started_again_and_its_exit_code_is_passed_on(trial: Trial) -> None:
    trial.start("note(); sys.exit(4)")
    assert trial.ended() == (4, "")
    trial.start("note(); os.kill(os.getpid(), signal.SIGKILL)")
    assert trial.ended() == (1, "")
    assert len(trial.workers()) == 2


def test_the_next_worker_gets_what_the_first_handed_over(trial: Trial) -> None:
    trial.start("""
if first: hand_over(); note(); os.kill(os.getpid(), signal.SIGKILL)
note(device=seen(told["device_fd"]), listener=seen(told["listener_fd"]))
""")
    code, said = trial.ended()
    assert code == 0
    assert "event=worker-died signal=9 restarts=1 pause_s=0" in said
    first, second = trial.workers()
    assert (first["handover"], second["handover"]) == (None, '{"a": "commit"}')
    assert (first["supervisor"]["restarts"], second["supervisor"]["restarts"]) == (0, 1)
    assert first["ppid"] == second["ppid"] == second["supervisor"]["pid"]
    assert second["device"] == second["listener"] == str(trial.device)


def test_only_the_first_worker_reports_to_the_starter(trial: Trial) -> None:
    reports, report = os.pipe()
    try:
        trial.start(
            """
if first: hand_over(); note(); os.write(told["report_fd"], b"ready"); os.kill(os.getpid(), signal.SIGKILL)
note()
""",
            report=report,
        )
        os.close(report)
        assert trial.ended()[0] == 0
        assert os.read(reports, 100) == b"ready"
        assert os.read(reports, 100) == b"", "nobody holds it any more"
    finally:
        os.close(reports)
    assert trial.workers()[1]["report_fd"] is None


DIES = "if first: hand_over()\nnote(); os.kill(os.getpid(), signal.SIGKILL)"


def test_after_three_deaths_in_a_minute_resent_requests_are_refused_and_after_ten_it_gives_up(trial: Trial) -> None:
    """On the real clock; the pauses, of 10 s in all, are a tenth of what they are."""
    trial.start(DIES, pause=0.1)
    code, said = trial.ended()
    workers = trial.workers()
    assert code == 1
    assert [each["refuse_resent"] for each in workers] == [False] * SUSPICIOUS_DEATHS + [True] * (
        HOPELESS_DEATHS - SUSPICIOUS_DEATHS
    )
    assert said.count("event=worker-died") == HOPELESS_DEATHS - 1
    assert said.count("event=gave-up") == 1
    assert not any(path.exists() for path in trial.left)


def test_deaths_far_apart_are_never_too_many(trial: Trial) -> None:
    """A clock of its own: a quarter of an hour goes by at each look at it."""
    trial.start(
        "if first: hand_over()\nnote()\nif told['supervisor']['restarts'] < 15: os.kill(os.getpid(), signal.SIGKILL)",
        clock="iter(range(0, 10**9, 900)).__next__",
    )
    assert trial.ended()[0] == 0
    assert [each["refuse_resent"] for each in trial.workers()] == [False] * 16


def test_pauses_grow_from_none_to_a_few_seconds_and_leave_room_for_ten_deaths_in_the_window() -> None:
    pauses = [pause_before(deaths) for deaths in range(1, HOPELESS_DEATHS)]
    assert pauses[: SUSPICIOUS_DEATHS - 1] == [0.0] * (SUSPICIOUS_DEATHS - 1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert sum(pauses) < WINDOW_SECONDS / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_passed_on_as_sigterm(trial: Trial, number: signal.Signals) -> None:
    trial.start(f"""
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
hand_over(); note(); os.kill(os.getppid(), {int(number)})
time.sleep(60)
""")
    assert trial.ended() == (0, "")
    assert len(trial.workers()) == 1


REPLACED = """
hand_over() if first else None
note(device=first or seen(told["device_fd"]))
if told["supervisor"]["restarts"] == 0:
    ASK
    said = link.recv(100)
    note(said=said.decode())
    LEAVE
"""


@pytest.mark.parametrize("ask", ['link.send(b"restart")', "os.kill(os.getppid(), signal.SIGHUP)"])
def test_a_restart_puts_a_new_program_in_place_and_then_a_new_worker(trial: Trial, ask: str) -> None:
    trial.start(REPLACED.replace("ASK", ask).replace("LEAVE", f"os._exit({supervisor.LEFT})"))
    code, said = trial.ended()
    first, told, second = trial.workers()
    assert (code, said) == (0, ""), "to be replaced is no death"
    assert told["said"] == "leave"
    assert first["pid"] == told["pid"] != second["pid"]
    assert first["supervisor"]["pid"] == second["supervisor"]["pid"] == second["ppid"]
    assert second["supervisor"]["restarts"] == 1
    assert second["handover"] == '{"a": "commit"}'
    assert second["device"] == str(trial.device)


def test_a_worker_that_dies_instead_of_leaving_is_replaced_all_the_same(trial: Trial) -> None:
    trial.start(REPLACED.replace("ASK", 'link.send(b"restart")').replace("LEAVE", "os.kill(os.getpid(), 9)"))
    assert trial.ended() == (0, "")
    assert len(trial.workers()) == 3


def test_a_restart_before_anything_was_handed_over_is_refused(trial: Trial) -> None:
    trial.start('note(); link.send(b"restart"); sys.exit(3)')
    code, said = trial.ended()
    assert code == 3
    assert "event=not-restarted" in said


def test_it_stays_small() -> None:
    """It imports nothing of the rooms below, nor what is large in the standard library."""
    code = "import sys, hffs.daemon.__main__; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {code}"],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout.split()  # fmt: skip
    assert {name for name in loaded if name.startswith("hffs")} == {
        "hffs", "hffs.daemon", "hffs.daemon.__main__", "hffs.system", "hffs.system.log_format", "hffs.system.sd_notify",
        "hffs.daemon.supervisor",
    }  # fmt: skip
    assert not {"logging", "subprocess", "threading", "dataclasses", "ctypes", "ssl"} & set(loaded)

"""The supervisor with workers of a few lines: what it keeps, how often it restarts them, when it gives up."""

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

# A worker: reads its parameters, hands over two descriptors if it is the first, records itself, then runs BODY.
WORKER = """
import json, os, signal, socket, sys, time
given = json.load(open(int(sys.argv[1])))
link = socket.socket(fileno=given["link_fd"])
first = given["handover"] is None
def note(**more):
    noted = {"pid": os.getpid(), "ppid": os.getppid(), **{k: given[k] for k in ("handover", "supervisor",
               "refuse_resent", "report_fd", "spec")}, **more}
    with open(NOTES, "a") as notes: notes.write(json.dumps(noted) + "\\n")
def hand_over():
    socket.send_fds(link, [b'{"a": "commit"}'], [os.open(DEVICE, os.O_RDWR), os.open(DEVICE, os.O_RDWR)])
def seen(fd):
    return os.readlink(f"/proc/self/fd/{fd}")
"""


class SupervisorProcess:
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
        parameters: dict[str, Any] = {
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
        self.process.stdin.write(json.dumps(parameters))
        self.process.stdin.close()
        self.process.stdin = None
        return self.process

    def ended(self) -> tuple[int, str]:
        assert self.process is not None
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log

    def workers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[SupervisorProcess]:
    made = SupervisorProcess(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.communicate(timeout=10)
        for worker in made.workers():
            if worker["pid"] != os.getpid() and Path(f"/proc/{worker['pid']}").exists():
                os.kill(worker["pid"], signal.SIGKILL)


def test_a_worker_that_succeeds_ends_the_supervisor_with_success(trial: SupervisorProcess) -> None:
    trial.start("hand_over(); note()")
    assert trial.ended() == (0, "")
    (only,) = trial.workers()
    assert only["spec"] == "as it stands"
    assert all(path.exists() for path in trial.left), "an orderly worker removes them itself"


def test_a_worker_that_never_served_is_not_restarted_and_its_exit_code_returned(trial: SupervisorProcess) -> None:
    trial.start("note(); sys.exit(4)")
    assert trial.ended() == (4, "")
    trial.start("note(); os.kill(os.getpid(), signal.SIGKILL)")
    assert trial.ended() == (1, "")
    assert len(trial.workers()) == 2


def test_the_next_worker_gets_the_hand_over_of_the_first(trial: SupervisorProcess) -> None:
    trial.start("""
if first: hand_over(); note(); os.kill(os.getpid(), signal.SIGKILL)
note(device=seen(given["device_fd"]), listener=seen(given["listener_fd"]))
""")
    code, log = trial.ended()
    assert code == 0
    assert "event=worker-died signal=9 restarts=1 pause_s=0" in log
    first, second = trial.workers()
    assert (first["handover"], second["handover"]) == (None, '{"a": "commit"}')
    assert (first["supervisor"]["restarts"], second["supervisor"]["restarts"]) == (0, 1)
    assert first["ppid"] == second["ppid"] == second["supervisor"]["pid"]
    assert second["device"] == second["listener"] == str(trial.device)


def test_only_the_first_worker_reports_to_the_starter(trial: SupervisorProcess) -> None:
    reports, report = os.pipe()
    try:
        trial.start(
            """
if first: hand_over(); note(); os.write(given["report_fd"], b"ready"); os.kill(os.getpid(), signal.SIGKILL)
note()
""",
            report=report,
        )
        os.close(report)
        assert trial.ended()[0] == 0
        assert os.read(reports, 100) == b"ready"
        assert os.read(reports, 100) == b"", "no process holds it any more"
    finally:
        os.close(reports)
    assert trial.workers()[1]["report_fd"] is None


DIES = "if first: hand_over()\nnote(); os.kill(os.getpid(), signal.SIGKILL)"


def test_three_deaths_a_minute_refuse_resent_requests_and_ten_end_it(trial: SupervisorProcess) -> None:
    """On the real clock, with pauses of a tenth of their length (10 s in all)."""
    trial.start(DIES, pause=0.1)
    code, log = trial.ended()
    workers = trial.workers()
    assert code == 1
    assert [each["refuse_resent"] for each in workers] == [False] * SUSPICIOUS_DEATHS + [True] * (
        HOPELESS_DEATHS - SUSPICIOUS_DEATHS
    )
    assert log.count("event=worker-died") == HOPELESS_DEATHS - 1
    assert log.count("event=gave-up") == 1
    assert not any(path.exists() for path in trial.left)


def test_deaths_far_apart_never_end_it(trial: SupervisorProcess) -> None:
    """Each call of the clock adds a quarter of an hour."""
    trial.start(
        "if first: hand_over()\nnote()\nif given['supervisor']['restarts'] < 15: os.kill(os.getpid(), signal.SIGKILL)",
        clock="iter(range(0, 10**9, 900)).__next__",
    )
    assert trial.ended()[0] == 0
    assert [each["refuse_resent"] for each in trial.workers()] == [False] * 16


def test_pauses_grow_and_ten_deaths_fit_into_the_window() -> None:
    pauses = [pause_before(deaths) for deaths in range(1, HOPELESS_DEATHS)]
    assert pauses[: SUSPICIOUS_DEATHS - 1] == [0.0] * (SUSPICIOUS_DEATHS - 1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert sum(pauses) < WINDOW_SECONDS / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_forwarded_as_sigterm(trial: SupervisorProcess, number: signal.Signals) -> None:
    trial.start(f"""
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
hand_over(); note(); os.kill(os.getppid(), {int(number)})
time.sleep(60)
""")
    assert trial.ended() == (0, "")
    assert len(trial.workers()) == 1


REPLACED = """
hand_over() if first else None
note(device=first or seen(given["device_fd"]))
if given["supervisor"]["restarts"] == 0:
    ASK
    message = link.recv(100)
    note(message=message.decode())
    LEAVE
"""


@pytest.mark.parametrize("ask", ['link.send(b"restart")', "os.kill(os.getppid(), signal.SIGHUP)"])
def test_a_restart_replaces_the_program_and_then_the_worker(trial: SupervisorProcess, ask: str) -> None:
    trial.start(REPLACED.replace("ASK", ask).replace("LEAVE", f"os._exit({supervisor.LEFT})"))
    code, log = trial.ended()
    first, asked, second = trial.workers()
    assert (code, log) == (0, ""), "a replaced worker does not count as a death"
    assert asked["message"] == "leave"
    assert first["pid"] == asked["pid"] != second["pid"]
    assert first["supervisor"]["pid"] == second["supervisor"]["pid"] == second["ppid"]
    assert second["supervisor"]["restarts"] == 1
    assert second["handover"] == '{"a": "commit"}'
    assert second["device"] == str(trial.device)


def test_a_worker_that_dies_instead_of_leaving_is_replaced(trial: SupervisorProcess) -> None:
    trial.start(REPLACED.replace("ASK", 'link.send(b"restart")').replace("LEAVE", "os.kill(os.getpid(), 9)"))
    assert trial.ended() == (0, "")
    assert len(trial.workers()) == 3


def test_a_restart_before_the_hand_over_is_refused(trial: SupervisorProcess) -> None:
    trial.start('note(); link.send(b"restart"); sys.exit(3)')
    code, log = trial.ended()
    assert code == 3
    assert "event=not-restarted" in log


def test_the_supervisor_imports_little() -> None:
    """Two small modules of hffs, and nothing that is large in the standard library."""
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

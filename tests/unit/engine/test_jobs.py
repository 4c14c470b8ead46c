"""A job on a thread of its own: its state, its error, and what its report keeps once it has ended."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hffs.engine.jobs import NO_WORKERS, RunningJob
from hffs.errors import HffsError, NotFound

SOON = 10.0


class FakeWork:
    kind: Any = "hydrate"

    def __init__(self, result: bool | Exception = True) -> None:
        self.result = result
        self.started, self.go_on = threading.Event(), threading.Event()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.go_on.set()

    def run(self) -> bool:
        self.started.set()
        assert self.go_on.wait(SOON)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def progress(self, since: int, *, running: bool) -> Any:
        errors = [] if running else [{"path": "a.bin", "what": "refused", "remedy": "", "exit_code": 4}]
        moving = {"bytes_per_s": 5.0, "eta_s": 2.0, "active": [{"path": "a.bin"}], "workers": NO_WORKERS}
        return {"ended": 3, "finished": list(range(3))[since:], "errors": errors, **moving}


def ended(work: FakeWork, **options: Any) -> RunningJob:
    job = RunningJob(work, "acme/tiny", number="7", **options)
    job.start()
    assert work.started.wait(SOON)
    work.go_on.set()
    assert job.join(SOON)
    return job


def test_a_report_while_it_runs_and_after_its_end() -> None:
    work, ends = FakeWork(), list[str]()
    job = RunningJob(work, "acme/tiny", number="7", warning="old", ended=lambda: ends.append(job.state))
    job.start()
    now = job.report(since=1)
    assert (now["id"], now["kind"], now["target"], now["state"]) == ("7", "hydrate", "acme/tiny", "running")
    assert (now["finished"], now["bytes_per_s"], now["warning"]) == ([1, 2], 5.0, "old")
    work.go_on.set()
    assert job.join(SOON)
    now = job.report()
    assert (now["state"], now["bytes_per_s"], now["eta_s"], now["active"]) == ("done", 0.0, None, [])
    assert ends == ["done"]


@pytest.mark.allow_warnings("a bug is logged")
@pytest.mark.parametrize(
    ("result", "what"),
    [
        (False, "refused"),
        (NotFound("nothing fits"), "nothing fits"),
        (MemoryError("no"), "hydrate failed unexpectedly: MemoryError('no')"),
    ],
)
def test_a_failed_job_reports_what_ended_it_first(result: bool | Exception, what: str) -> None:
    now = ended(FakeWork(result)).report()
    assert now["state"] == "failed"
    assert now["errors"][0]["what"] == what
    assert now["errors"][-1]["path"] == "a.bin"


@pytest.mark.parametrize("result", [False, HffsError("closed"), OSError(9, "Bad file descriptor")])
def test_a_cancelled_job_is_cancelled_whatever_it_raises(result: bool | Exception) -> None:
    work = FakeWork(result)
    job = RunningJob(work, "acme/tiny")
    job.start()
    assert work.started.wait(SOON)
    job.cancel()
    assert job.join(SOON)
    assert job.report()["state"] == "cancelled"

"""Jobs of a mount between workers of different versions, and their reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import BlobStore
from hffs.control.http import Request
from hffs.daemon.jobs import _END_LOG, Jobs
from hffs.errors import AccessLapsed
from hffs.transfer import Fetcher
from hffs.vfs import Filesystem
from tests.support.waiting import until
from tests.unit.memory import MemorySource

SOON = 10.0
WHY = "the token has expired"
MakeJobs = Callable[..., Jobs]


@pytest.fixture
def jobs_of(filesystem_of: Callable[..., Filesystem], store: BlobStore, tmp_path: Path) -> Iterator[MakeJobs]:
    made: list[Jobs] = []

    def make(**options: Any) -> Jobs:
        filesystem = filesystem_of()
        fetcher: Fetcher = filesystem.view.snapshot.files._fetcher
        path = str(tmp_path / "x.jobs")
        jobs = Jobs(path, "/mnt/x", filesystem.view, fetcher, store.layout, 1 << 20, **options)
        made.append(jobs)
        return jobs

    yield make
    for jobs in made:
        jobs.stop()


def request(**body: object) -> Request:
    return Request("POST", "/v1/x", {}, json.dumps(body).encode())


def report(jobs: Jobs, name: str) -> Any:
    return jobs.get(Request("GET", "/v1/jobs/x", {}, name=name))


@pytest.mark.allow_warnings("jobs that cannot be resumed are logged")
@pytest.mark.parametrize(
    "unknown", [{"kind": "defragment"}, {"kind": ["verify"]}, {"gently": True}, {"include": "*.bin"}]
)
def test_a_job_of_another_version_is_left_out_and_the_others_are_resumed(
    jobs_of: MakeJobs, tmp_path: Path, unknown: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    requests = [{"id": "a", "target": "/mnt/x", "path": "onnx"}, {"id": "b", "target": "/mnt/x", **unknown}]
    requests.append({"id": "c", "target": "/mnt/x", "kind": "verify"})
    recorded = [{"wish": request, "ended_at": None} for request in requests]
    (tmp_path / "x.jobs").write_text(json.dumps(recorded))
    jobs = jobs_of()
    with caplog.at_level(logging.WARNING):
        jobs.resume()
    assert [(job["id"], job["kind"]) for job in jobs.every()["jobs"]] == [("a", "hydrate"), ("c", "verify")]
    assert "event=job-lost" in caplog.text
    until(lambda: all(job["state"] == "done" for job in jobs.every()["jobs"]))


def test_a_verification_reports_that_mending_waits_for_another_token(jobs_of: MakeJobs, source: MemorySource) -> None:
    jobs = jobs_of(refused=lambda: WHY)
    source.failures = [AccessLapsed(WHY)]
    job = jobs.verify(request(fix=True, require=["onnx/deep/x.bin"]))
    until(lambda: report(jobs, job["id"]).get("waits") == WHY)
    until(lambda: WHY in jobs._fetcher.worker_limit()[1])  # before that there is nothing to resume
    jobs._fetcher.resume()
    until(lambda: report(jobs, job["id"])["state"] == "done")
    assert "waits" not in report(jobs, job["id"])


@pytest.mark.allow_warnings("damage is logged")
def test_cancel_ends_a_verification_whose_mending_waits_for_a_silent_server(
    jobs_of: MakeJobs, source: MemorySource, store: BlobStore
) -> None:
    jobs = jobs_of()
    content = jobs._view.snapshot.files
    reader = content.open(content.entry("onnx/model.onnx"))
    answer = reader.read(0, 10)
    assert isinstance(answer, bytes) or answer.result(SOON)
    reader.close()
    until(lambda: not jobs._fetcher._scheduler._handles)
    (data,) = store.layout.blobs.rglob("*.data")
    with data.open("r+b") as file:
        file.write(b"damaged")
    source.gate.clear()
    job = jobs.verify(request(fix=True))
    until(jobs._fetcher.active_workers)
    ended = jobs.cancel(Request("DELETE", "/v1/jobs/x", {}, name=job["id"]))
    assert ended["state"] == "cancelled"
    source.gate.set()
    until(lambda: not jobs._fetcher._scheduler._handles)


def test_each_end_of_a_job_is_logged_with_as_many_values_as_its_format_has() -> None:
    kinds, states = ("hydrate", "verify"), ("done", "failed", "cancelled")
    assert set(_END_LOG) == {(kind, state) for kind in kinds for state in states}
    for form, names in _END_LOG.values():
        assert form.count("%") == 1 + len(names), form

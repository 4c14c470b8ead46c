"""The file of jobs that a worker leaves to the next: no content of it prevents the next one from starting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hffs.daemon.job_requests import JobRequest
from hffs.daemon.jobs import Jobs

REQUEST = {"id": "a", "target": "/mnt/model", "path": "onnx"}


started: list[JobRequest] = []


class RecordingJobs(Jobs):
    def _start(self, request: JobRequest) -> Any:
        started.append(request)


def resumed(path: Path, text: str) -> list[JobRequest]:
    path.write_text(text)
    started.clear()
    RecordingJobs(str(path), "/mnt/model", *[None] * 3, 1).resume()  # type: ignore[arg-type]
    return list(started)


def test_recorded_requests_are_resumed(tmp_path: Path) -> None:
    recorded = [{"wish": REQUEST, "ended_at": None}, {"wish": {**REQUEST, "kind": "verify"}, "ended_at": 5.0}]
    assert resumed(tmp_path / "jobs", json.dumps(recorded)) == [JobRequest("a", "/mnt/model", "onnx")]


@pytest.mark.allow_warnings("lost jobs are logged")
@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"wish": REQUEST, "ended_at": int("9" * 400)}]),
        json.dumps([{"wish": {**REQUEST, "kind": "delete"}, "ended_at": None}]),
        "[" * 9000,
        '[{"wish": [], "ended_at": null}]',
    ],
    ids=["a time of 400 digits", "another kind", "brackets", "a list"],
)
def test_other_content_starts_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    assert resumed(tmp_path / "jobs", text) == []
    assert "event=job" in caplog.text

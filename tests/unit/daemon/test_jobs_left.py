"""The file of jobs that a worker leaves to the next: nothing in it keeps the next one from starting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hffs.daemon.job_requests import JobRequest
from hffs.daemon.jobs import Jobs

WISH = {"id": "a", "target": "/mnt/model", "path": "onnx"}


class Heard(Jobs):
    def _start(self, wish: JobRequest) -> Any:
        wishes.append(wish)


wishes: list[JobRequest] = []


def resumed(path: Path, text: str) -> list[JobRequest]:
    path.write_text(text)
    wishes.clear()
    Heard(str(path), "/mnt/model", *[None] * 4, 1).resume()  # type: ignore[arg-type]
    return list(wishes)


def test_what_was_asked_for_is_gone_on_with(tmp_path: Path) -> None:
    kept = [{"wish": WISH, "ended_at": None}, {"wish": {**WISH, "kind": "verify"}, "ended_at": 5.0}]
    assert resumed(tmp_path / "jobs", json.dumps(kept)) == [JobRequest("a", "/mnt/model", "onnx")]


@pytest.mark.allow_warnings("jobs are lost, which is told")
@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"wish": WISH, "ended_at": int("9" * 400)}]),
        json.dumps([{"wish": {**WISH, "kind": "delete"}, "ended_at": None}]),
        "[" * 9000,
        '[{"wish": [], "ended_at": null}]',
    ],
    ids=["a time of 400 digits", "another kind", "brackets", "a list"],
)
def test_what_we_never_wrote_is_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    assert resumed(tmp_path / "jobs", text) == []
    assert "event=job" in caplog.text

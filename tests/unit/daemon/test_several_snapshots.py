"""The daemon's parts over a view with two repos: each works on all snapshots, by paths of the mount."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from hffs.control.http import Request
from hffs.daemon.file_routes import FileRoutes
from hffs.daemon.jobs import Jobs
from hffs.daemon.prefetch import Prefetch
from hffs.daemon.status import Reporter
from hffs.errors import EntryNotFound
from hffs.sources.base import OpenAccess
from hffs.vfs import Filesystem, View
from tests.model.views import FILES, MORE, OTHER, Sample, sample
from tests.unit.memory import COMMIT

SOON = 10.0
LEFT, RIGHT = {f"left/{path}" for path in FILES}, {f"right/{path}" for path in MORE}


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Sample]:
    with sample("side by side", tmp_path) as made:
        yield made


@pytest.fixture
def view(given: Sample) -> View:
    view = given.make()
    for snapshot in view.snapshots():
        snapshot.files.listings.everything()
    return view


@pytest.fixture
def jobs(given: Sample, view: View, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(str(tmp_path / "x.jobs"), "/mnt/x", view, given.fetcher, given.store.layout, 1 << 20)
    yield jobs
    jobs.stop()


def post(**body: object) -> Request:
    return Request("POST", "/v1/x", {}, json.dumps(body).encode())


def ended(jobs: Jobs, job: Any) -> Any:
    ends = time.monotonic() + SOON
    while job["state"] == "running":
        assert time.monotonic() < ends
        time.sleep(0.005)
        job = jobs.get(Request("GET", "/v1/jobs/x", {}, name=job["id"]))
    return job


def test_files_are_listed_by_their_paths_in_the_mount(given: Sample, view: View) -> None:
    routes = FileRoutes(view, given.store, given.fetcher)
    every = routes.files(Request("GET", "/v1/files", {}))
    assert {file["path"] for file in every["files"]} == LEFT | RIGHT
    right = routes.files(Request("GET", "/v1/files", {"path": "right"}))
    assert {file["path"] for file in right["files"]} == RIGHT


def test_a_hydration_of_one_folder_leaves_the_other_repo_alone(given: Sample, view: View, jobs: Jobs) -> None:
    job = ended(jobs, jobs.hydrate(post(path="right")))
    assert (job["state"], {file["path"] for file in job["finished"]}) == ("done", RIGHT)
    assert not any(
        snapshot.files.local_bytes(entry) for snapshot in view.snapshots()[:1] for entry in snapshot.visible_files()
    )
    job = ended(jobs, jobs.hydrate(post(path="left/onnx", include=["*.onnx"])))
    assert {file["path"] for file in job["finished"]} == {"left/onnx/model.onnx"}
    assert ended(jobs, jobs.hydrate(post(path="neither")))["state"] == "failed"


def test_a_hydration_and_a_verification_of_all_cover_both_repos(given: Sample, jobs: Jobs) -> None:
    assert {file["path"] for file in ended(jobs, jobs.hydrate(post()))["finished"]} == LEFT | RIGHT
    job = ended(jobs, jobs.verify(post()))
    assert (job["state"], job["files_total"]) == ("done", len(LEFT | RIGHT))


def test_eviction_and_pins_count_by_paths_of_the_mount(given: Sample, view: View, jobs: Jobs) -> None:
    ended(jobs, jobs.hydrate(post()))
    routes = FileRoutes(view, given.store, given.fetcher)
    assert routes.pin(post(path="left"))["blobs"] == sum(1 for size in FILES.values() if size)
    assert routes.evict(post(path="right"))["blobs"] == len(MORE)
    assert routes.evict(post(path="left"))["blobs"] == 0
    (run,) = routes.blocks(Request("GET", "/v1/files/x/blocks", {}, name="left/onnx/model.onnx"))["runs"]
    assert (run["state"], run["count"]) == ("local", 2)
    for path in ("neither", "onnx"):
        with pytest.raises(EntryNotFound):
            routes.evict(post(path=path))


def test_a_status_lists_the_snapshots_and_its_own_keys_are_those_of_the_first(given: Sample, view: View) -> None:
    filesystem = Filesystem(view)
    for path in ("right/README.md", "ref"):
        filesystem.open(view.find(path))
    binding = MagicMock()
    binding.open_nodes.return_value, binding.served.return_value = {}, (False, "")
    parts = MagicMock(store=given.store, fetcher=given.fetcher)
    reporter = Reporter(MagicMock(), "/mnt/x", binding, parts, filesystem, MagicMock(), MagicMock())
    reporter._access.quotas.return_value = {}
    status = reporter.status()
    first, second = status["snapshots"]
    assert (first["path"], first["repo"], second["path"], second["repo"]) == ("left", COMMIT.id, "right", OTHER.id)
    assert (first["files"], second["files"]) == (len(FILES), len(MORE))
    assert {key: status[key] for key in first if key != "path"} == {  # type: ignore[literal-required]
        key: value for key, value in first.items() if key != "path"
    }
    assert {file["path"] for file in status["open_files"]} == {"right/README.md", "ref"}
    assert reporter.record()["repo"] == COMMIT.id
    assert f"acme/tiny@main, commit {COMMIT.sha[:12]}, 1 more" in reporter.summary()
    filesystem.release_all()


def test_the_small_files_of_all_snapshots_are_prefetched(given: Sample, view: View) -> None:
    prefetch = Prefetch(view, OpenAccess())
    prefetch.begin()
    prefetch._answered.set()
    ends = time.monotonic() + SOON
    small = [
        (each, entry) for each in view.snapshots() for entry in each.visible_files() if (entry.size or 0) < 1 << 20
    ]
    while not all(each.files.local_bytes(entry) == entry.size for each, entry in small):
        assert time.monotonic() < ends
        time.sleep(0.005)
    prefetch.stop()

"""Revision records: kept with their times, bounded, and usable without network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache import Index, revisions
from hffs.model import Commit, RepoRef, RepoType
from tests.support.clock import Clock

HUB = "https://hub.example"
REF = RepoRef(RepoType.MODEL, "acme/tiny")


@pytest.fixture
def index(tmp_path: Path, clock: Clock) -> Iterator[Index]:
    made = Index(tmp_path / "index", clock=clock)
    yield made
    made.close()


def commit(sha: str, revision: str = "main", name: str = "acme/tiny") -> Commit:
    return Commit(RepoType.MODEL, name, revision, sha * 40, 1_600_000_000.0, HUB)


def test_a_revision_has_its_last_recorded_commit(index: Index) -> None:
    assert revisions.last_known(index, HUB, REF) is None
    revisions.record(index, "acme/tiny", commit("a"), 100.0)
    revisions.record(index, "acme/tiny", commit("b"), 200.0)
    revisions.record(index, "acme/tiny", commit("b"), 300.0)
    found = revisions.last_known(index, HUB, REF)
    assert found == revisions.RevisionRecord(commit("b"), 200.0, 300.0, current=True)
    assert revisions.last_known(index, HUB, RepoRef(RepoType.MODEL, "acme/tiny", "main")) == found
    for other in (RepoRef(RepoType.DATASET, "acme/tiny"), RepoRef(RepoType.MODEL, "acme/tiny", "v1")):
        assert revisions.last_known(index, HUB, other) is None
    assert revisions.last_known(index, "https://mirror.example", REF) is None


def test_a_full_commit_hash_is_known_once_seen(index: Index) -> None:
    revisions.record(index, "acme/tiny", commit("a"), 100.0)
    revisions.record(index, "acme/tiny", commit("b"), 200.0)
    found = revisions.last_known(index, HUB, RepoRef(RepoType.MODEL, "acme/tiny", "a" * 40))
    assert found is not None
    assert found.commit == commit("a", revision="a" * 40)
    assert revisions.last_known(index, HUB, RepoRef(RepoType.MODEL, "acme/tiny", "c" * 40)) is None


def test_a_renamed_repo_is_found_by_both_names_and_listed_once(index: Index) -> None:
    revisions.record(index, "old/name", commit("a"), 100.0)
    by_old = revisions.last_known(index, HUB, RepoRef(RepoType.MODEL, "old/name"))
    assert by_old is not None
    assert by_old.commit.id == "acme/tiny"
    assert [each.commit.id for each in revisions.records(index)] == ["acme/tiny"]


def test_a_history_is_bounded_and_has_the_latest_first(index: Index) -> None:
    shas = [f"{number:040x}" for number in range(revisions.HISTORY + 3)]
    for at, sha in enumerate(shas):
        revisions.record(index, "acme/tiny", Commit(RepoType.MODEL, "acme/tiny", "main", sha, 0.0, HUB), float(at))
    found = revisions.records(index)
    assert [each.commit.sha for each in found] == shas[::-1][: revisions.HISTORY]
    assert [each.current for each in found] == [True] + [False] * (revisions.HISTORY - 1)


def test_revisions_are_bounded_and_the_oldest_are_dropped(
    index: Index, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "REVISIONS", 8)
    for number in range(9):
        clock.now += 1
        revisions.record(index, "acme/tiny", commit("a", revision=f"v{number}"), clock.now)
    assert [each.commit.revision for each in revisions.records(index)] == ["v3", "v4", "v5", "v6", "v7", "v8"]


def test_unknown_rows_are_ignored(index: Index) -> None:
    revisions.record(index, "acme/tiny", commit("a"), 100.0)
    (key,) = index.keys("revision/")
    for text in ("", "nonsense", "[1]", '[["a", "b"]]', "{}"):
        index.set(key, text)
        assert revisions.last_known(index, HUB, REF) is None
        assert revisions.records(index) == []


def test_forgotten_revisions_are_unknown(index: Index) -> None:
    revisions.record(index, "acme/tiny", commit("a"), 100.0)
    revisions.record(index, "acme/tiny", commit("b", revision="v1"), 100.0)
    revisions.forget(index, HUB, RepoRef(RepoType.MODEL, "acme/tiny", "v1"))
    assert [each.commit.revision for each in revisions.records(index)] == ["main"]
    revisions.forget(index, HUB, REF)
    assert revisions.records(index) == []

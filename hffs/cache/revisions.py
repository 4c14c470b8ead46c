"""The commit of each revision as the Hub last reported it, for use without network.

Stored in the metadata index, a row for each revision of each repo: a convenience, which may be lost; if two processes
record at once, one of the records may be lost. A branch moves, so a row holds the times at which each commit was first
seen and last confirmed; a commit itself never changes. Sends no requests. Any thread.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from ..model import Commit, RepoRef, RepoType
from .index import Index

# Commits kept of one revision, the latest first: two weeks of a branch that moves daily.
HISTORY: Final = 16
# Revisions kept in all, each a row of some 300 bytes; those confirmed longest ago are dropped.
REVISIONS: Final = 4096
DEFAULT: Final = "main"  # the revision when none is given
_PREFIX: Final = "revision/1/"
_SHA: Final = re.compile(r"[0-9a-f]{40}")
_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,96}(/[0-9A-Za-z._-]{1,96})?")
_YEAR_10000: Final = 253_402_300_800


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """``commit.revision`` pointed to this commit when the Hub was asked, first at ``first_seen`` and last at
    ``last_seen`` (seconds since the epoch). ``current``: it is the latest commit known."""

    commit: Commit
    first_seen: float
    last_seen: float
    current: bool


def record(index: Index, asked_as: str, commit: Commit, now: float) -> None:
    """Records that the Hub reported this commit for its revision at ``now``; ``asked_as`` is the repo's name in the
    request, which may be an older one."""
    for name in dict.fromkeys((commit.id, asked_as)):
        key = _key(commit.source, commit.type, name, commit.revision)
        before = _decode(index.get(key))
        first = next((row[3] for row in before if row[1] == commit.sha), now)
        rows = [(commit.id, commit.sha, commit.date, first, now), *(row for row in before if row[1] != commit.sha)]
        index.set(key, json.dumps(rows[:HISTORY], separators=(",", ":")))
    _bound(index)
    index.trim()


def last_known(index: Index, endpoint: str, ref: RepoRef) -> RevisionRecord | None:
    """Returns the revision's commit when the Hub was asked last; for a full commit hash, that commit if it was seen."""
    revision = ref.revision or DEFAULT
    found = _row(index, endpoint, ref.type, ref.id, revision)
    if found:
        return found[0]
    if not _SHA.fullmatch(revision):
        return None
    for each in _records(index, f"{_PREFIX}{endpoint}|{ref.type}|{ref.id}|"):
        if each.commit.sha == revision:
            commit = each.commit
            return RevisionRecord(
                Commit(commit.type, commit.id, revision, revision, commit.date, endpoint),
                each.first_seen,
                each.last_seen,
                current=True,
            )
    return None


def records(index: Index) -> list[RevisionRecord]:
    """Returns all records, of each revision the latest commit first; those of a renamed repo once."""
    return list(dict.fromkeys(_records(index, _PREFIX)))


def forget(index: Index, endpoint: str, ref: RepoRef) -> None:
    """Deletes the records of the repo, or of the revision that ``ref`` names."""
    if ref.revision is not None:
        index.delete(_key(endpoint, ref.type, ref.id, ref.revision))
        return
    for key in index.keys(f"{_PREFIX}{endpoint}|{ref.type}|{ref.id}|"):
        index.delete(key)


def _key(endpoint: str, kind: RepoType, name: str, revision: str) -> str:
    return f"{_PREFIX}{endpoint}|{kind}|{name}|{revision}"  # a bar is in no URL's host, repo's name or revision


def _records(index: Index, prefix: str) -> list[RevisionRecord]:
    found = []
    for key in index.keys(prefix):
        parts = key.removeprefix(_PREFIX).split("|", 3)
        if len(parts) == 4 and parts[1] in set(RepoType):
            found += _row(index, parts[0], RepoType(parts[1]), parts[2], parts[3])
    return found


def _row(index: Index, endpoint: str, kind: RepoType, name: str, revision: str) -> list[RevisionRecord]:
    rows = _decode(index.get(_key(endpoint, kind, name, revision)))
    return [
        RevisionRecord(Commit(kind, row[0], revision, row[1], row[2], endpoint), row[3], row[4], current=number == 0)
        for number, row in enumerate(rows)
    ]


def _decode(text: str | None) -> list[tuple[str, str, float, float, float]]:
    """Returns the rows that ``record`` wrote; none for any other text."""
    try:
        rows = json.loads(text or "[]")
        return [_checked(*row) for row in rows]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []


def _checked(name: str, sha: str, date: float, first: float, last: float) -> tuple[str, str, float, float, float]:
    """Returns a row. Raises ValueError, TypeError, OverflowError for what ``record`` never wrote."""
    times = float(date), float(first), float(last)
    if not _SHA.fullmatch(sha) or not _ID.fullmatch(name) or ".." in name:
        raise ValueError("not a commit of a repo")
    if not all(0 <= each < _YEAR_10000 for each in times):
        raise ValueError("not a time")
    return name, sha, *times


def _bound(index: Index) -> None:
    keys = index.keys(_PREFIX)
    if len(keys) <= REVISIONS:
        return
    ages = sorted(((index.age(key) or 0.0, key) for key in keys), reverse=True)
    for _, key in ages[: len(keys) - REVISIONS * 3 // 4]:
        index.delete(key)

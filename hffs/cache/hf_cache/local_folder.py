"""Local folders that other programs made of a repo: their kind, repo and commit, and their files.

- ``snapshot``: ``<HF_HUB_CACHE>/models--ORG--NAME/snapshots/<commit>``, whose files are named by their hash;
- ``local-dir``: by ``hf download --local-dir``, which records commit, etag and time of each file in .cache/huggingface;
- ``clone``: by git, whose configuration names its remote;
- ``plain``: anything else.

Only read. A folder's content is untrusted: what it says of itself is used only to ask the Hub about it. Any thread.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from ...files import names_in
from ...model import RepoType

FolderKind = Literal["snapshot", "local-dir", "clone", "plain"]
_REPO: Final = re.compile(r"(model|dataset|space)s--(.+)\Z")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}\Z")
_ETAG: Final = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_METADATA: Final = os.path.join(".cache", "huggingface", "download")
_NOT_CONTENT: Final = frozenset({".git", os.path.join(".cache", "huggingface")})
_LONGEST: Final = 1 << 20  # bytes of a git configuration or packed-refs that are read
_HUBS: Final = frozenset({"huggingface.co", "hf.co"})
_SSH: Final = re.compile(r"(?:ssh://)?git@([^:/]+)[:/](.+)\Z")


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """``root`` is the folder of the repo's root, ``subpath`` the part of it that was named ("" for all); ``repo`` and
    ``commit`` are given where the folder records them. ``cache`` is the HF_HUB_CACHE of a snapshot."""

    kind: FolderKind
    root: str
    subpath: str = ""
    repo: tuple[RepoType, str] | None = None
    commit: str | None = None
    cache: str = ""


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file in a folder. ``path`` is relative to the root; ``size`` is None for a dangling link. ``etag`` is what the
    folder records of the file, ``modified``: the file was written after that was recorded."""

    path: str
    real: str
    size: int | None
    link: bool
    etag: str | None = None
    modified: bool = False


def detect(path: str, hub: str = "") -> list[LocalFolder]:
    """Returns what a folder, or the folder of a file, is; several, where it holds several snapshots. ``hub`` is another
    host, besides huggingface.co, whose clones are recognised."""
    full = os.path.abspath(os.path.expanduser(path))
    inside = _snapshot(full)
    if inside is not None:
        return [inside]
    several = [each for folder in _repos(full) for each in _snapshots(folder)]
    if several:
        return several
    root = full if os.path.isdir(full) else os.path.dirname(full)
    while True:
        below = "" if root == full else os.path.relpath(full, root)
        if os.path.isdir(os.path.join(root, _METADATA)):
            return [LocalFolder("local-dir", root, below, commit=_newest(root))]
        if os.path.exists(os.path.join(root, ".git")):
            git = _git(root)
            return [LocalFolder("clone", root, below, _remote(git, hub), _head(git))]
        above = os.path.dirname(root)
        if above == root:
            return [LocalFolder("plain", full)] if os.path.isdir(full) else [LocalFolder("plain", *os.path.split(full))]
        root = above


def files(folder: LocalFolder) -> Iterator[FolderFile]:
    """Yields every file that may be the repo's, in path order. Links to folders are not followed."""
    start = os.path.join(folder.root, folder.subpath) if folder.subpath else folder.root
    if not os.path.isdir(start):
        yield from _file(folder, start)
        return
    for at, names, found in os.walk(start):
        here = os.path.relpath(at, folder.root)
        names[:] = sorted(name for name in names if os.path.normpath(os.path.join(here, name)) not in _NOT_CONTENT)
        for name in sorted(found):
            if os.path.normpath(os.path.join(here, name)) not in _NOT_CONTENT:
                yield from _file(folder, os.path.join(at, name))


def _file(folder: LocalFolder, real: str) -> Iterator[FolderFile]:
    path = os.path.relpath(real, folder.root)
    link = os.path.islink(real)
    try:
        size = os.stat(real).st_size
    except OSError:
        size = None
    if size is not None and not os.path.isfile(real):
        return
    etag, touched = None, False
    if folder.kind == "snapshot" and link:
        name = os.path.basename(os.readlink(real))
        etag = name if _ETAG.match(name) else None
    elif folder.kind == "local-dir":
        etag, touched = _recorded_etag(folder.root, path)
    yield FolderFile(path, real, size, link, etag, touched)


# huggingface_hub's cache


def _snapshot(full: str) -> LocalFolder | None:
    parts = full.split(os.sep)
    for at in range(len(parts) - 1, 1, -1):
        match = _REPO.match(parts[at - 2])
        if match and parts[at - 1] == "snapshots" and _COMMIT.match(parts[at]):
            root, cache = os.sep.join(parts[: at + 1]), os.sep.join(parts[: at - 2])
            repo = RepoType(match[1]), match[2].replace("--", "/")
            return LocalFolder("snapshot", root, os.sep.join(parts[at + 1 :]), repo, parts[at], cache)
    return None


def _repos(full: str) -> list[str]:
    """The folders of repos that this is, or contains."""
    if _REPO.match(os.path.basename(full)):
        return [full]
    return [os.path.join(full, name) for name in names_in(full) if _REPO.match(name)]


def _snapshots(folder: str) -> list[LocalFolder]:
    below = os.path.join(folder, "snapshots")
    found = (_snapshot(os.path.join(below, name)) for name in names_in(below))
    return [each for each in found if each is not None]


# hf download --local-dir (huggingface_hub 2.4, _local_folder.py): commit, etag, seconds since the epoch, a line each


def _recorded_etag(root: str, path: str) -> tuple[str | None, bool]:
    recorded = _metadata(os.path.join(root, _METADATA, f"{path}.metadata"))
    if recorded is None or not _ETAG.match(recorded[1]):
        return None, False
    try:
        # huggingface_hub allows the same tolerance for file system clocks.
        return recorded[1], os.stat(os.path.join(root, path)).st_mtime - 1 > recorded[2]
    except OSError:
        return recorded[1], False


def _newest(root: str) -> str | None:
    newest: tuple[float, str] | None = None
    for folder, _, names in os.walk(os.path.join(root, _METADATA)):
        for name in names:
            recorded = _metadata(os.path.join(folder, name)) if name.endswith(".metadata") else None
            if recorded is not None and _COMMIT.match(recorded[0]):
                newest = max(newest or (recorded[2], recorded[0]), (recorded[2], recorded[0]))
    return newest[1] if newest else None


def _metadata(path: str) -> tuple[str, str, float] | None:
    try:
        commit, etag, text = _text(path).splitlines()[:3]
        at = float(text)
    except ValueError:
        return None
    # With a time that is not finite every file would seem unmodified.
    return (commit.strip(), etag.strip(), at) if math.isfinite(at) else None


# git


def _git(root: str) -> str:
    """The git directory, which is elsewhere for a worktree or submodule (gitrepository-layout(5))."""
    path = os.path.join(root, ".git")
    if os.path.isdir(path):
        return path
    return os.path.join(root, _text(path).strip().removeprefix("gitdir: "))


def _remote(git: str, hub: str) -> tuple[RepoType, str] | None:
    """The repo of the Hub that was cloned, by ``origin`` or else any remote."""
    urls: dict[str, str] = {}
    remote = ""
    # configparser would take hours for a line of many blanks.
    for line in map(str.strip, _text(os.path.join(git, "config")).splitlines()):
        if line.startswith("["):
            remote = line if line.startswith("[remote ") else ""
            continue
        key, equals, value = line.partition("=")
        if remote and equals and key.strip().lower() == "url":
            urls[remote] = value.strip()
    for name in sorted(urls, key=lambda each: each != '[remote "origin"]'):
        found = _repo_of(urls[name], hub)
        if found is not None:
            return found
    return None


def _repo_of(url: str, hub: str) -> tuple[RepoType, str] | None:
    ssh = _SSH.match(url)
    try:
        host, path = (ssh[1], ssh[2]) if ssh else (urlsplit(url).netloc.rpartition("@")[2], urlsplit(url).path)
    except ValueError:
        return None
    if not host or host not in {*_HUBS, hub}:
        return None
    parts = path.strip("/").removesuffix(".git").split("/")
    kind = {"datasets": RepoType.DATASET, "spaces": RepoType.SPACE}.get(parts[0], RepoType.MODEL)
    name = "/".join(parts if kind is RepoType.MODEL else parts[1:])
    return (kind, name) if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else None


def _head(git: str) -> str | None:
    """The commit that is checked out."""
    head = _text(os.path.join(git, "HEAD")).strip()
    if _COMMIT.match(head):
        return head
    name = head.removeprefix("ref: ")
    if name == head or not re.fullmatch(r"refs/[\w./-]+", name) or ".." in name:
        return None
    direct = _text(os.path.join(git, name)).strip()
    if _COMMIT.match(direct):
        return direct
    for line in _text(os.path.join(git, "packed-refs")).splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name and _COMMIT.match(commit):
            return commit
    return None


def _text(path: str) -> str:
    """The text of a file, "" where it cannot be read; a pipe in its place does not block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        with open(fd, encoding="utf-8", errors="replace", closefd=False) as file:
            return file.read(_LONGEST)
    except OSError:
        return ""
    finally:
        os.close(fd)

"""The commands that look: ``ls``, ``info``, ``du``.

Called by ``main`` with parsed arguments; print, and return the exit code. Errors are raised, never printed here.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .. import config
from ..api import inventory, mounts, usage
from ..api.usage import LocalShare, Usage
from ..errors import MountNotFound
from ..model import Entry
from . import output
from .parser import flags


def ls(args: argparse.Namespace) -> int:
    from ..api import repo_info

    found = repo_info.listing(*_named(args, args.repo), recursive=args.recursive, **flags(args))
    if args.json:
        commit = found.commit
        about = {"repo": commit.id, "type": commit.type.value, "revision": commit.revision, "commit": commit.sha}
        output.as_json({**about, "path": found.path, "entries": [_entry(entry) for entry in found.entries]})
        return 0
    rows = [[_size(entry), *_hash(entry), _below(entry, found.path)] for entry in found.entries]
    width = max((len(row[0]) for row in rows), default=0)
    for length, kind, digest, path in rows:
        print(f"{length.rjust(width)}  {kind:<6}  {digest:<12}  {output.shown(path)}")
    return 0


def _size(entry: Entry) -> str:
    return "-" if entry.kind == "directory" else output.size(entry.size)


def _hash(entry: Entry) -> tuple[str, str]:
    digest = entry.digest()
    if digest is None:
        return "", ""
    return digest.algorithm.removesuffix("-sha1"), digest.hex[:12]


def _below(entry: Entry, folder: str) -> str:
    """The path as seen from the folder listed; of a file listed by itself, its name."""
    path = entry.name if entry.path == folder else entry.path[len(folder) :].lstrip("/")
    return f"{path}/" if entry.kind == "directory" else path


def _entry(entry: Entry) -> dict[str, Any]:
    digest = entry.digest()
    hashes = {digest.algorithm.replace("-", "_"): digest.hex} if digest else {}
    return {"path": entry.path, "kind": entry.kind, "size": entry.size, "etag": entry.etag, "lfs": entry.lfs, **hashes}


def info(args: argparse.Namespace) -> int:
    from ..api import repo_info

    repo, kind, revision, subfolder = _named(args, args.repo)
    about = repo_info.repo_info(repo, type=kind, revision=revision, subfolder=subfolder, **flags(args))
    missing = about.bytes_total - about.bytes_local
    if args.json:
        output.as_json({**asdict(about), "bytes_to_fetch": missing})
        return 0
    access = "private" if about.private else "public" if about.private is not None else "not asked, hffs is offline"
    gated = f", gated ({about.gated})" if isinstance(about.gated, str) else ", gated" if about.gated else ""
    size = f"{output.size(about.bytes_total)} in {output.count(about.files, 'file')}"
    lines = [
        ("type", about.type),
        ("revision", about.revision),
        ("commit", about.commit),
        ("date", output.moment(about.date)),
        ("access", access + gated),
        ("size", f"{size}, {output.size(missing)} to fetch"),
    ]
    output.facts(about.repo, lines)
    if about.by_type:
        print()
        _table("TYPE", "(none)", about.by_type)
    return 0


def du(args: argparse.Namespace) -> int:
    where, folder, complete, files, disk = _held(args)
    every = usage.total(files)
    types, folders = usage.by_type(files), usage.by_folder(files, folder)
    if args.json:
        output.as_json(
            {
                "target": args.target,
                "mountpoint": where,
                "complete": complete,
                "files": every.files,
                "bytes_total": every.bytes_total if complete else None,
                "bytes_local": every.bytes_local,
                "bytes_disk": disk,
                "by_folder": [asdict(share) for share in folders],
                "by_type": [asdict(share) for share in types],
            }
        )
        return 0
    if where is None:
        _table("TYPE", "(none)", types)
    else:
        _table("FOLDER", ".", folders)
    seen = "" if complete else ", in the folders seen so far"
    on_disk = f", {output.size(disk)} on disk" if disk else ""
    local = f"{output.share(every.bytes_local, every.bytes_total)} local"
    print(f"{local}, {output.count(every.files, 'file')}{seen}{on_disk}")
    return 0


def _held(args: argparse.Namespace) -> tuple[str | None, str, bool, list[LocalShare], int]:
    """What ``du`` counts: its mountpoint if any, the folder it is seen from, whether that is all of it, the files, and
    what they take on the disk."""
    settings = config.load(flags(args))
    if not (args.type or args.revision or args.subfolder):
        try:
            where, found = mounts.files(args.target, settings.runtime_dir)
        except MountNotFound:
            if mounts.is_path(args.target):
                raise
        else:
            files = _chosen(
                [LocalShare(file["path"], file["size"], file["bytes_local"]) for file in found["files"]], settings
            )
            disk = inventory.bytes_of_mount(where, {file.path for file in files if file.bytes_local}, settings)
            return where, found["path"], found["complete"], files, disk
    from ..api import repo_info

    listing = repo_info.listing(*_named(args, args.target), **flags(args))
    return None, listing.path, True, repo_info.held(listing, settings), inventory.bytes_of_files(listing, settings)


def _chosen(files: list[LocalShare], settings: config.Settings) -> list[LocalShare]:
    if not settings.include and not settings.exclude:
        return files
    from ..vfs import Patterns

    patterns = Patterns(settings.include, settings.exclude)
    return [file for file in files if patterns.match(file.path)]


def _table(header: str, nameless: str, found: list[Usage] | tuple[Usage, ...]) -> None:
    rows = [
        [share.name or nameless, str(share.files), output.size(share.bytes_total), output.size(share.bytes_local)]
        for share in found
    ]
    output.table([header, "FILES", "SIZE", "LOCAL"], rows, right=[1, 2, 3])


def _named(args: argparse.Namespace, repo: str) -> tuple[str, str | None, str | None, str | None]:
    return repo, args.type, args.revision, args.subfolder

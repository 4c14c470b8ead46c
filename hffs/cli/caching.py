"""The commands about the cache as a whole: ``hffs cache list``, ``evict``, ``prune``, ``pin``, ``unpin``, ``check``.

Called by ``main`` with parsed arguments, as ``parser.cache_action`` says; print, and return the exit code. Errors are
raised, never printed here.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from .. import config
from . import output
from .parser import flags

if TYPE_CHECKING:
    from ..api.inventory import EvictResult
    from ..cache.blob_info import BlobInfo
    from ..cache.integrity.fsck import FsckFinding
    from ..cache.inventory import LocalRepo, LocalRevision

_STAY: Final = {
    "pinned": "pinned: hffs cache unpin lets them go",
    "shared": "of other revisions or files too: --shared lets them go",
    "in use": "in use by a mount: try again later, or unmount it",
    "elsewhere": "also a file in a folder of yours: the cache is rid of them, their space is that file's",
    "unreadable": "of a newer hffs, or damaged: hffs cache check tells which",
}
_SECONDS: Final = 1.0  # between two lines about how far a check is


def show(args: argparse.Namespace) -> int:
    """``hffs cache list``"""
    from ..api import inventory

    settings = config.load(flags(args))
    found = inventory.take(settings)
    if args.json:
        repos = [_repo(each) for each in found.repos]
        others = [_other(each) for each in found.others]
        totals = {"blobs": found.blobs, "bytes_disk": found.bytes_disk}
        output.as_json({"cache": settings.cache_dir, **totals, "repos": repos, "others": others})
        return 0
    rows = [_row(repo, revision) for repo in found.repos for revision in repo.revisions]
    if found.others:
        disk = sum(each.bytes_disk for each in found.others)
        last = max(each.last_used for each in found.others)
        blobs = output.count(len(found.others), "blob")
        rows.append(["(of no known revision)", "", blobs, "", output.size(disk), output.moment(last), ""])
    if rows:
        headers = ["REPO", "REVISION", "FILES", "LOCAL", "ON DISK", "LAST USED", "STATE"]
        output.table(headers, rows, right=[4], fold=[0, 1])
    print(f"{output.size(found.bytes_disk)} on disk, {output.count(found.blobs, 'blob')} in {settings.cache_dir}")
    return 0


def _row(repo: LocalRepo, revision: LocalRevision) -> list[str]:
    prefix = "" if repo.type == "model" else f"{repo.type}s/"
    names = [name if name != revision.commit else name[:12] for name in revision.revisions]
    whole = "?" if revision.files is None else str(revision.files)
    words = ["complete" if revision.complete else "partial"]
    if revision.files_complete and revision.files_verified == revision.files_complete:
        words.append("verified")
    if revision.files_pinned:
        words.append("pinned")
    return [
        f"{prefix}{repo.repo}",
        ", ".join(names) or revision.commit[:12],
        f"{revision.files_complete} of {whole}",
        output.share(revision.bytes_local, revision.bytes_total),
        output.size(revision.bytes_disk),
        output.moment(revision.last_used),
        ", ".join(words),
    ]


def _repo(repo: LocalRepo) -> dict[str, Any]:
    told = asdict(repo)
    for each, revision in zip(told["revisions"], repo.revisions, strict=True):
        each["complete"] = revision.complete
    return told


def _other(each: BlobInfo) -> dict[str, Any]:
    shown = {"etag": each.etag, "origin": each.origin, "size": each.size, "bytes_local": each.bytes_local}
    state = {"verified": each.verified is not None, "pinned": each.pinned, "wrong": each.wrong}
    return {**shown, "bytes_disk": each.bytes_disk, "last_used": each.last_used, **state}


def evict(args: argparse.Namespace) -> int:
    from ..api import inventory

    settings = config.load(flags(args))
    for target in args.targets:
        _told(inventory.evict(target, shared=args.shared, settings=settings), target)
    return 0


def prune(args: argparse.Namespace) -> int:
    from ..api import inventory

    let = inventory.prune(older=args.older, settings=config.load(flags(args)))
    if let is None:
        print("nothing: no revision is known here, so none can be said to need nothing; --older goes by use")
        return 0
    _told(let, "")
    return 0


def _told(let: EvictResult, target: str) -> None:
    name = f"{target}: " if target else ""
    print(output.shown(f"{name}{output.size(let.bytes_freed)} freed, {output.count(let.blobs, 'blob')} let go"))
    for why, number in let.stay.items():
        print(f"  {output.count(number, 'blob')} {_STAY[why]}")


def pin(args: argparse.Namespace) -> int:
    return _pin(args, pinned=True)


def unpin(args: argparse.Namespace) -> int:
    return _pin(args, pinned=False)


def _pin(args: argparse.Namespace, *, pinned: bool) -> int:
    from ..api import inventory

    settings = config.load(flags(args))
    for target in args.targets:
        done = inventory.pin(target, pinned, settings=settings)
        word = "pinned" if pinned else "no longer pinned"
        print(output.shown(f"{target}: {output.count(done.blobs, 'blob')} {word}, {done.changed} of them just now"))
        if pinned and done.absent:
            files = output.count(done.absent, "file")
            print(output.shown(f"  {files} not here yet: hffs hydrate {target} and pin it again"))
    return 0


def check(args: argparse.Namespace) -> int:
    from ..api import inventory

    settings = config.load(flags(args))
    watched = not args.json and output.on_terminal(sys.stderr)
    findings: Any = []
    blobs = blocks = size = 0
    told = time.monotonic()
    for step in inventory.check(repair=args.repair, settings=settings):
        blobs, blocks, size = step.blobs, step.blocks, step.bytes
        findings += step.findings
        if not args.json:
            for finding in step.findings:
                print(output.shown(f"{finding.path}: {_what(finding)}"), flush=True)
        if watched and time.monotonic() - told >= _SECONDS:
            told = time.monotonic()
            print(f"{output.count(blobs, 'blob')}, {output.size(size)} looked at", file=sys.stderr)
    damage = [each for each in findings if each.kind == "damage"]
    stays = [each for each in damage if not each.mended]
    if args.json:
        counts = {"blobs": blobs, "blocks": blocks, "bytes": size, "clean": not stays}
        output.as_json({"cache": settings.cache_dir, **counts, "findings": [asdict(each) for each in findings]})
        return 6 if stays else 0
    print(f"{output.count(blobs, 'blob')}, {output.count(blocks, 'block')}, {output.size(size)} looked at")
    if stays:
        print(f"damage in {len(stays)} places: hffs cache check --repair drops it, and it is fetched again")
    else:
        print("no damage" if not damage else "all damage mended: what was dropped is fetched again when it is used")
    return 6 if stays else 0


def _what(finding: FsckFinding) -> str:
    done = {"damage": "dropped", "leftover": "removed", "mark": "forgotten", "newer": ""}[finding.kind]
    return f"{finding.what}; {done}" if finding.mended else finding.what

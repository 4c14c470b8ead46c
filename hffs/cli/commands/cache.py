"""``hffs cache ACTION``: the cached data as a whole. ``adopt`` and ``export`` are in ``hub_cache``.

Each action is a function of the parsed arguments that prints and returns the exit code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...config import parse_seconds
from ...names import shown
from .. import options
from ..display import units
from ..display.tables import print_json, print_table
from ..display.terminal_layout import is_terminal
from ..parser import add_common_options
from . import hub_cache

if TYPE_CHECKING:
    from ...api.inventory import EvictResult
    from ...cache.blob_info import BlobInfo
    from ...cache.inventory import LocalRepo, LocalRevision

EXAMPLES = (
    ("hffs cache list", ""),
    ("hffs cache prune --older 30", "data not used for 30 days"),
    ("hffs cache pin openai/whisper-tiny", ""),
)
_KEPT: Final = {
    "pinned": "pinned: hffs cache unpin allows to evict them",
    "shared": "also used by other revisions or files: --shared evicts them",
    "in use": "in use by a mount: try again later, or unmount it",
    "elsewhere": "also in a folder outside the cache: removed from the cache, but their space is not freed",
    "unreadable": "written by a newer hffs, or damaged: see hffs cache check",
}
_REPAIRED: Final = {"damage": "; dropped", "leftover": "; removed", "mark": "; cleared", "newer": ""}
_PROGRESS_SECONDS: Final = 1.0  # between two lines about the progress of a check


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(
        call: Callable[[argparse.Namespace], int], name: str, about: str, *settings: str
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}."
        )
        made.set_defaults(call=call)
        add_common_options(made)
        options.add_settings(made, ("cache_dir", *settings))
        return made

    which = f"a repo (without @REVISION: all its known revisions), {options.REPO}, or a path in a mount"
    several: Any = {"metavar": "TARGET", "nargs": "+", "help": which}
    options.add_json(action(list_, "list", "list the cached repos and revisions, and how much of each is cached"))

    made = action(evict, "evict", "evict a repo, revision, folder or file", "runtime_dir")
    made.add_argument("targets", **several)
    made.add_argument("--shared", action="store_true", help="also content that other revisions or files share")

    made = action(prune, "prune", "evict what no revision needs as it was last seen", "runtime_dir")
    older = "also all that was not used for so long, complete or not: 30 (days), 12h, 90d"
    made.add_argument("--older", metavar="TIME", type=_days, help=older)

    about = "protect TARGET's cached data from eviction"
    action(partial(pin, pinned=True), "pin", about, "runtime_dir").add_argument("targets", **several)
    about = "allow to evict TARGET's cached data again"
    action(partial(pin, pinned=False), "unpin", about, "runtime_dir").add_argument("targets", **several)

    about = "use files that huggingface_hub has downloaded, without fetching them again"
    hub_cache.declare_adopt(action(hub_cache.adopt, "adopt", about, "hf_cache", "endpoint"))
    about = "export a repo to huggingface_hub's cache, for from_pretrained offline"
    exporting = ("hf_cache", *options.PATTERNS, "workers", "bandwidth", *options.HUB)
    hub_cache.declare_export(action(hub_cache.export, "export", about, *exporting))

    made = action(check, "check", "check all blocks and their records for damage")
    made.add_argument("--repair", action="store_true", help="drop damaged data, to be fetched again, and leftovers")
    options.add_json(made)


def run(args: argparse.Namespace) -> int:
    return int(args.call(args))


def _days(text: str) -> float:
    return parse_seconds(f"{text}d" if text.strip().isdigit() else text)


def list_(args: argparse.Namespace) -> int:
    from ...api import inventory

    settings = options.settings(args)
    found = inventory.take(settings)
    if args.json:
        repos = [_repo_json(each) for each in found.repos]
        others = [_blob_json(each) for each in found.others]
        totals = {"blobs": found.blobs, "bytes_disk": found.bytes_disk}
        print_json({"cache": settings.cache_dir, **totals, "repos": repos, "others": others})
        return 0
    rows = [_row(repo, revision) for repo in found.repos for revision in repo.revisions]
    if found.others:
        disk = sum(each.bytes_disk for each in found.others)
        last = max(each.last_used for each in found.others)
        blobs = units.count(len(found.others), "blob")
        rows.append(["(of no known revision)", "", blobs, "", units.size(disk), units.timestamp(last), ""])
    if rows:
        headers = ["REPO", "REVISION", "FILES", "LOCAL", "ON DISK", "LAST USED", "STATE"]
        print_table(headers, rows, right=[4], fold=[0, 1])
    print(f"{units.size(found.bytes_disk)} on disk, {units.count(found.blobs, 'blob')} in {settings.cache_dir}")
    return 0


def _row(repo: LocalRepo, revision: LocalRevision) -> list[str]:
    prefix = "" if repo.type == "model" else f"{repo.type}s/"
    names = [name if name != revision.commit else name[:12] for name in revision.revisions]
    whole = "?" if revision.files is None else str(revision.files)
    states = ["complete" if revision.complete else "partial"]
    if revision.files_complete and revision.files_verified == revision.files_complete:
        states.append("verified")
    if revision.files_pinned:
        states.append("pinned")
    return [
        f"{prefix}{repo.repo}",
        ", ".join(names) or revision.commit[:12],
        f"{revision.files_complete} of {whole}",
        units.share(revision.bytes_local, revision.bytes_total),
        units.size(revision.bytes_disk),
        units.timestamp(revision.last_used),
        ", ".join(states),
    ]


def _repo_json(repo: LocalRepo) -> dict[str, Any]:
    made = asdict(repo)
    for each, revision in zip(made["revisions"], repo.revisions, strict=True):
        each["complete"] = revision.complete
    return made


def _blob_json(each: BlobInfo) -> dict[str, Any]:
    about = {"etag": each.etag, "origin": each.origin, "size": each.size, "bytes_local": each.bytes_local}
    state = {"verified": each.verified is not None, "pinned": each.pinned, "wrong": each.unusable}
    return {**about, "bytes_disk": each.bytes_disk, "last_used": each.last_used, **state}


def evict(args: argparse.Namespace) -> int:
    from ...api import inventory

    settings = options.settings(args)
    for target in args.targets:
        _print_evicted(inventory.evict(target, shared=args.shared, settings=settings), f"{target}: ")
    return 0


def prune(args: argparse.Namespace) -> int:
    from ...api import inventory

    evicted = inventory.prune(older=args.older, settings=options.settings(args))
    if evicted is None:
        print("nothing pruned: this cache has no known revisions; use --older to prune by last use")
    else:
        _print_evicted(evicted, "")
    return 0


def _print_evicted(result: EvictResult, prefix: str) -> None:
    print(shown(f"{prefix}{units.size(result.bytes_freed)} freed, {units.count(result.blobs, 'blob')} evicted"))
    for reason, number in result.stay.items():
        print(f"  {units.count(number, 'blob')} {_KEPT[reason]}")


def pin(args: argparse.Namespace, *, pinned: bool) -> int:
    from ...api import inventory

    settings = options.settings(args)
    for target in args.targets:
        done = inventory.pin(target, pinned, settings=settings)
        state = "pinned" if pinned else "no longer pinned"
        print(shown(f"{target}: {units.count(done.blobs, 'blob')} {state}, {done.changed} of them newly"))
        if pinned and done.absent:
            files = units.count(done.absent, "file")
            print(shown(f"  {files} not cached yet: hffs hydrate {target} and pin it again"))
    return 0


def check(args: argparse.Namespace) -> int:
    """``hffs verify --all --blocks`` in a format of its own: findings by file of the cache."""
    from ...api import jobs
    from ...api.verify import follow

    printed = time.monotonic()

    def report(now: jobs.Progress) -> None:
        nonlocal printed
        if not now.file and time.monotonic() - printed >= _PROGRESS_SECONDS:
            printed = time.monotonic()
            share = units.share(now.bytes_done, now.bytes_total or None)
            print(f"{share} of {units.count(now.files_total, 'blob')} checked", file=sys.stderr)

    progress = report if not args.json and is_terminal(sys.stderr) else None
    job = jobs.wait(follow(None, blocks=True, fix=args.repair, **options.given(args)), progress)
    if unfinished := [error for error in job["errors"] if not error["path"]]:
        raise jobs.JobFailed(unfinished)
    findings: list[dict[str, Any]] = []
    for found in job.get("findings", []):
        kind = found["kind"] if found["kind"] in _REPAIRED else "damage"
        findings.append({"path": found["path"], "kind": kind, "what": found["what"], "mended": found["mended"]})
    checked = job["checked"]
    blobs = job["files_total"] - checked["others"]
    damage = [each for each in findings if each["kind"] == "damage"]
    left = sum(not each["mended"] for each in damage)
    if args.json:
        counts = {"blobs": blobs, "blocks": checked["blocks"], "bytes": checked["bytes"], "clean": not left}
        print_json({"cache": options.settings(args).cache_dir, **counts, "findings": findings})
        return 6 if left else 0
    for each in findings:
        print(shown(f"{each['path']}: {each['what']}{_REPAIRED[each['kind']] if each['mended'] else ''}"))
    blocks = units.count(checked["blocks"], "block")
    print(f"{units.count(blobs, 'blob')}, {blocks}, {units.size(checked['bytes'])} checked")
    if left:
        print(f"damage in {units.count(left, 'place')}: hffs cache check --repair drops it, to be fetched again")
    else:
        print("all damage repaired: what was dropped is fetched again when it is read" if damage else "no damage")
    return 6 if left else 0

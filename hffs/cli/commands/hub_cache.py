"""``hffs cache adopt`` and ``hffs cache export``: from and to huggingface_hub's cache."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import IntegrityError
from ...names import shown
from .. import options
from ..display import units

if TYPE_CHECKING:
    from ...api.hub_cache import Adopted


def declare_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repos", metavar="REPO", nargs="*", help="[datasets/|spaces/]ORG/NAME (default: all found)")
    parser.add_argument("--type", choices=options.TYPES, help="same as the prefix of REPO")
    options.add_json(parser)


def adopt(args: argparse.Namespace) -> int:
    from ...api import hub_cache

    found = hub_cache.adopt(args.repos, type=args.type, **options.given(args))
    if args.json:
        print(json.dumps([asdict(each) for each in found]))
    else:
        for each in found:
            print(shown(adopted_line(each)))
    for path in (path for each in found for path in each.wrong):
        print(shown(f"hffs: {path} does not match the hash in its name, and is not used"), file=sys.stderr)
    return IntegrityError.exit_code if any(each.wrong for each in found) else 0


def adopted_line(done: Adopted) -> str:
    """``acme/tiny: 5 files, 3.0M adopted (4 in place, 1 reflinked); 2 cached before``."""
    ways = [(done.in_place, "in place"), (done.reflinked, "reflinked")]
    how = ", ".join(f"{number} {way}" for number, way in ways if number)
    files = units.count(done.in_place + done.reflinked, "file")
    line = f"{done.repo}: {files}, {units.size(done.bytes_adopted)} adopted{f' ({how})' if how else ''}"
    rest = [(done.held, "cached before"), (done.skipped, "skipped: being written"), (len(done.wrong), "wrong")]
    more = ", ".join(f"{number} {what}" for number, what in rest if number)
    return f"{line}; {more}" if more else line


def declare_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help=options.REPO)
    options.add_repo_options(parser, subfolder=False)
    parser.add_argument("--no-fetch", action="store_true", help="only cached files; fail when one is missing")
    options.add_json(parser)


def export(args: argparse.Namespace) -> int:
    from ...api import hub_cache

    more = options.given(args)
    done = hub_cache.export(args.repo, type=args.type, revision=args.revision, fetch=not args.no_fetch, **more)
    if args.json:
        print(json.dumps(asdict(done)))
        return 0
    fetched = f"{units.size(done.bytes_fetched)} fetched" if done.bytes_fetched else "nothing was fetched"
    files = f"{units.count(done.files, 'file')}, {units.size(done.bytes_total)}"
    print(shown(f"{done.path}: {files}, verified; {fetched}"))
    return 0

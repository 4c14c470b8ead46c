"""``hffs cache adopt`` and ``hffs cache export``: huggingface_hub's cache used, and written for its tools.

Called by ``main`` with parsed arguments; returns the exit code. Main thread only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from ..errors import IntegrityError
from . import output
from .parser import flags


def adopt(args: argparse.Namespace) -> int:
    from ..api import hub_cache

    found = hub_cache.adopt(args.repos, type=args.type, **flags(args))
    if args.json:
        print(json.dumps([dataclasses.asdict(each) for each in found]))
    else:
        for each in found:
            print(output.shown(told(each.repo, each)))
    for path in (path for each in found for path in each.wrong):
        print(output.shown(f"hffs: {path} is not what its name says, and is not used"), file=sys.stderr)
    return IntegrityError.exit_code if any(each.wrong for each in found) else 0


def told(repo: str, each: Any) -> str:
    """``acme/tiny: 5 files, 3.0M adopted (4 in place, 1 reflinked); 2 were here``."""
    ways = [(each.in_place, "in place"), (each.reflinked, "reflinked")]
    how = ", ".join(f"{number} {way}" for number, way in ways if number)
    files = output.count(each.in_place + each.reflinked, "file")
    line = f"{repo}: {files}, {output.size(each.bytes_adopted)} adopted{f' ({how})' if how else ''}"
    rest = [(each.held, "here already"), (each.skipped, "left: being written"), (len(each.wrong), "wrong")]
    more = ", ".join(f"{number} {what}" for number, what in rest if number)
    return f"{line}; {more}" if more else line


def export(args: argparse.Namespace) -> int:
    from ..api import hub_cache

    done = hub_cache.export(args.repo, type=args.type, revision=args.revision, fetch=not args.no_fetch, **flags(args))
    if args.json:
        print(json.dumps(dataclasses.asdict(done)))
        return 0
    fetched = f"{output.size(done.bytes_fetched)} fetched" if done.bytes_fetched else "nothing was fetched"
    files = f"{output.count(done.files, 'file')}, {output.size(done.bytes_total)}"
    print(output.shown(f"{done.path}: {files}, verified; {fetched}"))
    return 0

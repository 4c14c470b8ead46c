"""``hffs info``: a repo's commit, size and access."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ...names import shown
from .. import options
from ..display import units
from ..display.tables import print_json

EXAMPLES = (("hffs info openai/whisper-tiny", ""), ("hffs info datasets/squad --json", ""))


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help=options.REPO)
    options.add_repo_options(parser)
    options.add_json(parser)
    options.add_settings(parser, options.LISTING)


def run(args: argparse.Namespace) -> int:
    from ...api import repo_info
    from .du import print_usage

    about = repo_info.repo_info(args.repo, **options.repo_options(args), **options.given(args))
    missing = about.bytes_total - about.bytes_local
    if args.json:
        print_json({**asdict(about), "bytes_to_fetch": missing})
        return 0
    access = "unknown, hffs is offline" if about.private is None else "private" if about.private else "public"
    gated = f", gated ({about.gated})" if isinstance(about.gated, str) else ", gated" if about.gated else ""
    size = f"{units.size(about.bytes_total)} in {units.count(about.files, 'file')}"
    facts = [
        ("type", about.type),
        ("revision", about.revision),
        ("commit", about.commit),
        ("date", units.timestamp(about.date)),
        ("access", access + gated),
        ("size", f"{size}, {units.size(missing)} to fetch"),
    ]
    print(shown(about.repo))
    for word, text in facts:
        print(f"  {word:<8}  {shown(text)}")
    if about.by_type:
        print()
        print_usage("TYPE", "(none)", about.by_type)
    return 0

"""``hffs bandwidth``."""

from __future__ import annotations

import argparse

from ...config import parse_size
from .. import options

EXAMPLES = (
    ("hffs bandwidth ~/whisper", "show the limit"),
    ("hffs bandwidth ~/whisper 10M", "10 MiB a second from now on"),
    ("hffs bandwidth ~/whisper 0", "remove the limit"),
)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MOUNTPOINT", help=options.TARGET)
    parser.add_argument("rate", metavar="SIZE", nargs="?", type=parse_size, help="0: no limit")
    options.add_settings(parser, ("runtime_dir",))


def run(args: argparse.Namespace) -> int:
    from ...api import mounts
    from ..display import status_text, units

    directory = options.settings(args).runtime_dir
    if args.rate is not None:
        mounts.set_bandwidth(args.target, args.rate or None, directory)
        return 0
    for each in mounts.status_of(args.target, directory):
        limit = status_text.bandwidth_limit(each)
        print("no limit" if limit is None else units.rate(limit))
    return 0

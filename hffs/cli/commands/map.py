"""``hffs map FILE``: which blocks of a mounted file are local, in flight, queued or absent."""

from __future__ import annotations

import argparse
import sys

from .. import options

EXAMPLES = (("hffs map ~/whisper/model.safetensors", ""),)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="FILE", help="a file in a mount")
    options.add_json(parser)
    options.add_settings(parser, ("runtime_dir",))


def run(args: argparse.Namespace) -> int:
    from ...api import mounts
    from ..display.block_map import block_map
    from ..display.tables import print_json
    from ..display.terminal_layout import page_of, print_lines

    mountpoint, found = mounts.blocks(args.target, options.settings(args).runtime_dir)
    if args.json:
        print_json({"mountpoint": mountpoint, **found})
    else:
        page = page_of(sys.stdout)
        print_lines(block_map(found, page), page)
    return 0

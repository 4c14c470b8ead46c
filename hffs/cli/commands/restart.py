"""``hffs restart``."""

from __future__ import annotations

import argparse

from .. import options

EXAMPLES = (("hffs restart ~/whisper", ""),)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MOUNTPOINT", help=options.TARGET)
    options.add_settings(parser, ("runtime_dir",))


def run(args: argparse.Namespace) -> int:
    from ...api import mounts

    mounts.restart(args.target, options.settings(args).runtime_dir)
    return 0

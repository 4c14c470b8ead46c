"""The commands about mounts: ``mount``, ``unmount``, ``status``.

Called by ``main`` with parsed arguments; print, and return the exit code. Errors are raised, never printed here.
``status`` imports nothing heavy: it must feel instant.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from .. import config
from ..api import mounts
from ..control.messages import Status
from ..errors import MountNotFound
from . import drawing, output, words
from .details import INDENT
from .details import details as one
from .overview import overview
from .parser import flags


def mount(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..api import mount
    from ..daemon import launcher

    names = {"type": args.type, "revision": args.revision, "subfolder": args.subfolder}
    spec = mount.decide(args.repo, args.mountpoint, flags(args), **names)
    if args.foreground and spec.supervised:
        launcher.stay(spec, lambda said: _announce(spec.mountpoint, said))
    if args.foreground:
        from ..daemon import app
        from ..system import log_setup
        from ..system.sd_notify import SdNotify

        log_setup.start(spec.settings, to_stderr=not spec.settings.log_file, journal=config.is_journal(2))
        manager = SdNotify(config.service_manager())
        return app.run(
            spec, lambda said: _announce(spec.mountpoint, said), manager=manager if manager.listens else None
        )
    ready = launcher.start_daemon(spec)
    _announce(spec.mountpoint, {"ready": True, **asdict(ready)})
    return 0


def _announce(where: str, said: Mapping[str, Any]) -> None:
    if said.get("ready"):
        text = f"{said.get('repo', '')} is mounted at {where} (commit {str(said.get('commit', ''))[:12]})"
        print(output.shown(text), flush=True)
        if said.get("warning"):
            print(output.shown(f"hffs: {said['warning']}"), file=sys.stderr)


def unmount(args: argparse.Namespace) -> int:
    mounts.unmount(args.target, args.lazy, config.load(flags(args)).runtime_dir)
    return 0


def bandwidth(args: argparse.Namespace) -> int:
    directory = config.load(flags(args)).runtime_dir
    if args.rate is not None:
        mounts.set_bandwidth(args.target, args.rate or None, directory)
        return 0
    for each in mounts.status_of(args.target, directory):
        limit = words.limit(each)
        print("no limit" if limit is None else output.rate(limit))
    return 0


def restart(args: argparse.Namespace) -> int:
    mounts.restart(args.target, config.load(flags(args)).runtime_dir)
    return 0


def status(args: argparse.Namespace) -> int:
    directory = config.load(flags(args)).runtime_dir
    if args.watch:
        from . import watching

        return watching.watch(args, directory)
    try:
        found = mounts.status_of(args.target, directory) if args.target else mounts.status(directory)
    except MountNotFound:
        if args.json:
            output.as_json({"mounts": []})
        raise
    if args.json:
        output.as_json({"mounts": found})
    elif not found:
        print("no mounts")
    else:
        _print(found, details=args.target is not None)
    return 0


def _print(found: list[Status], *, details: bool) -> None:
    page = drawing.page(sys.stdout)
    now = time.time() if page.bars else None
    if not details:
        lines, indent = overview(found, page, now), 4
    else:
        lines, indent = [], INDENT
        for each in found:
            lines += [[], *one(each, page, now)] if lines else one(each, page, now)
    for line in lines:  # whole: what a sentence says last is what to do
        for piece in drawing.folded(line, page, indent):
            print(drawing.drawn(piece, page))

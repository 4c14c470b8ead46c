"""``hffs ls``: the files of a repo."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...names import shown
from .. import options
from ..display import units

if TYPE_CHECKING:
    from ...model import Entry

EXAMPLES = (("hffs ls openai/whisper-tiny", ""), ("hffs ls -r datasets/squad/plain_text", "a folder and all below it"))


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO[/PATH]", help=options.REPO)
    parser.add_argument("-r", "-R", "--recursive", action="store_true", help="also the content of its folders")
    options.add_repo_options(parser)
    options.add_json(parser)
    options.add_settings(parser, options.LISTING)


def run(args: argparse.Namespace) -> int:
    from ...api import repo_info

    found = repo_info.listing(
        args.repo, *options.repo_options(args).values(), recursive=args.recursive, **options.given(args)
    )
    if args.json:
        from ..display.tables import print_json

        commit = found.commit
        about = {"repo": commit.id, "type": commit.type.value, "revision": commit.revision, "commit": commit.sha}
        print_json({**about, "path": found.path, "entries": [_json(entry) for entry in found.entries]})
        return 0
    sizes = ["-" if entry.kind == "directory" else units.size(entry.size) for entry in found.entries]
    width = max(map(len, sizes), default=0)
    for size, entry in zip(sizes, found.entries, strict=True):
        digest = entry.digest()
        kind, hexes = (digest.algorithm.removesuffix("-sha1"), digest.hex[:12]) if digest else ("", "")
        print(f"{size.rjust(width)}  {kind:<6}  {hexes:<12}  {shown(_relative(entry, found.path))}")
    return 0


def _relative(entry: Entry, folder: str) -> str:
    """The path relative to the listed folder; of a file listed by itself, its name."""
    path = entry.name if entry.path == folder else entry.path[len(folder) :].lstrip("/")
    return f"{path}/" if entry.kind == "directory" else path


def _json(entry: Entry) -> dict[str, Any]:
    digest = entry.digest()
    hashes = {digest.algorithm.replace("-", "_"): digest.hex} if digest else {}
    return {"path": entry.path, "kind": entry.kind, "size": entry.size, "etag": entry.etag, "lfs": entry.lfs, **hashes}

"""Listings: `/tree` with its pages, and `/paths-info`.

Called by `api` on connection threads with a repo and commit already found; keeps no state.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

from .access import no_entry, refusal
from .repos import Commit, Entry, Repo
from .wire import Answer, Request, as_json

EXPANDED_PAGE = 50  # the cap when last commits are asked for


def entry_json(repo: Repo, commit: Commit, entry: Entry, expand: bool) -> dict[str, Any]:
    blob = entry.blob
    line: dict[str, Any] = {
        "type": "directory" if blob is None else "file",
        "oid": entry.oid,
        "size": 0 if blob is None else blob.size,
    }
    if blob is not None and blob.sha256 is not None:
        line["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if entry.path in repo.omit_sizes:
        del line["size"]
        line.get("lfs", {}).pop("size", None)
    line["path"] = entry.path
    if expand:
        last = repo.last_change(commit, entry.path)
        line["lastCommit"] = {"id": last.sha, "title": last.message.partition("\n")[0], "date": last.iso_date}
        if blob is not None:
            line["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
    return line


def tree(request: Request, repo: Repo, commit: Commit, endpoint: str, page_size: int) -> Answer:
    query = request.query
    directory = request.route.file or ""
    recursive, expand = query.get("recursive") == "true", query.get("expand") == "true"
    children = commit.tree.children(directory)
    if children is None:
        return no_entry(commit.sha)
    entries: Sequence[Entry] = list(commit.tree.walk(directory)) if recursive else children
    cap = min(EXPANDED_PAGE, page_size) if expand else page_size
    asked = query.get("limit", "")
    limit = min(int(asked), cap) if asked.isdecimal() and int(asked) else cap
    try:
        start = _read_cursor(query.get("cursor"))
    except (ValueError, KeyError):
        return refusal(400, "Invalid cursor")
    page = [entry_json(repo, commit, entry, expand) for entry in entries[start : start + limit]]
    more = start + limit < len(entries)
    link = next_link(request, endpoint, {"limit": str(limit), "cursor": _cursor(start + limit, limit)}) if more else {}
    return as_json(page, headers=link)


def next_link(request: Request, endpoint: str, changes: dict[str, str]) -> dict[str, str]:
    """Returns the Link header to the next page: absolute, with the same path and the changed query."""
    kept = [(name, value) for name, value in parse_qsl(request.raw_query, True) if name not in changes]
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in [*kept, *changes.items()])
    return {"Link": f'<{endpoint}{request.path}?{query}>; rel="next"'}


def _cursor(start: int, limit: int) -> str:
    """Opaque, and shaped like the real one: base64 of base64 of JSON, and the limit."""
    inner = base64.b64encode(json.dumps({"after": start}).encode()).decode()
    return base64.b64encode(f"{inner}:{limit}".encode()).decode()


def _read_cursor(cursor: str | None) -> int:
    if not cursor:
        return 0
    inner = base64.b64decode(cursor).decode().rpartition(":")[0]
    return int(json.loads(base64.b64decode(inner))["after"])


def paths_info(request: Request, repo: Repo, commit: Commit) -> Answer:
    """Returns entries for the requested paths that exist."""
    if request.headers.get("content-type", "").startswith("application/json"):
        sent = json.loads(request.body or b"{}")
        paths, expand = list(sent.get("paths", [])), bool(sent.get("expand"))
    else:
        form = parse_qsl(request.body.decode(), keep_blank_values=True)
        paths = [value for name, value in form if name in ("paths", "paths[]")]
        expand = dict(form).get("expand") in ("true", "True")
    found = [commit.tree.entry(path.strip("/")) for path in paths]
    return as_json([entry_json(repo, commit, entry, expand) for entry in found if entry is not None])

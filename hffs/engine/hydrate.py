"""A hydration as a job: the files it covers, and what its watchers are told of it.

Used by the daemon for a mount and by the Python API where nothing is mounted. No state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal

from ..control import messages
from ..errors import HffsError, NotFound
from ..model import RemoteFile
from ..policy import Priority
from ..transfer import CommitFiles, Fetcher, Hydration, Part

_FOR: Final[dict[Priority, Literal["demand", "ahead", "background", "bulk"]]] = {
    Priority.DEMAND: "demand",
    Priority.AHEAD: "ahead",
    Priority.BACKGROUND: "background",
    Priority.BULK: "bulk",
}


def matching_files(
    content: CommitFiles, below: str, wanted: Callable[[str], bool], given_up: Callable[[], bool] | None = None
) -> Iterator[tuple[RemoteFile, int]]:
    """The files at or below a path that are ``wanted``, each with its local bytes. Raises what listing may raise, and
    in the end NotFound when there is none.

    With ``given_up``, which ends it early, those in huggingface_hub's cache are taken from there first: whoever wants
    them whole waits for hashing rather than for a server."""
    found = False
    for entry in content.listings.everything():
        inside = not below or entry.path == below or entry.path.startswith(f"{below}/")
        if inside and wanted(entry.path):
            sized = content.sized(entry)
            found = True
            if given_up is not None:
                content.adopt(sized, given_up)
            yield content.remote_file(sized), content.local_bytes(sized)
    if not found:
        raise NotFound(f"nothing of {content.commit.id} fits what was asked for", "see hffs ls, and the patterns")


def hydration_report(
    number: str,
    target: str,
    hydration: Hydration,
    started_at: float,
    fetcher: Fetcher,
    fetched_before: int,
    root: str,
    since: int,
) -> messages.Job:
    """A hydration as its watchers see it."""
    now = hydration.snapshot()
    errors = [_error(part.file.path, part.error, root) for part in now.failed if part.error is not None]
    if now.error is not None:
        errors.insert(0, _error("", now.error, root))
    return {
        "id": number,
        "kind": "hydrate",
        "target": target,
        "state": now.state,
        "started_at": started_at,
        "updated_at": time.time(),
        "bytes_done": now.bytes_done,
        "bytes_total": now.bytes_total,
        "bytes_fetched": fetcher.bytes_fetched - fetched_before,
        "bytes_per_s": now.bytes_per_s,
        "eta_s": now.eta_s,
        "files_done": now.files_done,
        "files_total": now.files_total,
        "active": [_file(part, root) for part in now.active],
        "ended": len(now.ended),
        "finished": [_file(part, root) for part in now.ended[since:]],
        "errors": errors,
        "workers": worker_report(fetcher),
    }


def _file(part: Part, root: str) -> messages.JobFile:
    return {
        "path": relative_path(part.file.path, root),
        "size": part.size,
        "etag": part.file.blob.etag,
        "bytes_done": part.local,
        "state": part.state,
    }


def _error(path: str, error: HffsError, root: str) -> messages.JobError:
    return {"path": relative_path(path, root), "what": error.what, "remedy": error.remedy, "exit_code": error.exit_code}


def relative_path(path: str, root: str) -> str:
    """A path from the repo's root as it is below the folder that was asked for."""
    return path.removeprefix(f"{root}/") if root else path


def worker_report(fetcher: Fetcher) -> messages.Workers:
    """The workers of a mount or of a hydration: what each is at, how fast, and why there are that many."""
    now = time.monotonic()
    limit, why = fetcher.crew()
    working = fetcher.working()
    return {
        "active": len(working),
        "limit": limit,
        "bytes_per_s": fetcher.speed(),
        "why": why,
        "list": [
            {
                "worker": each.worker,
                "path": each.path,
                "for": _FOR[each.priority],
                "offset": each.asked.start,
                "size": each.asked.length,
                "bytes_per_s": each.bytes_per_s,
                "seconds": round(now - each.began, 3),
            }
            for each in working
        ],
    }

"""A hydration as the work of a job: the files it covers, and its progress.

Used by the daemon for a mount and by the Python API where nothing is mounted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ..control.messages import JobFile, JobProgress
from ..errors import NotFound
from ..model import RemoteFile
from ..names import is_below
from ..transfer import CommitFiles, Fetcher, FileProgress, Hydration
from .jobs import job_error, job_file, worker_report


class HydrationWork:
    """``root`` is the folder of the repo that paths are reported from; ``complete`` is called once all files are whole,
    before the job counts as done."""

    kind: Literal["hydrate", "verify"] = "hydrate"

    def __init__(
        self, hydration: Hydration, fetcher: Fetcher, root: str, *, complete: Callable[[], None] = lambda: None
    ) -> None:
        self._hydration = hydration
        self._fetcher = fetcher
        self._fetched_before = fetcher.bytes_fetched
        self._root = root
        self._complete = complete

    @property
    def cancelled(self) -> bool:
        return self._hydration.cancelled

    def cancel(self) -> None:
        self._hydration.cancel()

    def run(self) -> bool:
        complete = self._hydration.run()
        if complete:
            self._complete()
        return complete

    def progress(self, since: int, *, running: bool) -> JobProgress:  # noqa: ARG002 - as Work
        now = self._hydration.progress()
        return {
            "bytes_done": now.bytes_done,
            "bytes_total": now.bytes_total,
            "bytes_fetched": self._fetcher.bytes_fetched - self._fetched_before,
            "bytes_per_s": now.bytes_per_s,
            "eta_s": now.eta_s,
            "files_done": now.files_done,
            "files_total": now.files_total,
            "active": [part_file(part, self._root) for part in now.active],
            "ended": len(now.ended),
            "finished": [part_file(part, self._root) for part in now.ended[since:]],
            "errors": [
                job_error(relative_path(part.file.path, self._root), part.error) for part in now.failed if part.error
            ],
            "workers": worker_report(self._fetcher),
        }


def matching_files(
    content: CommitFiles, below: str, wanted: Callable[[str], bool], cancelled: Callable[[], bool] | None = None
) -> Iterator[tuple[RemoteFile, int]]:
    """The files at or below a path that are ``wanted``, each with its local bytes. Raises what listing may raise, and
    in the end NotFound when there is none.

    With ``cancelled``, which ends it early, files in huggingface_hub's cache are adopted first: a hydration waits for
    their hashing rather than for a server."""
    found = False
    for entry in content.listings.everything():
        if is_below(entry.path, below) and wanted(entry.path):
            sized = content.sized(entry)
            found = True
            if cancelled is not None:
                content.adopt(sized, cancelled)
            yield content.remote_file(sized), content.local_bytes(sized)
    if not found:
        raise NotFound(f"nothing of {content.commit.id} fits what was asked for", "see hffs ls, and the patterns")


def relative_path(path: str, root: str) -> str:
    """A path from the repo's root as it is below the folder ``root`` of it."""
    return path.removeprefix(f"{root}/") if root else path


def part_file(part: FileProgress, root: str = "") -> JobFile:
    return job_file(relative_path(part.file.path, root), part.size, part.file.blob.etag, part.local, part.state)

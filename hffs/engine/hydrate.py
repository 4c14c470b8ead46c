"""A hydration as the work of a job: the files it covers, and its progress.

Used by the daemon for a mount and by the Python API where nothing is mounted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from ..control.messages import JobFile, JobProgress
from ..errors import NotFound
from ..model import RemoteFile
from ..transfer import Fetcher, FileProgress, Hydration
from ..vfs import Selection
from .jobs import job_error, job_file, worker_report

PathOf = Callable[[RemoteFile], str]


class HydrationWork:
    """``path_of`` returns the path that a file is reported under; ``complete`` is called once all files are whole,
    before the job counts as done."""

    kind: Literal["hydrate", "verify"] = "hydrate"

    def __init__(
        self, hydration: Hydration, fetcher: Fetcher, path_of: PathOf, *, complete: Callable[[], None] = lambda: None
    ) -> None:
        self._hydration = hydration
        self._fetcher = fetcher
        self._fetched_before = fetcher.bytes_fetched
        self._path_of = path_of
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
            "active": [part_file(part, self._path_of) for part in now.active],
            "ended": len(now.ended),
            "finished": [part_file(part, self._path_of) for part in now.ended[since:]],
            "errors": [job_error(self._path_of(part.file), part.error) for part in now.failed if part.error],
            "workers": worker_report(self._fetcher),
        }


def matching_files(
    selections: Iterable[Selection], cancelled: Callable[[], bool] | None = None
) -> Iterator[tuple[RemoteFile, int]]:
    """The selected files, each with its local bytes. Raises what listing may raise, and in the end NotFound when there
    is none.

    With ``cancelled``, which ends it early, files in huggingface_hub's cache are adopted first: a hydration waits for
    their hashing rather than for a server."""
    found, repos = False, []
    for selection in selections:
        files = selection.snapshot.files
        repos.append(files.commit.id)
        for entry in files.listings.everything():
            if selection.wanted(entry.path):
                sized = files.sized(entry)
                found = True
                if cancelled is not None:
                    files.adopt(sized, cancelled)
                yield files.remote_file(sized), files.local_bytes(sized)
    if not found:
        repo = ", ".join(repos) or "the mount"
        raise NotFound(f"nothing of {repo} fits what was asked for", "see hffs ls, and the patterns")


def part_file(part: FileProgress, path_of: PathOf = lambda file: file.path) -> JobFile:
    return job_file(path_of(part.file), part.size, part.file.blob.etag, part.local, part.state)

"""Requests for the jobs of a mount, as the control socket gets them and the file beside it records them.

``jobs`` carries them out. Every field is checked, since a request may come from another version or another program.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

log = logging.getLogger(__name__)

# A job that had just ended is started once more by the next worker, and ends at once: its client may not have got the
# last report, and retries for half a minute after a worker died.
RESUME_SECONDS: Final = 60.0
_KINDS: Final = ("hydrate", "verify")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """``path`` is a folder or file below the mount's root, patterns are from the repo's root; ``force`` is for
    hydrations, ``fix`` and ``require`` for verifications."""

    id: str
    target: str
    path: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    kind: Literal["hydrate", "verify"] = "hydrate"
    fix: bool = False
    require: tuple[str, ...] = ()


def to_resume(recorded: Any, now: float) -> list[JobRequest]:
    """The requests in a file's content that are to be resumed. Those that another version wrote with keys or values
    unknown here are left out, since they would be carried out as something else. Raises TypeError for other content."""
    requests = []
    for each in recorded:
        try:
            request, ended_at = job_request(**each["wish"]), each["ended_at"]
            if ended_at is None:
                requests.append(request)
            elif now - ended_at < RESUME_SECONDS:
                requests.append(replace(request, force=False))
        except (TypeError, KeyError, OverflowError) as error:
            log.warning("event=job-lost error=%r", error)
    return requests


def job_request(**values: Any) -> JobRequest:
    """A request from JSON values. Raises TypeError for unknown keys and for values of a wrong type."""
    for name in ("include", "exclude", "require"):
        given = values.get(name, ())
        if not isinstance(given, list | tuple):  # each letter of a text would pass for a pattern
            raise TypeError(f"{name} must be a list")
        values[name] = tuple(given)
    request = JobRequest(**values)
    if request.kind not in _KINDS:
        raise TypeError("unknown kind of job")
    texts = (request.id, request.target, request.path, *request.include, *request.exclude, *request.require)
    flags = (request.force, request.fix)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        raise TypeError("patterns and paths must be text, force and fix true or false")
    return request

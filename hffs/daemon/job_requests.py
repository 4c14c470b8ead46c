"""What a mount's jobs were asked for, as the control socket and the file beside it tell it. Values; no state.

``jobs`` does them. Whoever asks, and whoever left the file, may be of another version, or nobody of ours.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

log = logging.getLogger(__name__)

# A job that had just ended is begun once more by the next worker, and ends at once: whoever follows it may not have
# heard of its end, and asks for half a minute after a worker that died.
HEARD_SECONDS: Final = 60.0
_KINDS: Final = ("hydrate", "verify")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job was asked for: a folder or file below the mount's root, patterns from the repo's root; ``force`` is
    for hydrations, ``fix`` and ``require`` for verifications."""

    id: str
    target: str
    path: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    kind: Literal["hydrate", "verify"] = "hydrate"
    fix: bool = False
    require: tuple[str, ...] = ()


def kept(found: Any, now: float) -> list[JobRequest]:
    """What is to be gone on with of that. What another version wished in words that are not ours is left out, or it
    would be done as something else. Raises TypeError for what we never wrote."""
    wishes = []
    for each in found:
        try:
            wish, ended_at = wish_of(**each["wish"]), each["ended_at"]
            if ended_at is None:
                wishes.append(wish)
            elif now - ended_at < HEARD_SECONDS:
                wishes.append(replace(wish, force=False))
        except (TypeError, KeyError, OverflowError) as wrong:
            log.warning("event=job-lost error=%r", wrong)
    return wishes


def wish_of(**asked: Any) -> JobRequest:
    """Raises TypeError for what cannot be one."""
    for name in ("include", "exclude", "require"):
        given = asked.get(name, ())
        if not isinstance(given, list | tuple):  # of a text every letter is a text too
            raise TypeError("patterns are a list")
        asked[name] = tuple(given)
    wish = JobRequest(**asked)
    if wish.kind not in _KINDS:
        raise TypeError("no kind of job that is known here")
    texts = (wish.id, wish.target, wish.path, *wish.include, *wish.exclude, *wish.require, wish.kind)
    flags = (wish.force, wish.fix)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        raise TypeError("patterns and paths are text")
    return wish

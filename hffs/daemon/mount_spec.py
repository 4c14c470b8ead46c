"""The specification of one mount, complete, as JSON for a pipe.

Made by the Python API and the command line, read by ``hffs.daemon``. It names a token's file, never the token, which
the daemon reads by itself. Values only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..config import Settings
from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class MountSpec:
    """``repo`` as the user wrote it; ``mountpoint`` absolute and real; paths in ``settings`` absolute; ``source`` as
    findmnt and df show it, by default ``repo``; mount(8) compares it with /etc/fstab."""

    repo: str
    mountpoint: str
    settings: Settings
    type: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    source: str | None = None

    @property
    def supervised(self) -> bool:
        """Returns whether another process can take over the binding: only the kernel's own protocol, which ``auto``
        means on Linux."""
        binding = self.settings.binding
        return binding == "kernel" or (binding == "auto" and sys.platform == "linux")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MountSpec:
        """Parses what ``to_json`` wrote. Raises UsageError for anything else."""
        try:
            value = json.loads(text)
            settings = {name: _frozen(item) for name, item in value.pop("settings").items()}
            unknown = set(settings) - {field.name for field in fields(Settings)}
            if unknown:
                raise UsageError(f"no such setting: {', '.join(sorted(unknown))}")
            spec = cls(settings=Settings(**settings), **value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"not a description of a mount ({error})") from error
        if not isinstance(spec.repo, str) or not isinstance(spec.mountpoint, str):
            raise UsageError("not a description of a mount (repo and mountpoint must be text)")
        return spec


def _frozen(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item

"""hffs: a Hugging Face model or dataset as a directory.

The public names of ``hffs.api``, each imported when it is first used: ``import hffs`` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.mounting import Mount, mount
    from .api.repos import RepoInfo, list_files, repo_info

__all__ = ["Mount", "RepoInfo", "list_files", "mount", "repo_info"]
__version__ = "0.1.0"

_HOMES = {
    "Mount": "mounting",
    "mount": "mounting",
    "RepoInfo": "repos",
    "list_files": "repos",
    "repo_info": "repos",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".api.{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

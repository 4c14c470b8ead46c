"""hffs: a Hugging Face model or dataset as a directory.

The public names of ``hffs.api``, each imported when it is first used: ``import hffs`` itself costs nothing. Their types
are in ``__init__.pyi``.
"""

__version__ = "0.2.0"

_HOMES = {
    "Finding": "verify",
    "Hydrated": "hydrate",
    "HydrationFailed": "hydrate",
    "LocalRepo": "inventory",
    "LocalRevision": "inventory",
    "Mount": "mount",
    "Progress": "hydrate",
    "mount": "mount",
    "RepoInfo": "repo_info",
    "VerificationFailed": "verify",
    "Verified": "verify",
    "hydrate": "hydrate",
    "is_available_locally": "inventory",
    "list_files": "repo_info",
    "list_local": "inventory",
    "repo_info": "repo_info",
    "verify": "verify",
}
__all__ = [
    "Finding",
    "Hydrated",
    "HydrationFailed",
    "LocalRepo",
    "LocalRevision",
    "Mount",
    "Progress",
    "RepoInfo",
    "VerificationFailed",
    "Verified",
    "hydrate",
    "is_available_locally",
    "list_files",
    "list_local",
    "mount",
    "repo_info",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".api.{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

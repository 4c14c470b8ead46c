# What `import hffs` offers, for type checkers: the module itself imports each name when it is first used. A stub, not
# `if TYPE_CHECKING`: to import-linter every room that asks for the version would then import the API.
from .api.hydrate import Hydrated, HydrationFailed, Progress, hydrate
from .api.inventory import LocalRepo, LocalRevision, is_available_locally, list_local
from .api.mount import Mount, mount
from .api.repo_info import RepoInfo, list_files, repo_info
from .api.verify import Finding, VerificationFailed, Verified, verify

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
__version__: str

"""Everything that knows a server: which commit a revision is, what it lists, where the bytes are, and the bytes.

The rooms above use the names below and nothing else of this room; huggingface_hub and requests stop here.
"""

from .auth import Auth, Token
from .catalog import Catalog, RepoInfo, TreePage
from .greeting import greet
from .locate import Locator, Place
from .naming import check_name, parse_repo
from .standing import Standing
from .transport import Body, Transport

__all__ = [
    "Auth",
    "Body",
    "Catalog",
    "Locator",
    "Place",
    "RepoInfo",
    "Standing",
    "Token",
    "Transport",
    "TreePage",
    "check_name",
    "greet",
    "parse_repo",
]

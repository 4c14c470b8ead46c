"""Everything that knows a server: which commit a revision is, what it lists, where the bytes are, and the bytes.

The rooms above use the names below and nothing else of this room; huggingface_hub and requests stop here.
"""

from ...names import check_name
from .access import HubAccess
from .auth import Auth, Token
from .catalog import HubCatalog, HubRepoInfo, HubTreePage
from .ping import ping
from .repo_id import parse_repo
from .transport import HttpBody, HttpTransport
from .url_resolver import SignedUrl, UrlResolver

__all__ = [
    "Auth",
    "HttpBody",
    "HttpTransport",
    "HubAccess",
    "HubCatalog",
    "HubRepoInfo",
    "HubTreePage",
    "SignedUrl",
    "Token",
    "UrlResolver",
    "check_name",
    "parse_repo",
    "ping",
]

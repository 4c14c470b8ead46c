"""Addresses of a Hub: a repo's page, a file's content, and the quota that a request is counted to. Pure functions."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

from ...model import Commit, RepoType

API: Final = "api"
RESOLVERS: Final = "resolvers"


def repo_page(endpoint: str, repo_type: RepoType, repo_id: str) -> str:
    """The page of a repo for people, where access is requested."""
    return f"{endpoint}/{repo_type.prefix}{repo_id}"


def resolve_url(commit: Commit, path: str) -> str:
    """Where the Hub answers for a file's content, at the commit itself."""
    base = repo_page(commit.source, commit.type, commit.id)
    return f"{base}/resolve/{quote(commit.sha, safe='')}/{quote(path, safe='/')}"


def bucket_of(url: str) -> str | None:
    """The quota that the Hub counts a request for this URL of its own to: ``resolvers`` for files, ``api`` for the
    rest; None for neither, as the cache that it redirects files to. Source: its documentation of rate limits."""
    path = urlsplit(url).path
    if "/api/resolve-cache/" in path:
        return None
    if "/api/" in path:
        return API
    return RESOLVERS if "/resolve/" in path else None

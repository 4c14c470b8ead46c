"""Access to repos, and the Hub's form of a refusal.

Handlers call `Access.repo`, which returns the repo or the answer to send instead. It reads the hub's tables without a
lock: single dictionary look-ups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .repos import Repo
from .wire import Answer, Request, as_json

REALM = 'Bearer realm="Authentication required", charset="UTF-8"'
BAD_TOKEN = "Invalid credentials in Authorization header"
DISABLED = "Access to this resource is disabled."
SEGMENTS = {"model": "models", "dataset": "datasets", "space": "spaces", "kernel": "kernels"}


def refusal(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    extra = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    if status == 401:
        extra["WWW-Authenticate"] = REALM
    return as_json({"error": message}, status, extra)


def no_entry(commit: str | None = None) -> Answer:
    return refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit} if commit else None)


def no_revision(revision: str) -> Answer:
    # Header values cannot hold everything a revision can.
    shown = revision.encode("ascii", "backslashreplace").decode()
    return refusal(404, f"Invalid rev id: {shown}", "RevisionNotFound")


def repo_page(repo: Repo) -> str:
    return repo.id if repo.type == "model" else f"{SEGMENTS[repo.type]}/{repo.id}"


@dataclass
class Access:
    """All repos, their former names, and the tokens."""

    tokens: dict[str, str]  # token -> user; change it freely
    bare_401: bool
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # (type, id in lower case)
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)  # (type, old id in lower case) -> id

    def user(self, request: Request) -> str | None:
        """Returns the user of a valid token; None without a token."""
        return self.tokens.get(request.token) if request.token else None

    def bad_token(self, request: Request) -> Answer | None:
        """Refuses an unknown token everywhere, on public repos too."""
        if request.token and request.token not in self.tokens:
            return refusal(401, BAD_TOKEN)
        return None

    def repo(self, request: Request, *, content: bool = False) -> Repo | Answer:
        """Returns the requested repo, or the refusal or redirect to send; with `content`, gates count."""
        if (refused := self.bad_token(request)) is not None:
            return refused
        route, user = request.route, self.user(request)
        named = route.repo or ""
        current = self.renamed.get((route.type, named.lower()), named)
        repo = self.repos.get((route.type, current.lower()))
        if repo is None or (repo.private and not repo.admits(user)):
            return self._no_repo(user)
        if repo.id != named:
            location = f"{route.prefix}{repo.id}{route.rest}" + (f"?{request.raw_query}" if request.raw_query else "")
            text = f"Temporary Redirect. Redirecting to {location}"
            return Answer(307, {"Location": location, "Content-Length": str(len(text.encode()))}, [text.encode()])
        if repo.disabled:
            return refusal(403, DISABLED)
        if content and repo.gated and (user is None or user not in repo.granted):
            return self._gated(repo, user)
        return repo

    def _no_repo(self, user: str | None) -> Answer:
        if user is not None:
            return refusal(404, "Repository not found", "RepoNotFound")
        # The Hub sends no code here. Its client then guesses by URL, but over https only, so this one does.
        return refusal(401, "Invalid username or password.", None if self.bare_401 else "RepoNotFound")

    def _gated(self, repo: Repo, user: str | None) -> Answer:
        start = f"Access to {repo.type} {repo.id} is restricted"
        if user is None:
            return refusal(401, f"{start}. You must have access to it and be authenticated to access it.", "GatedRepo")
        where = f"Visit /{repo_page(repo)} to ask for access."
        return refusal(403, f"{start} and you are not in the authorized list. {where}", "GatedRepo")

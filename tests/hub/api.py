"""The routes under `/api/`: repo info, listings, refs, commits, whoami.

Called by the hub on connection threads; keeps no state. Answers have the fields that reading clients use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .access import Access, no_revision, refusal
from .listing import next_link, paths_info, tree
from .repos import Commit, Repo
from .wire import Answer, Request, as_json, plain

COMMITS_PAGE = 50
GATED_FREE = frozenset({"info", "tree", "paths-info", "refs", "commits"})  # of a gated repo these stay public


class Api:
    def __init__(self, access: Access, endpoint: Callable[[], str], page_size: Callable[[], int]) -> None:
        self._access = access
        self._endpoint = endpoint
        self._page_size = page_size

    def answer(self, request: Request) -> Answer:
        kind = request.route.kind
        if request.method not in ("GET", "HEAD") and not (kind == "paths-info" and request.method == "POST"):
            return plain(405, "Method Not Allowed")
        if kind == "agent-harnesses":
            return as_json({})
        if kind == "telemetry":
            return plain(200, "")
        if kind == "whoami":
            return self._whoami(request)
        if kind == "list":
            return self._list(request)
        if request.route.repo is None or kind in ("other", "xet-token"):
            return refusal(404, "Sorry, we can't find the page you are looking for.")
        repo = self._access.repo(request, content=kind not in GATED_FREE)
        if isinstance(repo, Answer):
            return repo
        if kind == "auth-check":
            return plain(200, "OK")
        if kind == "refs":
            return self._refs(request, repo)
        revision = request.route.revision or "main"
        commit = repo.find(revision)
        if commit is None:
            return no_revision(revision)
        if kind == "tree":
            return tree(request, repo, commit, self._endpoint(), self._page_size())
        if kind == "paths-info":
            return paths_info(request, repo, commit)
        if kind == "commits":
            return self._commits(request, repo, commit)
        return as_json(info(request, repo, commit))

    def _whoami(self, request: Request) -> Answer:
        if (refused := self._access.bad_token(request)) is not None:
            return refused
        user = self._access.user(request)
        if user is None:
            return refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "read", "createdAt": "2026-01-01T00:00:00.000Z"}
        auth = {"type": "access_token", "accessToken": token}
        return as_json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})

    def _list(self, request: Request) -> Answer:
        """Public repos of a type, narrowed by author and search."""
        query, repo_type = request.query, request.route.type
        repos = [repo for repo in self._access.repos.values() if repo.type == repo_type and not repo.private]
        wanted = [
            repo
            for repo in sorted(repos, key=lambda repo: repo.id)
            if query.get("author") in (None, repo.id.partition("/")[0]) and query.get("search", "") in repo.id
        ]
        return as_json([{"id": repo.id, "private": False} for repo in wanted])

    def _refs(self, request: Request, repo: Repo) -> Answer:
        def rows(named: dict[str, str], folder: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": folder + name, "targetCommit": sha} for name, sha in sorted(named.items())]

        refs = {
            "branches": rows(repo.branches, "refs/heads/"),
            "tags": rows(repo.tags, "refs/tags/"),
            "converts": rows(repo.converts, "refs/convert/"),
        }
        if request.query.get("include_prs") in ("1", "true", "True"):
            refs["pullRequests"] = rows({str(n): sha for n, sha in repo.pull_requests.items()}, "refs/pr/")
        return as_json(refs)

    def _commits(self, request: Request, repo: Repo, commit: Commit) -> Answer:
        query = request.query
        page = int(query["p"]) if query.get("p", "").isdecimal() else 0
        limit = int(query["limit"]) if query.get("limit", "").isdecimal() else COMMITS_PAGE
        history = list(repo.history(commit))
        rows = []
        for past in history[page * limit : (page + 1) * limit]:
            title, _, message = past.message.partition("\n")
            text = {"title": title, "message": message.strip()}
            row: dict[str, Any] = {"id": past.sha, **text, "authors": [{"user": past.author}], "date": past.iso_date}
            if "formatted" in request.values("expand"):
                row["formatted"] = text
            rows.append(row)
        headers = {"X-Total-Count": str(len(history))}
        if (page + 1) * limit < len(history):
            headers |= next_link(request, self._endpoint(), {"p": str(page + 1)})
        return as_json(rows, headers=headers)


def info(request: Request, repo: Repo, commit: Commit) -> dict[str, Any]:
    blobs = request.query.get("blobs") in ("true", "True", "1")
    whole: dict[str, Any] = {
        "_id": repo.oid,
        "id": repo.id,
        **({"modelId": repo.id} if repo.type == "model" else {}),
        "author": repo.id.partition("/")[0] if "/" in repo.id else None,
        "sha": commit.sha,
        "lastModified": commit.iso_date,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": repo.disabled,
        "tags": list(repo.tags_in_info),
        "downloads": 0,
        "likes": 0,
        **({"library_name": "transformers", "pipeline_tag": "text-generation"} if repo.type == "model" else {}),
        **({"sdk": "static"} if repo.type == "space" else {}),
        "usedStorage": sum(blob.size for blob in commit.tree.files.values()),
        "siblings": [_sibling(repo, path, commit, blobs) for path in commit.tree.files],
    }
    if request.query.get("securityStatus") in ("true", "True", "1"):
        whole["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    if expand := request.values("expand"):
        return {name: value for name, value in whole.items() if name in ("_id", "id", *expand)}
    return whole


def _sibling(repo: Repo, path: str, commit: Commit, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    blob = commit.tree.files[path]
    line: dict[str, Any] = {"rfilename": path, "blobId": blob.oid, "size": blob.size}
    if blob.sha256 is not None:
        line["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if path in repo.omit_sizes:
        del line["size"]
        line.get("lfs", {}).pop("size", None)
    return line

"""`/resolve/`, and `/api/resolve-cache/`, the target of its relative redirect.

Called by the hub on connection threads; keeps no state.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from urllib.parse import quote

from .access import SEGMENTS, Access, no_entry, no_revision
from .content import Blob
from .faults import compress
from .ranged import blob_answer, same_etag
from .repos import Repo
from .signing import Signer
from .wire import Answer, Request, plain

# Suffixes that the Hub serves as text, compressed for a client that offers gzip.
_TEXT_SUFFIXES = (
    ".txt .md .json .jsonl .py .yaml .yml .toml .cfg .ini .csv .tsv .html .xml .js .css .jinja .sh .gitattributes "
    ".gitignore .lock"
)
TEXT_SUFFIXES = frozenset(_TEXT_SUFFIXES.split())
BUILT_IN_TYPES = mimetypes.MimeTypes()  # not the machine's own table, so that answers are the same everywhere


class Resolver:
    def __init__(self, access: Access, signer: Signer, cdn_url: Callable[[], str]) -> None:
        self._access = access
        self._signer = signer
        self._cdn_url = cdn_url

    def resolve(self, request: Request) -> Answer:
        found = self._find(request)
        if isinstance(found, Answer):
            return found
        repo, sha, path, blob = found
        etag = f'"{blob.etag}"'
        headers = {
            "X-Repo-Commit": sha,
            "Accept-Ranges": "bytes",
            "Content-Disposition": disposition(path),
            "X-Linked-Etag": etag,
        }
        if blob.sha256 is not None:
            folder = f"/xet-bridge-us/{repo.oid}/{blob.cdn_hash}"
            location = self._cdn_url() + self._signer.sign(folder, repo_type=repo.type, repo=repo.id, file=path)
            headers |= {"X-Linked-Size": str(blob.size), "Cache-Control": "no-store"}
            return _redirect(302, "Found", location, headers)
        if "if-none-match" in request.headers and same_etag(request.headers["if-none-match"], etag, weak=True):
            return Answer(304, {"ETag": etag, **headers})
        asked = quote(request.path, safe="")
        quoted = quote(path, safe="/", errors="surrogateescape")
        cache = f"/api/resolve-cache/{SEGMENTS[repo.type]}/{repo.id}/{sha}/{quoted}"
        return _redirect(307, "Temporary Redirect", f"{cache}?{asked}=&etag={quote(etag, safe='')}", headers)

    def resolve_cache(self, request: Request) -> Answer:
        found = self._find(request)
        if isinstance(found, Answer):
            return found
        _, sha, path, blob = found
        kind = content_type(path)
        headers = {
            "Content-Type": kind,
            "X-Repo-Commit": sha,
            "Content-Disposition": disposition(path),
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        answer = blob_answer(request, blob, f'"{blob.etag}"', headers)
        if kind.startswith("text/plain") and offers_gzip(request) and answer.status in (200, 206, 416):
            whole = Answer(200, {"ETag": f'"{blob.etag}"', **headers, "Accept-Ranges": "bytes"}, blob.parts())
            compress(whole)
            return whole
        return answer

    def _find(self, request: Request) -> tuple[Repo, str, str, Blob] | Answer:
        repo = self._access.repo(request, content=True)
        if isinstance(repo, Answer):
            return repo
        revision, path = request.route.revision or "", request.route.file or ""
        commit = repo.find(revision)
        if commit is None:
            return no_revision(revision)
        blob = commit.tree.files.get(path)
        if blob is None:
            return no_entry(commit.sha)
        return repo, commit.sha, path, blob


def _redirect(status: int, phrase: str, location: str, headers: dict[str, str]) -> Answer:
    answer = plain(status, f"{phrase}. Redirecting to {location}", headers)
    answer.put("Location", location)
    answer.put("Vary", "Origin, Accept")
    return answer


def offers_gzip(request: Request) -> bool:
    offers = request.headers.get("accept-encoding", "").lower().split(",")
    return any(offer.partition(";")[0].strip() == "gzip" and "q=0" not in offer.replace("q=0.", "") for offer in offers)


def content_type(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if "." in name and "." + name.rpartition(".")[2] in TEXT_SUFFIXES:
        return "text/plain; charset=utf-8"
    return BUILT_IN_TYPES.guess_type(name)[0] or "application/octet-stream"


def disposition(path: str) -> str:
    name = path.rpartition("/")[2]
    plain_name = name.encode("ascii", "replace").decode().replace('"', "%22")
    return f"inline; filename*=UTF-8''{quote(name, safe='', errors='surrogateescape')}; filename=\"{plain_name}\";"

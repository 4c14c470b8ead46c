"""The hub itself: two origins, the repos behind them, and the switches tests use.

`answer` runs on connection threads of `server` and joins the other modules: limits, then access, then the handler,
with the scripted faults around all of it. Tests call the rest from their own threads; one lock guards making content.
"""

# ruff: noqa: A002  (`type` is the Hub's own word for what a repo is)
from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from .access import Access
from .api import Api
from .cdn import Cdn
from .content import Blob, BlobMaker, Content, wants_lfs
from .journal import Journal
from .limits import Limits
from .repos import TYPES, LfsRule, Repo
from .resolve import Resolver
from .routes import classify_api, classify_cdn
from .script import Faults
from .server import Origin
from .shaping import Shape
from .signing import Signer
from .wire import Answer, Request, as_json, plain

BUCKETS = {"resolve": "resolvers", "page": "pages"}  # the rest of the API origin counts as "api"
UNCOUNTED = frozenset({"resolve-cache", "control"})  # the former is an edge cache by its looks


class Hub:
    """A local Hub. Use as a context manager, or call `start` and `stop`.

    Speeds are bytes a second, times seconds. `tokens` maps tokens to users. `clock` (unix time) decides when signed
    URLs expire and rate windows turn.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        connect_latency: float = 0.0,
        per_connection: float | None = None,
        total: float | None = None,
        page_size: int = 1000,
        url_lifetime: float = 3600,
        tokens: Mapping[str, str] | None = None,
        bare_401: bool = False,
        quotas: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
        port: int = 0,
        cdn_port: int = 0,
        journal_file: Path | None = None,
        control: bool = False,
    ) -> None:
        self.shape = Shape(latency, connect_latency, per_connection, total)
        self.page_size = page_size
        self.tokens = dict(tokens if tokens is not None else {"hf_good": "alice"})
        self.journal = Journal(journal_file)
        self.faults = Faults()
        self.limits = Limits(clock, quotas)
        self.signer = Signer(clock, url_lifetime)
        self.access = Access(self.tokens, bare_401)
        self.errors: list[str] = []  # tracebacks of our own mistakes; each was answered with 500
        self._control = control
        self._ports = (port, cdn_port)
        self._lock = RLock()
        self._maker = BlobMaker()
        self._cdn_blobs: dict[str, Blob] = {}
        self._api = Api(self.access, lambda: self.endpoint, lambda: self.page_size)
        self._resolver = Resolver(self.access, self.signer, lambda: self.cdn_origin)
        self._cdn = Cdn(self.signer, self._cdn_blobs)
        self._origins: list[Origin] = []

    # Life.

    def start(self) -> Self:
        def of_cdn(request: Request) -> Request:
            return classify_cdn(request, self.signer)

        shared: dict[str, Any] = {"journal": self.journal, "faults": self.faults, "shape": self.shape}
        try:
            for name, port, classify in zip(("api", "cdn"), self._ports, (classify_api, of_cdn), strict=True):
                self._origins.append(Origin(name, port, classify=classify, answer=self.answer, **shared))
        except OSError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends all connections and threads, and removes temporary files."""
        self.faults.stop()
        for origin in self._origins:
            origin.down()
        self.journal.close()
        self._maker.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return self._origins[0].url

    @property
    def cdn_origin(self) -> str:
        return self._origins[1].url

    def down(self, origin: str | None = None) -> None:
        """Refuses new connections at "api", "cdn" or both, and cuts the existing ones."""
        for one in self._origins:
            if origin in (None, one.name):
                one.down()

    def up(self, origin: str | None = None) -> None:
        """Listens again, at the same ports."""
        for one in self._origins:
            if origin in (None, one.name):
                one.up()

    def cut(self) -> None:
        """Ends every existing connection, like an idle timeout or a restart."""
        for one in self._origins:
            one.cut()

    @property
    def connections(self) -> int:
        return sum(origin.connections for origin in self._origins)

    # Content.

    def add_repo(
        self,
        repo_id: str,
        *,
        type: str = "model",
        files: Mapping[str, Content] | Path | None = None,
        private: bool = False,
        gated: bool | str = False,
        lfs: LfsRule | None = None,
        message: str = "initial commit",
    ) -> Repo:
        """Adds a repo with one commit of these files on main: a mapping of path to content, or a folder."""
        if type not in TYPES:
            raise ValueError(f"no such repo type: {type}")
        repo = Repo(repo_id, type, self._maker, self._lock, self._served, lfs or wants_lfs, private=private)
        repo.gated = "auto" if gated is True else gated or None
        repo.commit(files if files is not None else {}, message=message)
        with self._lock:
            self.access.repos[type, repo_id.lower()] = repo
        return repo

    def repo(self, repo_id: str, type: str = "model") -> Repo:
        return self.access.repos[type, repo_id.lower()]

    def remove_repo(self, repo_id: str, type: str = "model") -> None:
        del self.access.repos[type, repo_id.lower()]

    def rename(self, old: str, new: str, type: str = "model") -> None:
        """Redirects `old` to `new` from now on; a repo that was called `old` takes the new id."""
        with self._lock:
            repo = self.access.repos.pop((type, old.lower()), None)
            if repo is not None:
                repo.id = new
                self.access.repos[type, new.lower()] = repo
            self.access.renamed[type, old.lower()] = new

    def disable(self, repo_id: str, type: str = "model") -> None:
        self.repo(repo_id, type).disabled = True

    def expire_urls(self) -> None:
        """Invalidates every signed URL made so far."""
        self.signer.revoke()

    def _served(self, blob: Blob) -> None:
        self._cdn_blobs[blob.cdn_hash] = blob

    # Answering.

    def answer(self, request: Request) -> Answer:
        try:
            return self.faults.around(request, self._answer)(request)
        except Exception:
            self.errors.append(traceback.format_exc())
            return plain(500, self.errors[-1])

    def _answer(self, request: Request) -> Answer:
        answer = self._cdn.answer(request) if request.origin == "cdn" else self._limited(request)
        answer.headers = {"Date": formatdate(usegmt=True), "X-Request-Id": _request_id(request), **answer.headers}
        return answer

    def _limited(self, request: Request) -> Answer:
        kind = request.route.kind
        if kind in UNCOUNTED:
            return self._handle(request)
        user = self.access.user(request) or "anonymous"
        headers, refused = self.limits.count(BUCKETS.get(kind, "api"), user)
        if refused is not None:
            return refused
        answer = self._handle(request)
        answer.headers |= {"Vary": "Origin", **headers, "X-Powered-By": "huggingface-moon", **answer.headers}
        return answer

    def _handle(self, request: Request) -> Answer:
        kind = request.route.kind
        if kind == "control" and self._control:
            return self._controlled(request)
        if kind == "resolve":
            return self._resolver.resolve(request)
        if kind == "resolve-cache":
            return self._resolver.resolve_cache(request)
        if kind in ("page", "control"):
            return plain(404, "Not Found")
        return self._api.answer(request)

    def _controlled(self, request: Request) -> Answer:
        """For benchmark programs: GET /-/journal, POST /-/journal/clear."""
        if (request.method, request.path) == ("POST", "/-/journal/clear"):
            self.journal.clear()
            return as_json({"cleared": True})
        if (request.method, request.path) != ("GET", "/-/journal"):
            return plain(404, "Not Found")
        counts: dict[str, int] = {}
        sent: dict[str, int] = {}
        records = self.journal.requests()
        for record in records:
            counts[record.kind] = counts.get(record.kind, 0) + 1
            sent[record.kind] = sent.get(record.kind, 0) + record.bytes_sent
        summary: dict[str, Any] = {
            "requests": len(records),
            "requests_by_kind": counts,
            "bytes": sum(sent.values()),
            "bytes_by_kind": sent,
            "connections": len({record.connection for record in records}),
        }
        if "records" in request.query:
            summary["records"] = [record.as_json() for record in records]
        return as_json(summary)


def _request_id(request: Request) -> str:
    sent = request.headers.get("x-request-id") or request.headers.get("x-amzn-trace-id")
    return sent or f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"

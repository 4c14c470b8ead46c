"""Parses a raw path into a route. Pure; the hub calls it once per request, before any other decision.

Ids have one or two segments, so the first literal verb decides where the id ends. Everything stays percent-encoded
until it has been split.
"""

from __future__ import annotations

from dataclasses import replace

from .access import SEGMENTS
from .signing import Signer
from .wire import Request, Route, decode

TYPE_OF = {segment: name for name, segment in SEGMENTS.items()}
VERBS = {
    "revision": "info",
    "tree": "tree",
    "paths-info": "paths-info",
    "refs": "refs",
    "commits": "commits",
    "auth-check": "auth-check",
    "xet-read-token": "xet-token",
}
SINGLE = {"whoami-v2": "whoami", "agent-harnesses": "agent-harnesses", "telemetry": "telemetry"}


def classify_api(request: Request) -> Request:
    return replace(request, route=_api_origin(request.path))


def classify_cdn(request: Request, signer: Signer) -> Request:
    signed = signer.read(request.query)
    if signed is None:
        return replace(request, route=Route("cdn"))
    return replace(request, route=Route("cdn", signed.repo_type, signed.repo, None, signed.file))


def _api_origin(path: str) -> Route:
    segments = path.split("/")[1:]
    if segments[0] == "-":
        return Route("control")
    if segments[0] != "api":
        return _resolve(segments)
    rest = segments[1:]
    if not rest:
        return Route("other")
    if rest[0] == "resolve-cache" and len(rest) > 2 and rest[1] in TYPE_OF:
        return _resolve_cache(TYPE_OF[rest[1]], rest[2:])
    if rest[0] in TYPE_OF:
        return _repo_api(TYPE_OF[rest[0]], rest[1:])
    return Route(SINGLE.get(rest[0], "other"))


def _resolve(segments: list[str]) -> Route:
    repo_type = TYPE_OF.get(segments[0], "model")
    before = segments[:1] if segments[0] in TYPE_OF else []
    rest = segments[len(before) :]
    at = next((at for at in (1, 2) if rest[at : at + 1] == ["resolve"]), None)
    if at is None or len(rest) < at + 3:
        return Route("page")
    return Route(
        "resolve", repo_type, decode("/".join(rest[:at])), decode(rest[at + 1]), decode("/".join(rest[at + 2 :])),
        "/" + "/".join(rest[at:]), "/" + "".join(f"{segment}/" for segment in before),
    )  # fmt: skip


def _resolve_cache(repo_type: str, rest: list[str]) -> Route:
    at = next((at for at in (1, 2) if len(rest) > at + 1 and len(rest[at]) == 40), None)
    if at is None:
        return Route("other")
    return Route(
        "resolve-cache", repo_type, decode("/".join(rest[:at])), rest[at], decode("/".join(rest[at + 1 :])),
        "/" + "/".join(rest[at:]), f"/api/resolve-cache/{SEGMENTS[repo_type]}/",
    )  # fmt: skip


def _repo_api(repo_type: str, rest: list[str]) -> Route:
    if not rest or not rest[0]:
        return Route("list", repo_type)
    at = next((at for at in (1, 2) if len(rest) > at and rest[at] in VERBS), min(len(rest), 2))
    verb = rest[at : at + 1]
    kind = VERBS[verb[0]] if verb and verb[0] in VERBS else "info" if not verb else "other"
    revision = decode(rest[at + 1]) if len(rest) > at + 1 else None
    file = decode("/".join(rest[at + 2 :])).rstrip("/") or None
    tail = "".join(f"/{segment}" for segment in rest[at:])
    return Route(kind, repo_type, decode("/".join(rest[:at])), revision, file, tail, f"/api/{SEGMENTS[repo_type]}/")

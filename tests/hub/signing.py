"""Signed, expiring CDN URLs with CloudFront's parameters: Expires, Policy, Signature, Key-Pair-Id.

`resolve` makes URLs with it, `cdn` checks them. One signer per hub, called from any connection thread; it has no
mutable state but the generation, a single int.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

KEY_PAIR = "K2L8F4GPSG1IFC"


@dataclass(frozen=True, slots=True)
class Signed:
    """What a URL was signed for."""

    path: str
    expires: int
    generation: int
    repo_type: str
    repo: str
    file: str


class Refused(Exception):
    """The URL is expired, revoked, tampered with, or was never signed."""


class Signer:
    def __init__(self, clock: Callable[[], float], lifetime: float) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._generation = 0

    def revoke(self) -> None:
        """Invalidates every URL made so far."""
        self._generation += 1

    def sign(self, path: str, *, repo_type: str, repo: str, file: str) -> str:
        """Returns `path` with a query that is valid until now + lifetime."""
        expires = int(self._clock() + self.lifetime)
        # The real policy is as opaque to clients; ours also remembers which file it was, for the journal.
        policy = {
            "Statement": [{"Resource": path, "Condition": {"DateLessThan": {"AWS:EpochTime": expires}}}],
            "Issue": [self._generation, repo_type, repo, file],
        }
        packed = _pack(json.dumps(policy, separators=(",", ":")).encode())
        name = file.rpartition("/")[2]
        shown = f"inline; filename*=UTF-8''{quote(name, safe='', errors='surrogateescape')};"
        query = {
            "X-Xet-Cas-Uid": "public",
            "response-content-disposition": shown,
            "Expires": str(expires),
            "Policy": packed,
            "Signature": self._signature(packed),
            "Key-Pair-Id": KEY_PAIR,
        }
        return f"{path}?{urlencode(query)}"

    def read(self, query: Mapping[str, str]) -> Signed | None:
        """Returns the content of the query's policy, unchecked; None if it cannot be parsed."""
        try:
            policy = json.loads(_unpack(query["Policy"]))
            statement = policy["Statement"][0]
            generation, repo_type, repo, file = policy["Issue"]
            expires = int(statement["Condition"]["DateLessThan"]["AWS:EpochTime"])
            return Signed(str(statement["Resource"]), expires, generation, repo_type, repo, file)
        except (KeyError, ValueError, TypeError, IndexError):
            return None

    def check(self, path: str, query: Mapping[str, str]) -> Signed:
        """Raises: Refused."""
        signed = self.read(query)
        if signed is None or query.get("Key-Pair-Id") != KEY_PAIR:
            raise Refused("MissingKey")
        good = hmac.compare_digest(self._signature(query["Policy"]), query.get("Signature", ""))
        if not good or signed.path != path or query.get("Expires") != str(signed.expires):
            raise Refused("AccessDenied")
        if signed.generation != self._generation or self._clock() >= signed.expires:
            raise Refused("Request has expired")
        return signed

    def _signature(self, policy: str) -> str:
        return _pack(hmac.digest(self._key, policy.encode(), "sha256"))


def _pack(data: bytes) -> str:
    """Returns base64 in CloudFront's alphabet for URLs."""
    return base64.b64encode(data).decode().translate(str.maketrans("+=/", "-_~"))


def _unpack(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)

"""The state of access to one Hub: whether it refuses us, and how many requests it still allows.

Every request to the Hub's own origin goes through ``HubAccess.exchange``, which adds the present token and records the
response. A refusal or a wait that the Hub asked for is remembered: later requests fail at once with the same error.
Requests with another token are sent, and one request per ``TOKEN_REST`` or ``REPO_REST`` seconds, to learn whether the
refusal still holds. ``HubAccess`` sends
nothing itself. Any thread; no request is sent and no token is read under the lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from ...errors import AccessDenied, AccessLapsed, RateLimited
from ...model import Commit
from ...policy import Quota, RequestPacer
from ..http.errors import MAX_WAIT
from ..http.headers import allowed, retry_after
from ..http.urls import host_of
from .auth import Auth, Token
from .hub_errors import LOG_IN, RequestSubject, refusal
from .urls import RESOLVERS, bucket_of

log = logging.getLogger(__name__)

# Seconds until one request finds out whether a refused token is valid by now. That is rare (a token is replaced, which
# is seen at once), and each such request counts at the Hub as a failed login.
TOKEN_REST: Final = 30.0
# The same for a repo: access that a user has just been granted on its page shows within a few seconds.
REPO_REST: Final = 5.0
# Seconds. Windows last five minutes; their ends are sent in whole seconds and arrive late.
SAME_WINDOW: Final = 15.0
# Refusals that are remembered: of repos, of which a mount has one, and of single files, of which a model may have a few
# hundred.
MAX_REFUSALS: Final = 256


class Response(Protocol):
    """A response of requests or httpx."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    def close(self) -> None: ...


R = TypeVar("R", bound=Response)
_Key = tuple[str, str]  # a bucket and a repo; _ALL for a token that is refused for everything
_ALL: Final[_Key] = ("", "")


@dataclass(slots=True)
class _Refusal:
    """``token`` was refused with ``error``. One request may be sent again at ``retry_at``; until ``lapses_until`` it is
    a lapse (monotonic seconds). ``token_unreadable``: no token could be read, so that nothing was sent."""

    token: Token | None
    error: AccessDenied
    retry_at: float
    lapses_until: float
    token_unreadable: bool = False

    def error_at(self, now: float) -> AccessDenied:
        """A new exception each time: threads that share one would write into one traceback."""
        kind = AccessLapsed if now < self.lapses_until else AccessDenied
        return kind(self.error.what, self.error.remedy, token=self.error.token)


def _rest(key: _Key) -> float:
    return TOKEN_REST if key == _ALL else REPO_REST


class HubAccess:
    """The ``Access`` of a Hub. For ``lapse_seconds`` a refusal of what was granted before is AccessLapsed; ``now``
    gives monotonic seconds."""

    def __init__(self, auth: Auth, *, lapse_seconds: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._lapse = lapse_seconds
        self._now = now
        self._lock = threading.Lock()
        # guarded by _lock
        self._refused: dict[_Key, _Refusal] = {}
        self._refused_files: dict[_Key, _Refusal] = {}  # by bucket and subject, in repos that grant access
        self._granted: set[_Key] = set()
        self._recovered = False
        self._token: Token | None = None  # that the following belong to
        self._quotas: dict[str, Quota] = {}
        self._pacers: dict[str, RequestPacer] = {}
        self._blocked: dict[str, float] = {}  # bucket -> until when
        self._on_answer: Callable[[], None] | None = None

    def exchange(self, about: RequestSubject, url: str, send: Callable[[Token | None], R]) -> R:
        """The response to a request for ``url``, which ``send`` sends with the token it is given; sent once more when
        the token has changed meanwhile. Raises AccessDenied, RateLimited, and what ``send`` raises."""
        bucket = bucket_of(url)
        keys = (_ALL, (bucket, about.repo)) if bucket else ()
        token = self._admit(keys, bucket, about)
        response = send(token)
        try:
            if response.status_code == 401:
                renewed = self._read_token()
                if renewed != token:
                    response.close()
                    token, response = renewed, send(renewed)
            self._record_response(keys, bucket, about, token, response)
        except BaseException:
            response.close()
            raise
        return response

    # --- as Access --------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> AccessDenied | None:
        with self._lock:
            return self._refused[min(self._refused)].error if self._refused else None

    def quotas(self) -> dict[str, Quota]:
        now = self._now()
        with self._lock:
            return {name: quota for name, quota in sorted(self._quotas.items()) if now < quota.resets_at}

    def requests_left(self) -> int | None:
        quota = self.quotas().get(RESOLVERS)
        return None if quota is None else quota.left

    def slow_reason(self) -> str:
        now = self._now()
        quotas = self.quotas()
        with self._lock:
            blocked = {bucket: until - now for bucket, until in self._blocked.items() if now < until}
        if blocked:
            bucket = max(blocked, key=lambda each: blocked[each])
            return f"the Hub takes no request of the kind {bucket!r} for {blocked[bucket]:.0f} s"
        for bucket, quota in quotas.items():
            if interval := quota.interval(now):
                few = f"{quota.left} requests of the kind {bucket!r} are left for {quota.resets_at - now:.0f} s"
                share = f"one in {interval:.1f} s" if quota.spare() else "none of them"
                return f"{few}: background work may use {share}"
        return ""

    def on_next_answer(self, callback: Callable[[], None]) -> None:
        with self._lock:
            self._on_answer = callback

    def recovered(self) -> bool:
        """As ``Access.recovered``, also by a changed token, which is read only while something is refused."""
        with self._lock:
            refused = bool(self._refused)
        if refused:
            try:
                token = self._auth.token()
            except AccessDenied:
                return False
            with self._lock:
                self._drop_other_tokens(token)
        with self._lock:
            recovered, self._recovered = self._recovered, False
        if recovered:
            log.info("event=access-tried-again")
        return recovered

    def assume_granted(self, commit: Commit) -> None:
        with self._lock:
            self._granted |= {_ALL, (RESOLVERS, RequestSubject.of_commit(commit).repo)}

    def background_delay(self, bucket: str = RESOLVERS) -> float:
        """Seconds that a request of this kind should be put off when no reader waits for it; 0: it may be sent, and is
        counted as sent."""
        now = self._now()
        with self._lock:
            blocked = self._blocked.get(bucket, now) - now
            if blocked > 0:
                return blocked
            quota = self._quotas.get(bucket)
            delay = self._pacers.setdefault(bucket, RequestPacer()).wait(quota, now)
            if not delay and quota is not None:  # counted before its response, for the next caller
                self._quotas[bucket] = replace(quota, left=max(0, quota.left - 1))
            return delay

    # --- before a request -------------------------------------------------------------------------------------------

    def _admit(self, keys: tuple[_Key, ...], bucket: str | None, about: RequestSubject) -> Token | None:
        """The token to send. Raises what is remembered, unless it is time to find out whether it still holds."""
        token = self._read_token()
        now = self._now()
        with self._lock:
            self._drop_other_tokens(token)
            if token != self._token:  # another user, with quotas of its own
                self._token, self._quotas, self._pacers, self._blocked = token, {}, {}, {}
            for key in keys:
                refused = self._refused.get(key)
                if refused is None:
                    continue
                if now < refused.retry_at:
                    raise refused.error_at(now)
                refused.retry_at = now + _rest(key)
            refused = self._refused_files.get((bucket or "", str(about)))
            if refused is not None and refused.token == token and now < refused.retry_at:
                raise refused.error_at(now)
            wait = self._blocked.get(bucket or "", now) - now
        if wait > 0:
            what = f"{host_of(about.endpoint)} asks us to wait for {wait:.0f} s: too many requests"
            raise RateLimited(what, "" if token else f"{LOG_IN} for a higher limit", wait)
        return token

    def _read_token(self) -> Token | None:
        try:
            return self._auth.token()
        except AccessDenied as error:
            now = self._now()
            with self._lock:
                if _ALL not in self._refused:
                    self._refuse(_ALL, None, error, now, token_unreadable=True)
                refused = self._refused[_ALL]
                raise refused.error_at(now) if refused.token_unreadable else error from None

    def _drop_other_tokens(self, token: Token | None) -> None:
        """Forgets the refusals of other tokens; the caller holds the lock."""
        kept = {key: each for key, each in self._refused.items() if each.token == token and not each.token_unreadable}
        self._recovered = self._recovered or len(kept) < len(self._refused)
        self._refused = kept

    # --- after it ---------------------------------------------------------------------------------------------------

    def _record_response(
        self, keys: tuple[_Key, ...], bucket: str | None, about: RequestSubject, token: Token | None, response: Response
    ) -> None:
        """Raises AccessDenied when the response refuses access."""
        status, headers, now = response.status_code, response.headers, self._now()
        self._record_quota(token, headers, now)
        if not bucket:
            return
        if bucket == RESOLVERS:
            with self._lock:
                callback, self._on_answer = self._on_answer, None
            if callback is not None:
                callback()
        if status == 429:
            self._block_requests(bucket, token, headers, now)
        elif status in (401, 403):
            error = refusal(about, status, headers, remedy=self._auth.login_hint())
            if isinstance(error, AccessDenied):
                if about.path and status == 403 and not headers.get("x-error-code"):
                    raise self._refuse_file((bucket, str(about)), token, error, now)
                key = _ALL if error.token else keys[1]
                with self._lock:
                    self._refuse(key, token, error, now)
                    raise self._refused[key].error_at(now)
        elif status < 400 or headers.get("x-error-code") == "EntryNotFound":
            with self._lock:
                self._granted |= set(keys)
                for key in keys:
                    self._recovered = self._refused.pop(key, None) is not None or self._recovered

    def _refuse(
        self, key: _Key, token: Token | None, error: AccessDenied, now: float, *, token_unreadable: bool = False
    ) -> None:
        """The caller holds the lock."""
        before = self._refused.get(key)
        if before is not None and before.token == token:
            lapses_until = before.lapses_until
        else:
            lapses_until = now + self._lapse if key in self._granted else now
        self._refused[key] = _Refusal(token, error, now + _rest(key), lapses_until, token_unreadable)
        while len(self._refused) > MAX_REFUSALS:
            self._refused.pop(next(iter(self._refused)))
        if before is None:
            log.info("event=access-refused why=%s", error)

    def _refuse_file(self, key: _Key, token: Token | None, error: AccessDenied, now: float) -> AccessDenied:
        """The error to raise: this file is refused for a reason of its own, which says nothing about the others."""
        refused = _Refusal(token, error, now + REPO_REST, now)
        with self._lock:
            new = key not in self._refused_files
            self._refused_files[key] = refused
            while len(self._refused_files) > MAX_REFUSALS:
                self._refused_files.pop(next(iter(self._refused_files)))
        if new:
            log.info("event=file-refused why=%s", error)
        return refused.error_at(now)

    def _record_quota(self, token: Token | None, headers: Mapping[str, str], now: float) -> None:
        found = allowed(headers)
        if found is None:
            return
        with self._lock:
            if token != self._token:
                return
            left, resets_at, before = found.left, now + min(found.seconds, MAX_WAIT), self._quotas.get(found.bucket)
            if before is not None and resets_at < before.resets_at + SAME_WINDOW and now < before.resets_at:
                left = min(left, before.left)  # responses overtake each other; in one window the number only falls
            self._quotas[found.bucket] = Quota(left, found.limit, resets_at)

    def _block_requests(self, bucket: str, token: Token | None, headers: Mapping[str, str], now: float) -> None:
        """No request of this kind before the server's time; a date, by the server's clock, is left to the retry."""
        seconds = headers.get("retry-after") or ""
        wait = retry_after(
            {"ratelimit": headers.get("ratelimit") or "", "retry-after": seconds if seconds.isdecimal() else ""}, now
        )
        if not wait:
            return
        with self._lock:
            if token == self._token:
                self._blocked[bucket] = now + min(wait, MAX_WAIT)
        log.info("event=rate-limited bucket=%s wait=%.0f", bucket, wait)

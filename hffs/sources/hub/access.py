"""How we stand with one Hub: whether it lets us in, and how many requests it still allows.

Every request to the Hub's own origin goes through ``HubAccess.exchange``, which gives it the token of the moment and
looks at the answer. What the Hub has refused, and whom it has asked to wait, is remembered: the next who ask hear the
same at once and the Hub is left alone, but for one request a while that finds out whether it thinks otherwise by now;
and a token that has changed is a new case at once. Sends nothing itself. Any thread; the lock is held across no request
and no reading of the token.
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
from ..http.headers import allowed, retry_after
from .auth import Auth, Token
from .http_errors import LOG_IN, LONGEST_WAIT, RequestSubject, refusal
from .urls import RESOLVERS, bucket_of, host_of

log = logging.getLogger(__name__)

# Seconds until one request finds out whether a refused token is good by now. That happens seldom (it is replaced, which
# is seen at once), and each such request counts at the Hub as a failed login.
TOKEN_REST: Final = 30.0
# The same for a repo: whoever asked for access on its page, and got it, looks again in a few seconds.
REPO_REST: Final = 5.0
# Seconds. Windows last five minutes and their ends are told in whole seconds, some time before they are heard of.
SAME_WINDOW: Final = 15.0
# Refused repos that are remembered. A mount has one. And single files, of which a model may have a few hundred.
MOST_REFUSED: Final = 256


class Answer(Protocol):
    """A response of requests or httpx."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    def close(self) -> None: ...


A = TypeVar("A", bound=Answer)
_Key = tuple[str, str]  # a bucket and a repo; of a token that is refused for all: two empty ones
_ALL: Final[_Key] = ("", "")


@dataclass(slots=True)
class _Refused:
    """``token`` was refused with ``error``; one request may ask again at ``again``, and until ``lapsed_until`` another
    token is hoped for (monotonic seconds). ``unread``: there was no token to be had at all."""

    token: Token | None
    error: AccessDenied
    again: float
    lapsed_until: float
    unread: bool = False

    def raised(self, now: float) -> AccessDenied:
        """A new one each time: threads that share one would write into one traceback."""
        kind = AccessLapsed if now < self.lapsed_until else AccessDenied
        return kind(self.error.what, self.error.remedy, token=self.error.token)


def _rest(key: _Key) -> float:
    return TOKEN_REST if key == _ALL else REPO_REST


class HubAccess:
    """For ``lapse_seconds`` a refusal of what was given before is AccessLapsed; ``now`` gives monotonic seconds."""

    def __init__(self, auth: Auth, *, lapse_seconds: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._lapse = lapse_seconds
        self._now = now
        self._lock = threading.Lock()
        # guarded by _lock
        self._refused: dict[_Key, _Refused] = {}
        self._forbidden: dict[_Key, _Refused] = {}  # the same of single files of a repo that lets us in
        self._granted: set[_Key] = set()  # what was given once
        self._came_back = False
        self._token: Token | None = None  # whose the following are
        self._quotas: dict[str, Quota] = {}
        self._paces: dict[str, RequestPacer] = {}
        self._blocked: dict[str, float] = {}  # bucket -> until when
        self._on_heard: Callable[[], None] | None = None

    def exchange(self, about: RequestSubject, url: str, send: Callable[[Token | None], A]) -> A:
        """The answer to a request for ``url``, which ``send`` sends with the token it is given; sent again once when
        the token was changed meanwhile. Raises AccessDenied, RateLimited, and what ``send`` raises."""
        bucket = bucket_of(url)
        keys = (_ALL, (bucket, about.repo)) if bucket else ()
        token = self._admitted(keys, bucket, about)
        answer = send(token)
        try:
            if answer.status_code == 401:
                renewed = self._read()
                if renewed != token:
                    answer.close()
                    token, answer = renewed, send(renewed)
            self._hear(keys, bucket, about, token, answer)
        except BaseException:
            answer.close()
            raise
        return answer

    # --- what status shows ------------------------------------------------------------------------------------------

    @property
    def refused(self) -> AccessDenied | None:
        """As ``Access.refused``."""
        with self._lock:
            found = next(iter(sorted(self._refused.items())), None)
        return None if found is None else found[1].error

    def quotas(self) -> dict[str, Quota]:
        """What the Hub allows in the windows that have not ended."""
        now = self._now()
        with self._lock:
            return {name: quota for name, quota in sorted(self._quotas.items()) if now < quota.resets_at}

    def requests_left(self) -> int | None:
        """As ``Access.requests_left``."""
        quota = self.quotas().get(RESOLVERS)
        return None if quota is None else quota.left

    def slow_reason(self) -> str:
        """Why work that nobody waits for asks the Hub slowly or not at all, if it does."""
        now = self._now()
        quotas = self.quotas()
        with self._lock:
            blocked = {bucket: until - now for bucket, until in self._blocked.items() if now < until}
        for bucket, seconds in sorted(blocked.items(), key=lambda each: -each[1]):
            return f"the Hub takes no request of the kind {bucket!r} for {seconds:.0f} s"
        for bucket, quota in quotas.items():
            if interval := quota.interval(now):
                few = f"{quota.left} requests of the kind {bucket!r} are left for {quota.resets_at - now:.0f} s"
                pace = f"one in {interval:.1f} s" if quota.spare() else "none of them"
                return f"{few}: work that nobody waits for may use {pace}"
        return ""

    # --- what others ask --------------------------------------------------------------------------------------------

    def wait_seconds(self, bucket: str = RESOLVERS) -> float:
        """Seconds that work which nobody waits for should wait before it asks the Hub; 0: it may, and is counted."""
        now = self._now()
        with self._lock:
            blocked = self._blocked.get(bucket, now) - now
            if blocked > 0:
                return blocked
            quota = self._quotas.get(bucket)
            wait = self._paces.setdefault(bucket, RequestPacer()).wait(quota, now)
            if not wait and quota is not None:  # its answer is not here before others ask
                self._quotas[bucket] = replace(quota, left=max(0, quota.left - 1))
            return wait

    def on_next_answer(self, callback: Callable[[], None]) -> None:
        """As ``Access.on_next_answer``: with its answers about files the Hub says how many requests are left."""
        with self._lock:
            self._on_heard = callback

    def recovered(self) -> bool:
        """Whether a refusal has ended since this was asked last, also by a token that has changed. To be asked about
        once a second; it reads the token only while something is refused."""
        with self._lock:
            refused = bool(self._refused)
        if refused:
            try:
                token = self._auth.token()
            except AccessDenied:
                return False
            with self._lock:
                self._forget_others(token)
        with self._lock:
            came_back, self._came_back = self._came_back, False
        if came_back:
            log.info("event=access-tried-again")
        return came_back

    def assume_granted(self, commit: Commit) -> None:
        """As ``Access.assume_granted``."""
        with self._lock:
            self._granted |= {_ALL, (RESOLVERS, RequestSubject.of_commit(commit).repo)}

    # --- before a request -------------------------------------------------------------------------------------------

    def _admitted(self, keys: tuple[_Key, ...], bucket: str | None, about: RequestSubject) -> Token | None:
        """The token to send. Raises what is remembered, unless it is time to ask again."""
        token = self._read()
        now = self._now()
        with self._lock:
            self._forget_others(token)
            if token != self._token:  # another user, with a quota of its own
                self._token, self._quotas, self._paces, self._blocked = token, {}, {}, {}
            for key in keys:
                refused = self._refused.get(key)
                if refused is None:
                    continue
                if now < refused.again:
                    raise refused.raised(now)
                refused.again = now + _rest(key)
            forbidden = self._forbidden.get((bucket or "", str(about)))
            if forbidden is not None and forbidden.token == token and now < forbidden.again:
                raise forbidden.raised(now)
            wait = self._blocked.get(bucket or "", now) - now
        if wait > 0:
            told = f"{host_of(about.endpoint)} asks us to wait for {wait:.0f} s: too many requests"
            raise RateLimited(told, "" if token else f"{LOG_IN} for a higher limit", wait)
        return token

    def _read(self) -> Token | None:
        try:
            return self._auth.token()
        except AccessDenied as error:
            now = self._now()
            with self._lock:
                if _ALL not in self._refused:
                    self._refuse(_ALL, None, error, now, unread=True)
                raise self._refused[_ALL].raised(now) if self._refused[_ALL].unread else error from None

    def _forget_others(self, token: Token | None) -> None:
        """What another token was refused is no refusal of this one; the caller holds the lock."""
        kept = {key: each for key, each in self._refused.items() if each.token == token and not each.unread}
        self._came_back = self._came_back or len(kept) < len(self._refused)
        self._refused = kept

    # --- after it ---------------------------------------------------------------------------------------------------

    def _hear(
        self, keys: tuple[_Key, ...], bucket: str | None, about: RequestSubject, token: Token | None, answer: Answer
    ) -> None:
        status, headers, now = answer.status_code, answer.headers, self._now()
        self._note_quota(token, headers, now)
        if not bucket:
            return
        if bucket == RESOLVERS:
            with self._lock:
                tell, self._on_heard = self._on_heard, None
            if tell is not None:
                tell()
        if status == 429:
            self._note_wait(bucket, token, headers, now)
        elif status in (401, 403):
            error = refusal(about, status, headers, remedy=self._auth.way_out())
            if isinstance(error, AccessDenied):
                if about.path and status == 403 and not headers.get("x-error-code"):
                    raise self._forbid((bucket, str(about)), token, error, now)
                key = _ALL if error.token else keys[1]
                with self._lock:
                    self._refuse(key, token, error, now)
                    raise self._refused[key].raised(now)
        elif status < 400 or headers.get("x-error-code") == "EntryNotFound":
            with self._lock:
                self._granted |= set(keys)
                for key in keys:
                    self._came_back = self._refused.pop(key, None) is not None or self._came_back

    def _refuse(self, key: _Key, token: Token | None, error: AccessDenied, now: float, *, unread: bool = False) -> None:
        """The caller holds the lock."""
        before = self._refused.get(key)
        if before is not None and before.token == token:
            lapsed_until = before.lapsed_until
        else:
            lapsed_until = now + self._lapse if key in self._granted else now
        self._refused[key] = _Refused(token, error, now + _rest(key), lapsed_until, unread)
        while len(self._refused) > MOST_REFUSED:
            self._refused.pop(next(iter(self._refused)))
        if before is None:
            log.info("event=access-refused why=%s", error)

    def _forbid(self, key: _Key, token: Token | None, error: AccessDenied, now: float) -> AccessDenied:
        """One file is refused, for a reason of its own: nothing is said of the others. What to raise."""
        refused = _Refused(token, error, now + REPO_REST, now)
        with self._lock:
            new = key not in self._forbidden
            self._forbidden[key] = refused
            while len(self._forbidden) > MOST_REFUSED:
                self._forbidden.pop(next(iter(self._forbidden)))
        if new:
            log.info("event=file-refused why=%s", error)
        return refused.raised(now)

    def _note_quota(self, token: Token | None, headers: Mapping[str, str], now: float) -> None:
        told = allowed(headers)
        if told is None:
            return
        with self._lock:
            if token == self._token:
                resets_at, before = now + min(told.seconds, LONGEST_WAIT), self._quotas.get(told.bucket)
                same = before is not None and resets_at < before.resets_at + SAME_WINDOW
                # Answers overtake each other; in one window there is never more than there was.
                left = (
                    min(told.left, before.left) if same and before is not None and now < before.resets_at else told.left
                )
                self._quotas[told.bucket] = Quota(left, told.limit, resets_at)

    def _note_wait(self, bucket: str, token: Token | None, headers: Mapping[str, str], now: float) -> None:
        """Nothing of this kind before the server's time. A date is left to who retries: it is by the server's clock."""
        seconds = headers.get("retry-after") or ""
        wait = retry_after(
            {"ratelimit": headers.get("ratelimit") or "", "retry-after": seconds if seconds.isdecimal() else ""}, now
        )
        if not wait:
            return
        with self._lock:
            if token == self._token:
                self._blocked[bucket] = now + min(wait, LONGEST_WAIT)
        log.info("event=rate-limited bucket=%s wait=%.0f", bucket, wait)
